"""Prompt-to-prompt: each edit against the same one by another way, hooks on diffusers' own
projections; and what must change nothing."""

import math

import pytest
import torch

from ddim_tutorial import sample, trajectory
from ddim_tutorial.editing import (
    Attention,
    attention_maps,
    blend_mask,
    blended,
    prompt_to_prompt,
    refine,
    replace,
    reweight,
)
from ddim_tutorial.latent import from_pipeline
from ddim_tutorial.sampling import final
from parts import relative

from .hooks import last_as_the_one_before, projections

SOURCE, TARGET = "a red apple", "two blue fish"
CLOSE = {"rtol": 0, "atol": 1e-9}


def run_pair(pipe, z_T, scale, prompts=(SOURCE, TARGET), grid=None):
    space = from_pipeline(pipe, list(prompts), scale=scale)
    return sample(space.model, z_T, grid or space.times(4), space.schedule)


def edited(pipe, z_T, scale, edit, grid=None, **options):
    with prompt_to_prompt(pipe, edit, **options):
        return run_pair(pipe, z_T, scale, edit.prompts, grid)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_targets_maps_are_the_sources(pipe, z_T, scale):
    """A map is made of queries and keys: those of the source, in the target's row alone."""
    plain = run_pair(pipe, z_T, scale)
    found = edited(pipe, z_T, scale, replace(pipe, SOURCE, TARGET), cross_until=0)
    with projections(pipe.unet, "attn2", last_as_the_one_before, "to_q", "to_k"):
        expected = run_pair(pipe, z_T, scale)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found[0], plain[0], **CLOSE)  # the source is as it was alone
    assert relative(found[1], plain[1]) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_targets_self_attention_is_the_sources(pipe, z_T, scale):
    nothing = {"cross_until": 1000}
    found = edited(pipe, z_T, scale, replace(pipe, SOURCE, TARGET), self_until=0, **nothing)
    with projections(pipe.unet, "attn1", last_as_the_one_before, "to_q", "to_k"):
        expected = run_pair(pipe, z_T, scale)
    torch.testing.assert_close(found, expected, **CLOSE)
    alone = edited(pipe, z_T, scale, replace(pipe, SOURCE, TARGET), **nothing)
    torch.testing.assert_close(alone, run_pair(pipe, z_T, scale), **CLOSE)
    assert relative(found[1], alone[1]) > 1e-4


@pytest.mark.parametrize(("kind", "option"), [("attn2", "cross_until"), ("attn1", "self_until")])
def test_until_a_time_of_the_grid_is_down_to_that_time_and_not_at_it(pipe, z_T, kind, option):
    space = from_pipeline(pipe, [SOURCE, TARGET], scale=4.0)
    grid = space.times(4)
    for changed in range(4):
        with projections(pipe.unet, kind, last_as_the_one_before, "to_q", "to_k"):
            middle = z_T
            if changed:
                middle = sample(space.model, z_T, grid[: changed + 1], space.schedule)
        expected = sample(space.model, middle, grid[changed:], space.schedule)
        options = {"cross_until": 1000, option: grid[changed]}
        found = edited(pipe, z_T, 4.0, replace(pipe, SOURCE, TARGET), **options)
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("build", [replace, refine])
def test_the_same_prompt_twice_changes_nothing(pipe, z_T, scale, build):
    edit = build(pipe, SOURCE, SOURCE, {"red": 1.0})
    found = edited(pipe, z_T, scale, edit, cross_until=0, self_until=0)
    torch.testing.assert_close(found, run_pair(pipe, z_T, scale, (SOURCE, SOURCE)), **CLOSE)
    torch.testing.assert_close(found[0], found[1], **CLOSE)


@pytest.mark.parametrize("factor", [0.0, -2.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_weight_on_a_map_is_one_on_the_tokens_value(pipe, z_T, scale, factor):
    """ "red" is token 2. At 0 it is as if its column were not there."""

    def weigh(values):
        values[-1, 2] *= factor

    grid = [800, 1]
    found = edited(pipe, z_T, scale, reweight(pipe, SOURCE, {"red": factor}), grid, cross_until=0)
    with projections(pipe.unet, "attn2", last_as_the_one_before, "to_q", "to_k"):
        with projections(pipe.unet, "attn2", weigh, "to_v"):
            expected = run_pair(pipe, z_T, scale, (SOURCE, SOURCE), grid)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert relative(found[1], found[0]) > 1e-4


def test_refine_keeps_new_words_and_takes_over_the_others(pipe):
    edit = refine(pipe, "two fish", "two blue fish", {"fish": 5.0})
    maps = torch.rand(4, 3, 7, 24, dtype=torch.float64)
    found = edit(maps)
    torch.testing.assert_close(found[:3], maps[:3], rtol=0, atol=0)
    source = {0: 0, 1: 1, 3: 2} | {j: j - 1 for j in range(4, 24)}  # by hand
    for j in range(24):
        column = maps[2, :, :, source[j]] if j in source else maps[3, :, :, j]
        factor = 5.0 if j == 3 else 1.0
        torch.testing.assert_close(found[3, :, :, j], factor * column, rtol=0, atol=1e-12)


def test_refine_by_the_maps_of_a_run(pipe, z_T):
    edit = refine(pipe, "two fish", "two blue fish")
    with prompt_to_prompt(pipe, edit, cross_until=0) as run:
        run_pair(pipe, z_T, 4.0, edit.prompts)
    source, target = (attention_maps(run, "fish", row=row) for row in (0, 1))
    torch.testing.assert_close(source, target)
    assert relative(attention_maps(run, "blue"), attention_maps(run, 2, row=0)) > 1e-3


def test_it_works_in_the_pipelines_own_loop(pipe, z_T):
    edit = replace(pipe, SOURCE, TARGET)
    ours = edited(pipe, z_T, 4.0, edit, cross_until=500)
    with prompt_to_prompt(pipe, edit, cross_until=500):
        theirs = pipe(
            [SOURCE, TARGET],
            num_inference_steps=4,
            guidance_scale=4.0,
            latents=z_T,
            output_type="latent",
        ).images
    assert relative(ours, theirs) <= 1e-5


def test_text_in_the_time_embedding_is_told(pipe):
    own = pipe.unet.config.addition_embed_type
    pipe.unet.register_to_config(addition_embed_type="text")
    try:
        with pytest.warns(UserWarning, match="time embedding"):
            prompt_to_prompt(pipe, replace(pipe, SOURCE, TARGET))
    finally:
        pipe.unet.register_to_config(addition_embed_type=own)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: replace(p, SOURCE, "a cassette player on a table"), "3 tokens and .* has 6"),
        (lambda p: replace(p, SOURCE, TARGET, {"red": 2.0}), "'red' is no word of 'two blue fish'"),
        (lambda p: reweight(p, SOURCE, {"red": math.nan}), "weights: got nan for 'red'"),
        (lambda p: reweight(p, SOURCE, {"red": True}), "weights: got True"),
        (lambda p: prompt_to_prompt(p, reweight(p, SOURCE, {}), cross_until=1001), "cross_until"),
        (lambda p: prompt_to_prompt(p, reweight(p, SOURCE, {}), self_until=-1), "self_until"),
    ],
)
def test_what_makes_no_edit_is_refused(pipe, call, match):
    with pytest.raises(ValueError, match=match):
        call(pipe)


