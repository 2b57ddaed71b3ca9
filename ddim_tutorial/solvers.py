r"""Faster solvers of the same equation: a DDIM step along a better direction than the model's eps.

In :math:`\rho = \sqrt{1-\bar\alpha}/\sqrt{\bar\alpha}` the probability-flow equation is
:math:`d(x/\sqrt{\bar\alpha}) = \epsilon\,d\rho`, and DDIM is its Euler step. The solvers here cost
one evaluation a step like DDIM and remember the answer before; each is one formula for the
direction, which ``ddim_step`` takes in place of eps. All are called as ``trajectory`` is and yield
the same :class:`~ddim_tutorial.sampling.Step`, whose eps and x0_hat are the model's own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Real

from torch import Tensor

from .predict import EpsModel, Images, predict_eps, predict_x0
from .require import require_int
from .sampling import Past, Step, ddim_step, start, trajectory, walk
from .schedule import Schedule

Levels = tuple[float, ...]  # alpha_bar at 0..T
# (levels, t, s, x_t, eps, past) -> what ddim_step takes in place of eps
Direction = Callable[[Levels, int, int, Tensor, Tensor, Past], Tensor]


def dpmpp_2m(
    model: EpsModel, x_T: Images, times: Sequence[int], schedule: Schedule
) -> Iterator[Step]:
    r"""DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095, Algorithm 2): second order in
    :math:`\lambda = \log(\sqrt{\bar\alpha}/\sqrt{1-\bar\alpha})`, half the log-SNR.

    .. math:: D = \hat x_0 + \tfrac{h_s}{2 h_t} (\hat x_0 - \hat x_0^{before}),\quad
        x_s = \tfrac{\sigma_s}{\sigma_t} x_t - \sqrt{\bar\alpha_s}\,(e^{-h_s} - 1)\,D

    with h_s = lambda_s - lambda_t, h_t that of the step before, and sigma = sqrt(1 - alpha_bar).
    The first step is DDIM's, and so is one into s = 0, where lambda is infinite. Arguments,
    refusals and both directions of time as in :func:`~ddim_tutorial.sampling.trajectory`, eta = 0.
    """
    return _walk_along(_dpmpp_2m, model, x_T, times, schedule)


def _dpmpp_2m(levels: Levels, t: int, s: int, x_t: Tensor, eps: Tensor, past: Past) -> Tensor:
    if s == 0:
        return eps
    before, now, after = (_log_snr(levels[time]) for time in (past.t, t, s))
    x0_hat = predict_x0(x_t, eps, levels[t])
    D = x0_hat + (after - now) / (2 * (now - before)) * (x0_hat - past.x0_hat)
    return predict_eps(x_t, D, levels[t])


def _log_snr(ab: float) -> float:
    return math.log(ab / (1 - ab)) if ab < 1 else math.inf


def adams_bashforth(
    model: EpsModel, x_T: Images, times: Sequence[int], schedule: Schedule, order: int = 2
) -> Iterator[Step]:
    r"""Adams-Bashforth in rho, with steps of any size (Hairer, Norsett & Wanner, Solving ODEs I,
    III.5): the straight line through the last two eps, integrated. order: 2; 1 is DDIM.

    .. math:: \epsilon + \frac{\rho_s - \rho_t}{2 (\rho_t - \rho_{before})} (\epsilon -
        \epsilon_{before})

    It is k-diffusion's and diffusers' LMS of order 2. The first step is DDIM's. Arguments, refusals
    and both directions of time as in :func:`~ddim_tutorial.sampling.trajectory`, eta = 0.
    """
    require_int("order", order, 1, 2)
    if order == 1:
        return trajectory(model, x_T, times, schedule)
    return _walk_along(_adams_bashforth, model, x_T, times, schedule)


def _adams_bashforth(
    levels: Levels, t: int, s: int, x_t: Tensor, eps: Tensor, past: Past
) -> Tensor:
    before, now, after = (math.sqrt(1 / levels[time] - 1) for time in (past.t, t, s))
    return eps + (after - now) / (2 * (now - before)) * (eps - past.eps)


def gradient_estimation(
    model: EpsModel, x_T: Images, times: Sequence[int], schedule: Schedule, gamma: float = 2.0
) -> Iterator[Step]:
    r"""Gradient estimation (Permenter & Yuan 2023, arXiv:2306.04848, Algorithm 2): DDIM along
    :math:`\gamma\,\epsilon + (1 - \gamma)\,\epsilon_{before}`.

    gamma: finite; 1 is DDIM, 2 the paper's choice. The first step is DDIM's. Arguments, refusals
    and both directions of time as in :func:`~ddim_tutorial.sampling.trajectory`, eta = 0.
    """
    if isinstance(gamma, bool) or not isinstance(gamma, Real) or not math.isfinite(gamma):
        raise ValueError(f"gamma={gamma!r}: pass a finite number (1 is DDIM, 2 the paper's choice)")
    direction = partial(_gradient_estimation, gamma)
    return _walk_along(direction, model, x_T, times, schedule)


def _gradient_estimation(
    gamma: float, levels: Levels, t: int, s: int, x_t: Tensor, eps: Tensor, past: Past
) -> Tensor:
    return gamma * eps + (1 - gamma) * past.eps


def _walk_along(
    direction: Direction, model: EpsModel, x_T: Images, times: Sequence[int], schedule: Schedule
) -> Iterator[Step]:
    grid, state = start(x_T, times, schedule)
    return walk(model, state, grid, partial(_along, schedule.levels, direction))


def _along(
    levels: Levels,
    direction: Direction,
    t: int,
    s: int,
    x_t: Tensor,
    eps: Tensor,
    past: Past | None,
) -> tuple[Tensor, Tensor]:
    """The rule of every solver here: DDIM's step, from the second one on along ``direction``."""
    x_s, x0_hat = ddim_step(x_t, eps, levels[t], levels[s])
    if past is not None:
        along = direction(levels, t, s, x_t, eps, past)
        x_s, _ = ddim_step(x_t, along, levels[t], levels[s])
    return x_s, x0_hat


# the solver, grid and steps that stand for the end of the equation where nobody knows it
END = ("dpmpp_2m", "logsnr", 100)
SOLVERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddim": trajectory,
    "dpmpp_2m": dpmpp_2m,
    "adams_bashforth": adams_bashforth,
    "gradient_estimation": gradient_estimation,
}
