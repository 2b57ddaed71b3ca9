"""Exact inversion of a multistep solver, DPM-Solver++ 2M: the whole path at once.

A 2M step also needs the x0_hat of the noisier state before it, which the way up reaches only later:
there is no step to undo by itself. So the unknown is the path, all states from times[0] to the last
but one, and the equation is that each is the state that steps to the next.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..predict import EpsModel, Images, predict_x0, predicted_eps
from ..require import require_images
from ..sampling import Past, ddim_step, final
from ..schedule import Schedule
from ..solvers import _dpmpp_2m, dpmpp_2m
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
    """The x_T that ``solvers.dpmpp_2m`` takes to x_0.

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
    and along the direction that the solver takes on the given path."""
    states = list(zip(up[1:], path.unbind(1), strict=True))
    eps = [predicted_eps(model, z, t) for t, z in states]
    x0_hat = [
        predict_x0(z, e, schedule.level(t)).to(z.dtype)
        for (t, z), e in zip(states, eps, strict=True)
    ]
    levels, back = schedule.levels, []
    for i, (s, t) in enumerate(pairwise(up)):
        along = eps[i]
        if t < up[-1]:
            past = Past(up[i + 2], eps[i + 1], x0_hat[i + 1])
            along = _dpmpp_2m(levels, t, s, path[:, i], eps[i], past)
        x, _ = ddim_step(x, along, levels[s], levels[t])
        back.append(x)
    return Iterate(path, torch.stack(eps, 1), torch.stack(back, 1))


def _sample(model: EpsModel, x_T: Images, times: Sequence[int], schedule: Schedule) -> Images:
    return final(dpmpp_2m(model, x_T, times, schedule))
