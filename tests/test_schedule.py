"""Schedules and grids against diffusers and against lists written out by hand."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from ddim_tutorial import schedule as sch
from ddim_tutorial.schedule import Schedule, times

OURS_AND_THEIRS = [
    (sch.linear(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
    (sch.scaled_linear(), dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)),
    (sch.cosine(), dict(beta_schedule="squaredcos_cap_v2")),
]


@pytest.mark.parametrize("ours, config", OURS_AND_THEIRS, ids=["linear", "scaled_linear", "cosine"])
def test_schedules_are_those_of_diffusers(ours, config):
    theirs = DDIMScheduler(**config)
    betas = 1 - ours.alpha_bar[1:] / ours.alpha_bar[:-1]
    torch.testing.assert_close(betas, theirs.betas.double(), rtol=1e-6, atol=0)
    # but for the cosine's last entry: their float32 beta of 0.999 leaves 1 - beta wrong by 1.3e-5
    last = 999 if config["beta_schedule"] == "squaredcos_cap_v2" else 1000
    torch.testing.assert_close(
        ours.alpha_bar[1 : last + 1], theirs.alphas_cumprod[:last].double(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(
        ours.alpha_bar[-1], theirs.alphas_cumprod[-1].double(), rtol=2e-5, atol=0
    )


@pytest.mark.parametrize("make", [sch.linear, sch.scaled_linear, sch.cosine])
@pytest.mark.parametrize("T", [1, 2, 17, 1000])
def test_alpha_bar_starts_at_one_and_falls(make, T):
    schedule = make(T)
    assert (
        schedule.T == T
        and schedule.alpha_bar.shape == (T + 1,)
        and schedule.alpha_bar.dtype == torch.float64
    )
    assert (
        schedule.alpha_bar[0] == 1
        and (schedule.alpha_bar.diff() < 0).all()
        and schedule.alpha_bar[-1] > 0
    )


def test_linear_first_and_last_beta():
    ab = sch.linear(10, 0.1, 0.4).alpha_bar
    assert math.isclose(ab[1], 0.9, rel_tol=1e-15) and math.isclose(
        ab[10] / ab[9], 0.6, rel_tol=1e-15
    )


def test_cosine_against_its_formula():
    # Nichol & Dhariwal 2021, Eq. 17, where no beta is cut
    f = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(100)]
    wanted = torch.tensor([v / f[0] for v in f], dtype=torch.float64)
    torch.testing.assert_close(sch.cosine(100).alpha_bar[:100], wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "steps, spacing, wanted",
    [
        (10, "trailing", [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        (10, "leading", [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0]),
        (10, "linspace", [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1, 0]),
        (10, "quadratic", [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]),
        (3, "trailing", [1000, 667, 333, 0]),
        (3, "leading", [667, 334, 1, 0]),
        (7, "leading", [853, 711, 569, 427, 285, 143, 1, 0]),
        (1, "trailing", [1000, 0]),
        (1, "leading", [1, 0]),
        (1, "linspace", [1000, 0]),
        (1, "quadratic", [1000, 0]),
    ],
)
def test_grids_written_out(steps, spacing, wanted):
    assert times(1000, steps, spacing) == wanted


def test_trailing_is_the_default():
    assert times(1000, 50) == list(range(1000, -1, -20))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "quadratic"])
@pytest.mark.parametrize("T", [1000, 37])
def test_every_number_of_steps_makes_a_grid(spacing, T):
    for steps in range(1, T + 1):
        grid = times(T, steps, spacing)
        first = 1 + (steps - 1) * (T // steps) if spacing == "leading" else T
        assert all(type(t) is int for t in grid)
        assert len(grid) == steps + 1 and grid[0] == first and grid[-1] == 0
        assert all(s < t for t, s in pairwise(grid))
    assert times(T, T, spacing) == list(range(T, -1, -1))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_grids_are_diffusers_grids_shifted_by_one(spacing):
    """Entry by entry for every S; only where the exact value ends in .5 may float rounding put
    diffusers one off."""
    scheduler = DDIMScheduler(timestep_spacing=spacing)
    exact = {
        "trailing": lambda steps, i: Fraction(1000 * (i + 1), steps),
        "leading": lambda steps, i: 1 + Fraction(i * (1000 // steps)),
        "linspace": lambda steps, i: 1 + Fraction(999 * i, steps - 1),
    }[spacing]
    for steps in range(2, 1001):
        scheduler.set_timesteps(steps)
        theirs = [t + 1 for t in scheduler.timesteps.tolist() if t >= 0]
        ours = times(1000, steps, spacing)[:-1]
        assert len(theirs) == len(ours)
        for i, (t, t_theirs) in enumerate(zip(reversed(ours), reversed(theirs), strict=True)):
            assert t == t_theirs or (exact(steps, i).denominator == 2 and abs(t - t_theirs) == 1)


def test_one_step_of_linspace_starts_at_the_noise():
    """diffusers' single linspace step starts at timestep 0, the clean end; ours at T."""
    scheduler = DDIMScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [0] and times(1000, 1, "linspace") == [1000, 0]


