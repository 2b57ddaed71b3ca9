r"""Jump prediction: between x_0, x_t, eps and v in one formula each, and from any x_t to the clean
image in one call.

Everything follows from :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon`
(DDPM, arXiv:2006.11239, Eq. 4). ``ab_t`` is a number (``Schedule.level``) or a value of
``Schedule.at``: 0-dim, or (B, 1, .., 1) for a time per image.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .noise import Generators, randn
from .require import Number, require_images, require_level, require_like, require_time
from .schedule import Schedule, Times, float64_or_32, time_batch

Images = Float[Tensor, " B *dims"]
Level = Float[Tensor, "..."] | Number

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@runtime_checkable
class EpsModel(Protocol):
    """Anything that predicts the noise: x_t (B, *dims), t (B,) int in 1..T -> eps (B, *dims)."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...


def sqrt(a: Tensor | float) -> Tensor | float:
    """The square root of a number or of a tensor."""
    return a.sqrt() if isinstance(a, Tensor) else math.sqrt(a)


def plus(x: Tensor, c: Tensor | float, y: Tensor) -> Tensor:
    """x + c y; in one kernel where c is a number, since beside a small network each one counts."""
    return x + c * y if isinstance(c, Tensor) else torch.add(x, y, alpha=c)


def plus_(x: Tensor, c: Tensor | float, y: Tensor) -> Tensor:
    """:func:`plus`, written into x where c is a number: for an x that nobody else holds."""
    return x + c * y if isinstance(c, Tensor) else x.add_(y, alpha=c)


def add_noise(x_0: Images, eps: Images, ab_t: Level) -> Images:
    """x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps (DDPM Eq. 4).

    x_0: (B, *dims) in [-1, 1]; eps: like x_0, N(0, I).
    """
    require_like("eps", eps, x_0)
    ab_t = require_level("ab_t", ab_t)
    return plus(sqrt(ab_t) * x_0, sqrt(1 - ab_t), eps)


def predict_x0(x_t: Images, eps: Images, ab_t: Level) -> Images:
    """x0_hat = (x_t - sqrt(1 - ab_t) eps) / sqrt(ab_t) (DDIM, arXiv:2010.02502, Eq. 9)."""
    require_like("eps", eps, x_t)
    ab_t = require_level("ab_t", ab_t)
    # into the new tensor, and times the inverse: a division takes half as long again
    return plus(x_t, -sqrt(1 - ab_t), eps).mul_(1 / sqrt(ab_t))


def predict_eps(x_t: Images, x0_hat: Images, ab_t: Level) -> Images:
    """eps = (x_t - sqrt(ab_t) x0_hat) / sqrt(1 - ab_t): predict_x0 solved for eps; ab_t < 1."""
    require_like("x0_hat", x0_hat, x_t)
    ab_t = require_level("ab_t", ab_t)
    return plus(x_t, -sqrt(ab_t), x0_hat) / sqrt(1 - ab_t)


def eps_from_v(x_t: Images, v: Images, ab_t: Level) -> Images:
    """eps = sqrt(ab_t) v + sqrt(1 - ab_t) x_t (arXiv:2202.00512, App. D).

    v = sqrt(ab_t) eps - sqrt(1 - ab_t) x_0.
    """
    require_like("v", v, x_t)
    ab_t = require_level("ab_t", ab_t)
    return plus(sqrt(ab_t) * v, sqrt(1 - ab_t), x_t)


def v_from_eps(x_t: Images, eps: Images, ab_t: Level) -> Images:
    """v = (eps - sqrt(1 - ab_t) x_t) / sqrt(ab_t): eps_from_v solved for v."""
    require_like("eps", eps, x_t)
    ab_t = require_level("ab_t", ab_t)
    return plus(eps, -sqrt(1 - ab_t), x_t) / sqrt(ab_t)


