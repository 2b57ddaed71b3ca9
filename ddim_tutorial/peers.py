"""Other libraries' names for the same: a diffusers scheduler's schedule and grid, the sigmas of
k-diffusion, the buffers and sampling parameters of latent diffusion. Their timestep is our t - 1.
"""

import copy
import inspect
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from .require import Whole, require_int, require_times
from .schedule import Schedule

# Their step goes to timestep - T // steps, whatever their grid says.
STRIDING = {"DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler"}
# Their last step takes no notice of final_alpha_cumprod: LCM's returns x0_hat, TCD's ends at 1.
OWN_END = {"LCMScheduler": 0, "TCDScheduler": 1}

_warned: WeakSet = WeakSet()  # the schedulers whose clipping was spoken of


def from_scheduler(scheduler: Any) -> Schedule:
    """The schedule of any diffusers scheduler with ``alphas_cumprod``: its values, one index on.

    They are float32 numbers. Warns once for a scheduler that clips or thresholds its x0_hat, as
    diffusers' DDIM and DDPM do unless told otherwise: this package does not.

    Zero terminal SNR (``rescale_betas_zero_snr``) is served where the network predicts v or x_0:
    alpha_bar[T] is 1e-10 instead of 0, which moves x0_hat by 1e-5 at T and nowhere else. For a
    network that predicts eps it is refused: at T that says nothing about x_0.
    """
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise TypeError(
            f"{type(scheduler).__name__} has no alphas_cumprod: pass a variance-preserving"
            " diffusers scheduler such as DDIMScheduler"
        )
    _warn_of_clipping(scheduler)
    levels = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod.double().cpu()])
    if levels[-1] == 0:
        prediction = _config(scheduler).get("prediction_type", "epsilon")
        if prediction == "epsilon":
            raise ValueError(
                f"{type(scheduler).__name__} has zero terminal SNR (rescale_betas_zero_snr=True)"
                " and prediction_type='epsilon', which says nothing about x_0 at T. If the network"
                " predicts v, pass prediction_type='v_prediction'; if it was trained without the"
                " rescaling, rescale_betas_zero_snr=False; else end the schedule before T:"
                " Schedule(alpha_bar[:-1])"
            )
        levels[-1] = 1e-10
    return Schedule(levels)


def _config(scheduler: Any) -> Any:
    return getattr(scheduler, "config", {})


def clipping(scheduler: Any) -> str | None:
    """The option by which a diffusers scheduler clips its x0_hat in every step, if one is set."""
    known = inspect.signature(type(scheduler).__init__).parameters  # a config keeps foreign keys
    options = ("clip_sample", "thresholding")
    return next((key for key in options if key in known and _config(scheduler).get(key)), None)


def _warn_of_clipping(scheduler: Any) -> None:
    if (option := clipping(scheduler)) and scheduler not in _warned:
        _warned.add(scheduler)
        warnings.warn(
            f"{type(scheduler).__name__} has {option}=True: it clips its x0_hat, this package does"
            f" not, since a clipped step has no inverse; pass {option}=False for the same pictures",
            stacklevel=3,
        )


def scheduler_times(scheduler: Any, steps: Whole) -> list[int]:
    """The grid that a diffusers scheduler walks, in our index (its timestep + 1).

    It ends where the scheduler's last step ends: at 0, or at 1, as for DDIM and PNDM with
    ``set_alpha_to_one=False`` (Stable Diffusion 1.x: 982, 962, .., 22, 2, 1 at 50 steps).
    DDIMScheduler.step always aims at t - T // steps: the last step ends there if that is a time,
    and a warning says when it is not the next entry of its own grid. Negative timesteps, which its
    trailing grid has for some ``steps``, are dropped. ValueError for a grid that is none of ours.
    """
    if not callable(getattr(scheduler, "set_timesteps", None)):
        raise TypeError(
            f"scheduler is a {type(scheduler).__name__}: pass a diffusers scheduler such as"
            " DDIMScheduler, or times(T, steps) for a grid without one"
        )
    _warn_of_clipping(scheduler)
    own, T = copy.deepcopy(scheduler), scheduler.config.num_train_timesteps
    steps = require_int("steps", steps, 1, T)
    own.set_timesteps(steps)
    grid = [t + 1 for t in own.timesteps.tolist() if t >= 0]
    if problem := _problem(own, grid, T):
        raise ValueError(
            f"{type(scheduler).__name__} with {steps} steps walks no decreasing grid of whole"
            f" timesteps from {T - 1} down: {problem}"
        )
    end, stride = _end(own), T // steps
    if strides := bool(STRIDING & _names(own)):
        end = max(end, int(grid[-1]) - stride)
    if end >= grid[0]:
        raise ValueError(
            f"{type(scheduler).__name__} with {steps} steps walks no decreasing grid of whole"
            f" timesteps from {T - 1} down: it starts at t={int(grid[0])}, and its last step ends"
            f" at t={end}, so that no step is left; pass more steps, or a scheduler with"
            " timestep_spacing='trailing' or set_alpha_to_one=True"
        )
    miss = max((abs(t - stride - s) for t, s in pairwise(grid)), default=0)
    if miss and strides:
        warnings.warn(
            f"{type(scheduler).__name__} with timestep_spacing={own.config.timestep_spacing!r} and"
            f" {steps} steps aims up to {int(miss)} away from its own grid; our sampler walks the"
            " grid itself",
            stacklevel=2,
        )
    return [int(t) for t in grid if t > end] + [end]


