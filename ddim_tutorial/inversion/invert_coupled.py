"""A real picture through a coupled sampler, backwards."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..predict import EpsModel, Images
from ..schedule import Schedule
from .coupled import bdia, edict, neighbours, obelm
from .result import Coupled, Inversion, InversionStep, door, result


def is_two_step(sampler: Callable[..., Coupled]) -> bool:
    """Whether the pair of ``sampler`` (or a partial of it) is two neighbouring states, as of
    ``bdia`` and ``obelm``, not two of one time."""
    return getattr(sampler, "func", sampler) in (bdia, obelm)


def invert_coupled(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    sampler: Callable[..., Coupled] = edict,
) -> Inversion:
    """Walk ``sampler`` backwards from x_0, exactly, to a pair that it takes forward to x_0 again.

    x_0: (B, *dims), the state at times[-1]; times: the decreasing grid of ``sample``.
    sampler: ``edict``, ``bdia``, ``obelm``, ``rex``, or a partial of one with its options.
    A picture has no second state, so one is made: x_0 itself, or for the two-step ``bdia`` and
    ``obelm`` the neighbour that naive inversion finds. The result's ``pair`` and ``sampler`` belong
    together; x_T alone does not bring ordinary DDIM back to x_0.
    Undoing a step of ``edict`` or ``rex`` divides what the two states differ by: 50 steps end at a
    pair of the size of noise, 200 at one a thousand times as large, or more.
    """
    x, up = door(x_0, times, schedule)
    two_step = is_two_step(sampler)
    calls = 0
    per_step: list[InversionStep] = []
    unsolved = torch.full((len(x),), math.nan)

    def counted(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x_t, t)

    def count_step() -> None:
        nonlocal calls
        s, t = up[len(per_step) : len(per_step) + 2]
        per_step.append(InversionStep(s, t, calls, unsolved))
        calls = 0

    with torch.no_grad():
        pair = Coupled(x, x)
        if two_step:
            pair = neighbours(counted, x, up, schedule)
            count_step()
        pair = sampler(counted, pair, up, schedule, on_step=count_step)
    found = result(pair.y if two_step else pair.x, per_step, None)
    return found._replace(pair=pair, sampler=sampler)
