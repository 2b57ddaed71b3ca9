"""The small GAN: the code search against a closed form, its losses kept apart, and the weights read
back."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddim_tutorial import zoo
from ddim_tutorial.gan import Generator, search_code
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.training.gan import Pair, gan_loss, new_discriminator

PICTURES = torch.randint(
    256, (40, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


class Linear(nn.Module):
    """A generator whose best code is known: least squares."""

    def __init__(self):
        super().__init__()
        self.config = {"latent": 3}
        self.basis = nn.Parameter(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, z):
        return (z @ self.basis).view(-1, 1, 8, 8)


def test_the_search_finds_the_least_squares_code_of_a_linear_generator():
    generator = Linear().requires_grad_(False)
    x_0 = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    found = search_code(generator, x_0, starts=3, steps=300)
    best = torch.linalg.lstsq(generator.basis.T, x_0.flatten(1).T).solution.T
    torch.testing.assert_close(found.z, best, rtol=0, atol=1e-3)
    wanted = (generator(best) - x_0).square().mean((1, 2, 3))
    torch.testing.assert_close(found.mse, wanted[:, None].expand(4, 3), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.x, generator(found.z))
    assert found.evaluations == 900


def test_the_best_of_all_starts_is_returned_and_no_picture_sees_another():
    torch.manual_seed(0)
    generator = Generator(latent=5, widths=(8, 8, 4, 4)).eval().requires_grad_(False)
    x_0 = from_uint8(PICTURES[:3])
    found = search_code(generator, x_0, starts=4, steps=5)
    assert found.mse.shape == (3, 4) and found.mse.std(1).min() > 0
    torch.testing.assert_close((found.x - x_0).square().mean((1, 2, 3)), found.mse.amin(1))
    other = search_code(generator, torch.cat([x_0[:1], -x_0[1:]]), starts=4, steps=5)
    torch.testing.assert_close(found.z[0], other.z[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.z[1], other.z[1], atol=1e-3)


def test_pictures_and_codes_of_another_shape_are_refused():
    generator = Generator(latent=5, widths=(8, 8, 4, 4)).eval()
    with pytest.raises(
        ValueError, match=r"x_0: got pictures of shape \(3, 32, 32\), the generator draws \(1, 32"
    ):
        search_code(generator, torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"z: got shape \(2, 4\), wanted \(B, 5\)"):
        generator(torch.zeros(2, 4))


def test_each_network_is_trained_by_its_own_loss():
    """The summed loss gives the discriminator the gradient of its loss alone, and the generator of
    its own alone."""
    torch.manual_seed(0)
    pair = Pair(Generator(latent=3, widths=(8, 8, 4, 4)), new_discriminator(widths=(4, 8))).eval()
    torch.manual_seed(1)
    loss, figures = gan_loss(pair, PICTURES, 6)
    loss.backward()
    torch.manual_seed(1)
    real = from_uint8(PICTURES[torch.randint(len(PICTURES), (6,))])
    fake, judge = pair.generator(torch.randn(6, 3)), pair.discriminator
    loss_d = (
        F.binary_cross_entropy_with_logits(
            judge(torch.cat([real, fake.detach()])),
            torch.cat([torch.ones(6, 1), torch.zeros(6, 1)]),
        )
        * 2
    )
    loss_g = F.binary_cross_entropy_with_logits(judge(fake), torch.ones(6, 1))
    for name, own in (("discriminator", loss_d), ("generator", loss_g)):
        torch.testing.assert_close(figures[name], own)
        parameters = list(getattr(pair, name).parameters())
        for parameter, wanted in zip(
            parameters, torch.autograd.grad(own, parameters, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)


def test_the_generator_is_read_back_and_a_changed_file_refused(tmp_path):
    torch.manual_seed(0)
    generator = Generator(latent=5, widths=(8, 8, 4, 4))
    generator.save(tmp_path)
    zoo.write_card(tmp_path, {"name": "tiny"})
    z = torch.randn(2, 5)
    torch.testing.assert_close(
        zoo.load_generator(tmp_path, "cpu")(z), generator.eval()(z), rtol=0, atol=2e-3
    )
    with pytest.raises(ValueError, match="not a diffusion model"):
        zoo.load(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="its sha256 is"):
        zoo.load_generator(tmp_path)