def _names(scheduler: Any) -> set[str]:
    return {kind.__name__ for kind in type(scheduler).__mro__}


def _end(scheduler: Any) -> int:
    """Where the last step lands, by what the scheduler's step reads: not by its config, which may
    have keys left over from another class."""
    for name, end in OWN_END.items():
        if name in _names(scheduler):
            return end
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        return 0 if sigmas[-1] == 0 else 1  # its smallest sigma is that of timestep 0
    return 0 if getattr(scheduler, "final_alpha_cumprod", 1) == 1 else 1


def _problem(scheduler: Any, grid: list[int | float], T: int) -> str:
    """What makes ``grid`` none of ours, and what to do, or ""."""
    convert = "convert it to DDIM, DDIMScheduler.from_config(scheduler.config)"
    if not grid or max(grid) > T:
        start = max(grid, default=0)
        return f"it starts at t={start:g}, wanted at most {T}; pass a smaller steps_offset"
    if len(grid) > 1 and grid[0] < grid[-1]:
        return f"it walks up; invert() takes the decreasing grid of the sampler, so {convert}"
    if any(s >= t for t, s in pairwise(grid)):
        return f"it asks twice at a time, as multistep starts and Heun's method do; {convert}"
    if any(t != int(t) for t in grid) or not _on_grid(scheduler, grid):
        return (
            "its noise levels lie between the schedule's; pass timestep_spacing='trailing' and no"
            f" Karras, exponential or beta sigmas, or {convert}"
        )
    return ""


def _on_grid(scheduler: Any, grid: list[int | float]) -> bool:
    """Are the noise levels of a scheduler that has its own ``sigmas`` those at its timesteps?"""
    sigmas = getattr(scheduler, "sigmas", None)
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if sigmas is None or alphas_cumprod is None:
        return True
    levels = alphas_cumprod.double()[[int(t) - 1 for t in grid]]
    wanted = ((1 - levels) / levels).sqrt()
    return torch.allclose(sigmas[: len(grid)].double().cpu(), wanted, rtol=1e-3)


def t_to_sigma(t: float | Sequence[float] | Tensor, schedule: Schedule) -> Float[Tensor, "*S"]:
    """k-diffusion's noise level at our t in 1..T: sqrt((1 - alpha_bar_t) / alpha_bar_t), float64.

    Between whole times log sigma is interpolated, as there. Its state is x_t / sqrt(alpha_bar_t) =
    x_0 + sigma eps, its timestep is t - 1. t: a number, or any shape; outside 1..T ValueError.
    """
    t = torch.as_tensor(t, dtype=torch.float64)
    if not bool(((t >= 1) & (t <= schedule.T)).all()):
        raise ValueError(f"t={t.tolist()}: pass times in 1..{schedule.T}; sigma is 0 at t = 0")
    log_sigma = _log_sigmas(schedule)
    low = t.floor().long() - 1
    high = (low + 1).clamp(max=schedule.T - 1)
    return torch.lerp(log_sigma[low], log_sigma[high], t - t.floor()).exp()


def sigma_to_t(sigma: float | Sequence[float] | Tensor, schedule: Schedule) -> Float[Tensor, "*S"]:
    """Our t, in 1..T and not rounded, at k-diffusion's sigma: t_to_sigma solved for t, float64.

    A network asked at whole times takes ``.round().long()``. sigma: a positive number, or any
    shape; beyond the schedule's smallest and largest sigma t is 1 and T, as there.
    """
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    if not bool((sigma > 0).all()):
        raise ValueError(f"sigma={sigma.tolist()}: pass positive numbers; t is 0 where sigma is 0")
    log_sigma = _log_sigmas(schedule)
    value = sigma.log().clamp(log_sigma[0], log_sigma[-1])
    if schedule.T == 1:
        return torch.ones_like(value)
    low = (torch.searchsorted(log_sigma, value, right=True) - 1).clamp(0, schedule.T - 2)
    return 1 + low + (value - log_sigma[low]) / (log_sigma[low + 1] - log_sigma[low])


def _log_sigmas(schedule: Schedule) -> Float[Tensor, " T"]:
    levels = schedule.alpha_bar[1:]
    return ((1 - levels) / levels).log() / 2


def ldm_buffers(schedule: Schedule) -> dict[str, Float[Tensor, " T"]]:
    """What latent diffusion's ``DDPM.register_schedule`` registers: (T,) float32, index = t - 1.

    Under its names, but for the loss weights ``lvlb_weights``.
    """
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
    """Latent diffusion's ``make_ddim_sampling_parameters``: (sigmas, alphas, alphas_prev).

    Each (S,) float64, ascending. times: our decreasing grid; its last entry is where the last step
    ends and has no row. LDM ends at ``alphas_cumprod[0]``, so alphas_prev[0] = alpha_bar[1]
    whatever that entry is. eta >= 0: as in DDIM Eq. 16.
    """
    grid = require_times(times, schedule.T)
    if grid[0] < grid[1] or not 0 <= eta < float("inf"):
        raise ValueError(
            f"times={grid[:2]}.., eta={eta}: pass a decreasing grid and a finite eta >= 0"
        )
    alphas = schedule.alpha_bar[grid[-2::-1]]
    alphas_prev = torch.cat([schedule.alpha_bar[1:2], alphas[:-1]])
    sigmas = eta * torch.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    return sigmas, alphas, alphas_prev
