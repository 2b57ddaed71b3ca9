"""What may befall a picture before it is looked at: the edits that a watermark should outlive, and
a change along a classifier's gradient.

Pictures are (B, C, H, W) in [-1, 1]; edits return what a file of 8 bits would hold.
"""

from collections.abc import Callable
from functools import partial
from io import BytesIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .grids import from_uint8, quantise, to_uint8
from .noise import Generators, randn
from .predict import Images
from .require import require_generator, require_images, require_int, require_positive

Edit = Callable[[Tensor, Generators], Tensor]


def in_8_bits(x: Images) -> Images:
    """x as a file would hold it: rounded to 255 steps, cut to [-1, 1]."""
    return from_uint8(quantise(x)).to(x)


def rotate(x: Images, generator: Generators = None, *, degrees: float) -> Images:
    """Turned counter-clockwise about the middle, bilinear; outside, the border goes on."""
    angle = torch.tensor(degrees * torch.pi / 180)
    cos, sin, (H, W) = angle.cos().item(), angle.sin().item(), x.shape[2:]
    turn = torch.tensor([[cos, -sin * H / W, 0.0], [sin * W / H, cos, 0.0]]).to(x)
    grid = F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return in_8_bits(F.grid_sample(x, grid, padding_mode="border", align_corners=False))


def jpeg(x: Images, generator: Generators = None, *, quality: int) -> Images:
    """Through a JPEG file of ``quality`` 1 to 95, by Pillow."""
    from PIL import Image

    require_int("quality", quality, 1, 95)
    seen = []
    for pixels in to_uint8(x):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        seen.append(np.asarray(Image.open(file)))
    pixels = torch.from_numpy(np.stack(seen))  # as to_uint8 has them
    return from_uint8(pixels[:, None] if x.shape[1] == 1 else pixels.permute(0, 3, 1, 2)).to(x)


def crop(x: Images, generator: Generators = None, *, share: float) -> Images:
    """A part with ``share`` of the area, at a place by chance, enlarged to the old size."""
    require_positive("share", share, 1)
    require_generator(generator, len(x))
    H, W = x.shape[2:]
    h, w = max(1, round(H * share**0.5)), max(1, round(W * share**0.5))
    places = torch.special.ndtr(randn((len(x), 2), generator, dtype=torch.float64))
    cut = []
    for picture, (down, right) in zip(x, places.tolist(), strict=True):
        top, left = int(down * (H - h + 1)), int(right * (W - w + 1))
        cut.append(picture[:, top : top + h, left : left + w])
    return in_8_bits(F.interpolate(torch.stack(cut), (H, W), mode="bilinear"))


def blur(x: Images, generator: Generators = None, *, std: float) -> Images:
    """Convolved with a Gaussian of ``std`` pixels, cut at 3 of them; the border goes on."""
    require_positive("std", std)
    reach = max(1, round(3 * std))
    kernel = (-(torch.arange(-reach, reach + 1) ** 2) / (2 * std**2)).exp().to(x)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    for axis, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        line = kernel if axis == 3 else kernel.transpose(2, 3)
        x = F.conv2d(F.pad(x, pad, mode="replicate"), line, groups=x.shape[1])
    return in_8_bits(x)


def add_grain(x: Images, generator: Generators = None, *, std: float) -> Images:
    """White noise of ``std`` added, black to white being 1."""
    return in_8_bits(x + 2 * std * randn(x.shape, generator, device=x.device, dtype=x.dtype))


def brighten(x: Images, generator: Generators = None, *, low: float, high: float) -> Images:
    """Each picture times a factor by chance from low to high, black being 0."""
    require_generator(generator, len(x))
    chance = torch.special.ndtr(randn((len(x), 1, 1, 1), generator, dtype=torch.float64))
    return in_8_bits((x + 1) * (low + (high - low) * chance).to(x) - 1)


def untouched(x: Images, generator: Generators = None) -> Images:
    """Stored as a file of 8 bits, no more."""
    return in_8_bits(x)


EDITS: dict[str, Edit] = {
    "none": untouched,
    "JPEG 25": partial(jpeg, quality=25),
    "blur 1 px": partial(blur, std=1.0),
    "noise .1": partial(add_grain, std=0.1),
    "brightness .5 to 1.5": partial(brighten, low=0.5, high=1.5),
    "crop 75 %": partial(crop, share=0.75),
    "rotation 15": partial(rotate, degrees=15.0),
    "rotation 75": partial(rotate, degrees=75.0),
}


def pgd(
    loss: Callable[[Tensor], Tensor],
    x_0: Images,
    radius: float,
    *,
    steps: int = 20,
    step: float | None = None,
    generator: Generators = None,
) -> Images:
    """Pictures at which ``loss`` is larger, each within ``radius`` of its x_0 at every pixel: steps
    along the gradient's sign from a place by chance (PGD, Madry et al. 2018, arXiv:1706.06083).

    loss: pictures (B, *dims) -> (B,), to be raised, each by its own picture. radius: in the units
    of x_0, so "8 of 255" is 16 / 255 in [-1, 1]. step: the length of one, radius / 8 if None.
    generator: of the start, and not of ``loss``, which may draw noise of its own. Not rounded to 8
    bits.
    """
    require_images("x_0", x_0)
    require_int("steps", steps, 1)
    if not radius >= 0:
        raise ValueError(f"radius={radius}: pass a number >= 0, in the units of x_0")
    step = radius / 8 if step is None else step
    chance = torch.special.ndtr(randn(x_0.shape, generator, device=x_0.device, dtype=x_0.dtype))
    x = project(x_0 + radius * (2 * chance - 1), x_0, radius)
    for _ in range(steps):
        x.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(x).sum(), x)
        x = project(x.detach() + step * gradient.sign(), x_0, radius)
    return x


def project(x: Images, x_0: Images, radius: float) -> Images:
    """The nearest to x within ``radius`` of x_0 at every pixel, and in [-1, 1]."""
    return torch.maximum(torch.minimum(x, x_0 + radius), x_0 - radius).clamp(-1, 1)
