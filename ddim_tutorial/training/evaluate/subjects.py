"""What inversion is measured on: an exact mixture, the garments, the emoji, each as one subject
with its model, held-out pictures and grids."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_tutorial import analytic, zoo
from ddim_tutorial.guidance import cfg
from ddim_tutorial.metrics import psnr
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.schedule import Schedule, scaled_linear
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import balanced

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Subject(NamedTuple):
    """name, sha256: of the table's header; the mixture's is that of its means. x_0: (n, *dims),
    held-out pictures, or latents. model: of guidance at a scale, for these n. grids: by name, the
    number of steps to decreasing times. decode: latents to pictures, or None. floor: PSNR in dB of
    the pictures after encoding and decoding, or None."""

    name: str
    sha256: str
    schedule: Schedule
    x_0: Tensor
    model: Callable[[float], EpsModel]
    grids: dict[str, Callable[[int], list[int]]]
    decode: Callable[[Tensor], Tensor] | None = None
    floor: float | None = None


def by_name(T: int, schedule: Schedule) -> dict[str, Callable[[int], list[int]]]:
    """The grids that pixel models and the mixture are asked on: some to 0, the same to 1."""
    names = ("trailing", "quadratic", "logsnr")
    to_0 = {name: lambda S, name=name: times(T, S, name, schedule) for name in names}
    to_1 = {
        f"{name}, ends at 1": lambda S, name=name: ending_at_1(times(T, S, name, schedule))
        for name in names
    }
    return to_0 | to_1


def ending_at_1(grid: list[int]) -> list[int]:
    """The grid with its end moved from 0 to 1; one that holds 1 already stops there, a step
    sooner."""
    return grid[: grid.index(1) + 1] if 1 in grid else [*grid[:-1], 1]


def mixture(n: int, dtype: str, folder: Path | None = None) -> Subject:
    """Eight Gaussians of std 0.3 in 64 dimensions on Stable Diffusion's schedule, guided towards
    two of them; the data are draws of these two."""
    schedule = scaled_linear()
    own = torch.Generator().manual_seed(0)
    means = torch.randn(8, 64, generator=own, dtype=torch.float64)
    noise = torch.randn(n, 64, generator=own, dtype=torch.float64)
    everything = analytic.mixture(means, 0.3, torch.ones(8), schedule)
    two = analytic.mixture(means[:2], 0.3, torch.ones(2), schedule)
    return Subject(
        "mixture",
        hashlib.sha256(means.numpy().tobytes()).hexdigest(),
        schedule,
        (means[torch.arange(n) % 2] + 0.3 * noise).to(DTYPES[dtype]),
        lambda scale: cfg(two, everything, scale),
        by_name(schedule.T, schedule),
    )


def fashion(n: int, dtype: str, folder: Path | None = None) -> Subject:
    """The garments: the first n of the bundle's examples, one class after another."""
    bundle = zoo.load(folder or zoo.ZOO / "fashion", dtype=DTYPES[dtype])
    assert bundle.examples is not None
    per_class = -(-n // 10)
    chosen = balanced(bundle.examples.labels, per_class).view(10, per_class).T.flatten()[:n]
    labels = bundle.examples.labels[chosen].to(bundle.device)
    return Subject(
        bundle.name,
        bundle.sha256,
        bundle.schedule,
        bundle.examples.images[chosen].to(bundle.device, DTYPES[dtype]),
        lambda scale: cfg(bundle.conditional(labels), bundle.model, scale),
        by_name(bundle.schedule.T, bundle.schedule),
    )


def emoji(n: int, dtype: str, folder: Path | None = None) -> Subject:
    """The latent model: n of its held-out emoji, evenly spaced, each with its own caption; the
    grid "pipeline" is that of its scheduler."""
    bundle = zoo.load(folder or zoo.ZOO / "emoji", dtype=DTYPES[dtype])
    assert bundle.examples is not None
    chosen = torch.linspace(0, len(bundle.examples.images) - 1, n).round().long()
    x = bundle.examples.images[chosen].to(bundle.device, DTYPES[dtype])
    prompts = [bundle.captions[i] for i in chosen]
    space = bundle.space(prompts, scale=1.0)
    z_0 = space.encode(x)
    return Subject(
        bundle.name,
        bundle.sha256,
        bundle.schedule,
        z_0,
        lambda scale: bundle.space(prompts, scale=scale).model,
        {"pipeline": space.times} | by_name(bundle.schedule.T, bundle.schedule),
        space.decode,
        round(psnr(space.decode(z_0).clamp(-1, 1)[None], x[None]).item(), 1),
    )


SUBJECTS = {"mixture": mixture, "fashion": fashion, "emoji": emoji}
