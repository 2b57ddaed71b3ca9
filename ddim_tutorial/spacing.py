"""Time grids: which times a sampler visits."""

import numpy as np

from .require import Whole, require_int
from .schedule import Schedule

BY_TIME = ("trailing", "leading", "linspace", "quadratic")
LDM = ("ldm", "ldm-quad")  # latent diffusion's own, which end at 1
BY_LEVEL = ("logsnr", "karras", "ays")  # these need the schedule
SPACINGS = BY_TIME + LDM + BY_LEVEL
# Align Your Steps for Stable Diffusion 1.x: its ten times plus one, then sigma_min, which is t = 1
AYS = (1000, 851, 737, 646, 546, 456, 344, 234, 125, 25, 1)


def times(
    T: Whole, steps: Whole, spacing: str = "trailing", schedule: Schedule | None = None
) -> list[int]:
    """The times that a sampler visits: steps + 1 distinct ints, decreasing, the last one 0.

    trailing   starts at T: round(T i / steps). The default: the first state really is as noisy as
               x_T should be.
    leading    1 + i (T // steps): diffusers' DDIM, DDPM and PNDM. It starts below T although x_T
               is drawn as if at T.
    linspace   evenly from T to 1, then 0.
    quadratic  max(i, round(T (i / steps)^2)): small steps near the clean image (DDIM, App. D.2).
    logsnr     evenly in log(alpha_bar / (1 - alpha_bar)) from T to 1, then 0 (DPM-Solver,
               arXiv:2206.00927, sec. 3.3).
    karras     evenly in rho^(1/7), rho = sqrt(1 / alpha_bar - 1), from T to 1, then 0 (Karras et
               al. 2022, arXiv:2206.00364, Eq. 5).
    ays        Align Your Steps (arXiv:2404.14507): ten times optimised for Stable Diffusion 1.x;
               for other steps log rho is interpolated along them, as by its authors. T = 1000.
    ldm        2 + i (T // steps), all that are below T, then 1: latent diffusion's "uniform". It
               ends at 1, and has steps of its own number: 31 for steps = 30.
    ldm-quad   2 + floor of even spacing in the square root up to .8 T, then 1: its "quad".

    1 <= steps <= T. The first three are diffusers' ``timestep_spacing`` (arXiv:2305.08891, table 2)
    plus one, but for rounding where T / steps is no whole number, and for one step of linspace (T,
    not 1). logsnr, karras and ays space levels of noise, so they need ``schedule``, whose T is T;
    each level becomes the nearest time that is still free. The last two are ``make_ddim_timesteps``
    plus one; a time that its "quad" walks twice stands once, as a step from t to t changes nothing.
    """
    T = require_int("T", T, 1)
    steps = require_int("steps", steps, 1, T)
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
    elif spacing in LDM:
        return _ldm_times(T, steps, spacing)
    else:
        raise ValueError(f"spacing={spacing!r} is not known: pass one of {', '.join(SPACINGS)}")
    return [*reversed(grid), 0]


def _ldm_times(T: int, steps: int, spacing: str) -> list[int]:
    """Latent diffusion's ``make_ddim_timesteps`` plus one, decreasing, and its end at t = 1."""
    if spacing == "ldm":
        grid = [2 + i for i in range(0, T, T // steps)]
    else:
        root = np.linspace(0, np.sqrt(T * 0.8), steps)  # as there, to the last bit
        grid = sorted({2 + int(square) for square in root**2})
    if grid[-1] > T:
        raise ValueError(
            f"spacing={spacing!r} with steps={steps} starts at t={grid[-1]}, above T={T}, and so"
            " does latent diffusion, which fails there: pass another number of steps"
        )
    return [*reversed(grid), 1]


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
