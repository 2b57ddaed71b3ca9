"""Exact inversion: each step's implicit equation, solved by iteration."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..predict import EpsModel, Images, predicted_eps
from ..require import require_int, require_positive
from ..sampling import ddim_step
from ..schedule import Schedule, float64_or_32
from .result import Inversion, InversionStep, door, result

PATIENCE = 5  # iterations without a better residual before a step is called stagnant


class Iterate(NamedTuple):
    """z, the model's eps there, and g(z), the state that steps to x_s along this eps: the answer
    once g(z) = z."""

    z: Tensor
    eps: Tensor
    g: Tensor


def _norm(x: Tensor) -> Float[Tensor, " B"]:
    return float64_or_32(x.flatten(1)).norm(dim=1)


def _where(keep: Bool[Tensor, " B"], a: Tensor, b: Tensor) -> Tensor:
    return torch.where(keep.view(-1, *[1] * (a.dim() - 1)), a, b)


def _anderson(history: Sequence[Iterate]) -> Tensor:
    """The z to try after those of ``history``, the newest last; after one alone it is its g.

    Anderson acceleration of type II (Walker & Ni 2011, doi:10.1137/10078356X), each image
    by itself: g - dG gamma with gamma = argmin |r - dR gamma|, where r = g - z and dG, dR hold the
    differences of neighbours.
    """
    if len(history) == 1:
        return history[-1].g
    g, z = (
        torch.stack([part.flatten(1) for part in parts], -1)
        for parts in ([at.g for at in history], [at.z for at in history])
    )
    dG, r = g.diff(), (g - z).cpu().double().nan_to_num(0, 0, 0)
    # float64, because the columns of dR are nearly parallel; on the CPU, whose gelsd alone takes
    # columns that are parallel or zero, as those of an image that has stopped
    gamma = torch.linalg.lstsq(r.diff(), r[..., -1:], driver="gelsd").solution
    return history[-1].g - (dG @ gamma.to(dG.dtype).to(dG.device)).view_as(history[-1].g)


def solve(
    evaluate: Callable[[Tensor], Iterate],
    z: Images,
    tol: float,
    max_iter: int,
    memory: int,
    patience: int = PATIENCE,
) -> tuple[Iterate, int, Float[Tensor, " B"]]:
    """Solve z = g(z) from the given z, each image by itself; memory=0 is z <- g(z).

    Returns what ``evaluate`` gave at the z with the smallest residual, the number of evaluations,
    and the residual ||g - z|| / ||z||, (B,).
    """
    smallest = torch.full_like(_norm(z), math.inf)
    since = torch.zeros(len(z), dtype=torch.long, device=z.device)
    history: deque[Iterate] = deque(maxlen=memory + 1)
    running, evaluations = since < patience, 0
    while evaluations < max_iter and bool(running.any()):
        now = evaluate(z)
        evaluations += 1
        residual = _norm(now.g - z) / _norm(z).clamp(min=torch.finfo(torch.float32).tiny)
        # the first is taken whatever it is, so that NaN from the network is seen, not replaced
        better = running & (residual < smallest) if evaluations > 1 else running
        if evaluations == 1:
            best = now
        best = Iterate(*(_where(better, a, b) for a, b in zip(now, best, strict=True)))
        smallest = torch.where(better, residual, smallest)
        since = torch.where(better, 0, since + 1)
        running = running & (smallest > tol) & (since < patience)
        history.append(now)
        z = _where(running, _anderson(history), z)
    return best, evaluations, smallest


def step_back(
    model: EpsModel, x_s: Images, s: int, t: int, schedule: Schedule
) -> Callable[[Tensor], Iterate]:
    """The map whose fixed point is the x_t that ``ddim_step`` takes to x_s: the step from s to t
    with the eps asked at (z, t)."""
    ab_s, ab_t = schedule.level(s), schedule.level(t)

    def evaluate(z: Tensor) -> Iterate:
        eps = predicted_eps(model, z, t)
        return Iterate(z, eps, ddim_step(x_s, eps, ab_s, ab_t)[0])

    return evaluate


def _foretold(past: Sequence[tuple[int, Tensor]], t: int) -> Tensor:
    """The eps at t on the line, in time, through the last two solved; the last, if it is alone."""
    s, eps = past[-1]
    if len(past) == 1:
        return eps
    r, before = past[-2]
    return eps + (t - s) / (s - r) * (eps - before)


def solved_steps(
    model: EpsModel,
    x: Images,
    up: Sequence[int],
    schedule: Schedule,
    tol: float,
    max_iter: int,
    memory: int,
    warm: bool,
) -> Iterator[tuple[Images, InversionStep]]:
    """Solve step after step: the state at each time of ``up`` but the first, and what it cost.
    warm: start along the eps that the steps before foretell, not at the known state."""
    past: deque[tuple[int, Tensor]] = deque(maxlen=2)
    for s, t in pairwise(up):
        z = x
        if past:
            z, _ = ddim_step(x, _foretold(past, t), schedule.level(s), schedule.level(t))
        evaluate = step_back(model, x, s, t, schedule)
        best, evaluations, residual = solve(evaluate, z, tol, max_iter, memory)
        x = best.g
        if warm:
            past.append((t, best.eps))
        yield x, InversionStep(s, t, evaluations, residual)


def _invert(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    tol: float,
    max_iter: int,
    memory: int,
    warm: bool,
) -> Inversion:
    require_solver(tol, max_iter, memory)
    x, up = door(x_0, times, schedule)
    with torch.no_grad():
        states, per_step = zip(
            *solved_steps(model, x, up, schedule, tol, max_iter, memory, warm), strict=True
        )
    return result(states[-1], list(per_step), tol)


def require_solver(tol: float, max_iter: int, memory: int) -> None:
    """Refuse a tolerance that is not positive, and counts that are not whole."""
    require_positive("tol", tol)
    require_int("max_iter", max_iter, 1)
    require_int("memory", memory, 0)


def told(inversion: Inversion, tol: float, by_step: bool = True) -> Inversion:
    """The same, after a warning if it did not converge, with the worst step if each has a residual
    of its own."""
    if not inversion.converged:
        worst = max(inversion.per_step, key=lambda step: step.residual.max().item())
        where = f", worst from s={worst.s} to t={worst.t}" if by_step else ""
        warnings.warn(
            f"inversion did not converge: relative residual {inversion.residual:.1e} >"
            f" tol={tol:.0e}{where}; take more steps, less guidance or a larger tol",
            RuntimeWarning,
            stacklevel=3,
        )
    return inversion


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
    found = _invert(model, x_0, times, schedule, tol, max_iter, memory=0, warm=False)
    return told(found, tol)


def invert_exact(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    tol: float = 1e-6,
    max_iter: int = 50,
    memory: int = 2,
) -> Inversion:
    """Exact DDIM inversion as :func:`invert_fixed_point`, in fewer evaluations: .2 to .7 of its
    number where both converge, on the models of this package (the tables of notebook 09).

    Each image's iteration is accelerated by Anderson's method and starts along the eps that lies on
    one line with those that solved the two steps before. It also solves many steps on which the
    plain iteration does not contract. memory: how many differences of iterates it remembers; 0 is
    the plain iteration with this start. Everything else as there: x_0 (B, *dims), times decreasing,
    the promise, tol, max_iter, what ends a step, and what is said of one that is not solved.
    """
    found = _invert(model, x_0, times, schedule, tol, max_iter, memory, warm=True)
    return told(found, tol)
