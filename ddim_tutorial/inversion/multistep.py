"""Exact inversion of a multistep solver, DPM-Solver++ 2M: the whole path at once.

A 2M step also needs the x0_hat of the noisier state before it, which the way up reaches only later:
there is no step to undo by itself. So the unknown is the path, all states from times[0] to the last
but one, and the equation is that each is the state that steps to the next.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..predict import EpsModel, Images, predict_x0, predicted_eps
from ..require import require_images
from ..sampling import ddim_step
from ..schedule import Schedule
from .implicit import PATIENCE, Iterate, require_solver, solve, solved_steps, told
from .result import Inversion, InversionStep, door, result


def invert_dpmpp_2m(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    tol: float = 1e-6,
    max_iter: int = 50,
    memory: int = 10,
) -> Inversion:
    """The x_T that DPM-Solver++ 2M (arXiv:2211.01095, Algorithm 2) takes to x_0.

    Each image's path is solved by the Anderson iteration of ``invert_exact``, from the path of
    DDIM, roughly inverted. x_0: (B, *dims), the state at times[-1]; times: decreasing; the first
    step and one into 0 are DDIM's. An iteration asks the model once at every time. The residual is
    that of the whole path, the same for every step; a path that is not solved is told as in
    ``invert_exact``. memory: iterations remembered; each holds two paths of N states.
    """
    require_solver(tol, max_iter, memory)
    x, up = door(x_0, times, schedule)
    with torch.no_grad():
        states, starts = zip(
            *solved_steps(model, x, up, schedule, 1e-3, 10, memory=2, warm=True), strict=True
        )
        require_images("the path of DDIM, which the iteration starts from", torch.cat(states))

        def evaluate(path: Tensor) -> Iterate:
            return _path_back(model, path, x, up, schedule)

        best, sweeps, residual = solve(
            evaluate, torch.stack(states, 1), tol, max_iter, memory, 2 * PATIENCE
        )
    per_step = [
        InversionStep(s, t, evaluations + sweeps, residual) for s, t, evaluations, _ in starts
    ]
    inversion = result(best.g[:, -1], per_step, tol)._replace(sampler=_sample)
    return told(inversion, tol, by_step=False)


def _path_back(
    model: EpsModel, path: Tensor, x: Images, up: Sequence[int], schedule: Schedule
) -> Iterate:
    """path: (B, N, *dims), the states at up[1:]. Each state again, from the one that it steps to
    and from what the model says on the given path."""
    states = list(zip(up[1:], path.unbind(1), strict=True))
    eps = [predicted_eps(model, z, t) for t, z in states]
    x0_hat = [
        predict_x0(z, e, schedule.level(t)).to(z.dtype)
        for (t, z), e in zip(states, eps, strict=True)
    ]
    back = []
    for i, (s, t) in enumerate(pairwise(up)):
        if s > 0 and t < up[-1]:
            x = x - _correction(up[i + 2], t, s, schedule) * (x0_hat[i] - x0_hat[i + 1])
        x, _ = ddim_step(x, eps[i], schedule.level(s), schedule.level(t))
        back.append(x)
    return Iterate(path, torch.stack(eps, 1), torch.stack(back, 1))


def _correction(r: int, t: int, s: int, schedule: Schedule) -> float:
    """What 2M adds to DDIM's step from t to s, for each unit of x0_hat(t) - x0_hat(r), r the time
    before t."""
    ab_r, ab_t, ab_s = (schedule.level(time) for time in (r, t, s))
    lam_r, lam_t, lam_s = (math.log(ab / (1 - ab)) / 2 for ab in (ab_r, ab_t, ab_s))
    x0_weight = math.sqrt(ab_s) - math.sqrt(ab_t * (1 - ab_s) / (1 - ab_t))
    return x0_weight * (lam_s - lam_t) / (2 * (lam_t - lam_r))


def _sample(model: EpsModel, x: Images, times: Sequence[int], schedule: Schedule) -> Images:
    """DPM-Solver++ 2M, decreasing times: what the inversion above undoes."""
    before = None
    for i, (t, s) in enumerate(pairwise(times)):
        eps = predicted_eps(model, x, t)
        x_s, x0_hat = ddim_step(x, eps, schedule.level(t), schedule.level(s))
        if before is not None and s > 0:
            x_s = x_s + _correction(times[i - 1], t, s, schedule) * (x0_hat - before)
        x, before = x_s, x0_hat
    require_images(f"the state at s={times[-1]}", x)
    return x
