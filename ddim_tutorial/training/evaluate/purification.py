"""What noise and a walk back (DiffPure, Nie et al. 2022, arXiv:2205.07460) save of a classifier's
accuracy under attack: a row for an attack, a purifier and the number of its draws.

python -m ddim_tutorial.training.evaluate.purification --part attacks curves --pictures 500
    -> notebooks/data/purification_fashion.json

The pictures are Fashion-MNIST's test pictures, as many of each class. Rows stand alone: a run that
is stopped goes on with the row where it was, a row of fewer pictures is measured again, and a table
of other weights is begun anew.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim_tutorial import zoo
from ddim_tutorial.attacks import pgd
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import rms
from ddim_tutorial.noise import Generators, generators, randn
from ddim_tutorial.predict import add_noise
from ddim_tutorial.sampling import sample
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import balanced
from ddim_tutorial.training.evaluate.rows import Row, fill, versions
from ddim_tutorial.training.evaluate.tables import TABLES
from ddim_tutorial.training.fashion_data import DATA, read_data

BATCH = 100
EPS = (4, 8, 16, 25.5)  # of 255, pictures in [0, 1]
FIXED = 999_999  # the one seed of all pictures, where the noise is fixed
ATTACKS = {"none": 0, "plain": 20, "adaptive": 20, "adaptive, fixed noise": 20}  # PGD's steps


def purify(bundle: zoo.Bundle, x: Tensor, t: int, S: int, eta: float, noise: Generators) -> Tensor:
    """x noised to t and walked back by the network without a label; x itself for S = 0. ``noise``:
    one generator for each picture, or one for all. Gradients pass if x requires them."""
    if not S:
        return x
    fresh = randn(x.shape, noise).to(x)
    x_t = add_noise(x, fresh, bundle.schedule.level(t))
    return sample(bundle.model, x_t, times(t, S), bundle.schedule, eta=eta, generator=noise)


def fixed(count: int) -> list[torch.Generator]:
    """Generators that give every picture the same noise, every time."""
    return generators([FIXED] * count)


def seeds(draw: int, places: Sequence[int]) -> list[torch.Generator]:
    """The generators of a draw of purification, one for each picture."""
    return generators([(1 + draw) * 100_000 + i for i in places])


def attacked(
    bundle: zoo.Bundle, x: Tensor, y: Tensor, attack: str, eps: float, eot: int, how: Row
) -> Tensor:
    """The pictures that the attack leaves: "plain" sees the classifier alone, "adaptive" the
    purifier before it, with the mean loss over ``eot`` draws of its noise a step (expectation over
    transformation, Athalye et al. 2018, arXiv:1707.07397), or with the noise it knows."""
    if attack == "none":
        return x
    own = torch.Generator().manual_seed(len(x))

    def loss(z: Tensor) -> Tensor:
        if attack == "plain":
            return F.cross_entropy(bundle.classifier(z), y, reduction="none")
        total = torch.zeros(len(z))
        for _ in range(eot):
            noise = fixed(len(z)) if attack.endswith("fixed noise") else own
            seen = bundle.classifier(purify(bundle, z, **how, noise=noise))
            total = total + F.cross_entropy(seen, y, reduction="none")
        return total / eot

    start = generators(range(len(x)))
    return pgd(loss, x, 2 * eps / 255, steps=ATTACKS[attack], generator=start)


def shares(right: Tensor) -> dict[str, float]:
    """Of (draws, N) bool, right or not: the mean; of more than one draw the share of pictures that
    all have right, and of nine or more the share that most of nine have right."""
    found = {"fresh": right.double().mean().item()}
    if len(right) > 1:
        found[f"worst of {len(right)}"] = right.all(0).double().mean().item()
    if len(right) >= 9:
        found["majority of 9"] = (right[:9].sum(0) >= 5).double().mean().item()
    return found


def judged(bundle: zoo.Bundle, x: Tensor, y: Tensor, draws: int, how: Row) -> tuple[Row, Tensor]:
    """:func:`shares` of purified pictures, of several draws also the share right with the fixed
    noise, and the pictures of the first draw."""

    def right(noise: Callable[[list[int]], Generators]) -> tuple[Tensor, Tensor]:
        hits, pictures = [], []
        for part in torch.arange(len(x)).split(BATCH):
            with torch.no_grad():
                pure = purify(bundle, x[part], **how, noise=noise(part.tolist()))
                hits.append(bundle.classifier(pure).argmax(1) == y[part])
            pictures.append(pure)
        return torch.cat(hits), torch.cat(pictures)

    rows = [right(lambda places, d=d: seeds(d, places)) for d in range(draws)]
    found = shares(torch.stack([hits for hits, _ in rows]))
    if draws > 1:
        known, _ = right(lambda places: fixed(len(places)))
        found["fixed"] = known.double().mean().item()
    return found, rows[0][1]


def measurer(bundle: zoo.Bundle, x: Tensor, y: Tensor) -> Callable[..., Row]:
    """The function that measures one row on pictures x (N, 1, 32, 32) of classes y (N,)."""

    @lru_cache(maxsize=8)
    def pictures(attack: str, eps: float, eot: int, t: int, S: int, eta: float) -> Tensor:
        how = {"t": t, "S": S, "eta": eta}
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat([attacked(bundle, *part, attack, eps, eot, how) for part in parts])

    def measure(attack: str, eps: float, eot: int, t: int, S: int, eta: float, draws: int) -> Row:
        sees = (t, S, eta) if attack.startswith("adaptive") else (0, 0, 0.0)
        seen = pictures(attack, eps, eot, *sees)
        row, pure = judged(bundle, seen, y, draws, {"t": t, "S": S, "eta": eta})
        return {"accuracy": row, "rms to the picture": rms(pure, x)}

    return measure


def plan(part: str) -> list[Row]:
    """The rows of a part of the table."""
    usual: Row = {
        "attack": "plain", "eps": 16, "eot": 1, "t": 150, "S": 5, "eta": 0.0, "draws": 1
    }  # fmt: skip
    none: Row = {"attack": "none", "eps": 0}
    curves: list[Row] = [{"t": t} for t in (50, 100, 150, 200, 300)]
    curves += [{"S": S} for S in (1, 2, 10, 20)]
    curves += [{"eta": eta} for eta in (0.5, 1.0)]
    curves += [{"t": 200, "S": 10, "eta": 1.0}]
    ten = {"draws": 10}
    fresh, known = {"attack": "adaptive"}, {"attack": "adaptive, fixed noise"}
    parts: dict[str, list[Row]] = {
        "attacks": [none | {"t": 0, "S": 0}, *({"eps": e, "t": 0, "S": 0} for e in EPS)],
        "strengths": [{"eps": eps} for eps in EPS],
        "curves": [row | attack for row in curves for attack in (none, {})],
        "draws": [row | ten | {"S": S} for S in (1, 5) for row in (none, {})],
        "adaptive": [
            *(row | ten | {"S": 1} for row in (fresh | {"eot": 1}, fresh | {"eot": 8}, known)),
            *(row | ten | {"S": 5} for row in (fresh | {"eot": 2}, known)),
        ],
    }
    return [usual | change for change in parts[part]]


PARTS = ("attacks", "strengths", "curves", "draws", "adaptive")


def main(arguments: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.evaluate.purification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pictures", type=int, default=100, help="a multiple of 10")
    parser.add_argument("--folder", type=Path, help="the model, instead of the bundled one")
    parser.add_argument("--data", type=Path, default=DATA, help="Fashion-MNIST's four .gz files")
    asked = parser.parse_args(arguments)
    bundle = zoo.load(asked.folder or zoo.ZOO / "fashion")
    images, labels = read_data(asked.data, "test")
    chosen = balanced(labels, asked.pictures // 10)
    x, y = (part.to(bundle.device) for part in (from_uint8(images[chosen]), labels[chosen]))
    measure = measurer(bundle, x, y)
    header: dict[str, Any] = {
        "command": "python -m ddim_tutorial.training.evaluate.purification",
        "model": bundle.name,
        "sha256": bundle.sha256,
        "versions": versions(),
        "what": (
            "test pictures (--pictures), as many of each class; eps of 255, PGD of 20 steps of"
            f" eps / 8 ({BATCH} pictures at a time, not rounded); t, S, eta: the purifier, without"
            " a label, S = 0: none; fresh: mean accuracy over the draws; fixed: one noise for all"
        ),
    }
    for part in asked.part:
        path = TABLES / "purification_fashion.json"
        fill(path, header, plan(part), len(chosen), measure)


if __name__ == "__main__":
    main()
