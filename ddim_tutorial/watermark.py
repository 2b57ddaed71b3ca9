r"""A watermark in the noise: a secret is written into x_T, the picture is sampled as ever, and
whoever knows the secret inverts the picture and looks for it.

Tree-Ring (Wen et al. 2023, arXiv:2305.20030) writes it into the Fourier transform of x_T: "zeros",
"rand" or "rings". "signs", in the manner of Gaussian Shading (Yang et al. 2024, arXiv:2404.04956),
decides the sign of every number and leaves the magnitudes to chance.

Transforms are orthonormal: of white noise, every frequency has mean power 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from .require import Number, require_images, require_int

KINDS = ("zeros", "rand", "rings", "signs")
Noise = Float[Tensor, "B C H W"]


class FourierKey(NamedTuple):
    """What the Fourier transform of x_T is to be at some frequencies.

    mask: (C, H, W), True where it is written, in the order of ``torch.fft``; with a frequency it
    holds the opposite one. values: (C, H, W), Hermitian, 0 outside of the mask.
    """

    mask: Bool[Tensor, "C H W"]
    values: Complex[Tensor, "C H W"]


class SignKey(NamedTuple):
    """signs: (C, H, W), the sign of every number of x_T, -1 or 1."""

    signs: Float[Tensor, "C H W"]


Key = FourierKey | SignKey


class Detection(NamedTuple):
    """How near each x_T is to a key, (B,) each.

    distance: mean |y - key| over the key's frequencies y (Wen et al., section 3); of signs, the
    share that differs.
    correlation: Re <y, key> / (|y| |key|), in -1..1; NaN for a key of zeros. Of signs, the share
    that agrees minus the share that differs.
    p_value: the chance that x_T without the mark is as near; see :func:`detect`. float64, CPU.
    """

    distance: Float[Tensor, " B"]
    correlation: Float[Tensor, " B"]
    p_value: Float[Tensor, " B"]


def radii(height: int, width: int) -> Float[Tensor, "H W"]:
    """|f| of every frequency in the order of ``torch.fft``, in cycles along the shorter side."""
    f = [torch.fft.fftfreq(n, dtype=torch.float64) * min(height, width) for n in (height, width)]
    return torch.hypot(f[0][:, None], f[1][None])


def key(
    kind: str,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    radius: float = 4.0,
    inner: float = 0.0,
    channels: Sequence[int] | None = None,
) -> Key:
    """A secret for noise of ``shape`` (C, H, W), which decides it together with the generator.

    kind: "zeros", "rand": the transform of other white noise, "rings": one real number from N(0, 1)
    for each whole |f| and channel, or "signs". inner, radius: a Fourier key covers the frequencies
    with inner <= |f| <= radius, in cycles along the shorter side (inf: all of them); channels:
    those it is written into, all if None. A key of signs covers everything.

    A ring is real where Wen et al. have it complex: opposite frequencies lie on one ring, and those
    of a real x_T are conjugate. Raises ValueError for another kind, shape or channel, and where no
    frequency is covered.
    """
    C, H, W = require_shape(shape)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: pass one of {', '.join(KINDS)}")
    noise = torch.randn((C, H, W), generator=generator)
    if kind == "signs":
        return SignKey(torch.where(noise < 0, -1.0, 1.0))
    d, covered = radii(H, W), torch.zeros(C, 1, 1, dtype=torch.bool)
    for channel in range(C) if channels is None else channels:
        covered[require_int("a channel", channel, 0, C - 1)] = True
    mask = covered & (inner <= d) & (d <= radius)
    if not mask.any():
        raise ValueError(
            f"inner={inner}, radius={radius}, channels={channels}: no frequency of {C} x {H} x {W}"
            " is covered; pass inner <= radius, in cycles along the shorter side"
        )
    values = torch.zeros(C, H, W, dtype=torch.complex64)
    if kind == "rand":
        values = torch.fft.fft2(noise, norm="ortho")
    elif kind == "rings":
        ring = d.round().long()
        values = torch.randn(C, int(ring.max()) + 1, generator=generator)[:, ring] + 0j
    return FourierKey(mask, torch.where(mask, values, 0))


def require_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """The three sizes of a picture's noise; ValueError for another number of them."""
    sizes = tuple(require_int("a size of shape", size, 1) for size in shape)
    if len(sizes) != 3:
        raise ValueError(f"shape={sizes}: pass (C, H, W), that of one picture's noise")
    return sizes[0], sizes[1], sizes[2]


