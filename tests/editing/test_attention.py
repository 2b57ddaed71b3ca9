"""The maps of the cross-attention: against a softmax by hand, and the network left as it was."""

import re

import pytest
import torch

from ddim_tutorial import sample, trajectory
from ddim_tutorial.editing import Attention, attention_maps, places
from ddim_tutorial.editing.tokens import align
from ddim_tutorial.latent import from_pipeline
from other_pipelines import controlled, large, with_network
from parts import relative

PROMPTS = ["a red apple", "two blue fish"]


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_to_be_seen_changes_nothing(pipe, z_T, scale):
    space = from_pipeline(pipe, PROMPTS, scale=scale)
    grid, before = space.times(4), {**pipe.unet.attn_processors}
    plain = sample(space.model, z_T, grid, space.schedule)
    with Attention(pipe, PROMPTS) as run:
        seen = sample(space.model, z_T, grid, space.schedule)
    torch.testing.assert_close(seen, plain, rtol=0, atol=1e-10)
    assert sorted({t for t, _ in run.maps}, reverse=True) == grid[:-1]
    assert pipe.unet.attn_processors == before and not pipe.unet._forward_pre_hooks


def by_hand(pipe, layer, space, z_t, t):
    """softmax(Q K^T / sqrt(d)) of one layer, mean of the heads: (B, positions, tokens)."""
    kept = {}
    attention = dict(pipe.unet.named_modules())[layer]
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda _, given, out, name=name: kept.update({name: out})
        )
        for name in ("to_q", "to_k")
    ]
    with torch.no_grad():
        space.model(z_t, t)
    for hook in hooks:
        hook.remove()
    q, k = (kept[name].unflatten(2, (attention.heads, -1)) for name in ("to_q", "to_k"))
    scores = torch.einsum("bphd,bnhd->bhpn", q, k) / q.shape[-1] ** 0.5
    return scores.exp().div(scores.exp().sum(-1, keepdim=True)).mean(1)


@pytest.mark.parametrize("size", [(8, 8), (6, 8)])
def test_the_maps_are_the_softmax_and_lie_as_the_picture_does(pipe, size):
    """On the only layer of the smallest size, and on a picture that is not square."""
    z_t = torch.randn(2, 4, *size, dtype=torch.float64)
    t = torch.tensor([500, 500])
    space = from_pipeline(pipe, PROMPTS, scale=4.0)
    layer = next(name for name, _ in pipe.unet.named_modules() if re.search("mid.*attn2$", name))
    expected = by_hand(pipe, layer, space, z_t, t)
    assert len(expected) == 4  # guided
    with Attention(pipe, PROMPTS) as run, torch.no_grad():
        space.model(z_t, t)
    height, width = size[0] // 2, size[1] // 2
    for row, prompt in enumerate(PROMPTS):
        for token in range(24):
            found = attention_maps(run, token, row=row, side=height)
            wanted = expected[2 + row, :, token].view(height, width)
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)
        word = prompt.split()[1]
        torch.testing.assert_close(
            attention_maps(run, word, row=row), attention_maps(run, 2, row=row)
        )


def test_a_word_is_the_sum_of_its_tokens_wherever_it_stands(pipe):
    prompt = "a red apple on a table"
    assert places(pipe, prompt, "a") == [1, 5] and places(pipe, prompt, "red apple") == [2, 3]
    rare = "zebra"  # many tokens
    pieces = places(pipe, f"a {rare}", rare)
    assert len(pieces) > 2 and pieces == list(range(2, 2 + len(pieces)))
    with Attention(pipe, prompt) as run, torch.no_grad():
        from_pipeline(pipe, prompt, scale=1.0).model(torch.ones(1, 4, 8, 8), torch.tensor([500]))
    parts = [attention_maps(run, token) for token in (1, 5)]
    torch.testing.assert_close(attention_maps(run, "a"), sum(parts))
    everything = sum(attention_maps(run, token) for token in range(24))
    torch.testing.assert_close(everything, torch.ones(8, 8))


