r"""DDIM inversion: from an image to the x_T that samples to it.

One step of ``sample`` maps x_t to x_s = A x_t + B eps(x_t, t). Its inverse is implicit, because eps
is asked at the unknown x_t. Naive inversion asks at the known x_s instead, which is Euler's method
on the probability-flow ODE run backwards (Song et al. 2021, arXiv:2010.02502, Eqs. 13-14): exact
only in the limit of small steps. The fixed-point iteration solves the implicit equation.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .predict import EpsModel, Images, predicted_eps
from .require import require_images, require_int, require_times
from .sampling import ddim_step, sample
from .schedule import Schedule

PATIENCE = 5  # iterations without a better residual before a step is called stagnant


class InversionStep(NamedTuple):
    """What the step from s up to t cost: residual is (B,), relative, NaN where no equation was
    solved."""

    s: int
    t: int
    evaluations: int
    residual: Tensor


class Inversion(NamedTuple):
    """The one result of every inversion method.

    x_T: (B, *dims), the state at times[0]. residual: the largest relative residual ||g(z) - z|| /
    ||z|| of the implicit equation over steps and images (NaN for the naive method, which does not
    solve it). converged: every step of every image reached the tolerance (False for the naive
    method). evaluations: network calls in all.
    """

    x_T: Tensor
    residual: float
    converged: bool
    evaluations: int
    per_step: tuple[InversionStep, ...]


class RoundTrip(NamedTuple):
    """Invert, then sample again: rms and max of the difference to x_0, in its units; PSNR in dB for
    data in [-1, 1]."""

    rms: float
    max: float
    psnr: float
    inversion: Inversion


def _door(x_0: Tensor, times: Sequence[int], schedule: Schedule) -> tuple[Tensor, list[int]]:
    require_images("x_0", x_0)
    grid = require_times(times, schedule.T)
    if grid[0] < grid[1]:
        raise ValueError(
            f"times={grid[:2]}.. increase: pass sample()'s decreasing grid, inversion walks it"
            " backwards"
        )
    return x_0.to(torch.promote_types(x_0.dtype, torch.float32)), grid[::-1]


def _result(x_T: Tensor, per_step: list[InversionStep], tol: float | None) -> Inversion:
    require_images("the inverted x_T", x_T)
    if tol is None:
        residual, converged = math.nan, False
    else:
        residual = max(step.residual.max().item() for step in per_step)
        converged = residual <= tol
    return Inversion(
        x_T, residual, converged, sum(step.evaluations for step in per_step), tuple(per_step)
    )


def invert(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    eps_time: str = "target",
) -> Inversion:
    """Naive DDIM inversion: one evaluation a step, at the state that is known.

    x_0: (B, *dims), the state at times[-1]; times: the decreasing grid of ``sample``.
    eps_time: "target" asks eps(x_s, t), the time the step goes to (diffusers' DDIMInverseScheduler,
    null-text inversion arXiv:2211.09794); "source" asks eps(x_s, max(s, 1)), the time it comes from
    (guided-diffusion's ddim_reverse_sample). With "source" this is ``trajectory`` over increasing
    times.
    """
    x, up = _door(x_0, times, schedule)
    unsolved = torch.full((len(x),), math.nan)
    if eps_time == "source":
        x = sample(model, x.detach(), up, schedule)
    elif eps_time == "target":
        with torch.no_grad():
            for s, t in pairwise(up):
                x, _ = ddim_step(
                    x, predicted_eps(model, x, t), schedule.at(s, x), schedule.at(t, x)
                )
    else:
        raise ValueError(f"eps_time={eps_time!r} is not known: pass 'target' or 'source'")
    return _result(x, [InversionStep(s, t, 1, unsolved) for s, t in pairwise(up)], None)


def _norm(x: Tensor) -> Float[Tensor, " B"]:
    return x.flatten(1).double().norm(dim=1)


def _where(keep: Bool[Tensor, " B"], a: Tensor, b: Tensor) -> Tensor:
    return torch.where(keep.view(-1, *[1] * (a.dim() - 1)), a, b)


def _solve_step(
    model: EpsModel, x_s: Tensor, s: int, t: int, schedule: Schedule, tol: float, max_iter: int
) -> tuple[Tensor, InversionStep]:
    """Iterate z <- g(z), where ddim_step(g(z), eps(z, t), t -> s) = x_s; each image stops by
    itself.

    Returned is g(z) of the z with the smallest residual: where g contracts its own residual is
    smaller still.
    """
    ab_t, ab_s = schedule.at(t, x_s), schedule.at(s, x_s)
    z = best = x_s
    smallest = torch.full((len(x_s),), math.inf, dtype=torch.float64, device=x_s.device)
    since = torch.zeros(len(x_s), dtype=torch.long, device=x_s.device)
    evaluations = 0
    while evaluations < max_iter and bool(((smallest > tol) & (since < PATIENCE)).any()):
        # g(z) is the step from s to t with the eps asked at (z, t): the exact inverse once z is the
        # answer
        g, _ = ddim_step(x_s, predicted_eps(model, z, t), ab_s, ab_t)
        evaluations += 1
        residual = _norm(g - z) / _norm(z).clamp(min=torch.finfo(torch.float64).tiny)
        running = (smallest > tol) & (since < PATIENCE)
        # the first g is taken whatever it is, so that NaN from the network is seen, not replaced by
        # x_s
        better = running & (residual < smallest) if evaluations > 1 else running
        best, smallest = _where(better, g, best), torch.where(better, residual, smallest)
        since = torch.where(better, 0, since + 1)
        z = g
    return best, InversionStep(s, t, evaluations, smallest)


def invert_fixed_point(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    tol: float = 1e-6,
    max_iter: int = 50,
) -> Inversion:
    """Exact DDIM inversion: solve each step's implicit equation by plain fixed-point iteration.

    The promise: ``sample`` takes x_T back to x_0. Not that x_T is the noise x_0 came from: another
    one may do the same.
    tol: relative residual ||g(z) - z|| / ||z|| at which a step counts as solved (float32: not below
    about 2e-7).
    max_iter: evaluations a step at most; a step also ends when its residual has not fallen for 5
    iterations. The map contracts iff (1 - rho_s/rho_t) |1 - lam/rho_t^2| < 1 for each eigenvalue
    lam of Cov[x_0 | x_t], with rho^2 = (1 - ab)/ab: few steps, several modes and guidance break it.
    A step that is not solved shows in ``residual`` and ``converged`` and raises a RuntimeWarning;
    the best iterate is used.
    """
    if not isinstance(tol, Real) or not tol > 0:
        raise ValueError(f"tol={tol}: pass a positive relative tolerance, such as 1e-6")
    require_int("max_iter", max_iter, 1)
    x, up = _door(x_0, times, schedule)
    per_step = []
    with torch.no_grad():
        for s, t in pairwise(up):
            x, report = _solve_step(model, x, s, t, schedule, tol, max_iter)
            per_step.append(report)
    result = _result(x, per_step, tol)
    if not result.converged:
        worst = max(per_step, key=lambda step: step.residual.max().item())
        warnings.warn(
            f"fixed-point inversion did not converge: relative residual {result.residual:.1e} >"
            f" tol={tol:.0e}, worst from s={worst.s} to t={worst.t}; take more steps, less guidance"
            " or a larger tol",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


METHODS = {
    "naive, target time": invert,
    "naive, source time": partial(invert, eps_time="source"),
    "fixed point": invert_fixed_point,
}


def round_trip(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    method: Callable[..., Inversion],
) -> RoundTrip:
    """Invert x_0 with ``method`` (``invert``, ``invert_fixed_point`` or a partial of them), sample
    back, compare.

    x_0: (B, *dims) in [-1, 1]; times: decreasing. The figures are over the whole batch.
    """
    if not callable(method):
        raise TypeError(
            f"method={method!r} is not callable: pass invert, invert_fixed_point or a partial"
            " of one"
        )
    inversion = method(model, x_0, times, schedule)
    difference = (sample(model, inversion.x_T, times, schedule) - x_0).double()
    rms = difference.square().mean().sqrt().item()
    return RoundTrip(
        rms, difference.abs().max().item(), 20 * math.log10(2 / rms) if rms else math.inf, inversion
    )
