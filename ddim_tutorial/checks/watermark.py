"""Watermarks in the noise, and attacks, notebook 11."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .judge import Claim, as_tensor, draw, judge


@judge
def check_symmetric(fn: Callable[[Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(values) -> values``, (H, W) complex: the nearest one whose inverse Fourier
    transform is real, half of the values plus half of the conjugate of the opposite frequency."""
    for H, W in ((4, 4), (6, 5), (1, 7)):
        values = torch.complex(draw(H, W), draw(H, W, seed=1))
        real = torch.fft.fft2(torch.fft.ifft2(values).real)  # what is lost is the imaginary part
        opposite = values.flip(0, 1).roll((1, 1), (0, 1))
        shifted = values.flip(0, 1).conj()
        parts = {
            "the conjugate is missing": (values + opposite) / 2,
            "the flip takes index 0, which is its own opposite, to the end": (values + shifted) / 2,
            "the two are added and not halved": values + opposite.conj(),
            "you returned the values as they are": values,
            "you returned the opposite alone": opposite.conj(),
        }
        yield Claim(
            f"{H} x {W}: the transform of the real part of what they were the transform of",
            lambda values=values: pairs(fn(values)),
            pairs(real),
            {name: pairs(slip) for name, slip in parts.items()},
        )


def pairs(values: Any) -> Tensor:
    """Complex values as pairs of real and imaginary part, which the judge compares."""
    values = as_tensor(values)
    return torch.view_as_real((values if values.is_complex() else values + 0j).resolve_conj())


@judge
def check_p_value(fn: Callable[[Tensor, Tensor, float], float]) -> Iterator[Claim]:
    """Judge ``fn(y, k, variance) -> p``: the chance that M frequencies of white noise come as near
    to k (M,) as y (M,) does, in the sum of squares over the variance. Opposite frequencies are
    counted, so M frequencies are M real numbers (Wen et al. 2023, arXiv:2305.20030)."""
    for M, near, variance in ((1, 0.5, 1.0), (9, 0.4, 1.0), (49, 0.15, 0.25)):
        k = torch.complex(draw(M), draw(M, seed=1)) / math.sqrt(2)
        y = near * k + (1 - near) * math.sqrt(variance) * torch.complex(draw(M, seed=2), draw(M))
        eta = (y - k).abs().square().sum().item() / variance
        lam = k.abs().square().sum().item() / variance
        right = noncentral(eta, M, lam)
        yield Claim(
            f"{M} frequencies, variance {variance:g}",
            lambda y=y, k=k, variance=variance: fn(y, k, variance),
            right,
            {
                "it is the chance to be farther": 1 - right,
                "real and imaginary parts are counted apart, twice M": noncentral(eta, 2 * M, lam),
                "the chi square is central": noncentral(eta, M, 0.0),
                "the squares are not divided by the variance": noncentral(
                    eta * variance, M, lam * variance
                ),
                "the squares are divided by the standard deviation": noncentral(
                    eta * math.sqrt(variance), M, lam * math.sqrt(variance)
                ),
            },
        )


def noncentral(eta: float, dof: int, lam: float) -> float:
    """P(X <= eta) for a non-central chi square X: central ones of dof + 2 j, weighted by the
    Poisson probabilities of j at lam / 2."""
    j = torch.arange(2000, dtype=torch.float64)
    half = torch.tensor(lam / 2, dtype=torch.float64)
    weights = torch.exp(torch.special.xlogy(j, half) - half - torch.lgamma(j + 1))
    central = torch.special.gammainc(dof / 2 + j, torch.full_like(j, eta / 2))
    return (weights * central).sum().item()


@judge
def check_projection(fn: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x, x_0, radius) -> x``, the last part of a step of PGD (Madry et al. 2018,
    arXiv:1706.06083): the picture nearest to x (B, C, H, W) that differs from x_0 by at most radius
    at every pixel, and lies in [-1, 1]."""
    x_0 = draw(2, 1, 4, 4).clamp(-1, 1)
    for radius, far in ((0.25, 0.2), (0.25, 3.0), (2.5, 4.0)):
        x = x_0 + far * draw(2, 1, 4, 4, seed=1)
        low, high = (x_0 - radius).numpy(), (x_0 + radius).numpy()
        change = x - x_0
        norm = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        ball = np.clip(x.numpy(), low, high)
        yield Claim(
            f"radius {radius:g}, a step of about {far:g}",
            lambda x=x, radius=radius: fn(x, x_0, radius),
            np.clip(ball, -1, 1),
            {
                "the range [-1, 1] is forgotten": ball,
                "the radius is forgotten": x.clamp(-1, 1),
                "you returned the change, not the picture": np.clip(ball, -1, 1) - x_0.numpy(),
                "the ball is that of the 2-norm": (
                    x_0 + change * (radius / norm).clamp(max=1)
                ).clamp(-1, 1),
                "all that leaves the ball is set to x_0": torch.where(
                    change.abs() <= radius, x, x_0
                ).clamp(-1, 1),
            },
        )
