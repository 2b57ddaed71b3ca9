"""Invert, sample back, compare."""

from collections.abc import Callable, Sequence

from ..metrics import psnr, rms
from ..predict import EpsModel, Images
from ..sampling import sample
from ..schedule import Schedule
from .result import Coupled, Inversion, RoundTrip


def resample(
    model: EpsModel, inversion: Inversion, times: Sequence[int], schedule: Schedule
) -> Images:
    """What the method's own sampler makes of what it found, (B, *dims) at times[-1]: ``sample`` of
    x_T, unless the inversion brings another sampler, or a pair to start from."""
    sampler: Callable[..., Images | Coupled] = inversion.sampler or sample
    start = inversion.x_T if inversion.pair is None else inversion.pair
    end = sampler(model, start, times, schedule)
    return end.x if isinstance(end, Coupled) else end


def round_trip(
    model: EpsModel,
    x_0: Images,
    times: Sequence[int],
    schedule: Schedule,
    method: Callable[..., Inversion],
) -> RoundTrip:
    """Invert x_0, sample back by :func:`resample`, compare.

    x_0: (B, *dims) in [-1, 1]. times: decreasing. method: a value of ``METHODS``, or a partial of
    one. The figures are over the whole batch.

    A coupled method comes back by its own sampler and from its pair, which shows that it is exact
    and not what its x_T is worth to DDIM: for that compare x_0 with ``sample`` of the x_T.
    """
    if not callable(method):
        raise TypeError(
            f"method={method!r} is not callable: pass invert, invert_exact or a partial of one, or"
            " a value of METHODS"
        )
    inversion = method(model, x_0, times, schedule)
    back = resample(model, inversion, times, schedule)
    largest = (back - x_0).abs().max().item()
    return RoundTrip(rms(back, x_0), largest, psnr(back[None], x_0[None]).item(), inversion)
