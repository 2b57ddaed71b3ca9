"""What every inversion method takes and returns."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..require import require_images, require_times
from ..schedule import Schedule


class InversionStep(NamedTuple):
    """What the step from s up to t cost.

    residual: (B,), relative, NaN where no equation was solved.
    """

    s: int
    t: int
    evaluations: int
    residual: Tensor


class Coupled(NamedTuple):
    """A state of EDICT, BDIA, O-BELM or Rex: the pair that their step maps, (B, *dims) each."""

    x: Tensor
    y: Tensor


class Inversion(NamedTuple):
    """The one result of every inversion method.

    x_T: (B, *dims), the state at times[0].
    residual: the largest relative residual ||g(z) - z|| / ||z|| of the implicit equation over steps
    and images (NaN where no equation was solved: the naive and the coupled methods).
    converged: every step of every image reached the tolerance (False where no equation was solved).
    evaluations: network calls in all.
    per_step: what each step cost.
    pair: the state that a coupled sampler starts from; its x_T alone does not bring it back.
    sampler: what takes x_T, or the pair, back to x_0, if it is not ``sample``.
    """

    x_T: Tensor
    residual: float
    converged: bool
    evaluations: int
    per_step: tuple[InversionStep, ...]
    pair: Coupled | None = None
    sampler: Callable[..., Tensor | Coupled] | None = None


class RoundTrip(NamedTuple):
    """Invert, then sample again: the difference to x_0 over the whole batch.

    rms, max: in the units of x_0. psnr: in dB, for data in [-1, 1].
    """

    rms: float
    max: float
    psnr: float
    inversion: Inversion


def door(x_0: Tensor, times: Sequence[int], schedule: Schedule) -> tuple[Tensor, list[int]]:
    """x_0, at least float32, and the grid upwards."""
    require_images("x_0", x_0)
    grid = require_times(times, schedule.T)
    if grid[0] < grid[1]:
        raise ValueError(
            f"times={grid[:2]}.. increase: pass sample()'s decreasing grid, inversion walks it"
            " backwards"
        )
    return x_0.to(torch.promote_types(x_0.dtype, torch.float32)), grid[::-1]


def result(x_T: Tensor, per_step: list[InversionStep], tol: float | None) -> Inversion:
    """The result of solved steps, or with tol=None of steps that solve nothing.

    Raises ValueError for an x_T with NaN or infinity.
    """
    require_images("the inverted x_T", x_T)
    if tol is None:
        residual, converged = math.nan, False
    else:
        residual = max(step.residual.max().item() for step in per_step)
        converged = residual <= tol
    return Inversion(
        x_T, residual, converged, sum(step.evaluations for step in per_step), tuple(per_step)
    )
