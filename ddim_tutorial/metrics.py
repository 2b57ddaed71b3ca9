"""How far two batches of pictures or two sets of features are apart, and how fast an error falls as
steps are added."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .require import require_same_shape

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance


def mse(a: Shaped[Tensor, " B *dims"], b: Shaped[Tensor, " B *dims"]) -> Float[Tensor, " B"]:
    """The mean square difference of each picture, (B,) float64 on the CPU; any dtype, one shape."""
    require_same_shape("b", b, a)
    return (a.cpu().double() - b.cpu().double()).square().flatten(1).mean(1)


def rms(a: Shaped[Tensor, " B *dims"], b: Shaped[Tensor, " B *dims"]) -> float:
    """The root of the mean square difference over the whole batch, in the units of the pictures."""
    return mse(a, b).mean().sqrt().item()


def relative_error(x: Shaped[Tensor, " B *dims"], wanted: Shaped[Tensor, " B *dims"]) -> float:
    """:func:`rms` of the difference over the whole batch / that of ``wanted``, which is not 0."""
    return rms(x, wanted) / rms(wanted, torch.zeros_like(wanted))


def psnr(
    a: Shaped[Tensor, " B *dims"], b: Shaped[Tensor, " B *dims"], data_range: float = 2.0
) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio of each picture, 10 log10(data_range^2 / mse), (B,) in dB.

    data_range: the largest difference that two pictures can have: 2 for [-1, 1], 255 for uint8.
    Equal pictures have inf dB. The PSNR of a whole batch is ``psnr(a[None], b[None])``: that of the
    mean error, which is at most the mean of the pictures' PSNRs.
    """
    return 10 * (data_range**2 / mse(a, b)).log10()


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: minus the slope of log error over log steps, by least squares.

    steps, errors: two positive numbers or more of each. 1: half the error for twice the steps.
    """
    if len(steps) != len(errors) or len(steps) < 2 or not all(v > 0 for v in (*steps, *errors)):
        raise ValueError(
            f"steps={list(steps)}, errors={list(errors)}: pass equally many positive numbers of"
            " both, two or more"
        )
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (steps, errors))
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / x.square().sum()).item()


class _Features(nn.Identity):
    """What torchmetrics takes for its network: features pass through."""

    num_features: int


def frechet_metric(d: int) -> "FrechetInceptionDistance":
    """torchmetrics' running sums for :func:`frechet`, of features (N, d) float64, part by part."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = _Features()
    network.num_features = d
    return FrechetInceptionDistance(feature=network).set_dtype(torch.float64)


def frechet(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of the Gaussians that fit
    two sets of features (N, d), N >= 2 (Heusel et al. 2017, arXiv:1706.08500, Eq. 6), computed in
    float64. It falls with N: compare sets of equal size."""
    metric = frechet_metric(features_a.shape[1])
    metric.update(features_a.double(), real=True)
    metric.update(features_b.double(), real=False)
    return metric.compute().item()


def auc(positive: Float[Tensor, " N"], negative: Float[Tensor, " M"]) -> float:
    """The chance that a score of ``positive`` lies above one of ``negative``, ties counting half:
    the area under the ROC curve."""
    above = positive[:, None] - negative[None]
    return ((above > 0).double() + 0.5 * (above == 0).double()).mean().item()


def tpr(positive: Float[Tensor, " N"], negative: Float[Tensor, " M"], fpr: float = 0.01) -> float:
    """The share of ``positive`` above a threshold that at most ``fpr`` of ``negative`` pass. Of 40
    negatives none may pass 1 %, of 200 two."""
    allowed = int(fpr * len(negative) + 1e-9)
    threshold = negative.sort(descending=True).values[min(allowed, len(negative) - 1)]
    return (positive > threshold).double().mean().item()
