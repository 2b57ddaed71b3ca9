"""Invert, sample back, compare."""

from collections.abc import Callable, Sequence

from ..metrics import psnr, rms
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
    """Invert x_0, sample back, compare.

    x_0: (B, *dims) in [-1, 1]. times: decreasing. method: ``invert``, ``invert_fixed_point`` or a
    partial of one. The figures are over the whole batch.
    """
    if not callable(method):
        raise TypeError(
            f"method={method!r} is not callable: pass invert, invert_fixed_point or a partial"
            " of one"
        )
    inversion = method(model, x_0, times, schedule)
    back = sample(model, inversion.x_T, times, schedule)
    largest = (back.double() - x_0).abs().max().item()
    return RoundTrip(rms(back, x_0), largest, psnr(back[None], x_0[None]).item(), inversion)
