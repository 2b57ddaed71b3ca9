"""Invert, sample back, compare."""

import math
from collections.abc import Callable, Sequence

from ..predict import EpsModel, Images
from ..sampling import sample
from ..schedule import Schedule
from .result import Inversion, RoundTrip


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
