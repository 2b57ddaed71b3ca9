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
    turned = linear_map(angle, mirror, 1.0) @ content
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


def linear_map(angle: float, mirror: float, scale: float) -> Tensor:
    """(2, 2): mirror, then turn counter-clockwise (y points down), then scale."""
    radians = torch.tensor(angle).deg2rad()
    cos, sin = radians.cos(), radians.sin()
    turn = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])
    return scale * turn @ torch.diag(torch.tensor([1.0 - 2.0 * mirror, 1.0]))


def colour_map(hue: float, saturation: float) -> Tensor:
    """(3, 3): turn RGB around the grey axis and stretch what is not grey; white stays white."""
    radians = torch.tensor(hue).deg2rad()
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    turn = radians.cos() * (torch.eye(3) - grey) + radians.sin() * cross
    return grey + saturation * turn


def apply_pose(image: Tensor, pose: Pose) -> Tensor:
    """The member (3, H, W) uint8 of a picture (3, H, W) uint8 on white: bicubic at twice the
    resolution, then averaged down."""
    size = image.shape[-1]
    ink = 255.0 - image[None].float()  # white is nothing: what comes in from outside is white
    inverse = torch.linalg.inv(linear_map(pose.angle, pose.mirror, pose.scale))
    shift = torch.tensor([[pose.right], [pose.down]]) * 2 / size
    theta = torch.cat([inverse, -inverse @ shift], 1)[None]
    grid = F.affine_grid(theta, [1, 3, 2 * size, 2 * size], align_corners=False)
    ink = F.avg_pool2d(F.grid_sample(ink, grid, "bicubic", align_corners=False), 2)[0]
    mixed = torch.einsum("dc,chw->dhw", colour_map(pose.hue, pose.saturation), ink)
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
    poses = [draw_pose(pixels, size, generator) for _ in range(count)]
    return torch.stack([apply_pose(image, pose) for pose in poses]), torch.tensor(poses)