def eps_from(
    prediction: str, x_t: Images, answer: Images, t: Int[Tensor, " B"], schedule: Schedule
) -> Images:
    """A network's answer at (x_t, t) as eps. prediction: one of PREDICTIONS, as diffusers calls it.

    An eps made of v or of x_0 is float64: predict_x0 divides its rounding by sqrt(ab_t), which is
    5e-5 at the end of ``cosine()``. Where the device has no float64 it is float32, and x0_hat errs
    by up to 1e-7 / sqrt(ab_t) there.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r}: pass one of {', '.join(PREDICTIONS)}")
    if prediction == "epsilon":
        return answer
    x_t, answer = float64_or_32(x_t), float64_or_32(answer)
    formula = eps_from_v if prediction == "v_prediction" else predict_eps
    return formula(x_t, answer, schedule.at(t, x_t))


def predicted_eps(model: EpsModel, x_t: Images, t: int | Int[Tensor, " B"]) -> Images:
    """The model's eps at (x_t, t), in the state's precision or in its own where that is higher.

    Refused when its shape or device is not the state's.
    """
    eps = model(x_t, time_batch(t, x_t))
    require_like("the model's eps", eps, x_t)
    return eps.to(torch.promote_types(eps.dtype, x_t.dtype))


def jump(model: EpsModel, x_t: Images, t: Times, schedule: Schedule) -> Images:
    """x0_hat, the model's guess of the clean image: an estimate of E[x_0 | x_t] (DDIM Eq. 9).

    x_t: (B, *dims), noisy at t. t: an int in 1..T for the whole batch, or B of them. Returns
    (B, *dims), at least float32.
    """
    require_images("x_t", x_t)
    t = require_time(t, schedule.T, x_t)
    x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
    return predict_x0(x_t, *_asked(model, x_t, t, schedule)).to(x_t.dtype)


def _asked(
    model: EpsModel, x_t: Tensor, t: int | Tensor, schedule: Schedule
) -> tuple[Tensor, Tensor | float]:
    """The model's eps at (x_t, t), and alpha_bar there in the same precision."""
    eps = predicted_eps(model, x_t, t)
    return eps, schedule.level(t) if isinstance(t, int) else schedule.at(t, eps)


def pred_eps_and_x0(
    model: EpsModel,
    x_0: Images,
    t: Times,
    schedule: Schedule,
    *,
    noise: Tensor | None = None,
    generator: Generators = None,
) -> tuple[Images, Images]:
    """Noise an image to t, then jump back: (eps, x0_hat), both like x_0, at least float32.

    The model may carry a classifier's gradient (``guidance.classifier``): the same two lines serve
    both.

    x_0: (B, *dims) in [-1, 1]. t: an int in 1..T for the whole batch, or B of them. noise: like
    x_0; drawn from ``generator`` if None.
    """
    require_images("x_0", x_0)
    t = require_time(t, schedule.T, x_0)
    x_0 = x_0.to(torch.promote_types(x_0.dtype, torch.float32))
    if noise is None:
        noise = randn(x_0.shape, generator, device=x_0.device, dtype=x_0.dtype)
    require_like("noise", noise, x_0)
    x_t = add_noise(x_0, noise, schedule.at(t, x_0)).to(x_0.dtype)
    eps, ab_t = _asked(model, x_t, t, schedule)
    return eps.to(x_t.dtype), predict_x0(x_t, eps, ab_t).to(x_t.dtype)


def scaled_delta(x0_image: Tensor, xt_image: Tensor) -> tuple[Tensor, float]:
    """(x0_image - xt_image) / scale in [-1, 1], and scale = max |x0_image - xt_image|.

    The largest difference of the whole tensor. Signed and symmetric: 0 stays 0, and the scale is
    returned so that a caption can print it. Equal images: (0, 0.0).
    """
    require_like("xt_image", xt_image, x0_image)
    delta = x0_image - xt_image
    scale = delta.abs().max().item()
    return (delta / scale if scale else delta), scale


def source_delta(x0_image: Tensor, xt_image: Tensor) -> Tensor:
    """(x0_image - xt_image) / max(x0_image - xt_image), as the demo has it: kept for study.

    Divided by the *signed* maximum it is unbounded below, and changes sign when the difference is
    negative everywhere. Use :func:`scaled_delta`.
    """
    require_like("xt_image", xt_image, x0_image)
    delta = x0_image - xt_image
    return delta / delta.max()
