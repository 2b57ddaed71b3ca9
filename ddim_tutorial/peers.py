"""Other libraries' names for the same: a diffusers scheduler's schedule and grid, the buffers and
sampling parameters of latent diffusion. Their timestep is our t - 1."""

import copy
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .require import require_int, require_times
from .schedule import Schedule


def from_scheduler(scheduler: Any) -> Schedule:
    """The schedule of any diffusers scheduler with ``alphas_cumprod``: its float32 values, shifted
    by one index."""
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise TypeError(
            f"{type(scheduler).__name__} has no alphas_cumprod: pass a variance-preserving"
            " diffusers scheduler such as DDIMScheduler"
        )
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod.double().cpu()]))


def scheduler_times(scheduler: Any, steps: int) -> list[int]:
    """The grid that a diffusers scheduler walks, in our index (its timestep + 1).

    It ends where the scheduler's last step ends: at 0, or at 1 for ``set_alpha_to_one=False``
    (Stable Diffusion 1.x: 982, 962, .., 22, 2, 1 at 50 steps). DDIMScheduler.step always aims at t
    - T // steps: the last step ends there if that is a time, and a warning says when it is not the
    next entry of its own grid. Negative timesteps, which its trailing grid has for some ``steps``,
    are dropped. ValueError for a grid that is none of ours.
    """
    own, T = copy.deepcopy(scheduler), scheduler.config.num_train_timesteps
    require_int("steps", steps, 1, T)
    own.set_timesteps(steps)
    grid = [t + 1 for t in own.timesteps.tolist() if t >= 0]
    ddim, stride = type(scheduler).__name__ == "DDIMScheduler", T // steps
    end = 0 if getattr(own.config, "set_alpha_to_one", True) else 1
    end = max(end, grid[-1] - stride) if ddim else end
    if (
        any(t != int(t) for t in grid)
        or any(s >= t for t, s in pairwise(grid))
        or not end < grid[0] <= T
    ):
        raise ValueError(
            f"{type(scheduler).__name__} with {steps} steps walks no decreasing grid of whole"
            f" timesteps from {T - 1} down: take other steps, or convert it,"
            " DDIMScheduler.from_config(scheduler.config)"
        )
    miss = max((abs(t - stride - s) for t, s in pairwise(grid)), default=0)
    if miss and ddim:
        warnings.warn(
            f"DDIMScheduler with timestep_spacing={own.config.timestep_spacing!r} and {steps} steps"
            f" aims up to {miss} away from its own grid; our sampler walks the grid itself",
            stacklevel=2,
        )
    return [int(t) for t in grid if t > end] + [end]


def ldm_buffers(schedule: Schedule) -> dict[str, Float[Tensor, " T"]]:
    """What latent diffusion's ``DDPM.register_schedule`` registers, under its names, but for the
    loss weights ``lvlb_weights``: (T,) float32, index = t - 1."""
    ab, ab_before = schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
    beta = 1 - ab / ab_before
    variance = beta * (1 - ab_before) / (1 - ab)
    buffers = {
        "betas": beta,
        "alphas_cumprod": ab,
        "alphas_cumprod_prev": ab_before,
        "sqrt_alphas_cumprod": ab.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - ab).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - ab).log(),
        "sqrt_recip_alphas_cumprod": (1 / ab).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / ab - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": beta * ab_before.sqrt() / (1 - ab),
        "posterior_mean_coef2": (1 - ab_before) * (1 - beta).sqrt() / (1 - ab),
    }
    return {name: value.float() for name, value in buffers.items()}


def ddim_sampling_parameters(
    schedule: Schedule, times: Sequence[int], eta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(sigmas, alphas, alphas_prev), (S,) float64, ascending, as latent diffusion's
    ``make_ddim_sampling_parameters``.

    times: our decreasing grid; its last entry is where the last step ends and has no row. LDM ends
    at ``alphas_cumprod[0]``, so alphas_prev[0] = alpha_bar[1] whatever that entry is. eta >= 0: as
    in DDIM Eq. 16.
    """
    grid = require_times(times, schedule.T)
    if grid[0] < grid[1] or not eta >= 0:
        raise ValueError(f"times={grid[:2]}.., eta={eta}: pass a decreasing grid and eta >= 0")
    alphas = schedule.alpha_bar[grid[-2::-1]]
    alphas_prev = torch.cat([schedule.alpha_bar[1:2], alphas[:-1]])
    sigmas = eta * torch.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    return sigmas, alphas, alphas_prev
