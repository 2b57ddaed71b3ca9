r"""Pixel networks as eps models: a diffusers ``UNet2DModel``, or a guided-diffusion network with a
learned variance.

This adapter knows two things that the sampler does not: these networks count time from 0 (our t = 1
is their timestep 0), and they may compute in half precision while the state stays float32.

``torch.compile(unet)`` may stand wherever ``unet`` does; half precision is
``unet.to(torch.bfloat16)`` or ``zoo.load(..., dtype=torch.bfloat16)``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .predict import EpsModel
from .require import require_int

Labels = Tensor | int | None


def conditional(
    unet: nn.Module, *, learned_variance: bool = False
) -> Callable[[Tensor, Tensor, Labels], Tensor]:
    """The network as ``model(x_t, t, labels) -> eps``: the form that ``guidance.cfg_batched``
    takes.

    Args:
        unet: called as ``unet(x_t, t - 1)`` or ``unet(x_t, t - 1, labels)``; returns (B, C, H, W),
            or an object whose first field is that (diffusers).
        learned_variance: the network returns (B, 2C, H, W), and eps is the first C channels (Nichol
        & Dhariwal 2021,
            arXiv:2102.09672; the guided-diffusion code).

    The returned function takes x_t: (B, C, H, W), t: (B,) int in 1..T and labels: (B,) int, one int
    for all, or
    None: the null class, by convention the last embedding of a class-conditional ``UNet2DModel``.
    It computes in the dtype of the network's weights and answers in that of x_t. It raises
    ValueError or TypeError for t, labels or channels that do not fit.
    """
    classes = getattr(getattr(unet, "config", None), "num_class_embeds", None)
    weight = next((p for p in unet.parameters() if p.is_floating_point()), None)

    def model(x_t: Tensor, t: Tensor, labels: Labels = None) -> Tensor:
        if not x_t.is_floating_point():
            raise TypeError(
                f"x_t: got {x_t.dtype}, wanted a floating dtype; scale pictures to [-1, 1] first"
            )
        if t.shape != x_t.shape[:1] or t.is_floating_point():
            raise ValueError(
                f"t: got {t.dtype} of shape {tuple(t.shape)}, wanted int of shape ({len(x_t)},), "
                "one time in 1..T for each x_t"
            )
        if labels is None and classes is not None:
            labels = classes - 1
        condition = () if labels is None else (_batch_of(labels, x_t),)
        out = unet(x_t if weight is None else x_t.to(weight.dtype), t - 1, *condition)
        out = out if isinstance(out, Tensor) else out[0]
        channels, wanted = x_t.shape[1], (1 + learned_variance) * x_t.shape[1]
        if out.shape != (len(x_t), wanted, *x_t.shape[2:]):
            hint = (
                "; pass learned_variance=True"
                if out.shape[1] == 2 * channels and not learned_variance
                else ""
            )
            raise ValueError(
                f"unet: it returned {tuple(out.shape)} for x_t of {tuple(x_t.shape)}, wanted"
                f" {wanted} channels and the same size with"
                f" learned_variance={learned_variance}{hint}"
            )
        return out[:, :channels].to(x_t.dtype)

    return model


def eps_model(
    unet: nn.Module, *, labels: Labels = None, learned_variance: bool = False
) -> EpsModel:
    """The network with its labels bound: ``eps_model(unet, labels=8)(x_t, t) -> eps``, see
    :func:`conditional`.

    Raises ValueError for a label outside the network's classes, or any label where the network
    takes none.
    """
    classes = getattr(getattr(unet, "config", None), "num_class_embeds", None)
    if labels is not None and not isinstance(labels, Tensor):
        require_int("labels", labels, 0, math.inf if classes is None else classes - 1)
    known = torch.as_tensor([] if labels is None else labels)
    if classes is None and labels is not None and hasattr(unet, "config"):
        raise ValueError("labels: got some, but this network has no classes; pass labels=None")
    if classes is not None and not known.is_meta and not ((known >= 0) & (known < classes)).all():
        raise ValueError(
            f"labels: got {known.tolist()}, wanted 0..{classes - 1} ({classes - 1}: the null class)"
        )
    model = conditional(unet, learned_variance=learned_variance)
    return lambda x_t, t: model(x_t, t, labels)


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
