"""The family of a picture, against moments of planted rectangles and colours of colorsys."""

import colorsys
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_tutorial.training.emoji import family
from ddim_tutorial.training.emoji.family import Pose

STILL = Pose(angle=0, mirror=0, scale=1, right=0, down=0, hue=0, saturation=1)


def rectangle(top: int, left: int, height: int, width: int, colour=(0, 0, 0)) -> torch.Tensor:
    image = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    image[:, top : top + height, left : left + width] = torch.tensor(colour).view(3, 1, 1)
    return image


def member(image: torch.Tensor, **pose) -> torch.Tensor:
    return family.apply_poses(image[None], torch.tensor([STILL._replace(**pose)]))[0]


def moments(image: torch.Tensor) -> tuple[float, float, float, float]:
    """(mass, right, up, angle) of the ink: its sum, its centre in pixels from the middle, and the
    direction of its long axis in degrees counter-clockwise."""
    ink = (255 - image.double()).sum(0)
    x = torch.arange(64).double() - 31.5
    mass = ink.sum()
    right, up = (ink * x[None, :]).sum() / mass, -(ink * x[:, None]).sum() / mass
    dx, dy = x[None, :] - right, -x[:, None] - up
    xx, yy, xy = ((ink * part).sum() for part in (dx * dx, dy * dy, dx * dy))
    angle = math.degrees(0.5 * math.atan2(2 * xy, xx - yy))
    return mass.item(), right.item(), up.item(), angle


APPLE = rectangle(20, 30, 10, 24)  # its centre is 10 px to the right, 7 px up; its long axis lies


def test_the_still_pose_changes_nothing_but_edges():
    seen = member(APPLE)
    assert moments(seen) == pytest.approx(moments(APPLE), abs=1e-3, rel=1e-3)
    assert (seen.int() - APPLE.int()).abs().double().mean() < 1


@pytest.mark.parametrize(("right", "down"), [(5, 0), (0, 5), (-6, 3), (2.5, -3.25)])
def test_a_shift_moves_the_centre_of_mass_to_the_right_and_down(right, down):
    seen = moments(member(APPLE, right=right, down=down))
    assert seen[1:3] == pytest.approx((10 + right, 7 - down), abs=0.05)


@pytest.mark.parametrize("angle", [-20, 7, 20])
def test_an_angle_turns_counter_clockwise_about_the_middle(angle):
    _, right, up, direction = moments(member(APPLE, angle=angle))
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    assert direction == pytest.approx(angle, abs=0.3)
    assert (right, up) == pytest.approx((10 * cos - 7 * sin, 10 * sin + 7 * cos), abs=0.05)


def test_the_mirror_comes_before_the_turn():
    flipped = member(APPLE, mirror=1)
    torch.testing.assert_close(flipped, member(APPLE).flip(-1), atol=1, rtol=0)
    _, right, up, direction = moments(member(APPLE, mirror=1, angle=20))
    cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
    assert direction == pytest.approx(20, abs=0.3)
    assert (right, up) == pytest.approx((-10 * cos - 7 * sin, -10 * sin + 7 * cos), abs=0.05)


@pytest.mark.parametrize("scale", [0.72, 0.9])
def test_a_scale_changes_the_area_by_its_square(scale):
    mass, right, up, _ = moments(member(APPLE, scale=scale))
    assert mass == pytest.approx(moments(APPLE)[0] * scale**2, rel=0.01)
    assert (right, up) == pytest.approx((10 * scale, 7 * scale), abs=0.05)


@pytest.mark.parametrize("turns", [1, 2])
def test_a_third_of_the_hue_is_colorsys_own(turns):
    colour = (200, 90, 40)
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in colour))
    wanted = colorsys.hls_to_rgb(hue + turns / 3, lightness, saturation)
    seen = member(rectangle(20, 20, 20, 20, colour), hue=120 * turns)[:, 30, 30]
    assert seen.tolist() == pytest.approx([255 * c for c in wanted], abs=1)


@settings(deadline=None)
@given(hue=st.floats(-180, 180), saturation=st.floats(0, 2))
def test_the_colour_map_keeps_white_and_the_mean_and_stretches_the_rest(hue, saturation):
    colour = torch.tensor([0.7, 0.3, 0.2])
    turned = family.colour_map(torch.tensor(hue), torch.tensor(saturation)) @ colour
    white = family.colour_map(torch.tensor(hue), torch.tensor(saturation)) @ torch.ones(3)
    torch.testing.assert_close(white, torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.mean(), torch.tensor(0.4), atol=1e-5, rtol=0)
    before, after = colour - 0.4, turned - turned.mean()
    torch.testing.assert_close(after.norm(), saturation * before.norm(), atol=1e-5, rtol=1e-5)
    cosine = torch.tensor(saturation * math.cos(math.radians(hue))) * before.square().sum()
    torch.testing.assert_close(after @ before, cosine, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    box=st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(6, 24)] * 2),
    whole=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_every_draw_keeps_the_thing_inside_the_white(box, whole, seed):
    image = rectangle(0, 0, 64, 64) if whole else rectangle(*box)
    images, poses = family.members(image, 4, seed)
    frame = torch.ones(64, 64, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert images[:, :, frame].min() > 85  # of an outermost pixel less than two thirds
    pixels = family.content(image)
    for pose in poses:
        angle, mirror, scale, right, down, hue, saturation = pose.tolist()
        assert abs(angle) <= 20 and mirror in (0, 1) and 0.3 < scale <= 1
        assert abs(hue) <= 8 and 0.85 <= saturation <= 1.15
        radians = math.radians(angle)
        x = pixels[0] * (1 - 2 * mirror)
        moved_x = scale * (x * math.cos(radians) + pixels[1] * math.sin(radians)) + right / 32
        moved_y = scale * (pixels[1] * math.cos(radians) - x * math.sin(radians)) + down / 32
        assert max(moved_x.abs().max(), moved_y.abs().max()) <= 0.97 + 1e-4


def test_poses_cover_their_ranges():
    _, poses = family.members(rectangle(28, 28, 8, 8), 400, seed=0)
    low, high = poses.amin(0), poses.amax(0)
    wanted = [(-20, 20), (0, 1), (0.72, 1), (-8, 8), (-8, 8), (-8, 8), (0.85, 1.15)]
    for name, a, b, (first, last) in zip(Pose._fields, low, high, wanted, strict=True):
        assert first - 1e-5 <= a <= first + 0.05 * (last - first), name
        assert last - 0.05 * (last - first) <= b <= last + 1e-5, name
    assert 150 < poses[:, 1].sum() < 250


def test_members_are_what_their_poses_say_and_the_same_each_time():
    image = rectangle(20, 30, 10, 24, (200, 90, 40))
    images, poses = family.members(image, 3, seed=5)
    again, _ = family.members(image, 3, seed=5)
    other, _ = family.members(image, 3, seed=6)
    assert torch.equal(images, again) and not torch.equal(images, other)
    for one, pose in zip(images, poses, strict=True):
        assert torch.equal(one, family.apply_poses(image[None], pose[None])[0])
    assert len({tuple(pose.tolist()) for pose in poses}) == 3


def test_a_batch_of_pictures_is_posed_picture_by_picture():
    pictures = torch.stack([APPLE, rectangle(5, 5, 30, 12, (250, 10, 10))])
    poses = torch.tensor([STILL._replace(angle=15, hue=8), STILL._replace(mirror=1, scale=0.8)])
    together = family.apply_poses(pictures, poses)
    for i in range(2):
        alone = family.apply_poses(pictures[i : i + 1], poses[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, atol=1, rtol=0)
