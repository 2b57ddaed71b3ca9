r"""Noise schedules and time grids: how much signal is left at time t, and which times a sampler
visits.

``Schedule.alpha_bar[t]`` is :math:`\bar\alpha_t` for t = 0..T, with :math:`\bar\alpha_0 = 1`: x_0
has index 0, as in the DDIM paper (Song et al. 2021, arXiv:2010.02502, where the same number is
called :math:`\alpha_t`). The timestep of diffusers and of latent diffusion is t - 1;
:func:`from_scheduler` and :func:`scheduler_times` translate.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

BY_TIME = ("trailing", "leading", "linspace", "quadratic")
BY_LEVEL = ("logsnr", "karras", "ays")  # these need the schedule
SPACINGS = BY_TIME + BY_LEVEL
# Align Your Steps for Stable Diffusion 1.x: its ten times plus one, then sigma_min, which is t = 1
AYS = (1000, 851, 737, 646, 546, 456, 344, 234, 125, 25, 1)


def require_int(name: str, value: Any, low: int, high: int | float = math.inf) -> None:
    """Raise TypeError or ValueError unless ``value`` is a whole number in low..high."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or isinstance(value, Tensor):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}: pass a Python int in {low}..{high}"
        )
    if not low <= value <= high:
        raise ValueError(f"{name}={value} is out of range: pass an int in {low}..{high}")


@dataclass(frozen=True, eq=False)
class Schedule:
    r"""The variance-preserving schedule :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 +
    \sqrt{1-\bar\alpha_t}\,\epsilon`.

    alpha_bar: (T+1,) float64 on the CPU, strictly decreasing from ``alpha_bar[0] == 1`` to
    ``alpha_bar[T] > 0``. float64 because 1 - alpha_bar[1] is about 1e-4: a float32 alpha_bar is off
    by 1e-4 relative there.
    """

    alpha_bar: Float[Tensor, " T_plus_1"]

    def __post_init__(self) -> None:
        ab = self.alpha_bar
        if ab.dtype != torch.float64 or ab.device.type != "cpu" or ab.dim() != 1:
            raise TypeError(
                f"alpha_bar is {ab.dtype} of shape {tuple(ab.shape)} on {ab.device}: "
                "pass a (T+1,) float64 tensor on the CPU"
            )
        if len(ab) < 2:
            raise ValueError(
                f"alpha_bar has {len(ab)} entries, so T={len(ab) - 1}: pass T+1 >= 2 entries"
            )
        if ab[0] != 1:
            raise ValueError(
                f"alpha_bar[0]={ab[0]:.6g}: index 0 is the clean image, pass alpha_bar[0] == 1"
            )
        bad = torch.nonzero(~(ab[1:] < ab[:-1]))  # written so that NaN counts as bad
        if len(bad):
            t = int(bad[0]) + 1
            raise ValueError(
                f"alpha_bar[{t}]={ab[t]:.6g} after alpha_bar[{t - 1}]={ab[t - 1]:.6g}: "
                "alpha_bar must decrease strictly (every beta in (0, 1))"
            )
        if ab[-1] <= 0:
            raise ValueError(
                f"alpha_bar[T]={ab[-1]:.6g}: with no signal left eps says nothing about x_0 "
                "(zero terminal SNR); end the schedule at alpha_bar[T] > 0"
            )
        object.__setattr__(self, "alpha_bar", ab.clone())  # the caller's tensor may change later

    @property
    def T(self) -> int:
        """The number of diffusion steps."""
        return len(self.alpha_bar) - 1

    def at(
        self, t: int | Int[Tensor, " B"], like: Shaped[Tensor, " B *dims"]
    ) -> Float[Tensor, "..."]:
        """alpha_bar at ``t``, ready to be multiplied with ``like``: the one place where times are
        broadcast.

        t: int in 0..T -> a 0-dim float64 CPU tensor (torch treats it as a number: no device copy,
        no host read).
        t: (B,) integer tensor -> (B, 1, .., 1) on like's device, in like's precision but at least
        float32; its values are not range-checked, because that would read from the device.
        """
        if isinstance(t, Tensor):
            if t.is_floating_point() or t.dtype == torch.bool or t.shape != like.shape[:1]:
                raise TypeError(
                    f"t is {t.dtype} of shape {tuple(t.shape)}: pass an int, or integers of shape "
                    f"{tuple(like.shape[:1])}, one for each image"
                )
            dtype = torch.promote_types(like.dtype, torch.float32)
            return (
                self.alpha_bar.to(like.device)[t.long()].to(dtype).view(-1, *[1] * (like.dim() - 1))
            )
        require_int("t", t, 0, self.T)
        return self.alpha_bar[t].clone()


