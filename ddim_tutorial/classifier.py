r"""A small convolutional classifier: the judge of generated pictures, and, told the time, a guide
for the sampler.

A guide sees x_t and t, so that the gradient of log p(y | x_t) means something at every noise level
(Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.1). Its features are also the space of the
Fréchet distance in :mod:`ddim_tutorial.training.evaluate`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim_tutorial.files import save_network


class Block(nn.Module):
    """Residual block that halves the picture; the time, where there is one, is added between the
    two convolutions."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int):
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(8, channels_out)
        self.conv1 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.time = nn.Linear(time_dim, channels_out) if time_dim else None

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        x = self.down(x)
        h = self.conv1(F.silu(self.norm1(x)))
        if embedding is not None and self.time is not None:
            h = h + self.time(embedding)[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(h)))


class Classifier(nn.Module):
    """``forward(x, t=None) -> logits (B, classes)`` for pictures x: (B, channels, H, W) in [-1, 1],
    or x_t and its t.

    Built with ``time=True`` it wants t: (B,) int in 0..T, 0 = clean; built without, it refuses one.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 96),
        time: bool = False,
    ):
        super().__init__()
        self.config = {
            "classes": classes,
            "channels": channels,
            "widths": list(widths),
            "time": time,
        }
        self.time_dim = 4 * widths[0] if time else 0
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.embed = (
            nn.Sequential(nn.Linear(self.time_dim, self.time_dim), nn.SiLU()) if time else None
        )
        pairs = zip(widths, (*widths[1:], widths[-1]), strict=True)
        self.blocks = nn.ModuleList([Block(a, b, self.time_dim) for a, b in pairs])
        self.norm = nn.GroupNorm(8, widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The (B, widths[-1]) vector before the last layer: averages over the last map."""
        if (t is None) != (self.embed is None):
            given, expected = ("a t", "the picture alone")
            if t is None:
                given, expected = ("no t", "t: (B,) int in 0..T")
            raise ValueError(
                f"t: got {given}, but a classifier built with time={self.embed is not None} takes"
                f" {expected}"
            )
        embedding = None
        if t is not None and self.embed is not None:
            embedding = self.embed(time_embedding(t, self.time_dim).to(x.dtype))
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, embedding)
        return F.silu(self.norm(h)).mean((2, 3))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, t))

    def log_prob(self, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The function ``(x_t, t) -> log p(labels | x_t)``, shape (B,), that
        :func:`guidance.classifier` takes."""
        return lambda x_t, t: F.log_softmax(self(x_t, t).float(), -1).gather(1, labels[:, None])[
            :, 0
        ]

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (fp16) into ``folder``; ``zoo.load`` reads
        them."""
        save_network(self, folder)


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t: (B,) with wavelengths from 2 pi to 2 pi 10^4, shape (B, dim) (DDPM's position
    embedding)."""
    frequencies = torch.exp(
        -math.log(10_000) / (dim // 2) * torch.arange(dim // 2, device=t.device)
    )
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
