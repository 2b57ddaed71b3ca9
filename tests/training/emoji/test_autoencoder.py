"""The autoencoder: its loss, what it is trained on, and its latents."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from ddim_tutorial.grids import from_uint8
from ddim_tutorial.training.emoji import __main__ as command
from ddim_tutorial.training.emoji import autoencoder as recipe
from ddim_tutorial.training.emoji import networks


def test_shifted_pictures():
    images = torch.full((64, 3, 20, 20), 255, dtype=torch.uint8)
    images[:, :, 8, 6] = 0
    moved = recipe.shifted(images)
    assert moved.dtype == torch.uint8 and moved.shape == images.shape
    where = (moved[:, 0] == 0).nonzero()
    assert len(where) == 64 and (moved == 0).sum() == 3 * 64
    assert set(where[:, 1].tolist()) == set(range(4, 13))
    assert set(where[:, 2].tolist()) <= set(range(2, 11)) | set(range(9, 18))
    assert min(where[:, 2]) < 5 and max(where[:, 2]) > 14


def test_centre_moves_the_latents_and_keeps_the_pictures(tiny_vae):
    images = torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)
    x = from_uint8(images)
    with torch.no_grad():
        before = tiny_vae(x).sample
        recipe.centre(tiny_vae, images)
        torch.testing.assert_close(tiny_vae(x).sample, before, atol=1e-5, rtol=1e-4)
    mean, _ = recipe.encode(tiny_vae, images)
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    scaled = mean.std() * tiny_vae.config.scaling_factor
    torch.testing.assert_close(scaled, torch.tensor(1.0), atol=1e-3, rtol=0)


def test_encode_and_decode_are_the_autoencoders_own_in_any_batch(tiny_vae):
    images = torch.randint(256, (5, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        posterior = tiny_vae.encode(from_uint8(images)).latent_dist
        decoded = tiny_vae.decode(posterior.mean).sample
    mean, std = recipe.encode(tiny_vae, images, batch=2)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(std, posterior.std, atol=1e-5, rtol=1e-4)
    seen = recipe.decode(tiny_vae, mean, batch=2)
    assert seen.dtype == torch.uint8
    error = seen.float() / 127.5 - 1 - decoded.clamp(-1, 1)
    assert error.abs().max() <= 0.5 / 127.5 + 1e-4


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_autoencoder_learns_from_training_pictures_alone(
    small_data, tiny_vae, tmp_path, monkeypatch, precision
):
    """Training pictures are grey, the others random: the trained one has their latents centred, and
    has moved."""
    noise = torch.randint(256, small_data.images.shape, dtype=torch.uint8)
    train = small_data.split == 0
    images = torch.where(train.view(-1, 1, 1, 1), noise // 4 + 96, noise)
    monkeypatch.setattr(recipe, "read_data", lambda path: small_data._replace(images=images))
    monkeypatch.setattr(recipe, "new_vae", partial(networks.new_vae, (16, 16, 16)))
    seen, precisions, loss, fit = [], [], recipe.autoencoder_loss, recipe.fit

    def loss_and_look(net, images, batch):
        seen.append(images)
        return loss(net, images, batch)

    def fit_and_look(*given, precision, **options):
        precisions.append(precision)
        return fit(*given, precision="no", **options)

    monkeypatch.setattr(recipe, "autoencoder_loss", loss_and_look)
    monkeypatch.setattr(recipe, "fit", fit_and_look)
    settings = f"autoencoder --steps 3 --batch 4 --precision {precision}"
    command.main(["--run", str(tmp_path), *settings.split()])
    assert len(seen) == 3 and all(torch.equal(part, images[train]) for part in seen)
    assert precisions == [precision]
    (vae,) = networks.components(tmp_path, "vae")
    mean, _ = recipe.encode(vae, images[train])
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    scaled = mean.std() * vae.config.scaling_factor
    torch.testing.assert_close(scaled, torch.tensor(1.0), atol=1e-2, rtol=0)
    pairs = zip(vae.encoder.parameters(), tiny_vae.encoder.parameters(), strict=True)
    assert max((a - b).abs().max() for a, b in pairs) > 1e-5


class Fixed(nn.Module):
    """An autoencoder with a known reconstruction x + error, mean and log variance."""

    def __init__(self, error: float):
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, x):
        return x + self.error, torch.full((1, 4), 2.0), torch.full((1, 4), math.log(3.0))


def test_autoencoder_loss_of_a_known_error():
    """A constant error e: |e| + e^2, nothing in the Laplacian, and the KL divergence of N(2, 3) to
    N(0, 1)."""
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    loss, figures = recipe.autoencoder_loss(Fixed(0.5), images, 8)
    kl = 0.5 * (4 + 3 - 1 - math.log(3))
    seen = [loss.item(), figures["mse"].item(), figures["kl"].item()]
    assert seen == pytest.approx([0.5 + 0.25 + 1e-3 * kl, 0.25, kl], rel=1e-4)
