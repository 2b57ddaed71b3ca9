"""Time grids: against diffusers, latent diffusion and the papers' formulas."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import AysSchedules

from ddim_tutorial import from_scheduler
from ddim_tutorial import schedule as sch
from ddim_tutorial.spacing import SPACINGS, times

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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
    for spacing in SPACINGS:
        grid = times(np.int64(1000), np.int32(50), spacing, sch.linear())
        assert grid == times(1000, 50, spacing, sch.linear()) and all(type(t) is int for t in grid)
    assert sch.cosine(np.int64(10)).T == 10


# --- grids that are even in a level of noise ------------------------------------------------------

BY_LEVEL = ["logsnr", "karras", "ays"]
SCHEDULES = {"linear": sch.linear(), "scaled_linear": sch.scaled_linear(), "cosine": sch.cosine()}


@pytest.mark.parametrize("spacing", BY_LEVEL)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_number_of_steps_makes_a_grid_of_levels(spacing, name):
    for steps in [*range(1, 100), *range(100, 1001, 50)]:
        grid = times(1000, steps, spacing, SCHEDULES[name])
        assert all(type(t) is int for t in grid)
        assert len(grid) == steps + 1 and grid[0] == 1000 and grid[-1] == 0
        assert all(s < t for t, s in pairwise(grid))
    assert grid == list(range(1000, -1, -1))


@pytest.mark.parametrize("T", [1, 2, 37])
@pytest.mark.parametrize("spacing", ["logsnr", "karras"])
def test_grids_of_levels_for_a_short_schedule(spacing, T):
    for steps in range(1, T + 1):
        grid = times(T, steps, spacing, sch.linear(T))
        assert len(grid) == steps + 1 and (grid[0], grid[-1]) == (T, 0)
        assert all(s < t for t, s in pairwise(grid))


@pytest.mark.parametrize("steps", [5, 8, 10, 15])
@pytest.mark.parametrize(
    "spacing, flag", [("logsnr", "use_lu_lambdas"), ("karras", "use_karras_sigmas")]
)
def test_grids_of_levels_are_diffusers_timesteps_plus_one(spacing, flag, steps):
    scheduler = DPMSolverMultistepScheduler(**SD_BETAS, **{flag: True})
    scheduler.set_timesteps(steps)
    theirs = [t + 1 for t in scheduler.timesteps.tolist()]
    ours = times(1000, steps, spacing, from_scheduler(scheduler))
    # theirs may hold a time twice where levels lie closer than whole times
    assert ours[-1] == 0 and len(theirs) == steps
    assert all(abs(a - b) <= 1 for a, b in zip(ours, theirs, strict=False))
    assert sum(a != b for a, b in zip(ours, theirs, strict=False)) <= 2


@pytest.mark.parametrize("spacing", BY_LEVEL)
def test_levels_are_where_their_formula_puts_them(spacing):
    """Each level is met by a time that is at most about half a time off."""
    schedule = sch.scaled_linear()
    log_rho = (1 / schedule.alpha_bar - 1).sqrt().log()
    edges = [log_rho[1].item(), log_rho[1000].item()]
    for steps in (5, 7, 10):
        if spacing == "logsnr":
            levels = np.linspace(*edges, steps)
        elif spacing == "karras":
            levels = 7 * np.log(np.linspace(*np.exp(np.array(edges) / 7), steps))
        else:  # the authors' loglinear_interp of their eleven sigmas, the last one then set to 0
            sigmas = [*AysSchedules["StableDiffusionSigmas"][:-1], 0.02917]
            at = np.linspace(0, 1, steps + 1)
            levels = np.interp(at, np.linspace(0, 1, 11), np.log(sigmas[::-1]))[1:]
        for t, level in zip(times(1000, steps, spacing, schedule)[-2::-1], levels, strict=True):
            if t > 3:  # below, whole times lie farther apart than the levels
                slack = 0.51 * (log_rho[t] - log_rho[t - 1])
                slack += 0.004 * (spacing == "ays")  # published in three digits
                assert abs(log_rho[t].item() - level) <= slack


def test_align_your_steps_are_the_published_times():
    published = [t + 1 for t in AysSchedules["StableDiffusionTimesteps"]]
    assert times(1000, 10, "ays", sch.scaled_linear()) == [*published, 0]


@pytest.mark.parametrize("spacing", BY_LEVEL)
def test_a_grid_of_levels_needs_its_schedule(spacing):
    for schedule, seen in ((None, "None"), (sch.linear(500), "T=500")):
        with pytest.raises(ValueError, match=f"spacing='{spacing}'.*{seen}.*pass the schedule"):
            times(1000, 10, spacing, schedule)


def test_align_your_steps_needs_a_thousand_times():
    with pytest.raises(ValueError, match=r"'ays' with T=500.*T=1000; pass one of.*logsnr"):
        times(500, 10, "ays", sch.linear(500))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "quadratic"])
def test_grids_of_times_do_not_look_at_the_schedule(spacing):
    assert times(1000, 10, spacing, sch.cosine()) == times(1000, 10, spacing)
