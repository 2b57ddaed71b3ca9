"""Edit-friendly DDPM inversion: exact with its own noises, whose size has a closed form."""

import functools
from itertools import pairwise

import pytest
import torch

from ddim_tutorial import analytic, generators, scaled_linear, times
from ddim_tutorial.editing import invert_edit_friendly, replay
from ddim_tutorial.sampling import final
from parts import relative

SCHEDULE = scaled_linear()
STD, MEAN = 0.3, 0.5
MODEL = analytic.gaussian(torch.full((6,), MEAN, dtype=torch.float64), STD, SCHEDULE)
OTHER = analytic.gaussian(torch.full((6,), -MEAN, dtype=torch.float64), STD, SCHEDULE)
TO_ONE = [*times(1000, 10)[:-1], 1]


def data(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return MEAN + STD * torch.randn(batch, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("grid", [times(1000, 10), TO_ONE], ids=["to 0", "to 1"])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_its_own_noises_give_the_picture_back_from_anywhere(grid, eta):
    found = invert_edit_friendly(MODEL, data(), grid, SCHEDULE, eta=eta)
    assert found.states.shape == (len(grid), 3, 6) and found.noises.shape == (len(grid) - 1, 3, 6)
    for enter in (None, *grid[:-1]):
        steps = list(replay(MODEL, found, SCHEDULE, enter=enter))
        assert [step.t for step in steps] == grid[grid.index(enter or grid[0]) : -1]
        torch.testing.assert_close(final(iter(steps)), data(), rtol=0, atol=1e-12)
        for step in steps:
            wanted = found.states[grid.index(step.s)]
            torch.testing.assert_close(step.x_s, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.states[-1], data(), rtol=0, atol=1e-12)
    assert relative(final(replay(OTHER, found, SCHEDULE)), data()) > 0.1


def test_the_noises_are_as_large_as_for_a_gaussian_they_must_be():
    """For Gaussian data and its own model mu is linear in x_t, mu = a x_t + b, and x_s - mu is a
    sum of independent parts: data, the noise of x_s, the noise of x_t."""
    grid = times(1000, 10)
    found = invert_edit_friendly(MODEL, data(20_000), grid, SCHEDULE)
    for i, (t, s) in enumerate(pairwise(grid)):
        ab_t, ab_s = SCHEDULE.level(t), SCHEDULE.level(s)
        if s == 0:
            continue
        # the posterior mean of DDPM, Eq. 7, with x0_hat = mean + gain (x_t - sqrt(ab_t) mean)
        variance = ab_t * STD**2 + 1 - ab_t
        gain = ab_t**0.5 * STD**2 / variance
        beta, sigma2 = 1 - ab_t / ab_s, (1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)
        a = (ab_s**0.5 * beta * gain + (ab_t / ab_s) ** 0.5 * (1 - ab_s)) / (1 - ab_t)
        spread = (ab_s**0.5 - a * ab_t**0.5) ** 2 * STD**2 + (1 - ab_s) + a**2 * (1 - ab_t)
        assert found.noises[i].std().item() == pytest.approx((spread / sigma2) ** 0.5, rel=0.02)
        assert found.noises[i].std() > 1
        assert abs(found.noises[i].mean().item()) < 0.02 * found.noises[i].std()


@pytest.mark.parametrize("grid", [times(1000, 10), TO_ONE, [900, 600, 300]])
def test_the_states_are_independent_draws_given_the_picture(grid):
    x = data(1).expand(20_000, -1)
    found = invert_edit_friendly(MODEL, x, grid, SCHEDULE)
    parts = []
    for t, state in zip(grid[:-1], found.states[:-1], strict=True):
        ab = SCHEDULE.level(t) / SCHEDULE.level(grid[-1])
        parts.append((state - ab**0.5 * x) / (1 - ab) ** 0.5)
    parts = torch.stack(parts).flatten(1)
    covariance = parts @ parts.T / parts.shape[1]
    torch.testing.assert_close(covariance, torch.eye(len(parts)).double(), rtol=0, atol=0.02)


def test_another_model_walks_ddpms_posterior_with_these_noises():
    grid = times(1000, 10)
    found = invert_edit_friendly(MODEL, data(), grid, SCHEDULE)
    x, enter = found.states[3], grid[3]
    for i, (t, s) in enumerate(pairwise(grid)):
        if t > enter:
            continue
        ab_t, ab_s = SCHEDULE.level(t), SCHEDULE.level(s)
        x0_hat = (x - (1 - ab_t) ** 0.5 * OTHER(x, torch.full((3,), t))) / ab_t**0.5
        mu = (ab_s**0.5 * (1 - ab_t / ab_s) * x0_hat + (ab_t / ab_s) ** 0.5 * (1 - ab_s) * x) / (
            1 - ab_t
        )
        std = ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)) ** 0.5 if s else 1.0
        x = mu + std * found.noises[i]
    result = final(replay(OTHER, found, SCHEDULE, enter=enter))
    torch.testing.assert_close(result, x, rtol=0, atol=1e-10)


def test_an_image_does_not_depend_on_its_batch_and_a_seed_repeats():
    grid = times(1000, 5)
    invert = functools.partial(invert_edit_friendly, MODEL, times=grid, schedule=SCHEDULE)
    together = invert(data(), generator=generators(range(3)))
    alone = invert(data()[1:2], generator=generators([1]))
    torch.testing.assert_close(together.noises[:, 1:2], alone.noises)
    assert relative(together.noises[:, 0], together.noises[:, 1]) > 0.1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: invert_edit_friendly(MODEL, data(), times(1000, 5), SCHEDULE, eta=0), "eta=0"),
        (lambda: invert_edit_friendly(MODEL, data(), times(1000, 5), SCHEDULE, eta=-1), "eta=-1"),
        (lambda: invert_edit_friendly(MODEL, data(), [0, 500], SCHEDULE), "increase"),
    ],
)
def test_what_has_no_noises_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("enter", [0, 999, 123])
def test_to_enter_where_there_is_no_state_is_refused(enter):
    found = invert_edit_friendly(MODEL, data(), times(1000, 5), SCHEDULE)
    with pytest.raises(ValueError, match=f"enter={enter}: pass one of the times"):
        replay(MODEL, found, SCHEDULE, enter=enter)