# --- local blend ----------------------------------------------------------------------------------


def planted(pipe, places):
    """A finished run of two prompts whose word "red" and "blue" look at one position each, blue
    less than red."""
    run = Attention(pipe, [SOURCE, TARGET])
    maps = torch.zeros(2, 24, 8, 8)
    for row, (y, x) in enumerate(places):
        maps[row, 2, y, x] = 0.5 / (1 + 4 * row)  # 0.1 is below 0.3 of the other's maximum
        maps[row, 2, 0, 0] = 0.2 * maps[row, 2, y, x]
    run.maps = {(500, (8, 8)): (2 * maps, 2)}
    return run


def test_the_mask_is_where_either_picture_looks_grown_by_one_position(pipe):
    found = blend_mask(planted(pipe, [(2, 3), (6, 6)]), ["red", "blue"], (16, 8))
    expected = torch.zeros(16, 8, dtype=torch.bool)
    expected[2:8, 2:5] = True  # rows 1 to 3, doubled; columns 2 to 4
    expected[10:16, 5:8] = True
    assert found.shape == (1, 1, 16, 8) and torch.equal(found[0, 0], expected)
    lower = blend_mask(planted(pipe, [(2, 3), (6, 6)]), ["red", "blue"], (16, 8), threshold=0.1)
    assert lower[0, 0, 0, 0]


def blend(pipe, z_T, **options):
    space = from_pipeline(pipe, [SOURCE, TARGET], scale=4.0)
    with prompt_to_prompt(pipe, replace(pipe, SOURCE, TARGET)) as run:
        return list(
            blended(
                space.model, z_T, space.times(4), space.schedule, run, ["apple", "fish"], **options
            )
        )


def test_outside_of_the_mask_the_target_is_the_source(pipe, z_T):
    space = from_pipeline(pipe, [SOURCE, TARGET], scale=4.0)
    with prompt_to_prompt(pipe, replace(pipe, SOURCE, TARGET)):
        plain = list(trajectory(space.model, z_T, space.times(4), space.schedule))
    since = plain[2].t
    for step, without in zip(blend(pipe, z_T, threshold=1.0, since=since), plain, strict=True):
        torch.testing.assert_close(step.x_s[0], without.x_s[0], **CLOSE)
        assert torch.equal(step.x_s[0], step.x_s[1]) == (step.t <= since)
        if step.t > since:
            torch.testing.assert_close(step.x_s, without.x_s, **CLOSE)
    everywhere = final(iter(blend(pipe, z_T, threshold=0.0, since=1000)))
    torch.testing.assert_close(everywhere, plain[-1].x_s, **CLOSE)


def test_the_mask_of_a_step_is_that_of_the_maps_so_far(pipe, z_T):
    space = from_pipeline(pipe, [SOURCE, TARGET], scale=4.0)
    words = ["apple", "fish"]
    with prompt_to_prompt(pipe, replace(pipe, SOURCE, TARGET)) as run:
        grid = space.times(4)
        for step in blended(
            space.model, z_T, grid, space.schedule, run, words, threshold=0.8, since=1000
        ):
            mask = blend_mask(run, words, (8, 8), 0.8).expand(1, 4, 8, 8)[0]
            same = step.x_s[0] == step.x_s[1]
            assert same[~mask].all() and not same[mask].any() and 0 < mask.sum() < mask.numel()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"threshold": 1.5}, "threshold=1.5"), ({"since": 1001}, "since=1001")],
)
def test_a_blend_out_of_range_is_refused(pipe, z_T, options, match):
    with pytest.raises(ValueError, match=match):
        blend(pipe, z_T, **options)


def test_one_word_for_each_picture_is_wanted(pipe, z_T):
    with pytest.raises(ValueError, match="one word for each"):
        blend_mask(planted(pipe, [(2, 3), (6, 6)]), ["red"], (8, 8))
    space = from_pipeline(pipe, [SOURCE, TARGET])
    with pytest.raises(ValueError, match="z_T has 1 rows"):
        blended(
            space.model,
            z_T[:1],
            [999, 1],
            space.schedule,
            planted(pipe, [(2, 3), (6, 6)]),
            ["red", "blue"],
        )
