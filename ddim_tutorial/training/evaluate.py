"""How good the bundled models are: each command measures, prints, and stores what it found.

    python -m ddim_tutorial.training.evaluate fashion          -> card.json, samples.png,
    examples.safetensors python -m ddim_tutorial.training.evaluate fashion-table1   ->
    notebooks/data/fashion_table1.json python -m ddim_tutorial.training.evaluate fashion-table2   ->
    notebooks/data/fashion_table2.json python -m ddim_tutorial.training.evaluate emoji            ->
    card.json, samples.png

Fréchet distances here are taken between features of the model's own clean classifier, so they
compare with each other and with the train-to-test distance beside them, never with distances
between Inception features.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddim_tutorial import zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.guidance import cfg
from ddim_tutorial.inversion import METHODS, round_trip
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.sampling import sample
from ddim_tutorial.schedule import times
from ddim_tutorial.training.fashion import DATA, NAMES, read_data, write_grid

TABLES = Path(__file__).parents[2] / "notebooks" / "data"
COMMAND = "python -m ddim_tutorial.training.evaluate"
SPACING = "trailing"
WEAKNESSES = [  # seen in samples.png and in the figures under "quality"
    (
        "shirts are confused with T-shirts, pullovers and coats, as the judge confuses real ones,"
        " but more often"
    ),
    (
        "some patterned garments come out as speckles without a pattern, and a few trousers without"
        " their gap"
    ),
]


def frechet(features_a: Tensor, features_b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features (N, d), N >= 2
    (Heusel et al. 2017,
    arXiv:1706.08500, Eq. 6). It falls with N: compare sets of equal size."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    passes_through = nn.Identity()
    passes_through.num_features = features_a.shape[1]
    metric = FrechetInceptionDistance(feature=passes_through).set_dtype(torch.float64)
    metric.update(features_a.double(), real=True)
    metric.update(features_b.double(), real=False)
    return metric.compute().item()


def nearest(x: Tensor, reference: Tensor) -> Tensor:
    """Root mean square difference of each x: (N, *dims) to the nearest of reference: (M, *dims),
    shape (N,)."""
    x, reference = x.flatten(1), reference.flatten(1)
    rows = [torch.cdist(part, reference).amin(1) for part in x.split(250)]
    return torch.cat(rows) / x.shape[1] ** 0.5


def classify(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, d) and labels (N,) that the clean classifier gives pictures x: (N, C, H, W) in
    [-1, 1]."""
    with torch.inference_mode():
        features = torch.cat([model.features(part) for part in x.split(500)])
        return features, model.head(features).argmax(1)


def balanced(labels: Tensor, per_class: int) -> Tensor:
    """Indices of the first ``per_class`` pictures of each class, class after class."""
    return torch.cat([(labels == c).nonzero()[:per_class, 0] for c in labels.unique()])


def bf16(model: EpsModel) -> EpsModel:
    """The network in bf16 where it gains by it (convolutions and products); the state stays
    float32."""

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return model(x_t, t).float()

    return eps


