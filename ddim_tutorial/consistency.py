r"""Consistency functions (Song et al. 2023, arXiv:2303.01469): the jump that answers the end of the
ODE through x_t, where that of a noise model answers the mean of all x_0 that fit.

Every jump has the form :math:`c_{skip}(t)\,x_t + c_{out}(t)\,\epsilon(x_t, t)`, their Eq. 5, with

.. math:: c_{skip} = \frac{1}{\sqrt{\bar\alpha_t}}, \qquad
    c_{out} = -\frac{\sqrt{1-\bar\alpha_t}}{\sqrt{\bar\alpha_t}},

1 and 0 at t = 0, where :math:`\bar\alpha_0 = 1`: the boundary condition f(x_0, 0) = x_0 holds
whatever the network says. So a consistency model is an ``EpsModel`` like any other, and ``jump``,
``trajectory`` and ``sample`` take it as it is; ``sample(.., eta=math.inf)``, jump, then noise anew,
is its multistep sampling (Algorithm 1). (A network that counts from alpha_bar < 1, as diffusers
does, needs other coefficients: Luo et al. 2023, arXiv:2310.04378.)
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .predict import EpsModel, Images, predict_eps, predict_x0, predicted_eps
from .require import require_images, require_like, require_positive, require_time
from .schedule import Schedule, Times, float64_or_32, time_batch

End = Callable[[Tensor, Tensor], Tensor]  # x_t (B, *dims), t (B,) int in 0..T -> x_0 (B, *dims)


def consistency_function(model: EpsModel, x_t: Images, t: Times, schedule: Schedule) -> Images:
    """f(x_t, t): :func:`~ddim_tutorial.jump` for t from 0 on, where it is x_t itself.

    x_t: (B, *dims), noisy at t. t: an int in 0..T for the whole batch, or B of them; at 0 the model
    is asked at 1, and its answer counts for nothing. Returns (B, *dims), at least float32.
    """
    require_images("x_t", x_t)
    times = time_batch(require_time(t, schedule.T, x_t, low=0), x_t)
    x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
    eps = predicted_eps(model, x_t, times.clamp(min=1))
    return predict_x0(x_t, eps, schedule.at(times, eps)).to(x_t.dtype)


def as_eps_model(end: End, schedule: Schedule) -> EpsModel:
    """The noise model whose jump is ``end``: for ends that are known in closed form, and for
    networks that answer x_0. In float64 where there is one: a jump divides by sqrt(alpha_bar)."""

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        x = float64_or_32(x_t)
        return predict_eps(x, end(x, t).to(x.dtype), schedule.at(t, x))

    return eps


def pseudo_huber(x: Images, y: Images, c: float | None = None) -> Float[Tensor, " B"]:
    r""":math:`\sqrt{|x - y|^2 + c^2} - c` of each picture, (B,): the square of a small distance
    over 2c, and a large distance itself (Song & Dhariwal 2023, arXiv:2310.14189, Eq. 7).

    c: above 0; None is theirs, 0.00054 times the root of the picture's size.
    """
    require_like("y", y, x)
    c = 0.00054 * x[0].numel() ** 0.5 if c is None else c
    require_positive("c", c)
    return ((x - y).flatten(1).square().sum(1) + c**2).sqrt() - c


def self_consistency(
    model: EpsModel,
    target: EpsModel,
    x_t: Images,
    t: Times,
    x_s: Images,
    s: Times,
    schedule: Schedule,
    c: float | None = None,
) -> Float[Tensor, " B"]:
    """The distance of f(x_t, t) to f(x_s, s), (B,): 0 for all neighbours on a trajectory, and so by
    steps down to f(x_0, 0) = x_0, only where f is the end (Song et al. 2023, Eq. 7).

    x_t, x_s: (B, *dims), two states of one trajectory at t and s < t. target: answers at s, without
    gradients; the model itself, or a moving average of it. c: of :func:`pseudo_huber`.
    """
    with torch.no_grad():
        end = consistency_function(target, x_s, s, schedule)
    return pseudo_huber(consistency_function(model, x_t, t, schedule), end, c)
