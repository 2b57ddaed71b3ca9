"""A judge and an autoencoder whose answers are known."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


class Known(nn.Module):
    """Logits that name object and style by the level of the rectangle in conftest's pictures, or
    always the first of both."""

    def __init__(self, objects: int, blind: bool = False):
        super().__init__()
        self.objects, self.blind = objects, blind
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        logits = torch.zeros(len(x), self.objects + 4)
        for row, picture in zip(logits, x, strict=True):
            level = ((picture[0].flatten() + 1) * 127.5).sort().values[:300].median()
            i = 0 if self.blind else int((level / 5).round().clamp(0, 4 * self.objects - 1))
            row[i // 4] = row[self.objects + i % 4] = 1
        return self.scale * logits


class Pooling(nn.Module):
    """An autoencoder that keeps the mean of every 4 x 4 grey pixels, in four channels that are
    alike, and scales it by a half."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(scaling_factor=0.5, block_out_channels=(1, 1, 1), latent_channels=4)

    def encode(self, x):
        mean = F.avg_pool2d(x.mean(1, keepdim=True), 4).expand(-1, 4, -1, -1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))

    def decode(self, z):
        return SimpleNamespace(sample=F.interpolate(z[:, :3], scale_factor=4, mode="nearest"))