def draw(
    bundle: zoo.Bundle,
    labels: Tensor,
    steps: int,
    *,
    eta: float = 0.0,
    sigma_hat: bool = False,
    spacing: str = SPACING,
    batch: int = 100,
    autocast: bool = True,
) -> Tensor:
    """Pictures for labels (N,), guidance 1; picture i comes from seed i, whatever the steps, eta or
    batch."""
    parts = []
    for first in range(0, len(labels), batch):
        part = labels[first : first + batch]
        seeds = generators(range(first, first + len(part)))
        x_T = randn((len(part), *bundle.shape), seeds)
        model = bundle.conditional(part)
        parts.append(
            sample(
                bf16(model) if autocast else model,
                x_T,
                times(bundle.schedule.T, steps, spacing),
                bundle.schedule,
                eta=eta,
                sigma_hat=sigma_hat,
                generator=seeds,
            )
        )
        print(f"\r{first + len(part)}/{len(labels)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return torch.cat(parts)


def share(hits: Tensor) -> float:
    """The share of True in (N,), to four digits."""
    return round(hits.float().mean().item(), 4)


def quantiles(distances: Tensor) -> dict[str, float]:
    """Three quantiles of (N,) distances: the lowest is where copies would show."""
    return {
        name: round(distances.quantile(q).item(), 4)
        for name, q in (("1%", 0.01), ("10%", 0.1), ("50%", 0.5))
    }


def fashion_quality(
    bundle: zoo.Bundle, data: Path, per_class: int = 200
) -> tuple[dict[str, Any], Tensor]:
    """What the card says under "quality", and the pictures it was measured on, their classes 0..9
    in turn."""
    judge, labels = bundle.classifier, torch.arange(10).repeat(per_class)
    (train, train_labels), (test, test_labels) = read_data(data, "train"), read_data(data, "test")
    train, test = from_uint8(train), from_uint8(test)
    some_train, some_test = balanced(train_labels, per_class), balanced(test_labels, per_class)
    train_features, _ = classify(judge, train)
    test_features, test_seen = classify(judge, test)
    x = draw(bundle, labels, 50)
    in_float32 = draw(bundle, labels[:100], 50, autocast=False)
    features, seen = classify(judge, x)

    def by_class(seen: Tensor, labels: Tensor) -> dict[str, float]:
        return {name: share(seen[labels == c] == c) for c, name in enumerate(NAMES)}

    def distances(reference: Tensor) -> dict[str, float]:
        found, floor = frechet(features, reference), frechet(train_features[some_train], reference)
        return {
            "samples": round(found, 4),
            "as many training pictures": round(floor, 4),
            "ratio": round(found / floor, 2),
        }

    own = "Fréchet distance (own classifier's features, not Inception's) to"
    return {
        "classifier accuracy on the 10,000 test pictures": share(test_seen == test_labels),
        "samples": (
            f"{len(x)}, the same number of each class; {SPACING} grid, S=50, eta=0, guidance 1,"
            " bf16 autocast, picture i from seed i"
        ),
        "bf16 autocast against float32, rms difference a pixel, 100 samples": round(
            (x[:100] - in_float32).square().mean().sqrt().item(), 4
        ),
        "samples judged as their class": share(seen == labels),
        "samples judged as their class, by class": by_class(seen, labels),
        "test pictures judged as their class, by class": by_class(test_seen, test_labels),
        f"{own} {len(some_test)} test pictures": distances(test_features[some_test]),
        f"{own} all {len(test)} test pictures": distances(test_features),
        f"rms difference a pixel to the nearest of {len(train)} training pictures": {
            "samples": quantiles(nearest(x.clamp(-1, 1), train)),
            "test pictures": quantiles(nearest(test[some_test], train)),
        },
        f"rms difference a feature to the nearest of {len(train)} training pictures": {
            "samples": quantiles(nearest(features, train_features)),
            "test pictures": quantiles(nearest(test_features[some_test], train_features)),
        },
    }, x


def fashion(folder: Path, data: Path) -> None:
    """Measure the pixel model, choose its examples, and complete its card."""
    bundle = zoo.load(folder)
    quality, x = fashion_quality(bundle, data)
    print(json.dumps(quality, indent=2, ensure_ascii=False))
    write_grid(
        x[:100].view(10, 10, *bundle.shape).transpose(0, 1).flatten(0, 1),
        folder / "samples.png",
        columns=10,
    )
    test, labels = read_data(data, "test")
    chosen = balanced(labels, 20)
    save_file({"images": test[chosen], "labels": labels[chosen]}, folder / "examples.safetensors")
    training = bundle.card["training"]
    zoo.write_card(
        folder,
        {
            **bundle.card,
            "title": "Fashion-MNIST, 32 x 32, class-conditional",
            "data": (
                "Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747): 60,000 training and"
                " 10,000 test pictures, 28 x 28 grey, padded with black to 32 x 32; Debian package"
                " dataset-fashion-mnist. examples.safetensors: the first 20 test pictures of each"
                " class"
            ),
            "licence": "weights MIT; pictures: Fashion-MNIST, MIT, Copyright 2017 Zalando SE",
            "command": [run["command"] for run in training.values()] + [f"{COMMAND} fashion"],
            "hours": round(sum(run["hours"] for run in training.values()), 2),
            "parameters": sum(p.numel() for p in bundle.unet.parameters()),
            "classes": list(NAMES),
            "schedule": (
                "linear, T=1000, beta 1e-4 to 0.02; the network predicts eps; label 10 is the null"
                " class"
            ),
            "quality": quality,
            "weaknesses": WEAKNESSES,
        },
    )


def fashion_table1(folder: Path, data: Path) -> None:
    """The shape of Table 1 of the DDIM paper (arXiv:2010.02502): distance by steps and eta, cell by
    cell, resumable."""
    bundle = zoo.load(folder)
    judge = bundle.classifier
    test_features, _ = classify(judge, from_uint8(read_data(data, "test")[0]))
    train, train_labels = read_data(data, "train")

    def train_distance(n: int) -> float:
        return frechet(
            classify(judge, from_uint8(train[balanced(train_labels, n // 10)]))[0], test_features
        )

    variants = {"eta=0": {}, "eta=1": {"eta": 1.0}, "sigma-hat": {"eta": 1.0, "sigma_hat": True}}
    plan = [
        {"S": S, "variant": name, "samples": 500} for S in (10, 20, 50, 100) for name in variants
    ]
    plan += [{"S": 1000, "variant": name, "samples": 200} for name in ("eta=0", "sigma-hat")]

    def measure(S: int, variant: str, samples: int) -> dict[str, Any]:
        labels = torch.arange(10).repeat(samples // 10)
        features, seen = classify(judge, draw(bundle, labels, S, **variants[variant]))
        return {
            "frechet": frechet(features, test_features),
            "accuracy": (seen == labels).float().mean().item(),
        }

    fill(
        "fashion-table1",
        bundle,
        plan,
        measure,
        lambda: {
            "seeds": "picture i of a cell: i",
            "what": (
                "Fréchet distance between features of the bundled classifier, not comparable with"
                " Inception's"
            ),
            "reference": "all 10,000 test pictures",
            "guidance": 1,
            "network": "bf16 autocast, float32 state",
            "train_to_test": {str(n): train_distance(n) for n in (500, 200)},
        },
    )


def fashion_table2(folder: Path, data: Path) -> None:
    """The shape of Table 2 of the DDIM paper: the error of inverting and sampling again, by steps,
    method and guidance.

    The pictures are the bundle's own held-out examples, so ``data`` is not read."""
    bundle = zoo.load(folder)
    target, source, fixed = list(METHODS)[:3]
    T, scales = bundle.schedule.T, (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 7.5)
    grids = {
        "trailing": partial(times, T),
        "quadratic": partial(times, T, spacing="quadratic"),
        "quadratic, ends at 1": lambda S: times(T, S + 1, "quadratic")[:-1],
    }
    trailing, quadratic, ends_at_1 = grids

    def cells(
        grid: str, method: str, steps: Sequence[int], scales: Sequence[float], pictures: int
    ) -> list[dict]:
        return [
            {"grid": grid, "S": S, "method": method, "scale": w, "pictures": pictures}
            for S in steps
            for w in scales
        ]

    plan = [
        *cells(trailing, target, (10, 20, 50, 100, 200, 500), [1.0], 100),
        *cells(trailing, source, (10, 20, 50, 100), [1.0], 100),
        *cells(quadratic, target, (10, 20, 50, 100, 200, 500), [1.0], 100),
        *cells(ends_at_1, target, [50], scales, 20),
        *cells(ends_at_1, fixed, [50], scales, 20),
        *cells(ends_at_1, fixed, (5, 10, 20), [1.0], 20),
        *cells(quadratic, fixed, [50], [1.0], 20),
        *cells(trailing, fixed, [50], [1.0], 20),
    ]

    def measure(grid: str, S: int, method: str, scale: float, pictures: int) -> dict[str, Any]:
        chosen = balanced(bundle.examples.labels, pictures // 10)
        x_0, labels = bundle.examples.images[chosen], bundle.examples.labels[chosen]
        model = cfg(bundle.conditional(labels), bundle.model, scale)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "converged" below says it
            trip = round_trip(model, x_0, grids[grid](S), bundle.schedule, METHODS[method])
        found = {
            "mse": (trip.rms / 2) ** 2,
            "rms": trip.rms,
            "psnr": trip.psnr,
            "relative": trip.rms / x_0.square().mean().sqrt().item(),
            "std of x_T": trip.inversion.x_T.std().item(),
            "evaluations": trip.inversion.evaluations,
        }
        if method == fixed:
            found |= {"converged": trip.inversion.converged, "residual": trip.inversion.residual}
        return found

    fill(
        "fashion-table2",
        bundle,
        plan,
        measure,
        lambda: {
            "spacing": "the cell's grid; the DDIM paper used quadratic for CIFAR10",
            "what": (
                "invert held-out pictures with their own label, sample again: mse per dimension in"
                " [0, 1], rms in [-1, 1], rms relative to that of the pictures, PSNR in dB over all"
                " pictures together"
            ),
            "network": "float32",
        },
    )


def fill(
    what: str,
    bundle: zoo.Bundle,
    plan: list[dict[str, Any]],
    measure: Callable[..., dict[str, Any]],
    header: Callable[[], dict[str, Any]],
) -> None:
    """Measure the cells of ``plan`` that the table does not have yet, one by one, each saved when
    it is done; a table of other weights is begun anew."""
    path = TABLES / f"{what.replace('-', '_')}.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    if table.get("unet_sha256") != bundle.sha256:
        table = {
            "command": f"{COMMAND} {what}",
            "model": bundle.name,
            "unet_sha256": bundle.sha256,
            "spacing": SPACING,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            **header(),
            "cells": [],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [{key: cell.get(key) for key in plan[0]} for cell in table["cells"]]
    for cell in plan:
        if cell in done:
            continue
        started = time.monotonic()
        table["cells"].append(
            cell | measure(**cell) | {"seconds": round(time.monotonic() - started, 1)}
        )
        path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n")
        print(table["cells"][-1], flush=True)


def emoji(folder: Path, data: Path) -> None:
    """The bars of the latent model, in a module of its own: it needs the text encoder and the
    autoencoder as well."""
    from ddim_tutorial.training import evaluate_emoji

    evaluate_emoji.emoji(folder, data)


COMMANDS: dict[
    str, tuple[Callable[[Path, Path], None], Path]
] = {  # what it runs, and the data it reads by default
    "fashion": (fashion, DATA),
    "fashion-table1": (fashion_table1, DATA),
    "fashion-table2": (fashion_table2, DATA),
    "emoji": (emoji, Path("runs/emoji/data.safetensors")),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--folder", type=Path, help="the model, instead of the bundled one")
    parser.add_argument(
        "--data", type=Path, help="folder with Fashion-MNIST's four .gz files, or the emoji file"
    )
    arguments = parser.parse_args()
    evaluate, data = COMMANDS[arguments.what]
    evaluate(arguments.folder or zoo.ZOO / arguments.what.split("-")[0], arguments.data or data)


if __name__ == "__main__":
    main()
