"""What carries a watermark: the garments and the emoji, each drawn from given noise and inverted
by somebody who has the pictures alone."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddim_tutorial import zoo
from ddim_tutorial.attacks import in_8_bits
from ddim_tutorial.grids import quantise
from ddim_tutorial.guidance import cfg
from ddim_tutorial.inversion import invert, invert_exact
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import sample
from ddim_tutorial.schedule import Schedule
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import classify
from ddim_tutorial.training.evaluate.subjects import ending_at_1

BATCH = 40
METHODS = {"naive": invert, "exact": partial(invert_exact, tol=1e-4, max_iter=20)}


class Judged(NamedTuple):
    """What a judge says of pictures: features (N, d), and whether each shows what was asked for,
    (N,) bool."""

    features: Tensor
    right: Tensor


class Carrier(NamedTuple):
    """name, sha256: of the weights. shape: of x_T, (C, H, W). scale: the guidance that pictures
    are drawn with unless a row says another.

    draw: (x_T, scale, steps) -> pictures of 8 bits; picture i is of prompt i. invert: (pictures,
    method of METHODS, steps, known) -> x_T: with the empty condition, or where ``known`` with each
    picture's own at scale 1. judge: pictures -> Judged. real: pictures of the data, or
    None.
    """

    name: str
    sha256: str
    shape: tuple[int, ...]
    scale: float
    draw: Callable[[Tensor, float, int], Tensor]
    invert: Callable[[Tensor, str, int, bool], Tensor]
    judge: Callable[[Tensor], Judged]
    real: Tensor | None


def in_parts(
    x: Tensor,
    run: Callable[[Tensor, list[int]], Tensor],
    device: torch.device | str = "cpu",
    batch: int = BATCH,
) -> Tensor:
    """``run`` on parts of x, moved to ``device``, with the places of their pictures; joined on the
    CPU."""
    places = torch.arange(len(x)).split(batch)
    return torch.cat([run(x[part].to(device), part.tolist()).cpu() for part in places])


def inverted(
    method: str, model: EpsModel, x_0: Tensor, grid: list[int], schedule: Schedule
) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # not every picture need be solved
        return METHODS[method](model, x_0, grid, schedule).x_T


def fashion(folder: Path | None, run: Path) -> Carrier:
    """Picture i is of class i mod 10. Inversion ends at t = 1."""
    bundle = zoo.load(folder or zoo.ZOO / "fashion")
    T, schedule = bundle.schedule.T, bundle.schedule

    def labels(places: list[int]) -> Tensor:
        return torch.tensor(places) % 10

    def draw(x_T: Tensor, scale: float, steps: int) -> Tensor:
        def part(x: Tensor, places: list[int]) -> Tensor:
            model = cfg(bundle.conditional(labels(places)), bundle.model, scale)
            return in_8_bits(sample(model, x, times(T, steps), schedule))

        return in_parts(x_T, part, bundle.device)

    def back(x_0: Tensor, method: str, steps: int, known: bool) -> Tensor:
        grid = ending_at_1(times(T, steps))

        def part(x: Tensor, places: list[int]) -> Tensor:
            model = bundle.conditional(labels(places)) if known else bundle.model
            return inverted(method, model, x, grid, schedule)

        return in_parts(x_0, part, bundle.device)

    def judge(x: Tensor) -> Judged:
        features, seen = classify(bundle.classifier, x)
        return Judged(features, seen == labels(list(range(len(x)))))

    real = bundle.examples.images if bundle.examples else None
    return Carrier("fashion", bundle.sha256, bundle.shape, 1.0, draw, back, judge, real)


def emoji(folder: Path | None, run: Path) -> Carrier:
    """Picture i is of trained prompt i of the data of ``run``, by a fixed seed. Inversion walks the
    pipeline's grid."""
    from ddim_tutorial.training.emoji.data import read_data
    from ddim_tutorial.training.emoji.evaluate import require_split, some_rows
    from ddim_tutorial.training.emoji.judge import judged

    bundle = zoo.load(folder or zoo.ZOO / "emoji")
    data = read_data(run / "data.safetensors")
    require_split(data, bundle.folder, run / "data.safetensors")
    rows = some_rows(data, len(data.images))
    prompts = data.captions(rows.tolist())
    plain = bundle.space("", scale=1.0)

    def draw(z_T: Tensor, scale: float, steps: int) -> Tensor:
        def part(z: Tensor, places: list[int]) -> Tensor:
            space = bundle.space([prompts[i] for i in places], scale=scale)
            z_0 = sample(space.model, z, space.times(steps), space.schedule)
            return in_8_bits(space.decode(z_0))

        return in_parts(z_T, part, bundle.device)

    def back(x_0: Tensor, method: str, steps: int, known: bool) -> Tensor:
        def part(x: Tensor, places: list[int]) -> Tensor:
            space = bundle.space([prompts[i] for i in places], scale=1.0) if known else plain
            z_0 = space.encode(x)
            return inverted(method, space.model, z_0, space.times(steps), space.schedule)

        return in_parts(x_0, part, bundle.device)

    network = bundle.classifier

    def judge(x: Tensor) -> Judged:
        seen, _ = judged(network, quantise(x))
        with torch.inference_mode():
            features = torch.cat([network.features(part) for part in x.split(100)])
        return Judged(features, seen == data.objects[rows[: len(x)]])

    real = bundle.examples.images if bundle.examples else None
    return Carrier("emoji", bundle.sha256, bundle.shape, 4.0, draw, back, judge, real)


CARRIERS = {"fashion": fashion, "emoji": emoji}
