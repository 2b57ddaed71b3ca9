"""The pixel model's two tables, in the shape of those of the DDIM paper (arXiv:2010.02502), filled
cell by cell: a run that is stopped goes on where it was."""

import json
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddim_tutorial import zoo
from ddim_tutorial.files import write_whole
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.guidance import cfg
from ddim_tutorial.inversion import METHODS, round_trip
from ddim_tutorial.metrics import frechet
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import (
    NETWORK,
    SPACING,
    balanced,
    classify,
    draw,
    in_precision,
    option,
)
from ddim_tutorial.training.fashion_data import read_data

TABLES = Path(__file__).parents[3] / "notebooks" / "data"
Cell = dict[str, Any]
VARIANTS: dict[str, Cell] = {
    "eta=0": {},
    "eta=1": {"eta": 1.0},
    "sigma-hat": {"eta": 1.0, "sigma_hat": True},
}
GRIDS: dict[str, Callable[[int, int], list[int]]] = {  # (T, S) -> times
    "trailing": times,
    "quadratic": partial(times, spacing="quadratic"),
    "quadratic, ends at 1": lambda T, S: times(T, S + 1, "quadratic")[:-1],
}


def fashion_table1(folder: Path, data: Path, precision: str = "no") -> None:
    """Table 1: the distance of samples to test pictures, by steps and eta."""
    bundle = zoo.load(folder)
    judge = bundle.classifier
    test_features, _ = classify(judge, from_uint8(read_data(data, "test")[0]))
    train, train_labels = read_data(data, "train")

    def train_distance(n: int) -> float:
        some = from_uint8(train[balanced(train_labels, n // 10)])
        return frechet(classify(judge, some)[0], test_features)

    def measure(S: int, variant: str, samples: int) -> Cell:
        labels = torch.arange(10).repeat(samples // 10)
        x = draw(bundle, labels, S, precision=precision, **VARIANTS[variant])
        features, seen = classify(judge, x)
        accuracy = (seen == labels).float().mean().item()
        return {"frechet": frechet(features, test_features), "accuracy": accuracy}

    plan = [
        {"S": S, "variant": name, "samples": 500} for S in (10, 20, 50, 100) for name in VARIANTS
    ]
    plan += [{"S": 1000, "variant": name, "samples": 200} for name in ("eta=0", "sigma-hat")]
    header = {
        "seeds": "picture i of a cell: i",
        "what": (
            "Fréchet distance between features of the bundled classifier, not comparable with"
            " Inception's"
        ),
        "reference": "all 10,000 test pictures",
        "guidance": 1,
    }
    fill(
        "fashion-table1",
        bundle,
        plan,
        measure,
        precision,
        lambda: {
            **header,
            "train_to_test": {str(n): train_distance(n) for n in (500, 200)},
        },
    )


def _cells(
    grid: str, method: str, steps: Sequence[int], scales: Sequence[float], pictures: int
) -> list[Cell]:
    return [
        {"grid": grid, "S": S, "method": method, "scale": scale, "pictures": pictures}
        for S in steps
        for scale in scales
    ]


def table2_plan() -> list[Cell]:
    """The cells of Table 2: every method where it says something, not the whole product."""
    target, source, fixed = "naive, target time", "naive, source time", "fixed point"
    trailing, quadratic, ends_at_1 = GRIDS
    scales = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 7.5)
    return [
        *_cells(trailing, target, (10, 20, 50, 100, 200, 500), [1.0], 100),
        *_cells(trailing, source, (10, 20, 50, 100), [1.0], 100),
        *_cells(quadratic, target, (10, 20, 50, 100, 200, 500), [1.0], 100),
        *_cells(ends_at_1, target, [50], scales, 20),
        *_cells(ends_at_1, fixed, [50], scales, 20),
        *_cells(quadratic, fixed, [50], [1.0], 20),
        *_cells(trailing, fixed, [50], [1.0], 20),
    ]


def fashion_table2(folder: Path, data: Path, precision: str = "no") -> None:
    """Table 2: the error of inverting and sampling again, by steps, method and guidance.

    The pictures are the bundle's own held-out examples, so ``data`` is not read."""
    bundle = zoo.load(folder)

    def measure(grid: str, S: int, method: str, scale: float, pictures: int) -> Cell:
        chosen = balanced(bundle.examples.labels, pictures // 10)
        x_0, labels = bundle.examples.images[chosen], bundle.examples.labels[chosen]
        model = in_precision(cfg(bundle.conditional(labels), bundle.model, scale), precision)
        walk = GRIDS[grid](bundle.schedule.T, S)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # "converged" below says it
            trip = round_trip(model, x_0, walk, bundle.schedule, METHODS[method])
        found = {
            "mse": (trip.rms / 2) ** 2,
            "rms": trip.rms,
            "psnr": trip.psnr,
            "relative": trip.rms / x_0.square().mean().sqrt().item(),
            "std of x_T": trip.inversion.x_T.std().item(),
            "evaluations": trip.inversion.evaluations,
        }
        if method == "fixed point":
            found |= {"converged": trip.inversion.converged, "residual": trip.inversion.residual}
        return found

    header = {
        "spacing": "the cell's grid; the DDIM paper used quadratic for CIFAR10",
        "what": (
            "invert held-out pictures with their own label, sample again: mse per dimension in"
            " [0, 1], rms in [-1, 1], rms relative to that of the pictures, PSNR in dB over all"
            " pictures together"
        ),
    }
    fill("fashion-table2", bundle, table2_plan(), measure, precision, lambda: header)


def fill(
    what: str,
    bundle: zoo.Bundle | zoo.LatentBundle,
    plan: list[Cell],
    measure: Callable[..., Cell],
    precision: str,
    header: Callable[[], Cell],
) -> None:
    """Measure the cells of ``plan`` that the table does not have yet, one by one, each saved when
    it is done; a table of other weights is begun anew.

    Raises ValueError for a table of these weights in another precision: cells of two precisions do
    not compare."""
    path = TABLES / f"{what.replace('-', '_')}.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if table.get("unet_sha256") != bundle.sha256:
        table = _new_table(what, bundle, precision) | header() | {"cells": []}
    if table["network"] != NETWORK[precision]:
        raise ValueError(
            f"{path}: its cells were computed in {table['network']}, wanted {NETWORK[precision]};"
            " ask for the table's own precision (--precision), or move the file away to begin a new"
            " table"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [{key: cell.get(key) for key in plan[0]} for cell in table["cells"]]
    for cell in plan:
        if cell in done:
            continue
        started = time.monotonic()
        found = measure(**cell)
        table["cells"].append(cell | found | {"seconds": round(time.monotonic() - started, 1)})
        write_whole(path, f"{json.dumps(table, indent=2, ensure_ascii=False)}\n".encode())
        print(table["cells"][-1], flush=True)


def _new_table(what: str, bundle: zoo.Bundle | zoo.LatentBundle, precision: str) -> Cell:
    return {
        "command": f"python -m ddim_tutorial.training.evaluate {what}{option(precision)}",
        "model": bundle.name,
        "unet_sha256": bundle.sha256,
        "spacing": SPACING,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "network": NETWORK[precision],
    }
