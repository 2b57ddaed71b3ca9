"""Edits against what SciPy and Pillow make of the same pictures, and PGD where the answer is
known."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from ddim_tutorial import attacks, generators
from ddim_tutorial.attacks import EDITS, in_8_bits, pgd, project

STEP = 2 / 255  # of 8 bits


def pictures(channels=3, size=(16, 12), batch=2, smooth=2.0):
    x = np.random.default_rng(0).normal(size=(batch, channels, *size))
    x = ndimage.gaussian_filter(x, (0, 0, smooth, smooth))
    return torch.from_numpy(x / abs(x).max()).float()


def test_8_bits_are_the_nearest_of_256_levels():
    levels = np.linspace(-1, 1, 256)
    for channels in (1, 3):
        x = 1.2 * pictures(channels)
        near = levels[abs(x.numpy()[..., None] - levels).argmin(-1)]
        np.testing.assert_allclose(in_8_bits(x), near, atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_counter_clockwise(turns):
    x = in_8_bits(pictures(size=(12, 12)))
    turned = attacks.rotate(x, degrees=90.0 * turns)
    assert (turned - torch.rot90(x, turns, (2, 3))).abs().max() <= 1.01 * STEP


def test_a_turn_is_that_of_scipy_inside_the_circle():
    x = pictures(size=(24, 32), smooth=3.0)
    turned = attacks.rotate(x, degrees=15.0)
    peer = ndimage.rotate(x.numpy(), 15.0, (3, 2), reshape=False, order=1)
    down, right = np.mgrid[-11.5:12, -15.5:16]
    inside = np.hypot(down, right) < 11
    assert abs(turned.numpy() - peer)[:, :, inside].max() <= 1.01 * STEP


@pytest.mark.parametrize("std", [-1.0, 0.0, float("nan"), True])
def test_a_blur_without_a_width_is_refused(std):
    with pytest.raises(ValueError, match=f"std={std}: pass a finite number above 0"):
        attacks.blur(torch.zeros(1, 1, 8, 8), std=std)


def test_a_blur_is_that_of_scipy():
    x = pictures(smooth=0.5)
    peer = ndimage.gaussian_filter(x.numpy(), (0, 0, 1, 1), mode="nearest", truncate=3)
    assert (attacks.blur(x, std=1.0) - torch.from_numpy(peer)).abs().max() <= 1.01 * STEP


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_file_of_pillow(channels):
    x = pictures(channels)
    seen = attacks.jpeg(x, quality=25)
    for i in range(2):
        pixels = np.round((x[i].numpy() + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
        file = BytesIO()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "JPEG", quality=25)
        peer = np.asarray(Image.open(file)).reshape(16, 12, channels).transpose(2, 0, 1)
        np.testing.assert_allclose(seen[i], peer / 127.5 - 1, atol=1e-6)
    assert (seen - attacks.jpeg(x, quality=95)).abs().max() > 3 * STEP


@pytest.mark.parametrize("axis", ["right", "down"])
def test_a_crop_is_a_part_enlarged(axis):
    """Of a ramp it is a ramp again, flatter by the share of the side, from a place by chance."""
    ramp = torch.linspace(-0.9, 0.9, 32).expand(64, 1, 32, 32).contiguous()
    x = ramp if axis == "right" else ramp.transpose(2, 3).contiguous()
    seen = attacks.crop(x, generators(range(64)), share=0.75)
    seen = seen if axis == "right" else seen.transpose(2, 3)
    slopes = seen[:, 0, 16, 24] - seen[:, 0, 16, 8]
    wanted = (ramp[0, 0, 0, 16] - ramp[0, 0, 0, 0]) * 28 / 32
    assert (slopes - wanted).abs().max() <= 2.01 * STEP
    firsts = seen[:, 0, 16, 0].unique()
    assert len(firsts) == 32 - 28 + 1 and firsts[0] == pytest.approx(-0.9, abs=STEP)


def test_noise_and_brightness_have_the_size_that_their_names_say():
    grey = torch.zeros(200, 1, 32, 32)
    grain = EDITS["noise .1"](grey, generators(range(200)))
    assert grain.std().item() == pytest.approx(0.2, abs=3e-3) and abs(grain.mean()) < 2e-3
    factors = EDITS["brightness .5 to 1.5"](grey - 0.5, generators(range(200))) + 1
    assert (factors.amax((1, 2, 3)) == factors.amin((1, 2, 3))).all()
    factors = factors[:, 0, 0, 0] / 0.5
    assert 0.5 - STEP <= factors.min() < 0.53 and 1.47 < factors.max() <= 1.5 + STEP
    assert factors.mean().item() == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("name", EDITS)
def test_a_picture_is_edited_by_its_own_seed(name):
    x = pictures(1, (16, 16), batch=3)
    together = EDITS[name](x, generators([5, 6, 7]))
    alone = EDITS[name](x[1:2], generators([6]))
    assert (together[1:2] - alone).abs().max() <= 1.01 * STEP
    assert together.shape == x.shape and together.abs().max() <= 1
    assert (in_8_bits(together) - together).abs().max() <= 1e-6


def test_pgd_on_a_linear_loss_ends_in_the_corner():
    """Where the loss is w . x, the largest is x_0 + radius sign(w), cut to [-1, 1]."""
    x_0, w = pictures(1), torch.randn(2, 1, 16, 12)
    found = pgd(lambda x: (w * x).flatten(1).sum(1), x_0, 0.3, generator=generators([0, 1]))
    torch.testing.assert_close(found, (x_0 + 0.3 * w.sign()).clamp(-1, 1))
    assert not found.requires_grad


def test_pgd_on_a_hill_goes_to_its_top_or_as_near_as_it_may():
    x_0, top = pictures(1), 0.6 * torch.randn(2, 1, 16, 12).clamp(-1, 1)
    found = pgd(lambda x: -(x - top).square().flatten(1).sum(1), x_0, 0.4, step=0.01, steps=100)
    nearest = (top - x_0).clamp(-0.4, 0.4) + x_0
    assert (found - nearest).abs().max() <= 0.011


def test_it_starts_anywhere_within_the_radius_and_steps_by_an_eighth_of_it():
    x_0 = torch.zeros(1, 1, 8, 8)
    still, moved = (
        pgd(lambda x, way=way: way * x.flatten(1).sum(1), x_0, 0.8, steps=1,
            generator=generators([3]))
        for way in (0.0, 1.0)
    )  # fmt: skip
    assert still.abs().max() <= 0.8 and still.std().item() == pytest.approx(0.8 / 3**0.5, abs=0.1)
    inside = moved < 0.8
    assert inside.any()
    torch.testing.assert_close((moved - still)[inside], torch.full_like(still, 0.1)[inside])


@pytest.mark.parametrize("radius", [0.2, 0.9])
def test_the_projection_is_a_clip(radius):
    x, x_0 = 2 * torch.randn(2, 1, 5, 5), pictures(1, (5, 5))
    near = np.clip(x.numpy(), x_0.numpy() - radius, x_0.numpy() + radius)
    np.testing.assert_array_equal(project(x, x_0, radius), np.clip(near, -1, 1))


def test_pgd_works_where_gradients_are_off_and_refuses_what_makes_no_sense():
    x_0 = pictures(1)
    with torch.no_grad():
        pgd(lambda x: x.flatten(1).sum(1), x_0, 0.1)
    for options, match in (({"radius": -1}, "radius=-1"), ({"steps": 0}, "steps=0")):
        with pytest.raises(ValueError, match=match):
            pgd(lambda x: x.flatten(1).sum(1), x_0, **({"radius": 0.1} | options))
    with pytest.raises(ValueError, match="share=0"):
        attacks.crop(x_0, share=0)
    with pytest.raises(ValueError, match="quality=0"):
        attacks.jpeg(x_0, quality=0)
