r"""A small GAN and its inversion by optimisation: what inverting costs where there is no way back.

A GAN's generator has no encoder and no inverse, so a latent code for a picture has to be searched
for (Zhu et al. 2016, arXiv:1609.03552; Creswell & Bharath 2016, arXiv:1611.05644). Notebook 03 sets
this beside DDIM inversion.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddim_tutorial.files import save_network


class Generator(nn.Module):
    """``forward(z) -> x``: z (B, latent), N(0, I), to pictures (B, channels, 8 size, 8 size) in
    [-1, 1].

    The DCGAN (Radford et al. 2016, arXiv:1511.06434) with nearest-neighbour enlargement and a
    convolution in place of each transposed convolution, which would leave a chequered pattern.
    """

    def __init__(
        self,
        latent: int = 64,
        widths: Sequence[int] = (128, 64, 32, 16),
        channels: int = 1,
        size: int = 4,
    ):
        super().__init__()
        self.config = {"latent": latent, "widths": list(widths), "channels": channels, "size": size}
        layers: list[nn.Module] = [
            nn.Linear(latent, widths[0] * size**2),
            nn.Unflatten(1, (widths[0], size, size)),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for a, b in pairwise(widths):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.config["latent"]:
            raise ValueError(f"z: got shape {tuple(z.shape)}, wanted (B, {self.config['latent']})")
        return self.layers(z)

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (fp16) into ``folder``; ``zoo.load_generator``
        reads them."""
        save_network(self, folder)


class CodeSearch(NamedTuple):
    """What :func:`search_code` found: z (B, latent) and its picture x (B, C, H, W), the best of all
    starts; mse (B, starts), where each start ended; evaluations, the passes through the generator
    and back a picture."""

    z: Tensor
    x: Tensor
    mse: Tensor
    evaluations: int


def search_code(
    generator: nn.Module,
    x_0: Tensor,
    *,
    starts: int = 4,
    steps: int = 200,
    lr: float = 0.1,
    seed: int = 0,
) -> CodeSearch:
    r"""GAN inversion: :math:`z^* = \arg\min_z \lVert g(z) - x_0 \rVert^2` by Adam, from ``starts``
    draws of N(0, I).

    x_0: (B, C, H, W) in [-1, 1]; the generator in eval mode. Every picture has its own codes, and
    no code sees another. Raises ValueError for a picture that is not of the generator's shape.
    """
    code = generator.config["latent"]
    z = torch.randn(len(x_0) * starts, code, generator=torch.Generator().manual_seed(seed)).to(
        x_0.device
    )
    z.requires_grad_()
    with torch.no_grad():
        shape = generator(z[:1]).shape[1:]
    if x_0.shape[1:] != shape:
        raise ValueError(
            f"x_0: got pictures of shape {tuple(x_0.shape[1:])}, the generator draws {tuple(shape)}"
        )
    target = x_0.repeat_interleave(starts, 0)
    optimizer = torch.optim.Adam([z], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (generator(z) - target).square().flatten(1).mean(1).sum().backward()
        optimizer.step()
    with torch.no_grad():
        x = generator(z)
        mse = (x - target).square().flatten(1).mean(1).view(len(x_0), starts)
        best = mse.argmin(1) + starts * torch.arange(len(x_0), device=x_0.device)
        return CodeSearch(z[best].detach(), x[best], mse, starts * steps)