def test_at_broadcasts_over_every_shape(device):
    schedule = sch.linear()
    assert schedule.at(0, torch.zeros(2, 3, device=device)) == 1
    number = schedule.at(500, torch.zeros(2, 3, 4, 4, device=device))
    assert number.shape == () and number.dtype == torch.float64 and number.device.type == "cpu"
    t = torch.tensor([1, 500], device=device)
    for dims in [(3,), (3, 4, 4), (1, 2, 3, 4)]:
        for dtype, wanted in [
            (torch.float16, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float64,) * 2,
        ]:
            x = torch.zeros(2, *dims, device=device, dtype=dtype)
            ab_t = schedule.at(t, x)
            assert (
                ab_t.shape == (2, *[1] * len(dims))
                and ab_t.dtype == wanted
                and ab_t.device == x.device
            )
            assert torch.equal(ab_t.flatten().cpu(), schedule.alpha_bar[[1, 500]].to(wanted))


def test_a_schedule_does_not_change_with_what_it_was_made_of_or_gave():
    alpha_bar = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    schedule = Schedule(alpha_bar)
    alpha_bar.zero_()
    schedule.at(1, torch.zeros(1, 1)).zero_()
    assert schedule.alpha_bar.tolist() == [1.0, 0.5, 0.25]


def test_schedule_is_frozen():
    with pytest.raises(AttributeError):
        sch.linear().alpha_bar = torch.ones(3)


def test_a_schedule_is_what_alpha_bar_says():
    schedule = Schedule(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))
    assert schedule.T == 2 and schedule.at(2, torch.zeros(1, 1)) == 0.25


@pytest.mark.parametrize("T", [1000, 37])
@pytest.mark.parametrize("spacing", ["ldm", "ldm-quad"])
def test_grids_of_latent_diffusion(spacing, T):
    """make_ddim_timesteps in numpy, plus one; a number of steps at which it leaves the table of
    alphas_cumprod is refused."""
    refused = 0
    for steps in range(2, T + 1):
        if spacing == "ldm":
            theirs = np.asarray(list(range(0, T, T // steps))) + 1
        else:
            theirs = ((np.linspace(0, np.sqrt(T * 0.8), steps)) ** 2).astype(int) + 1
        wanted = [*sorted({int(t) + 1 for t in theirs}, reverse=True), 1]
        if theirs.max() >= T:
            refused += 1
            with pytest.raises(ValueError, match="pass another number of steps"):
                times(T, steps, spacing)
        else:
            assert times(T, steps, spacing) == wanted
    assert (refused > 0) == (spacing == "ldm")


def test_thirty_steps_of_latent_diffusion_are_thirty_one():
    grid = times(1000, 30, "ldm")
    assert grid[:3] == [992, 959, 926] and grid[-3:] == [35, 2, 1] and len(grid) == 32
    assert times(1000, 50, "ldm") == [*range(982, 1, -20), 1]  # Stable Diffusion's


def test_whole_numbers_of_numpy_make_a_grid_of_ints():
    for spacing in sch.SPACINGS:
        grid = times(np.int64(1000), np.int32(50), spacing)
        assert grid == times(1000, 50, spacing) and all(type(t) is int for t in grid)
    assert sch.cosine(np.int64(10)).T == 10


def test_the_least_signal_that_a_schedule_may_end_with():
    """cosine() with every beta_max below one is far above it, a table that ends at rounding is not:
    there a jump multiplies the rounding of eps by 1e16."""
    assert sch.cosine(4000, beta_max=0.9999).alpha_bar[-1] > 1e-11
    Schedule(torch.tensor([1.0, 0.5, 1e-12], dtype=torch.float64))
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for alpha_bar in (torch.cos(u * math.pi / 2) ** 2, torch.tensor([1.0, 9e-13]).double()):
        with pytest.raises(ValueError, match=r"terminal SNR.*>= 1e-12"):
            Schedule(alpha_bar)
