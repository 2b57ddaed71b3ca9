"""Gaussian noise that can be drawn again: one generator per picture, any device, any batch."""

from collections.abc import Iterable, Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from .require import require_generator, require_int, require_like
from .schedule import float64_or_32

Generators = torch.Generator | Sequence[torch.Generator] | None


def randn(
    shape: Sequence[int],
    generator: Generators = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise of ``shape`` (B, *dims).

    generator: one for the batch, or a sequence of B generators, one per image: image i then does
    not depend on the batch around it. Drawn on the generator's device (the CPU without one), then
    moved: the same on every device.
    """
    if torch.device(device).type == "meta":
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    require_generator(generator, shape[0])
    if isinstance(generator, Sequence):
        return torch.cat([randn((1, *shape[1:]), g, device=device, dtype=dtype) for g in generator])
    source = generator.device if generator is not None else "cpu"
    return torch.randn(tuple(shape), generator=generator, device=source, dtype=dtype).to(device)


def generators(seeds: Iterable) -> list[torch.Generator]:
    """One CPU generator per seed, for :func:`randn` and samplers: seed i makes picture i anywhere.

    seeds: whole numbers of any kind, as a list, a range, an array or a tensor.
    """
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise TypeError(f"seeds={seeds!r}: pass whole numbers, one per picture, such as range(4)")
    seeds = seeds.tolist() if isinstance(seeds, Tensor) else seeds
    seeds = [require_int("a seed", seed, -(2**63), 2**64 - 1) for seed in seeds]
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def slerp(
    a: Float[Tensor, " B *dims"], b: Float[Tensor, " B *dims"], weight: float
) -> Float[Tensor, " B *dims"]:
    r"""Spherical interpolation of noises, each image by its own angle theta (DDIM,
    arXiv:2010.02502, App. D.5):

    .. math:: \frac{\sin((1-w)\theta)}{\sin\theta}\,a + \frac{\sin(w\theta)}{\sin\theta}\,b

    a, b: (B, *dims); weight w: 0 is a, 1 is b. For norms that agree, as those of Gaussian noise
    nearly do, the norm stays; lerp's shrinks to 1/sqrt(2) in the middle. Parallel a and b (theta =
    0 or pi) are joined by a straight line.
    """
    require_like("b", b, a)
    weight = float(weight) if isinstance(weight, Real) else weight
    cosine = torch.cosine_similarity(float64_or_32(a.flatten(1)), float64_or_32(b.flatten(1)))
    theta = cosine.clamp(-1, 1).acos().to(a.dtype).view(-1, *[1] * (a.dim() - 1))
    curved = (((1 - weight) * theta).sin() * a + (weight * theta).sin() * b) / theta.sin()
    return torch.where(theta.sin() < 1e-6, torch.lerp(a, b, weight), curved)
