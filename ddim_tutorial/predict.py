r"""Jump prediction: between x_0, x_t, eps and v in one formula each, and from any x_t to the clean
image in one call.

Everything follows from :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon`
(DDPM,
arXiv:2006.11239, Eq. 4). ``ab_t`` is always a value of ``Schedule.at``: 0-dim, or (B, 1, .., 1) for
a time per image.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .noise import Generators, randn
from .require import require_images, require_int, require_like
from .schedule import Schedule, time_batch

Images = Float[Tensor, " B *dims"]
Scalars = Float[Tensor, "..."]


@runtime_checkable
class EpsModel(Protocol):
    """Anything that predicts the noise: x_t (B, *dims), t (B,) int in 1..T -> eps (B, *dims)."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...


def add_noise(x_0: Images, eps: Images, ab_t: Scalars) -> Images:
    """x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps (DDPM Eq. 4). x_0: (B, *dims) in [-1, 1]; eps like
    x_0, N(0, I)."""
    require_like("eps", eps, x_0)
    return ab_t.sqrt() * x_0 + (1 - ab_t).sqrt() * eps


def predict_x0(x_t: Images, eps: Images, ab_t: Scalars) -> Images:
    """x0_hat = (x_t - sqrt(1 - ab_t) eps) / sqrt(ab_t) (DDIM, arXiv:2010.02502, Eq. 9)."""
    require_like("eps", eps, x_t)
    return (x_t - (1 - ab_t).sqrt() * eps) / ab_t.sqrt()


def predict_eps(x_t: Images, x0_hat: Images, ab_t: Scalars) -> Images:
    """eps = (x_t - sqrt(ab_t) x0_hat) / sqrt(1 - ab_t): predict_x0 solved for eps; ab_t < 1."""
    require_like("x0_hat", x0_hat, x_t)
    return (x_t - ab_t.sqrt() * x0_hat) / (1 - ab_t).sqrt()


def eps_from_v(x_t: Images, v: Images, ab_t: Scalars) -> Images:
    """eps = sqrt(ab_t) v + sqrt(1 - ab_t) x_t; v = sqrt(ab_t) eps - sqrt(1 - ab_t) x_0
    (arXiv:2202.00512, App. D)."""
    require_like("v", v, x_t)
    return ab_t.sqrt() * v + (1 - ab_t).sqrt() * x_t


def v_from_eps(x_t: Images, eps: Images, ab_t: Scalars) -> Images:
    """v = (eps - sqrt(1 - ab_t) x_t) / sqrt(ab_t): eps_from_v solved for v."""
    require_like("eps", eps, x_t)
    return (eps - (1 - ab_t).sqrt() * x_t) / ab_t.sqrt()


def predicted_eps(model: EpsModel, x_t: Images, t: int | Int[Tensor, " B"]) -> Images:
    """The model's eps at (x_t, t) in the state's precision, refused when its shape or device is not
    the state's."""
    eps = model(x_t, time_batch(t, x_t))
    require_like("the model's eps", eps, x_t)
    return eps.to(x_t.dtype)


def jump(model: EpsModel, x_t: Images, t: int | Int[Tensor, " B"], schedule: Schedule) -> Images:
    """x0_hat, the model's guess of the clean image: an estimate of E[x_0 | x_t] (DDIM Eq. 9).

    x_t: (B, *dims), noisy at t; t: int in 1..T for the batch, or a (B,) integer tensor. Returns (B,
    *dims), at least float32.
    """
    require_images("x_t", x_t)
    if not isinstance(t, Tensor):
        require_int("t", t, 1, schedule.T)
    x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
    return predict_x0(x_t, predicted_eps(model, x_t, t), schedule.at(t, x_t))


def pred_eps_and_x0(
    model: EpsModel,
    x_0: Images,
    t: int | Int[Tensor, " B"],
    schedule: Schedule,
    *,
    noise: Tensor | None = None,
    generator: Generators = None,
) -> tuple[Images, Images]:
    """Noise an image to t, then jump back: (eps, x0_hat), both like x_0, at least float32.

    The model may carry a classifier's gradient (``guidance.classifier``): the same two lines serve
    both.
    x_0: (B, *dims) in [-1, 1]; t: int in 1..T or (B,) tensor; noise: like x_0, drawn from
    ``generator`` if None.
    """
    require_images("x_0", x_0)
    if not isinstance(t, Tensor):
        require_int("t", t, 1, schedule.T)
    x_0 = x_0.to(torch.promote_types(x_0.dtype, torch.float32))
    if noise is None:
        noise = randn(x_0.shape, generator, device=x_0.device, dtype=x_0.dtype)
    require_like("noise", noise, x_0)
    x_t = add_noise(x_0, noise, schedule.at(t, x_0))
    eps = predicted_eps(model, x_t, t)
    return eps, predict_x0(x_t, eps, schedule.at(t, x_t))


def scaled_delta(x0_image: Tensor, xt_image: Tensor) -> tuple[Tensor, float]:
    """(x0_image - xt_image) / scale in [-1, 1], and scale = max |x0_image - xt_image| over the
    whole tensor.

    Signed and symmetric: 0 stays 0, and the scale is returned so that a caption can print it. Equal
    images: (0, 0.0).
    """
    require_like("xt_image", xt_image, x0_image)
    delta = x0_image - xt_image
    scale = delta.abs().max().item()
    return (delta / scale if scale else delta), scale


def source_delta(x0_image: Tensor, xt_image: Tensor) -> Tensor:
    """(x0_image - xt_image) / max(x0_image - xt_image): the demo scales by the *signed* maximum,
    kept for study.

    It is unbounded below, and changes sign when the difference is negative everywhere. Use
    :func:`scaled_delta`.
    """
    require_like("xt_image", xt_image, x0_image)
    delta = x0_image - xt_image
    return delta / delta.max()
