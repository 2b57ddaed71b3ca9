"""Exact inversion: each step's implicit equation, solved by iteration."""

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..predict import EpsModel, Images, predicted_eps
from ..require import require_int
from ..sampling import ddim_step
from ..schedule import Schedule, float64_or_32
from .result import Inversion, InversionStep, door, result

PATIENCE = 5  # iterations without a better residual before a step is called stagnant


def _norm(x: Tensor) -> Float[Tensor, " B"]:
    return float64_or_32(x.flatten(1)).norm(dim=1)


def _where(keep: Bool[Tensor, " B"], a: Tensor, b: Tensor) -> Tensor:
    return torch.where(keep.view(-1, *[1] * (a.dim() - 1)), a, b)


def _solve_step(
    model: EpsModel, x_s: Tensor, s: int, t: int, schedule: Schedule, tol: float, max_iter: int
) -> tuple[Tensor, InversionStep]:
    """Iterate z <- g(z), where ddim_step(g(z), eps(z, t), t -> s) = x_s; each image stops alone.

    Returned is g(z) of the z with the smallest residual: where g contracts, its own residual is
    smaller still.
    """
    ab_t, ab_s = schedule.level(t), schedule.level(s)
    z = best = x_s
    smallest = torch.full_like(_norm(x_s), math.inf)
    since = torch.zeros(len(x_s), dtype=torch.long, device=x_s.device)
    evaluations = 0
    while evaluations < max_iter and bool(((smallest > tol) & (since < PATIENCE)).any()):
        # the step from s to t with the eps asked at (z, t): exact once z is the answer
        g, _ = ddim_step(x_s, predicted_eps(model, z, t), ab_s, ab_t)
        evaluations += 1
        residual = _norm(g - z) / _norm(z).clamp(min=torch.finfo(torch.float32).tiny)
        running = (smallest > tol) & (since < PATIENCE)
        # the first g is taken whatever it is: NaN from the network is seen, not replaced by x_s
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

    x_0, times: as for ``invert``. tol: relative residual ||g(z) - z|| / ||z|| at which a step
    counts as solved (float32: not below about 2e-7). max_iter: evaluations a step at most; a step
    also ends when its residual has not fallen for 5 iterations.

    The map contracts iff (1 - rho_s/rho_t) |1 - lam/rho_t^2| < 1 for each eigenvalue lam of
    Cov[x_0 | x_t], with rho^2 = (1 - ab)/ab: few steps, several modes and guidance break it. A step
    that is not solved shows in ``residual`` and ``converged`` and raises a RuntimeWarning; the best
    iterate is used.
    """
    if not isinstance(tol, Real) or not tol > 0:
        raise ValueError(f"tol={tol}: pass a positive relative tolerance, such as 1e-6")
    require_int("max_iter", max_iter, 1)
    x, up = door(x_0, times, schedule)
    per_step = []
    with torch.no_grad():
        for s, t in pairwise(up):
            x, report = _solve_step(model, x, s, t, schedule, tol, max_iter)
            per_step.append(report)
    inversion = result(x, per_step, tol)
    if not inversion.converged:
        worst = max(per_step, key=lambda step: step.residual.max().item())
        warnings.warn(
            f"fixed-point inversion did not converge: relative residual {inversion.residual:.1e} >"
            f" tol={tol:.0e}, worst from s={worst.s} to t={worst.t}; take more steps, less guidance"
            " or a larger tol",
            RuntimeWarning,
            stacklevel=2,
        )
    return inversion
