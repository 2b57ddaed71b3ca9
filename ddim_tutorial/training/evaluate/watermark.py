"""How well a watermark in x_T is found, and what it costs: a row for a key, a guidance scale, an
edit of the pictures and a way to invert them.

python -m ddim_tutorial.training.evaluate.watermark fashion --part designs --pictures 200
python -m ddim_tutorial.training.evaluate.watermark emoji --part edits --pictures 200
    -> notebooks/data/watermark_NAME.json

Rows stand alone: a run that is stopped goes on with the row where it was, a row of fewer pictures
is measured again, and a table of other weights is begun anew.
"""

import argparse
from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_tutorial import watermark
from ddim_tutorial.attacks import EDITS
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.metrics import auc, frechet, tpr
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.training.evaluate.carriers import CARRIERS, Carrier
from ddim_tutorial.training.evaluate.rows import Row, fill, versions
from ddim_tutorial.training.evaluate.tables import TABLES
from ddim_tutorial.training.evaluate.trips import four_tests, recovered

KEYS = range(3_000_000, 3_000_032)  # their seeds, none of them a picture's; the first is shared
OWN = 2 * len(KEYS)  # pictures with keys of their own, at most
DRAWS = {"plain": 0, "marked": 1_000_000, "own key": 2_000_000}  # noise of picture i: this + i
DESIGNS: dict[str, dict[str, Any]] = {
    "zeros, |f| <= 4": {"kind": "zeros", "radius": 4},
    "rings, |f| <= 4": {"kind": "rings", "radius": 4},
    "rand, |f| <= 4": {"kind": "rand", "radius": 4},
    "rand, 3 to 8": {"kind": "rand", "inner": 3, "radius": 8},
    "rand, 3 to 12": {"kind": "rand", "inner": 3, "radius": 12},
    "signs": {"kind": "signs"},
}
ONE_CHANNEL = {  # of the emoji's four: Wen et al. write into one
    f"{name}, one channel": DESIGNS[name] | {"channels": [3]}
    for name in ("rings, |f| <= 4", "rand, |f| <= 4", "rand, 3 to 8")
}
BEST = "rand, 3 to 8"


def keys_of(design: str, shape: tuple[int, ...]) -> list[watermark.Key]:
    """The keys of a design, by the seeds KEYS."""
    how = (DESIGNS | ONE_CHANNEL)[design]
    return [watermark.key(shape=shape, generator=g, **how) for g in generators(KEYS)]


def compare(marked: Tensor, plain: Tensor) -> dict[str, float]:
    """Of scores that are larger for marked pictures: AUC, TPR at 1 % FPR, and the distance of the
    means in standard deviations."""
    both = (marked.double(), plain.double())
    spread = ((both[0].var() + both[1].var()) / 2).sqrt()
    separation = ((both[0].mean() - both[1].mean()) / spread).item()
    return {"AUC": auc(*both), "TPR": tpr(*both), "separation": separation}


def scores(x_T: Tensor, key: watermark.Key) -> dict[str, Tensor]:
    found = watermark.detect(x_T, key)
    return {
        "distance": -found.distance,
        "correlation": found.correlation,
        "p-value": -found.p_value,
    }


def detection(marked: Tensor, plain: Tensor, keys: list[watermark.Key]) -> Row:
    """How well the first key is found in what inversion gave for marked and plain pictures, and
    how well they would be told apart by the other keys: by the marks' shift of the distribution
    alone (Ci et al. 2024, arXiv:2404.14055)."""
    shared = [scores(x, keys[0]) for x in (marked, plain)]
    row: Row = {name: compare(*(part[name] for part in shared)) for name in shared[0]}
    wrong = [[scores(x, key) for x in (marked, plain)] for key in keys[1:]]
    row["AUC of wrong keys"] = {
        name: sum(auc(*(part[name] for part in parts)) for parts in wrong) / len(wrong)
        for name in ("distance", "correlation")
    }
    if shared[0]["correlation"].isnan().any():  # a key of zeros
        del row["correlation"], row["AUC of wrong keys"]["correlation"]
    row["plain p below .01"] = (shared[1]["p-value"] > -0.01).double().mean().item()
    return row


def cost(carrier: Carrier, x_T: Tensor, marked: Tensor, plain: Tensor) -> Row:
    """What the mark does to the noise x_T and to the pictures."""
    row: Row = {"x_T marked": four_tests(x_T)}
    by = {"marked": carrier.judge(marked), "plain": carrier.judge(plain)}
    row["accuracy"] = {name: seen.right.double().mean().item() for name, seen in by.items()}
    if carrier.real is not None:
        real = carrier.judge(carrier.real).features
        row["frechet"] = {name: frechet(seen.features, real) for name, seen in by.items()}
    return row