def time_batch(t: int | Int[Tensor, " B"], like: Shaped[Tensor, " B *dims"]) -> Int[Tensor, " B"]:
    """``t`` as the (B,) integer tensor that a network takes, on like's device."""
    return (
        t
        if isinstance(t, Tensor)
        else torch.full((len(like),), t, dtype=torch.long, device=like.device)
    )


def from_betas(betas: Float[Tensor, " T"]) -> Schedule:
    """alpha_bar_t = prod_{i<=t} (1 - beta_i), betas: (T,), each in (0, 1) (DDPM, arXiv:2006.11239,
    sec. 2)."""
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(
            f"beta in [{betas.min():.4g}, {betas.max():.4g}]: every beta must lie in (0, 1)"
        )
    alpha_bar = torch.cumprod(1 - betas.double(), 0)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]))


def linear(T: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> Schedule:
    """beta rises linearly from beta_first to beta_last (DDPM, arXiv:2006.11239, sec. 4). T >= 1."""
    require_int("T", T, 1)
    return from_betas(torch.linspace(beta_first, beta_last, T, dtype=torch.float64))


def scaled_linear(T: int = 1000, beta_first: float = 0.00085, beta_last: float = 0.012) -> Schedule:
    """sqrt(beta) rises linearly: latent diffusion's and Stable Diffusion's schedule
    (arXiv:2112.10752). T >= 1."""
    require_int("T", T, 1)
    if not (beta_first > 0 and beta_last > 0):
        raise ValueError(
            f"beta_first={beta_first}, beta_last={beta_last}: every beta must lie in (0, 1)"
        )
    return from_betas(torch.linspace(beta_first**0.5, beta_last**0.5, T, dtype=torch.float64) ** 2)


def cosine(T: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Schedule:
    r""":math:`\bar\alpha(u) \propto \cos^2(\frac{\pi}{2}\frac{u+\text{offset}}{1+\text{offset}})`,
    u = t/T, with every beta cut at beta_max (Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 17). T
    >= 1."""
    require_int("T", T, 1)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return from_betas((1 - f[1:] / f[:-1]).clamp(max=beta_max))


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


def times(
    T: int, steps: int, spacing: str = "trailing", schedule: Schedule | None = None
) -> list[int]:
    """The times that a sampler visits: steps + 1 distinct ints, decreasing, the last one 0.

    trailing   starts at T: round(T i / steps). The default: the first state really is as noisy
               as x_T should be.
    leading    1 + i (T // steps): diffusers' default. It starts below T although x_T is drawn as
               if at T.
    linspace   evenly from T to 1, then 0.
    quadratic  max(i, round(T (i / steps)^2)): small steps near the clean image (DDIM, App. D.2).
    logsnr     evenly in log(alpha_bar / (1 - alpha_bar)) from T to 1, then 0 (DPM-Solver,
               arXiv:2206.00927, sec. 3.3).
    karras     evenly in rho^(1/7), rho = sqrt(1 / alpha_bar - 1), from T to 1, then 0 (Karras et
               al. 2022, arXiv:2206.00364, Eq. 5).
    ays        Align Your Steps (arXiv:2404.14507): ten times optimised for Stable Diffusion 1.x;
               for other steps log rho is interpolated along them, as by its authors. Needs T = 1000.

    The first three are diffusers' ``timestep_spacing`` (arXiv:2305.08891, table 2) plus one, but
    for rounding where T / steps is no whole number, and for one step of linspace (T, not 1). The
    last three space levels of noise, so they need ``schedule``, whose T is T; each level becomes
    the nearest time that is still free. 1 <= steps <= T.
    """
    require_int("T", T, 1)
    require_int("steps", steps, 1, T)
    up = range(1, steps + 1)
    if spacing == "trailing":
        grid = [round(T * i / steps) for i in up]
    elif spacing == "leading":
        grid = [1 + (i - 1) * (T // steps) for i in up]
    elif spacing == "linspace":
        grid = [1 + round((T - 1) * (i - 1) / (steps - 1)) for i in up] if steps > 1 else [T]
    elif spacing == "quadratic":
        grid = [max(i, round(T * (i / steps) ** 2)) for i in up]
    elif spacing in BY_LEVEL:
        grid = _by_level(T, steps, spacing, schedule)
    else:
        raise ValueError(f"spacing={spacing!r} is not known: pass one of {', '.join(SPACINGS)}")
    return [*reversed(grid), 0]


def _by_level(T: int, steps: int, spacing: str, schedule: Schedule | None) -> list[int]:
    """The ascending times of a grid that is even in a function of rho, without 0."""
    if not isinstance(schedule, Schedule) or schedule.T != T:
        given = f"one of T={schedule.T}" if isinstance(schedule, Schedule) else repr(schedule)
        raise ValueError(
            f"spacing={spacing!r} with T={T} spaces levels of noise, and schedule is {given}: pass "
            "the schedule, times(schedule.T, steps, spacing, schedule)"
        )
    if spacing == "ays" and T != 1000:
        raise ValueError(f"spacing='ays' with T={T}: its times were published for T=1000; pass one "
                         f"of {', '.join(name for name in SPACINGS if name != 'ays')}")  # fmt: skip
    log_rho = (0.5 * (1 / schedule.alpha_bar[1:] - 1).log()).numpy()  # increasing, of t = 1..T
    evenly = np.linspace(1, 0, steps) if steps > 1 else np.ones(1)
    if spacing == "logsnr":
        levels = log_rho[0] + evenly * (log_rho[-1] - log_rho[0])
    elif spacing == "karras":
        low, high = np.exp(log_rho[[0, -1]] / 7)
        levels = 7 * np.log(low + evenly * (high - low))
    else:
        published = log_rho[np.array(AYS) - 1]
        at = np.linspace(0, 1, steps + 1)[:-1]  # the last of steps + 1 levels is 0 instead
        levels = np.interp(at, np.linspace(0, 1, len(AYS)), published)
    nearest = np.interp(levels[::-1], log_rho, np.arange(1, T + 1)).round().astype(int)
    grid: list[int] = []
    for i, t in enumerate(nearest.tolist(), start=1):  # i - 1 times lie below, steps - i above
        grid.append(min(max(t, grid[-1] + 1 if grid else 1), T - (steps - i)))
    return grid


def check_times(times: Sequence[int], schedule: Schedule) -> list[int]:
    """``times`` as a list, after refusing anything but at least two ints in 0..T in strictly one
    direction."""
    grid = list(times)
    if len(grid) < 2:
        raise ValueError(
            f"times={grid} makes no step: pass at least two, such as times({schedule.T}, 50)"
        )
    for t in grid:
        require_int("an entry of times", t, 0, schedule.T)
    if not (all(s > t for t, s in pairwise(grid)) or all(s < t for t, s in pairwise(grid))):
        raise ValueError(
            f"times={grid if len(grid) < 9 else [*grid[:4], '...', *grid[-4:]]} turns back or"
            " repeats: pass strictly decreasing times (to sample) or strictly increasing ones (to"
            " invert)"
        )
    return [int(t) for t in grid]


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
    grid = check_times(times, schedule)
    if grid[0] < grid[1] or not eta >= 0:
        raise ValueError(f"times={grid[:2]}.., eta={eta}: pass a decreasing grid and eta >= 0")
    alphas = schedule.alpha_bar[grid[-2::-1]]
    alphas_prev = torch.cat([schedule.alpha_bar[1:2], alphas[:-1]])
    sigmas = eta * torch.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    return sigmas, alphas, alphas_prev
