"""Textual inversion: against diffusers' own path to the same word."""

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from ddim_tutorial.editing import learn_token
from ddim_tutorial.editing.textual_inversion import text_states
from ddim_tutorial.editing.tokens import token_ids
from other_pipelines import controlled, large, with_network
from parts import tiny_pipeline

PROMPTS = ["a <violin> on a table", "two <violin>"]


@pytest.fixture
def fresh(tmp_path):
    """A pipeline of its own, which a learnt word may be loaded into."""
    made = tiny_pipeline(tmp_path / "tokenizer")
    for part in (made.unet, made.vae, made.text_encoder):
        part.double()
    return made


def latents(batch=2):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 4, 8, 8, generator=generator, dtype=torch.float64)


def learn(pipe, **options):
    options = {"steps": 3, "generator": torch.Generator().manual_seed(0)} | options
    return learn_token(pipe, "<violin>", latents(), PROMPTS, "fish", **options)


@pytest.mark.parametrize("vectors", [1, 3])
def test_all_but_the_vectors_stays_bit_for_bit(fresh, vectors):
    before = {
        (part, name): value.clone()
        for part in ("unet", "text_encoder", "vae")
        for name, value in getattr(fresh, part).state_dict().items()
    }
    vocabulary = dict(fresh.tokenizer.get_vocab())
    learnt = learn(fresh, vectors=vectors)
    for (part, name), value in before.items():
        assert torch.equal(getattr(fresh, part).state_dict()[name], value)
    for part in (fresh.unet, fresh.text_encoder):
        assert all(parameter.grad is None for parameter in part.parameters())
    embedding = fresh.text_encoder.get_input_embeddings()
    assert not embedding._forward_hooks and fresh.tokenizer.get_vocab() == vocabulary
    start = embedding.weight[token_ids(fresh, "fish")[1]].float()
    moved = (learnt.vectors - start).norm(dim=1)
    assert learnt.vectors.shape == (vectors, 16) and learnt.loss.shape == (3,)
    assert (moved > 1e-3).all()


@pytest.mark.parametrize("vectors", [1, 3])
def test_what_is_saved_diffusers_loads_and_reads_the_same(fresh, tmp_path, vectors):
    learnt = learn(fresh, vectors=vectors)
    prompt = "two <violin> on a <violin>"
    start = token_ids(fresh, "fish")[1]
    words = " ".join(["fish"] * vectors)
    ids = fresh.tokenizer(
        [prompt.replace("<violin>", words)], padding="max_length", max_length=24
    ).input_ids
    with torch.no_grad():
        ours = text_states(fresh, torch.tensor(ids), start, learnt.vectors)
    path = learnt.save(tmp_path / "word")
    assert path.name == "learned_embeds.safetensors"
    assert torch.equal(load_file(path)["<violin>"], learnt.vectors)
    fresh.load_textual_inversion(tmp_path / "word")
    with torch.no_grad():
        theirs, _ = fresh.encode_prompt(prompt, "cpu", 1, False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # the file is float32
    if vectors > 1:  # the order counts
        with torch.no_grad():
            turned = text_states(fresh, torch.tensor(ids), start, learnt.vectors.flip(0))
        assert (turned - theirs).abs().max() > 1e-3


def test_the_loss_and_the_first_step_are_those_of_diffusers_parts(fresh):
    """The same draws through the scheduler's add_noise, the embedding table and the U-Net."""
    learnt = learn(fresh, steps=1, batch=8, lr=0.02)
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(2, (8,), generator=draw)
    timestep = torch.randint(1, 1001, (8,), generator=draw) - 1  # diffusers counts from 0
    eps = torch.randn(8, 4, 8, 8, generator=draw, dtype=torch.float64)
    table = fresh.text_encoder.get_input_embeddings()
    start = table.weight[token_ids(fresh, "fish")[1]].detach().clone()
    fresh.load_textual_inversion({"<violin>": start[None].float()})
    table = fresh.text_encoder.get_input_embeddings()
    new = fresh.tokenizer.convert_tokens_to_ids("<violin>")
    scheduler = DDIMScheduler.from_config(fresh.scheduler.config)
    text = torch.cat([fresh.encode_prompt(PROMPTS[row], "cpu", 1, False)[0] for row in rows])
    z_t = scheduler.add_noise(latents()[rows], eps, timestep)
    loss = (fresh.unet(z_t, timestep, encoder_hidden_states=text).sample - eps).square().mean()
    (gradient,) = torch.autograd.grad(loss, table.weight)
    assert learnt.loss[0].item() == pytest.approx(loss.item(), rel=1e-5)
    large = gradient[new].abs() > 1e-3 * gradient[new].abs().max()
    step = learnt.vectors[0] - start.float()  # Adam's first is lr times the sign
    torch.testing.assert_close(
        step[large], -0.02 * gradient[new].sign()[large].float(), rtol=1e-2, atol=0
    )


def test_the_loss_falls_on_draws_that_it_was_not_trained_on(fresh):
    before, after = (
        learn(fresh, steps=steps, batch=16, lr=0.05, generator=torch.Generator().manual_seed(1))
        for steps in (1, 60)
    )
    probe = {"steps": 1, "batch": 256, "lr": 1e-9}
    losses = []
    for learnt in (before, after):
        fresh.load_textual_inversion({"<new>": learnt.vectors})
        found = learn_token(
            fresh,
            "<probe>",
            latents(),
            [prompt.replace("<violin>", "<probe>") for prompt in PROMPTS],
            "<new>",
            generator=torch.Generator().manual_seed(7),
            **probe,
        )
        losses.append(found.loss[0])
        fresh.unload_textual_inversion("<new>")
    assert losses[1] < losses[0] - 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"token": "fish</w>"}, "pass a new word"),
        ({"token": " "}, "pass a new word"),
        ({"prompts": ["a violin", "two <violin>"]}, "'<violin>' is not in 'a violin'"),
        ({"prompts": ["a fish, <violin>", "<violin>"]}, "contains init='fish'"),
        ({"prompts": ["<violin>"]}, "got 1 for 2 pictures"),
        ({"init": "zebra"}, r"init='zebra' is \d+ tokens"),
        ({"vectors": 21}, "is 27 tokens with 21 vectors, the text encoder takes 24"),
        ({"vectors": 0}, "vectors=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"z_0": torch.full((2, 4, 8, 8), torch.nan)}, "z_0 holds NaN"),
    ],
)
def test_what_cannot_be_learnt_is_refused(pipe, options, match):
    chosen = {
        "token": "<violin>", "z_0": latents(), "prompts": PROMPTS, "init": "fish", "steps": 1
    } | options  # fmt: skip
    with pytest.raises(ValueError, match=match):
        learn_token(pipe, **chosen)


@pytest.mark.parametrize("build", [large, controlled])
def test_other_pipelines_are_refused_by_name(pipe, build):
    with pytest.raises(ValueError, match=r"StableDiffusion\w+ has a"):
        learn(build(with_network(pipe)))
