"""Other libraries' schedules, grids and buffers: what their steps do, their formulas in numpy."""

import math
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from ddim_tutorial import (
    ddim_sampling_parameters,
    from_scheduler,
    ldm_buffers,
    scaled_linear,
    scheduler_times,
    times,
)

SD = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_from_scheduler_keeps_every_bit(kind, beta_schedule):
    scheduler = kind(beta_schedule=beta_schedule)
    alpha_bar = from_scheduler(scheduler).alpha_bar
    assert torch.equal(alpha_bar[1:].float(), scheduler.alphas_cumprod)
    assert torch.equal(alpha_bar[1:], scheduler.alphas_cumprod.double()) and alpha_bar[0] == 1


def test_from_scheduler_does_not_depend_on_set_alpha_to_one():
    one, other = (DDIMScheduler(set_alpha_to_one=flag) for flag in (True, False))
    assert torch.equal(from_scheduler(one).alpha_bar, from_scheduler(other).alpha_bar)


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
        assert scheduler_times(scheduler, 61)[-2:] == [16, 0]


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
        assert scheduler_times(scheduler, 10) == times(1000, 10, "linspace")


def test_diffusers_trailing_misses_by_one_where_steps_do_not_divide():
    with pytest.warns(UserWarning, match="1 away"):
        grid = scheduler_times(DDIMScheduler(timestep_spacing="trailing"), 30)
    assert grid == times(1000, 30)


def test_stable_diffusion_grid_ends_at_one():
    grid = scheduler_times(DDIMScheduler(**SD), 50)
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
        grid = scheduler_times(scheduler, steps)
    scheduler.set_timesteps(steps)
    ab = from_scheduler(scheduler).alpha_bar
    assert [t + 1 for t in scheduler.timesteps.tolist()] == grid[:-1]
    for timestep, t, s in zip(scheduler.timesteps, grid, grid[1:], strict=False):
        gain = scheduler.step(torch.zeros(1, 1), timestep, torch.ones(1, 1)).prev_sample.item()
        assert math.isclose(gain, (ab[s] / ab[t]).sqrt(), rel_tol=1e-6)


def test_scheduler_times_leaves_the_scheduler_alone():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    scheduler_times(scheduler, 50)
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps == 7


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
    buffers = ldm_buffers(scaled_linear())
    for name, values in wanted.items():
        torch.testing.assert_close(
            buffers[name], torch.from_numpy(values).float(), rtol=1e-6, atol=0, msg=name
        )


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_sampling_parameters_against_the_formulas_in_numpy(eta):
    """make_ddim_sampling_parameters: alphas of the ascending grid, alphas_prev shifted and starting
    at index 0."""
    schedule = scaled_linear()
    cumprod = schedule.alpha_bar[1:].numpy()
    ascending = np.arange(0, 1000, 20) + 1  # make_ddim_timesteps("uniform", 50)
    alphas, previous = cumprod[ascending], np.append(cumprod[0], cumprod[ascending[:-1]])
    sigmas = eta * np.sqrt((1 - previous) / (1 - alphas) * (1 - alphas / previous))
    seen = ddim_sampling_parameters(schedule, scheduler_times(DDIMScheduler(**SD), 50), eta)
    for ours, theirs in zip(seen, (sigmas, alphas, previous), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-12, atol=1e-15)
