"""The diffusion training: what it learns from, its loss, how it starts and goes on."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ddim_tutorial.training.emoji import __main__ as command
from ddim_tutorial.training.emoji import diffusion as recipe
from ddim_tutorial.training.emoji import export, family, networks
from ddim_tutorial.training.emoji.autoencoder import encode
from ddim_tutorial.training.emoji.captions import tokenise
from ddim_tutorial.training.loop import Settings, fit


class Oracle(nn.Module):
    """For data that is 0 everywhere the noise is x_t / sqrt(1 - alpha_bar), diffusers' own
    alpha_bar at its own timestep; ``wrong`` adds an error of that size."""

    def __init__(self, wrong: float = 0.0):
        super().__init__()
        self.wrong, self.seen = nn.Parameter(torch.tensor(wrong)), []

    def forward(self, x_t, timestep, tokens):
        self.seen.append((timestep, tokens))
        ab = networks.new_scheduler().alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return x_t / (1 - ab).sqrt() + self.wrong


def test_diffusion_loss_against_the_exact_noise(tiny_corpus):
    mean, std = torch.zeros_like(tiny_corpus.mean), torch.zeros_like(tiny_corpus.std)
    zero = tiny_corpus._replace(mean=mean, std=std)
    loss, _ = recipe.diffusion_loss(Oracle(), zero, 256)
    assert loss < 1e-6
    oracle = Oracle(wrong=0.5)
    loss, figures = recipe.diffusion_loss(oracle, zero, 1000)
    timestep, tokens = oracle.seen[0]
    # density t^(2/3), so (t/T)^(5/3) of the times up to t; stratified
    for limit in (100, 300, 600, 900):
        share = 1000 * (limit / 1000) ** (5 / 3)
        assert (timestep < limit).sum().item() == pytest.approx(share, abs=2)
    assert timestep.min() >= 0 and timestep.max() == 999
    ab = networks.new_scheduler().alphas_cumprod[timestep]
    snr = ab / (1 - ab)
    weight = (torch.minimum(snr, torch.tensor(5.0)) + 1) / snr
    torch.testing.assert_close(loss, 0.25 * weight.mean(), rtol=1e-4, atol=0)
    for figure in figures.values():
        torch.testing.assert_close(figure, torch.tensor(0.25), rtol=1e-3, atol=0)
    empty = (tokens == 1).all(1).double().mean().item()
    assert 0.06 < empty < 0.14  # 10 % of 1000, four standard deviations


def test_a_member_has_the_captions_of_its_picture(tiny_corpus):
    """Latents that are the number of their picture, and captions that are so as well."""
    number = torch.arange(3)
    mean = 100.0 * number[tiny_corpus.picture].view(-1, 1, 1, 1).expand(-1, 4, 8, 8)
    tokens = number.view(3, 1, 1).expand(3, 3, 8)
    corpus = tiny_corpus._replace(mean=mean, std=torch.zeros(6, 4, 8, 8), tokens=tokens)
    seen = []

    class Spy(Oracle):
        def forward(self, x_t, timestep, tokens):
            seen.append((x_t, timestep, tokens))
            return x_t + self.wrong

    recipe.diffusion_loss(Spy(), corpus, 64, dropout=0.0)
    x_t, timestep, tokens = seen[0]
    signal = networks.new_scheduler().alphas_cumprod[timestep].sqrt()
    early = signal > 0.5
    assert torch.equal(
        (x_t.mean((1, 2, 3)) / signal / 100).round()[early], tokens[early, 0].float()
    )
    assert set(tokens[early, 0].tolist()) == {0, 1, 2}


def tiny_denoiser(attention: str) -> networks.Denoiser:
    torch.manual_seed(0)
    unet = networks.new_unet((32, 32, 32), 32, attention=attention)
    model = networks.Denoiser(unet, networks.new_text_encoder(60, 32, 1))
    return model.to(memory_format=torch.channels_last)


class Killed(Exception):
    pass


@pytest.mark.parametrize("attention", ["8", "16"])
def test_a_killed_run_goes_on_bit_for_bit(tiny_corpus, tmp_path, attention):
    settings = Settings(steps=4, lr=1e-3, warmup=1, save_minutes=0.0)

    def run(folder, on_save=None):
        model = tiny_denoiser(attention)
        loss = partial(recipe.diffusion_loss, corpus=tiny_corpus, batch=4)
        matrices = recipe.matrices(model)
        options = {"on_save": on_save, "matrices": matrices, "precision": "no"}
        return fit(model, loss, folder, settings, **options)

    def kill(model, step):
        if step == 2:
            raise Killed

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", on_save=kill)
    run(tmp_path / "killed")
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("whole", "killed")]
    whole, killed = states
    assert whole.keys() == killed.keys()
    for start in ("model.text_encoder", "muon.", "optimizer."):
        assert any(key.startswith(start) for key in whole)
    for key in whole:
        torch.testing.assert_close(killed[key], whole[key], rtol=0, atol=0, msg=key)


def test_only_training_pictures_and_their_families_are_trained_on(exported):
    run, _, data = exported
    vae, tokenizer = networks.components(run, "vae", "tokenizer")
    corpus = recipe.corpus(data, vae, tokenizer, run / "family.safetensors", 2, "no")
    rows = (data.split == 0).nonzero()[:, 0]
    assert corpus.picture.tolist() == [i for i in range(len(rows)) for _ in range(2)]
    for i in (0, len(rows) - 1):
        images, poses = family.members(data.images[rows[i]], 2, seed=i)
        mean, std = (vae.config.scaling_factor * part for part in encode(vae, images))
        part = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(corpus.mean[part].float(), mean, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(corpus.std[part].float(), std, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(load_file(run / "family.safetensors")["pose"][part], poses)
    names = tokenise(tokenizer, [data.names[data.objects[row]] for row in rows])
    for name, tokens, count in zip(names, corpus.tokens, corpus.counts, strict=True):
        assert (tokens[:count] == name).all(1).any()  # the bare name is one of its captions
    assert tokenizer.decode(corpus.empty, skip_special_tokens=True) == ""


def test_without_members_the_corpus_is_the_pictures_alone(tiny_vae, small_data):
    latents = recipe.encode_families(small_data.images[:3], tiny_vae, 0, "no")
    mean, std = (
        tiny_vae.config.scaling_factor * part for part in encode(tiny_vae, small_data.images[:3])
    )
    torch.testing.assert_close(latents["mean"].float(), mean, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(latents["std"].float(), std, atol=2e-3, rtol=2e-3)
    assert latents["picture"].tolist() == [0, 1, 2] and latents["pose"].shape == (3, 7)


def test_a_corpus_of_another_number_of_members_is_refused(exported):
    run, _, data = exported
    vae, tokenizer = networks.components(run, "vae", "tokenizer")
    match = r"family\.safetensors: 44 latents, wanted 66 \(3 members of each of 22 pictures\)"
    with pytest.raises(ValueError, match=match):
        recipe.corpus(data, vae, tokenizer, run / "family.safetensors", 3, "no")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_precision_is_passed_on(exported, tmp_path, monkeypatch, tiny_networks, precision):
    """To the encoding of the families, the training and the pictures that are looked at."""
    run, _, _ = exported
    for name in ("data.safetensors", "vae", "tokenizer"):
        (tmp_path / name).symlink_to(run / name)
    seen = {}

    def fit(model, loss_fn, folder, settings, *, precision, on_save, matrices):
        seen["fit"] = precision
        on_save(model.eval(), 1)

    def sample(pipe, prompts, *, steps, precision):
        seen["sample"] = precision
        return torch.zeros(len(prompts), 4, 16, 16)

    def encode_and_look(vae, images):
        seen["encode"] = torch.is_autocast_enabled("cpu")
        return encode(vae, images)

    monkeypatch.setattr(recipe, "fit", fit)
    monkeypatch.setattr(recipe, "sample", sample)
    monkeypatch.setattr(recipe, "encode", encode_and_look)
    settings = f"diffusion --steps 1 --batch 2 --members 1 --precision {precision}"
    command.main(["--run", str(tmp_path), *settings.split()])
    assert seen == {"fit": precision, "sample": precision, "encode": precision == "bf16"}
    assert (tmp_path / "diffusion" / "samples-000001.png").stat().st_size > 1000


def test_a_fresh_run_starts_from_exported_weights(exported, tmp_path, tiny_networks):
    run, out, data = exported
    _, tokenizer, text_encoder, unet = recipe.prepare(data, tmp_path, out, "16")
    for part, file in (
        (unet, "unet/diffusion_pytorch_model"),
        (text_encoder, "text_encoder/model"),
    ):
        weights, mine = load_file(out / f"{file}.safetensors"), part.state_dict()
        for name, value in weights.items():
            torch.testing.assert_close(mine[name], value.float(), rtol=0, atol=0)
    words = tokenizer("red apple").input_ids
    assert words == networks.components(run, "tokenizer")[0]("red apple").input_ids
    assert export.progress(tmp_path)["diffusion"]["steps"] == 1
    assert (tmp_path / "vae" / "config.json").exists()
    recipe.prepare(data, tmp_path, out, "8")  # going on with the same command
    with pytest.raises(ValueError, match=r"the run has .*vae of its own, which would be lost"):
        recipe.prepare(data, run, out, "8")
    match = "vae is not there, wanted the folder of a pipeline"
    with pytest.raises(FileNotFoundError, match=match):
        recipe.prepare(data, tmp_path / "new", tmp_path / "nowhere", "8")
    with pytest.raises(FileNotFoundError, match="train the autoencoder first"):
        recipe.prepare(data, tmp_path / "newer", None, "8")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--batch", "0"],
        ["--decay-from", "2"],
        ["--warmup", "-1"],
        ["--members", "-1"],
    ],
)
def test_impossible_settings_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--run", str(tmp_path), "diffusion", *arguments])
    assert "wanted" in capsys.readouterr().err


def test_the_run_remembers_what_its_first_weights_cost(tmp_path, exported):
    _, out, _ = exported
    recipe.take_over(out, tmp_path)
    card = json.loads((out / "card.json").read_text())
    assert json.loads((tmp_path / "diffusion" / "init.json").read_text()) == card["training"]