def test_one_time_and_the_mean_of_all(pipe, z_T):
    space = from_pipeline(pipe, PROMPTS, scale=1.0)
    grid = space.times(3)
    with Attention(pipe, PROMPTS) as run:
        states = [step.x_t for step in trajectory(space.model, z_T, grid, space.schedule)]
    at = [attention_maps(run, "fish", at=t) for t in grid[:-1]]
    torch.testing.assert_close(attention_maps(run, "fish"), torch.stack(at).mean(0))
    for t, state, wanted in zip(grid[:-1], states, at, strict=True):
        with Attention(pipe, PROMPTS) as alone, torch.no_grad():
            space.model(state, torch.tensor([t, t]))
        torch.testing.assert_close(attention_maps(alone, "fish"), wanted)


def test_alignment_by_hand():
    """0 is the start, 9 the end, 24 places; "two fish" in "two blue fish" and back."""
    short, long = [0, 1, 3, 9], [0, 1, 2, 3, 9]
    assert align(short, long, 24) == [0, 1, None, 2, *range(3, 23)]
    assert align(long, short, 24) == [0, 1, 3, *range(4, 24), 23]
    assert align(long, long, 24) == list(range(24))
    assert align([0, 5, 9], [0, 6, 9], 4) == [0, None, 2, 3]


@pytest.mark.parametrize(
    ("prompts", "scale", "match"),
    [
        (PROMPTS[::-1], 4.0, "other prompts"),
        (["a red apple", "blurry"], 4.0, "other prompts"),
        (PROMPTS, 0.0, "other prompts"),
        (PROMPTS[:1], 4.0, "a batch of 4 for 1 prompts"),
        (PROMPTS * 3, 1.0, "a batch of 2 for 6 prompts"),
    ],
)
def test_other_prompts_than_its_own_are_refused(pipe, z_T, prompts, scale, match):
    before = {**pipe.unet.attn_processors}
    with pytest.raises(ValueError, match=match), Attention(pipe, prompts):
        from_pipeline(pipe, PROMPTS, scale=scale).model(z_T, torch.tensor([500, 500]))
    assert pipe.unet.attn_processors == before and not pipe.unet._forward_pre_hooks


def test_what_it_cannot_see_is_refused(pipe, z_T):
    for build, match in ((large, "StableDiffusionXL.*text_encoder_2"), (controlled, "controlnet")):
        with pytest.raises(ValueError, match=match):
            Attention(build(with_network(pipe)), "blurry")
    nested = Attention(pipe, "blurry")
    with Attention(pipe, "blurry"), pytest.raises(ValueError, match="more than attend"):
        nested.__enter__()
    model = from_pipeline(pipe, PROMPTS, scale=1.0).model
    with Attention(pipe, PROMPTS), pytest.raises(ValueError, match="several times"):
        model(z_T, torch.tensor([500, 400]))


def test_questions_without_an_answer_are_refused(pipe, z_T):
    with Attention(pipe, PROMPTS) as run:
        with pytest.raises(ValueError, match="no maps yet"):
            attention_maps(run, "fish")
        sample(
            from_pipeline(pipe, PROMPTS).model, z_T, [999, 500, 1], from_pipeline(pipe, "").schedule
        )
    with pytest.raises(
        ValueError, match=r"'dog' is no word of 'two blue fish'.*: 1 'two', 2 'blue'"
    ):
        attention_maps(run, "dog")
    with pytest.raises(ValueError, match="no word"):
        attention_maps(run, "")
    with pytest.raises(ValueError, match=r"at=7: the network was asked at \[500, 999\]"):
        attention_maps(run, "fish", at=7)
    with pytest.raises(ValueError, match=r"side=2: the maps are of \[\(4, 4\), \(8, 8\)\]"):
        attention_maps(run, "fish", side=2)
    with pytest.raises(ValueError, match="token=24"):
        attention_maps(run, 24)
    assert relative(attention_maps(run, "two", row=1), attention_maps(run, 1, row=0)) > 1e-3
