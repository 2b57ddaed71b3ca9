r"""Pixel networks as eps models: a diffusers ``UNet2DModel``, or a network of guided-diffusion.

This adapter knows three things that the sampler does not: these networks count time from 0 (our
t = 1 is their timestep 0), they may predict v or x_0 instead of eps, and they may compute in half
precision while the state stays float32.

``torch.compile(unet)`` may stand wherever ``unet`` does; half precision is
``unet.to(torch.bfloat16)`` or ``zoo.load(..., dtype=torch.bfloat16)``.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .predict import PREDICTIONS, EpsModel, eps_from
from .require import require_int
from .schedule import Schedule

Labels = Tensor | int | None


def conditional(
    unet: nn.Module,
    *,
    learned_variance: bool = False,
    prediction: str = "epsilon",
    schedule: Schedule | None = None,
) -> Callable[[Tensor, Tensor, Labels], Tensor]:
    """The network as ``model(x_t, t, labels) -> eps``: the form ``guidance.cfg_batched`` takes.

    Args:
        unet: called as ``unet(x_t, t - 1)`` or ``unet(x_t, t - 1, labels)``; returns (B, C, H, W),
            or an object whose first field is that (diffusers).
        learned_variance: the network returns (B, 2C, H, W), and its prediction is the first C
            channels (Nichol & Dhariwal 2021, arXiv:2102.09672; the guided-diffusion code).
        prediction: "epsilon", "v_prediction" or "sample" (x_0), as diffusers' ``prediction_type``.
        schedule: what it was trained with; wanted for v and x_0 only.

    The returned function takes x_t: (B, C, H, W), t: (B,) int in 1..T and labels: (B,) int, one int
    for all, or None: the null class, by convention the last embedding of a class-conditional
    ``UNet2DModel``. The network computes in the dtype of its weights; eps comes back in that of
    x_t, but in float64 if it was made of v or x_0 (see ``predict.eps_from``). Raises ValueError or
    TypeError for t, labels or channels that do not fit.
    """
    to_eps = _to_eps(prediction, schedule)
    classes = getattr(getattr(unet, "config", None), "num_class_embeds", None)
    weight = next((p for p in unet.parameters() if p.is_floating_point()), None)

    def model(x_t: Tensor, t: Tensor, labels: Labels = None) -> Tensor:
        _require_state(x_t, t)
        if labels is None and classes is not None:
            labels = classes - 1
        condition = () if labels is None else (_batch_of(labels, x_t),)
        out = unet(x_t if weight is None else x_t.to(weight.dtype), t - 1, *condition)
        out = out if isinstance(out, Tensor) else out[0]
        return to_eps(x_t, _first_channels(out, x_t, learned_variance).to(x_t.dtype), t)

    return model


def _to_eps(
    prediction: str, schedule: Schedule | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(x_t, the network's answer, t) -> eps."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r}: pass one of {', '.join(PREDICTIONS)}")
    if prediction == "epsilon":
        return lambda x_t, answer, t: answer
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"prediction={prediction!r} with schedule={schedule!r}: pass the Schedule that the"
            " network was trained with, to turn it into eps"
        )
    return lambda x_t, answer, t: eps_from(prediction, x_t, answer, t, schedule)


def eps_model(
    unet: nn.Module,
    *,
    labels: Labels = None,
    learned_variance: bool = False,
    prediction: str = "epsilon",
    schedule: Schedule | None = None,
    null_class: int | None = None,
) -> EpsModel:
    """The network with its labels bound: ``eps_model(unet, labels=8)(x_t, t) -> eps``.

    null_class: the class that stands for "no label", asked for labels=None. Without it that is the
    last class, with a warning: a network trained without a null class would draw that class alone.
    The other arguments as for :func:`conditional`.

    Raises ValueError for a label outside the network's classes, or any label where the network
    takes none.
    """
    classes = getattr(getattr(unet, "config", None), "num_class_embeds", None)
    if labels is not None and not isinstance(labels, Tensor):
        require_int("labels", labels, 0, math.inf if classes is None else classes - 1)
    if classes is None and labels is not None and hasattr(unet, "config"):
        raise ValueError("labels: got some, but this network has no classes; pass labels=None")
    if labels is None and classes is not None:
        labels = _null_class(null_class, classes)
    values = torch.as_tensor([] if labels is None else labels)
    if (
        classes is not None
        and not values.is_meta
        and not ((values >= 0) & (values < classes)).all()
    ):
        raise ValueError(
            f"labels: got {values.tolist()}, wanted 0..{classes - 1}, the classes of the network"
        )
    model = conditional(
        unet, learned_variance=learned_variance, prediction=prediction, schedule=schedule
    )
    return lambda x_t, t: model(x_t, t, labels)


def _null_class(null_class: int | None, classes: int) -> int:
    if null_class is not None:
        return require_int("null_class", null_class, 0, classes - 1)
    warnings.warn(
        f"labels=None, and the network has {classes} classes: the last one, {classes - 1}, is taken"
        " for the null class. If it was trained without one, pass labels; if with it, pass"
        f" null_class={classes - 1}",
        stacklevel=3,
    )
    return classes - 1


def _require_state(x_t: Tensor, t: Tensor) -> None:
    if not x_t.is_floating_point():
        raise TypeError(
            f"x_t: got {x_t.dtype}, wanted a floating dtype; scale pictures to [-1, 1] first"
        )
    if t.shape != x_t.shape[:1] or t.is_floating_point():
        raise ValueError(
            f"t: got {t.dtype} of shape {tuple(t.shape)}, wanted int of shape ({len(x_t)},), "
            "one time in 1..T for each x_t"
        )


def _first_channels(out: Tensor, x_t: Tensor, learned_variance: bool) -> Tensor:
    """The prediction among the network's channels, refused unless it is shaped like x_t."""
    channels, expected = x_t.shape[1], (1 + learned_variance) * x_t.shape[1]
    if out.shape != (len(x_t), expected, *x_t.shape[2:]):
        hint = (
            "; pass learned_variance=True"
            if out.shape[1] == 2 * channels and not learned_variance
            else ""
        )
        raise ValueError(
            f"unet: it returned {tuple(out.shape)} for x_t of {tuple(x_t.shape)}, wanted"
            f" {expected} channels and the same size with"
            f" learned_variance={learned_variance}{hint}"
        )
    return out[:, :channels]


def _batch_of(labels: Tensor | int, x_t: Tensor) -> Tensor:
    if not isinstance(labels, Tensor):
        require_int("labels", labels, 0)
        return torch.full((len(x_t),), labels, device=x_t.device)
    if labels.shape != x_t.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, wanted int of shape "
            f"({len(x_t)},) or one int for the whole batch"
        )
    return labels
