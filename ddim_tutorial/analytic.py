r"""Noise models with an exact answer: E[eps | x_t] for a Gaussian, a mixture, a finite data set.

No weights and no training: what a perfect network would say, so every claim about DDIM can be held
against it. They compute in float64 whatever x_t is, on the CPU where its device has no float64, and
answer in its precision. With
:math:`\alpha=\sqrt{\bar\alpha_t}`, :math:`\sigma=\sqrt{1-\bar\alpha_t}` and data
:math:`\sum_k w_k N(\mu_k, s_k^2 I)`, the noisy :math:`x_t` is a mixture of
:math:`N(\alpha\mu_k, V_k I)`, :math:`V_k=\alpha^2 s_k^2+\sigma^2`, and

.. math:: E[\epsilon \mid x_t] = \sigma \sum_k r_k(x_t)\,\frac{x_t - \alpha\mu_k}{V_k},

:math:`r_k` being the posterior weight of component k. This form has no cancellation for small
:math:`\sigma`.
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .predict import Images
from .require import require_images
from .schedule import Schedule, on_float64_device


@dataclass(frozen=True, eq=False)
class Mixture:
    """The exact noise model of a mixture of isotropic Gaussians, an ``EpsModel``.

    means: (K, *dims) float64; stds: (K,) >= 0; weights: (K,) > 0, summing to 1.
    """

    means: Float[Tensor, " K *dims"]
    stds: Float[Tensor, " K"]
    weights: Float[Tensor, " K"]
    schedule: Schedule

    def _parts(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        if x_t.shape[1:] != self.means.shape[1:]:
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}, wanted images like the data, "
                f"{tuple(self.means.shape[1:])} each"
            )
        x = on_float64_device(x_t).double().flatten(1)
        ab = self.schedule.alpha_bar[t.cpu()].to(x.device)[:, None]
        means = self.means.to(x.device).flatten(1)
        V = ab * self.stds.to(x.device) ** 2 + 1 - ab  # (B, K)
        alpha = ab.sqrt()
        distance = (
            x.square().sum(1, keepdim=True) - 2 * alpha * x @ means.T + ab * means.square().sum(1)
        )
        log_joint = (
            self.weights.to(x.device).log() - 0.5 * distance / V - 0.5 * x.shape[1] * V.log()
        )
        return x, means, V, alpha, log_joint

    def log_responsibilities(self, x_t: Images, t: Int[Tensor, " B"]) -> Float[Tensor, " B K"]:
        """log p(component k | x_t): a perfect noise-aware classifier, float64.

        x_t: (B, *dims); t: (B,) in 1..T.
        """
        return self._parts(x_t, t)[-1].log_softmax(1)

    def __call__(self, x_t: Images, t: Int[Tensor, " B"]) -> Images:
        x, means, V, alpha, log_joint = self._parts(x_t, t)
        r = log_joint.softmax(1) / V
        eps = (1 - alpha**2).sqrt() * (r.sum(1, keepdim=True) * x - alpha * (r @ means))
        return eps.view(x_t.shape).to(x_t.dtype).to(x_t.device)

    def end(self, x_t: Images, t: Int[Tensor, " B"]) -> Images:
        """Where the ODE takes x_t: (B, 1), t: (B,) in 0..T; float64. On a line trajectories do not
        cross, so the share of the data below x_t stays: F_0(end) = F_t(x_t), solved by bisection.
        ValueError in more dimensions, and for points (stds of 0), where F_0 jumps."""
        if self.means.shape[1:] != (1,) or not bool((self.stds > 0).all()):
            raise ValueError(
                f"data of shape {tuple(self.means.shape[1:])} and stds {self.stds.tolist()}: the"
                " end is known on a line, means of shape (K, 1), with stds above 0"
            )
        x = on_float64_device(x_t).double()
        below, above = self._tails(x, self.schedule.at(t, x))
        mean, std = self.means.abs().max().item(), self.stds.max().item()
        # std times the largest z of x_t in any component, whose own std is at least the divisor
        reach = mean + std * (x.abs().max().item() + mean) / min(1.0, self.stds.min().item())
        low, high = torch.full_like(x, -reach), torch.full_like(x, reach)
        for _ in range(80):  # until float64 has nothing left to halve
            middle = (low + high) / 2
            left, right = self._tails(middle, torch.ones_like(middle))
            # by the smaller share: 1 - 1e-20 is 1
            short = torch.where(below < above, left < below, right > above)
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return ((low + high) / 2).to(x_t.device)

    def _tails(self, x: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithms of the shares of p_t below and above x: (B, 1). Of logarithms, since 1e-33
        is a share too; torch's ndtr has no such tail."""
        std = (ab * self.stds.to(x) ** 2 + 1 - ab).sqrt()
        z = (x - ab.sqrt() * self.means.to(x).T) / std
        log_weights = self.weights.to(x).log()
        below, above = (
            (log_weights + torch.special.log_ndtr(side)).logsumexp(1, keepdim=True)
            for side in (z, -z)
        )
        return below, above


def _as_float64(values: Tensor | float) -> Tensor:
    if isinstance(values, Tensor):
        return on_float64_device(values).double()
    return torch.as_tensor(values, dtype=torch.float64)


def mixture(
    means: Float[Tensor, " K *dims"],
    stds: Float[Tensor, " K"] | float,
    weights: Float[Tensor, " K"],
    schedule: Schedule,
) -> Mixture:
    """Exact E[eps | x_t] for data sum_k weights_k N(means_k, stds_k^2 I).

    means: (K, *dims); stds: (K,) or a number; weights: (K,), positive, normalised here.
    """
    require_images("means", means)
    K = len(means)
    stds, weights = (_as_float64(values).cpu() for values in (stds, weights))
    if weights.shape != (K,) or not bool((weights.isfinite() & (weights > 0)).all()):
        raise ValueError(
            f"weights={weights.tolist()} for {K} components: pass {K} positive numbers"
        )
    if stds.shape not in ((), (K,)) or not bool((stds.isfinite() & (stds >= 0)).all()):
        raise ValueError(f"stds={stds.tolist()} for {K} components: pass one number >= 0, or {K}")
    stds = stds.expand(K)
    return Mixture(_as_float64(means), stds, weights / weights.sum(), schedule)


def gaussian(mean: Float[Tensor, "*dims"] | float, std: float, schedule: Schedule):
    r"""Exact E[eps | x_t] for data N(mean, std^2 I): an EpsModel.

    It is sigma (x_t - alpha mean) / (alpha^2 std^2 + sigma^2). mean: (\*dims) or a number for every
    entry; std >= 0.
    """
    mean = _as_float64(mean)
    if not isinstance(std, Real) or not 0 <= std < math.inf or not mean.isfinite().all():
        raise ValueError(f"mean={mean.tolist()}, std={std!r}: pass finite numbers, std >= 0")

    def eps(x_t: Images, t: Int[Tensor, " B"]) -> Images:
        x = on_float64_device(x_t).double()
        ab = schedule.at(t, x)
        answer = (1 - ab).sqrt() * (x - ab.sqrt() * mean.to(x)) / (ab * std**2 + 1 - ab)
        return answer.to(x_t.dtype).to(x_t.device)

    return eps


def dataset(images: Float[Tensor, " N *dims"], schedule: Schedule) -> Mixture:
    """Exact E[eps | x_t] when the data are these N images and nothing else: a mixture of points.

    images: (N, *dims). Its jump prediction is the softmax-weighted mean of the images, and DDIM
    lands on one of them.
    """
    return mixture(images, 0.0, torch.ones(len(images)), schedule)