def measurer(carrier: Carrier, pictures: int) -> Callable[..., Row]:
    """The function that measures one row from so many marked pictures, as many without a mark, and
    as many, but at most 64, of which picture i has the key i mod 32."""

    @lru_cache(maxsize=6)
    def noise(kind: str, design: str) -> Tensor:
        count = min(pictures, OWN) if kind == "own key" else pictures
        x_T = randn((count, *carrier.shape), generators(range(DRAWS[kind], DRAWS[kind] + count)))
        if kind == "plain":
            return x_T
        keys = keys_of(design, carrier.shape)
        if kind == "marked":
            return watermark.embed(x_T, keys[0])
        parts = zip(x_T.split(1), cycle(keys), strict=False)
        return torch.cat([watermark.embed(x, key) for x, key in parts])

    @lru_cache(maxsize=6)
    def drawn(kind: str, design: str, scale: float, steps: int) -> Tensor:
        return carrier.draw(noise(kind, design), scale, steps)

    def measure(
        key: str, scale: float, drawn_in: int, edit: str, method: str, S: int, known: bool
    ) -> Row:
        keys, found = keys_of(key, carrier.shape), {}
        for kind, first in DRAWS.items():
            x = drawn(kind, "" if kind == "plain" else key, scale, drawn_in)
            x = EDITS[edit](x, generators(range(first + 500_000, first + 500_000 + len(x))))
            found[kind] = carrier.invert(x, method, S, known)
        row = detection(found["marked"], found["plain"], keys)
        if "correlation" in row:
            named = watermark.identify(found["own key"], keys)
            right = named == torch.arange(len(named)) % len(KEYS)
            row["right key named"] = right.double().mean().item()
        row["finds the noise"] = recovered(found["plain"], noise("plain", ""))
        if edit == "none":
            pair = (drawn("marked", key, scale, drawn_in), drawn("plain", "", scale, drawn_in))
            row |= cost(carrier, noise("marked", key), *pair)
        return row

    return measure


def plan(name: str, part: str, scale: float, key: str | None = None) -> list[Row]:
    """The rows of a part of the table; ``key``: the design of all parts but the first."""
    designs = [*DESIGNS, *(ONE_CHANNEL if name == "emoji" else ())]
    usual = {
        "key": key or BEST, "scale": scale, "drawn_in": 20, "edit": "none",
        "method": "naive", "S": 20, "known": False,
    }  # fmt: skip
    fifty = {"drawn_in": 50}
    ways = [("naive", S) for S in (5, 10, 20, 50)] + [("exact", S) for S in (20, 50)]
    parts = {
        "designs": [{"key": design} for design in designs],
        "edits": [{"edit": edit} for edit in EDITS],
        "inversion": [
            *(fifty | {"method": method, "S": S} for method, S in ways),
            fifty | {"method": "exact", "S": 50, "known": True},
        ],
        "guidance": [{"scale": float(s)} for s in (1, 2, 4, 7.5)],
    }
    return [usual | change for change in parts[part]]


PARTS = ("designs", "edits", "inversion", "guidance")


def main(arguments: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.evaluate.watermark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=CARRIERS)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--key", choices=[*DESIGNS, *ONE_CHANNEL], help="of all but the designs")
    parser.add_argument("--folder", type=Path, help="the model, instead of the bundled one")
    parser.add_argument("--run", type=Path, default=Path("runs/emoji"), help="emoji: its run")
    asked = parser.parse_args(arguments)
    carrier = CARRIERS[asked.what](asked.folder, asked.run)
    header = {
        "command": f"python -m ddim_tutorial.training.evaluate.watermark {asked.what}",
        "model": carrier.name,
        "sha256": carrier.sha256,
        "versions": versions(),
        "seeds": f"noise of picture i: i plus {DRAWS}; keys: {KEYS}, the first is shared",
        "what": (
            f"as many marked as plain pictures (--pictures), of 8 bits, and at most {OWN} with keys"
            " of their own, one of 32 each, to be named; TPR at 1 % FPR; separation:"
            " between the means, in standard deviations; S, method: of the inversion, with the"
            " empty condition unless known"
        ),
    }
    measure = measurer(carrier, asked.pictures)
    for part in asked.part:
        rows = plan(asked.what, part, carrier.scale, asked.key)
        fill(TABLES / f"watermark_{asked.what}.json", header, rows, asked.pictures, measure)


if __name__ == "__main__":
    main()
