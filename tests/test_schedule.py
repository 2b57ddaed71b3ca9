"""Schedules and grids against diffusers and against lists written out by hand."""

import math
import warnings
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from diffusers.schedulers import AysSchedules

from ddim_tutorial import schedule as sch
from ddim_tutorial.schedule import Schedule, times

SD = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
)
SD_BETAS = {name: SD[name] for name in ("beta_start", "beta_end", "beta_schedule")}

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


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_from_scheduler_keeps_every_bit(kind, beta_schedule):
    scheduler = kind(beta_schedule=beta_schedule)
    alpha_bar = sch.from_scheduler(scheduler).alpha_bar
    assert torch.equal(alpha_bar[1:].float(), scheduler.alphas_cumprod)
    assert torch.equal(alpha_bar[1:], scheduler.alphas_cumprod.double()) and alpha_bar[0] == 1


def test_from_scheduler_does_not_depend_on_set_alpha_to_one():
    one, other = (DDIMScheduler(set_alpha_to_one=flag) for flag in (True, False))
    assert torch.equal(sch.from_scheduler(one).alpha_bar, sch.from_scheduler(other).alpha_bar)


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


def test_diffusers_trailing_grid_has_an_entry_too_many():
    """np.arange(T, 0, -T / S) rounds past its end: timestep -1 is walked for 62 of the 1000 values
    of S."""
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    too_long = []
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            assert len(scheduler.timesteps) == steps + 1 and scheduler.timesteps[-1] == -1
            too_long.append(steps)
    assert len(too_long) == 62 and 61 in too_long
    assert len(times(1000, 61)) == 62 and times(1000, 61)[-2:] == [16, 0]
    with pytest.warns(UserWarning, match="1 away"):
        assert sch.scheduler_times(scheduler, 61)[-2:] == [16, 0]


def test_diffusers_linspace_steps_miss_their_own_grid():
    """DDIMScheduler.step goes to t - T // S: at S = 10 the linspace grid is 111 apart and the steps
    are 100 long."""
    scheduler = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(10)
    t, s = scheduler.timesteps[:2].tolist()
    x_t, zero = torch.ones(1, 1), torch.zeros(1, 1)
    reached = scheduler.step(zero, t, x_t).prev_sample.item()
    ratio = (scheduler.alphas_cumprod[[s, t - 100]] / scheduler.alphas_cumprod[t]).sqrt()
    assert (t, s) == (999, 888) and math.isclose(reached, ratio[1], rel_tol=1e-5)
    assert abs(reached - ratio[0]) > 0.1 * reached
    with pytest.warns(UserWarning, match="11 away"):
        assert sch.scheduler_times(scheduler, 10) == times(1000, 10, "linspace")


def test_diffusers_trailing_misses_by_one_where_steps_do_not_divide():
    with pytest.warns(UserWarning, match="1 away"):
        grid = sch.scheduler_times(DDIMScheduler(timestep_spacing="trailing"), 30)
    assert grid == times(1000, 30)


def test_stable_diffusion_grid_ends_at_one():
    grid = sch.scheduler_times(DDIMScheduler(**SD), 50)
    assert grid == [*range(982, 1, -20), 1] and len(grid) == 51
    assert grid[:3] == [982, 962, 942] and grid[-3:] == [22, 2, 1]


@pytest.mark.parametrize(
    "flags, steps",
    [
        *(
            (flags, steps)
            for flags in ({}, dict(timestep_spacing="trailing"), SD)
            for steps in (10, 50, 200)
        ),
        (dict(steps_offset=1), 600),
        (dict(steps_offset=35), 30),  # the last step aims at a time above 0
    ],
)
def test_scheduler_times_is_the_grid_that_steps_walk(flags, steps):
    """From the levels that DDIMScheduler.step itself visits: with eps = 0 a step multiplies by
    sqrt(ab_s / ab_t)."""
    scheduler = DDIMScheduler(**{**flags, "clip_sample": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = sch.scheduler_times(scheduler, steps)
    scheduler.set_timesteps(steps)
    ab = sch.from_scheduler(scheduler).alpha_bar
    assert [t + 1 for t in scheduler.timesteps.tolist()] == grid[:-1]
    for timestep, t, s in zip(scheduler.timesteps, grid, grid[1:], strict=False):
        gain = scheduler.step(torch.zeros(1, 1), timestep, torch.ones(1, 1)).prev_sample.item()
        assert math.isclose(gain, (ab[s] / ab[t]).sqrt(), rel_tol=1e-6)


def test_scheduler_times_leaves_the_scheduler_alone():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    sch.scheduler_times(scheduler, 50)
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps == 7


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


def test_ldm_buffers_against_the_formulas_in_numpy():
    """The formulas of latent diffusion's register_schedule, computed in numpy from the betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    cumprod = np.cumprod(1 - betas)
    previous = np.append(1.0, cumprod[:-1])
    posterior = betas * (1 - previous) / (1 - cumprod)
    wanted = {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "posterior_variance": posterior,
        "posterior_log_variance_clipped": np.log(np.maximum(posterior, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - cumprod),
    }
    buffers = sch.ldm_buffers(sch.scaled_linear())
    for name, values in wanted.items():
        torch.testing.assert_close(
            buffers[name], torch.from_numpy(values).float(), rtol=1e-6, atol=0, msg=name
        )


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_sampling_parameters_against_the_formulas_in_numpy(eta):
    """make_ddim_sampling_parameters: alphas of the ascending grid, alphas_prev shifted and starting
    at index 0."""
    schedule = sch.scaled_linear()
    cumprod = schedule.alpha_bar[1:].numpy()
    ascending = np.arange(0, 1000, 20) + 1  # make_ddim_timesteps("uniform", 50)
    alphas, previous = cumprod[ascending], np.append(cumprod[0], cumprod[ascending[:-1]])
    sigmas = eta * np.sqrt((1 - previous) / (1 - alphas) * (1 - alphas / previous))
    seen = sch.ddim_sampling_parameters(schedule, sch.scheduler_times(DDIMScheduler(**SD), 50), eta)
    for ours, theirs in zip(seen, (sigmas, alphas, previous), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-12, atol=1e-15)


def test_a_schedule_is_what_alpha_bar_says():
    schedule = Schedule(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))
    assert schedule.T == 2 and schedule.at(2, torch.zeros(1, 1)) == 0.25


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
    ours = times(1000, steps, spacing, sch.from_scheduler(scheduler))
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
