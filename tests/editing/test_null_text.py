"""Null-text optimisation against its closed form on a linear network; negative-prompt inversion."""

import functools
from itertools import pairwise

import pytest
import torch

from ddim_tutorial import invert, invert_exact, sample, scaled_linear, times, trajectory
from ddim_tutorial.editing import invert_null_text, null_text_model
from ddim_tutorial.latent import LatentSpace, from_pipeline
from parts import relative

SCHEDULE = scaled_linear()
EXACT = functools.partial(invert_exact, tol=1e-7)
PROMPT = "a red apple"


def picture(batch=1, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(batch, 4, 8, 8, generator=generator, dtype=torch.float64)


def linear_space():
    """eps = k_t x_t + the text, a picture in one token: an empty prompt can reach any eps."""

    def network(z_t, t, text):
        k = (0.2 + t / 4000).view(-1, 1, 1, 1)
        return k * z_t + text.view(-1, 1, 2, 2)

    text = torch.tensor([[[0.3, -0.2, 0.1, 0.4]]])
    nothing = torch.zeros(1, 1, 4)
    return LatentSpace(
        lambda x, t: network(x, t, text),
        lambda x: x,
        lambda z: z,
        SCHEDULE,
        functools.partial(times, 1000),
        network,
        text,
        nothing,
    )


def test_on_a_linear_network_the_empty_prompts_are_those_of_the_closed_form():
    space, grid, scale = linear_space(), times(1000, 5), 3.0
    z_0 = torch.tensor([0.5, -0.3, 0.2, 0.1]).view(1, 1, 2, 2)
    found = invert_null_text(space, z_0, grid, scale, iterations=2000, lr=0.02, tol=1e-14)
    path = [z_0]
    for s, t in pairwise(grid[::-1]):  # naive inversion
        path.append(invert(space.model, path[-1], [t, s], SCHEDULE).x_T)
    path = path[::-1]
    torch.testing.assert_close(found.z_T, path[0])
    for i, (t, s) in enumerate(pairwise(grid)):
        ab_t, ab_s = SCHEDULE.level(t), SCHEDULE.level(s)
        a = (ab_s / ab_t) ** 0.5  # z_s = a z_t + b eps
        b = (1 - ab_s) ** 0.5 - a * (1 - ab_t) ** 0.5
        wanted = (path[i + 1] - a * path[i]) / b
        k = 0.2 + t / 4000
        eps_c = k * path[i] + space.condition.view(1, 1, 2, 2)
        null = (wanted - scale * eps_c) / (1 - scale) - k * path[i]
        torch.testing.assert_close(
            found.null_conditions[i].view(1, 1, 2, 2), null, rtol=0, atol=2e-3
        )
    again = sample(null_text_model(space, found, scale), found.z_T, grid, SCHEDULE)
    assert relative(again, z_0) <= 1e-3


def test_at_scale_one_the_empty_prompt_has_no_say_and_an_exact_path_comes_back(pipe):
    space, z_0 = from_pipeline(pipe, PROMPT, scale=1.0), picture()
    grid = space.times(5)
    found = invert_null_text(space, z_0, grid, 1.0, tol=1e-300, method=EXACT)
    for null in found.null_conditions:
        assert torch.equal(null, space.null_condition.float())
    again = sample(null_text_model(space, found, 1.0), found.z_T, grid, space.schedule)
    assert relative(again, z_0) <= 1e-5


def test_it_brings_guided_sampling_back_to_the_picture(pipe):
    """Both pictures, from the path of naive inversion; and the model asks each step's own."""
    space, z_0, scale = from_pipeline(pipe, PROMPT, scale=4.0), picture(2), 4.0
    grid = space.times(5)
    found = invert_null_text(space, z_0, grid, scale, lr=0.1)
    plain = sample(space.model, found.z_T, grid, space.schedule)
    steps = list(trajectory(null_text_model(space, found, scale), found.z_T, grid, space.schedule))
    assert relative(steps[-1].x_s, z_0) <= 0.3 * relative(plain, z_0)
    torch.testing.assert_close(
        (steps[-1].x_s - z_0).square().flatten(1).mean(1), found.loss[-1], rtol=1e-4, atol=1e-12
    )
    alone = invert_null_text(space, z_0[1:], grid, scale, lr=0.1, tol=1e-30)
    both = invert_null_text(space, z_0, grid, scale, lr=0.1, tol=1e-30)
    torch.testing.assert_close(
        both.null_conditions[:, 1:], alone.null_conditions, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("tol", [1e-30, 1e9])
def test_the_price_is_counted(pipe, tol):
    space = from_pipeline(pipe, PROMPT, scale=4.0)
    calls = []
    hook = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    found = invert_null_text(space, picture(), space.times(4), 4.0, iterations=3, tol=tol)
    hook.remove()
    # a step: one on the path, one of the prompt, the iterations, one to go on
    assert found.evaluations == len(calls) == 4 * (3 + (3 if tol < 1 else 1))
    assert found.gradients == (12 if tol < 1 else 0)
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


def test_another_prompt_is_an_edit_and_another_time_is_refused(pipe):
    space = from_pipeline(pipe, PROMPT, scale=4.0)
    grid = space.times(3)
    found = invert_null_text(space, picture(), grid, 4.0, iterations=1)
    pair = from_pipeline(pipe, [PROMPT, "two blue fish"], scale=4.0)
    model = null_text_model(pair, found, 4.0)
    z = sample(model, found.z_T.expand(2, -1, -1, -1), grid, space.schedule)
    alone = sample(null_text_model(space, found, 4.0), found.z_T, grid, space.schedule)
    assert relative(z[:1], alone) <= 1e-9 and relative(z[1:], alone) > 1e-3
    with pytest.raises(ValueError, match=r"t=500: there are empty prompts for the times"):
        model(z, torch.tensor([500, 500]))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": 0.0}, "lr=0.0"),
        ({"tol": -1.0}, "tol=-1.0"),
        ({"iterations": -1}, "iterations=-1"),
        ({"scale": float("nan")}, "scale"),
    ],
)
def test_bad_options_are_refused(options, match):
    options = {"scale": 2.0} | options
    with pytest.raises(ValueError, match=match):
        invert_null_text(linear_space(), torch.zeros(1, 1, 2, 2), times=[500, 0], **options)


@pytest.mark.parametrize("scale", [0.0, 2.0, 7.5])
def test_negative_prompt_inversion_reconstructs_at_any_scale_as_at_one(pipe, scale):
    """No code of ours: the source prompt is the negative one, so eps_u = eps_c."""
    one, space = from_pipeline(pipe, PROMPT, scale=1.0), from_pipeline(pipe, PROMPT, PROMPT, scale)
    grid, z_0 = space.times(5), picture()
    z_T = invert(one.model, z_0, grid, space.schedule).x_T
    naive = sample(one.model, z_T, grid, space.schedule)
    assert relative(sample(space.model, z_T, grid, space.schedule), naive) <= 1e-9
    guided = from_pipeline(pipe, PROMPT, scale=scale)
    assert relative(sample(guided.model, z_T, grid, space.schedule), naive) > 1e-3