def embed(x_T: Noise, key: Key) -> Noise:
    """x_T with the key in it, the rest of it unchanged: (B, C, H, W), real, at least float32.

    A Fourier key takes the place of its frequencies, so a second time changes nothing. A key of
    signs keeps |x_T|: of noise N(0, I) and signs drawn by a fair coin it makes noise N(0, I). (Two
    x_T with *one* key of signs are not independent: their correlation is 2 / pi.)
    """
    x_T = require_fit(x_T, key)
    if isinstance(key, SignKey):
        return x_T.abs() * key.signs.to(x_T)
    transform = torch.fft.fft2(x_T, norm="ortho")
    marked = torch.where(key.mask.to(x_T.device), key.values.to(transform), transform)
    return torch.fft.ifft2(marked, norm="ortho").real  # Hermitian: the rest is rounding


def require_fit(x_T: Tensor, key: Key) -> Tensor:
    """x_T, at least float32; refused where it is no batch, or not of the key's shape."""
    require_images("x_T", x_T)
    shape = tuple(key[0].shape)
    if tuple(x_T.shape[1:]) != shape:
        raise ValueError(
            f"x_T has shape {tuple(x_T.shape)}, the key {shape}: pass x_T of shape (B, *{shape}),"
            f" or make a key of shape {tuple(x_T.shape[1:])}"
        )
    return x_T.to(torch.promote_types(x_T.dtype, torch.float32))


def detect(x_T: Noise, key: Key, variance: Number | None = None) -> Detection:
    r"""How near inverted x_T: (B, C, H, W) is to the key.

    The p-value of a Fourier key is that of Wen et al. (section 3): with y the |M| covered
    frequencies of x_T and k those of the key,

    .. math:: \eta = \frac{1}{\sigma^2} \sum_M |y - k|^2, \qquad
        \lambda = \frac{1}{\sigma^2} \sum_M |k|^2

    p is the chance that a non-central chi square of |M| degrees of freedom and non-centrality
    lambda is at most eta: exact where x_T is white noise of the given ``variance``, since |M|
    frequencies of a real x_T are |M| real numbers. With None, sigma^2 is the mean of |y|^2, as in
    the paper; then eta = |M| + lambda - 2 Re<y, k> / sigma^2 varies less than the chi square does,
    and for a key of zeros not at all. The p-value of signs is binomial. Both need SciPy.
    """
    from scipy.stats import binom, ncx2

    x_T = require_fit(x_T, key)
    correlation = correlate(x_T, key)
    if isinstance(key, SignKey):
        n = key.signs.numel()
        agree = ((1 + correlation) / 2 * n).round().cpu().numpy()
        return Detection(
            (1 - correlation) / 2, correlation, torch.from_numpy(binom.sf(agree - 1, n, 0.5))
        )
    y, k = covered(x_T, key)
    power = y.abs().square().mean(1).double().cpu()
    if variance is not None:
        power = torch.full_like(power, require_variance(variance))
    eta = (y - k).abs().square().sum(1).double().cpu() / power
    lam = k.abs().square().sum().double().cpu() / power
    p_value = torch.from_numpy(ncx2.cdf(eta.numpy(), len(k), lam.numpy()))
    return Detection((y - k).abs().mean(1), correlation, p_value)


def covered(x_T: Noise, key: FourierKey) -> tuple[Complex[Tensor, "B M"], Complex[Tensor, " M"]]:
    """The M frequencies that the key covers: those of x_T and its own."""
    y = torch.fft.fft2(x_T, norm="ortho")[:, key.mask.to(x_T.device)]
    return y, key.values.to(y)[key.mask.to(x_T.device)]


def correlate(x_T: Noise, key: Key) -> Float[Tensor, " B"]:
    """``detect(x_T, key).correlation`` alone, without SciPy."""
    x_T = require_fit(x_T, key)
    if isinstance(key, SignKey):
        agree = (x_T > 0) == (key.signs.to(x_T) > 0)
        return 2 * agree.flatten(1).to(x_T.dtype).mean(1) - 1
    y, k = covered(x_T, key)
    return (y * k.conj()).real.sum(1) / (y.norm(dim=1) * k.norm())


def require_variance(variance: Number) -> float:
    """A positive number; ValueError for another."""
    if not variance > 0:
        raise ValueError(f"variance={variance}: pass a positive number, 1 for white noise")
    return float(variance)


def identify(x_T: Noise, keys: Sequence[Key]) -> Int[Tensor, " B"]:
    """Which of the keys each x_T carries, if any: (B,), the place of the largest correlation. The
    keys are of one shape, none of them zeros."""
    if not keys:
        raise ValueError("keys: got none, wanted one or more")
    scores = torch.stack([correlate(x_T, key) for key in keys], 1)
    if scores.isnan().any():
        raise ValueError("keys: got one of zeros, which correlates with nothing; leave it out")
    return scores.argmax(1)
