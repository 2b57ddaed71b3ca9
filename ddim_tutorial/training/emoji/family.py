"""The family of a picture: the same thing turned, mirrored, smaller, moved, of another hue.

No caption says which member it is, so nothing but x_T can decide it: seeds differ by it, inversion
has something to find, and an edit has something to keep.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ANGLE, SCALE, SHIFT, HUE, SATURATION = 20.0, (0.72, 1.0), 8.0, 8.0, (0.85, 1.15)
EDGE = 0.97  # of half a side: the thing stays inside the white


class Pose(NamedTuple):
    """What makes a member: degrees counter-clockwise, mirrored or not (0, 1), factor of the size,
    pixels to the right and down, degrees around the grey axis, factor of the saturation."""

    angle: float
    mirror: float
    scale: float
    right: float
    down: float
    hue: float
    saturation: float


def draw_pose(content: Tensor, size: int, generator: torch.Generator) -> Pose:
    """A pose that keeps ``content``: (2, M), the x and y of every pixel of the thing in [-1, 1],
    inside the white; the scale is lowered where it must be."""
    u = torch.rand(7, generator=generator).tolist()
    angle, mirror, scale = ANGLE * (2 * u[0] - 1), float(u[1] < 0.5), lerp(SCALE, u[2])
    turned = linear_map(*torch.tensor([angle, mirror, 1.0])) @ content
    low, high = turned.amin(1), turned.amax(1)
    scale = min(scale, *(2 * EDGE / (high - low)).tolist())
    reach = 2 * SHIFT / size
    shift = []
    edges = zip((scale * low).tolist(), (scale * high).tolist(), u[3:5], strict=True)
    for first, last, share in edges:
        bounds = (max(-EDGE - first, -reach), min(EDGE - last, reach))
        if bounds[0] > bounds[1]:  # far off the centre: in the middle
            bounds = (-(first + last) / 2,) * 2
        shift.append(lerp(bounds, share) * size / 2)
    return Pose(angle, mirror, scale, *shift, HUE * (2 * u[5] - 1), lerp(SATURATION, u[6]))


def lerp(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def linear_map(angle: Tensor, mirror: Tensor, scale: Tensor) -> Tensor:
    """(..., 2, 2): mirror, then turn counter-clockwise (y points down), then scale."""
    cos, sin, sign = angle.deg2rad().cos(), angle.deg2rad().sin(), 1 - 2 * mirror
    turn = torch.stack([sign * cos, sin, -sign * sin, cos], -1).unflatten(-1, (2, 2))
    return scale[..., None, None] * turn


def colour_map(hue: Tensor, saturation: Tensor) -> Tensor:
    """(..., 3, 3): turn RGB around the grey axis and stretch what is not grey; white stays
    white."""
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    radians = hue.deg2rad()[..., None, None]
    turn = radians.cos() * (torch.eye(3) - grey) + radians.sin() * cross
    return grey + saturation[..., None, None] * turn


def apply_poses(images: Tensor, poses: Tensor) -> Tensor:
    """One member (B, 3, H, W) uint8 of each picture (B, 3, H, W) uint8 on white, poses (B, 7):
    bicubic at twice the resolution, then averaged down."""
    angle, mirror, scale, right, down, hue, saturation = poses.unbind(1)
    count, size = len(images), images.shape[-1]
    ink = 255.0 - images.float()  # white is nothing: what comes in from outside is white
    inverse = torch.linalg.inv(linear_map(angle, mirror, scale))
    shift = torch.stack([right, down], 1)[:, :, None] * 2 / size
    theta = torch.cat([inverse, -inverse @ shift], 2)
    grid = F.affine_grid(theta, [count, 3, 2 * size, 2 * size], align_corners=False)
    ink = F.avg_pool2d(F.grid_sample(ink, grid, "bicubic", align_corners=False), 2)
    mixed = torch.einsum("bdc,bchw->bdhw", colour_map(hue, saturation), ink)
    return (255 - mixed).clamp(0, 255).round().byte()


def content(image: Tensor) -> Tensor:
    """(2, M): x and y in [-1, 1] of the pixels of (3, H, W) uint8 that are not white."""
    rows, columns = (image < 245).any(0).nonzero(as_tuple=True)
    return (2 * torch.stack([columns, rows]).float() + 1) / image.shape[-1] - 1


def members(image: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` members (count, 3, H, W) uint8 of a picture (3, H, W) uint8 on white, and their
    poses (count, 7), the fields of :class:`Pose`."""
    generator = torch.Generator().manual_seed(seed)
    pixels, size = content(image), image.shape[-1]
    poses = torch.tensor([draw_pose(pixels, size, generator) for _ in range(count)])
    return apply_poses(image.expand(count, *image.shape), poses), poses
