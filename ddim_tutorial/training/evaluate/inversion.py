"""What each inversion costs, how exact it is, and whether it finds the noise: one row for a
method, a grid, a number of steps S, a guidance scale and a dtype.

python -m ddim_tutorial.training.evaluate.inversion mixture
python -m ddim_tutorial.training.evaluate.inversion fashion --pictures 10 --scales 1
    -> notebooks/data/inversion_NAME.json

Rows stand alone: the options name a part of them, a run that is stopped goes on with the row where
it was, a row of fewer pictures is measured again, and a table of other weights is begun anew.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.inversion import (
    METHODS,
    Coupled,
    Inversion,
    bdia,
    edict,
    invert_coupled,
    invert_dpmpp_2m,
    neighbours,
    obelm,
    resample,
    rex,
)
from ddim_tutorial.inversion.invert_coupled import is_two_step
from ddim_tutorial.metrics import psnr
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import final, sample
from ddim_tutorial.schedule import Schedule, scaled_linear
from ddim_tutorial.solvers import adams_bashforth, dpmpp_2m
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.rows import fill, versions
from ddim_tutorial.training.evaluate.subjects import DTYPES, SUBJECTS, Subject, by_name
from ddim_tutorial.training.evaluate.tables import TABLES
from ddim_tutorial.training.evaluate.trips import Row, cost, four_tests, recovered, relative, spread

KEY = ("grid", "method", "S", "scale", "dtype")
NAIVE, FIXED, EXACT = "naive, target time", "fixed point", "exact (Anderson)"
COUPLED = {
    "EDICT": edict,
    "EDICT, alternating": partial(edict, alternate=True),
    "BDIA": bdia,
    "O-BELM": obelm,
    "Rex": rex,
    "Rex, Euler": partial(rex, step="euler"),
}
INVERSIONS: dict[str, Callable[..., Inversion]] = {
    **{name: METHODS[name] for name in (NAIVE, FIXED, EXACT)},
    **{name: partial(invert_coupled, sampler=sampler) for name, sampler in COUPLED.items()},
    "DPM-Solver++ 2M": invert_dpmpp_2m,
}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
REFERENCE = {"mixture": 1000, "fashion": 200, "emoji": 200}  # steps to the flow's end, second order


def draw(method: str, model: EpsModel, x_T: Tensor, walk: list[int], schedule: Schedule) -> Tensor:
    """What the method's own sampler makes of noise."""
    if method in COUPLED:
        sampler = COUPLED[method]
        two_step = is_two_step(sampler)
        pair = neighbours(model, x_T, walk, schedule) if two_step else Coupled(x_T, x_T)
        return sampler(model, pair, walk, schedule).x
    if method.startswith("DPM"):
        return final(dpmpp_2m(model, x_T, walk, schedule))
    return sample(model, x_T, walk, schedule)


def flow_end(
    subject: Subject, scale: float, x_T: Tensor, walk: list[int], ends: dict[Any, Tensor]
) -> Tensor:
    """Where the flow takes x_T: Adams-Bashforth of order 2 in many steps from and to the same
    times as ``walk``. ``ends`` keeps what was found."""
    key = (x_T.dtype, scale, walk[0], walk[-1])
    if key not in ends:
        fine = times(subject.schedule.T, REFERENCE[subject.name])
        fine = [walk[0], *(t for t in fine if walk[0] > t > walk[-1]), walk[-1]]
        ends[key] = final(adams_bashforth(subject.model(scale), x_T, fine, subject.schedule))
    return ends[key]


def measure(
    subject: Subject,
    grid: str,
    method: str,
    S: int,
    scale: float,
    dtype: str,
    ends: dict[Any, Tensor],
) -> Row:
    """A row's numbers: errors are relative, in the 2-norm, over the pictures."""
    walk, model, schedule = subject.grids[grid](S), subject.model(scale), subject.schedule
    tol = TOLERANCE[dtype]
    invert = INVERSIONS[method]
    if method in (FIXED, EXACT) or method.startswith("DPM"):
        invert = partial(invert, tol=tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the row says it
        found = invert(model, subject.x_0, walk, schedule)
        x_T = randn(subject.x_0.shape, generators(range(len(subject.x_0)))).to(subject.x_0)
        drawn = draw(method, model, x_T, walk, schedule)
        again = invert(model, drawn, walk, schedule)
    back = resample(model, found, walk, schedule)
    error = relative(back, subject.x_0)
    row: Row = {"round trip": spread(error), "psnr": psnr(back[None], subject.x_0[None]).item()}
    row |= cost(found, tol) | {"x_T": four_tests(found.x_T)}
    if found.sampler is not None:  # it is not DDIM's own
        plain = sample(model, found.x_T, walk, schedule)
        row["x_T under DDIM"] = spread(relative(plain, subject.x_0))
    if subject.decode:
        pictures = subject.decode(back), subject.decode(subject.x_0)
        row["pixel psnr"] = psnr(*(x.clamp(-1, 1)[None] for x in pictures)).item()
    end = flow_end(subject, scale, x_T, walk, ends)
    row["sampling"] = spread(relative(drawn, end))
    return row | {"finds the noise": recovered(again.x_T, x_T)}


def fill_table(
    what: str,
    plan: list[Row],
    pictures: int,
    folder: Path | None = None,
    subjects: Callable[..., Subject] | None = None,
) -> None:
    """Measure the rows of ``plan`` that the table does not have from as many pictures."""
    make = subjects or SUBJECTS[what]
    ends: dict[Any, Tensor] = {}
    for dtype in dict.fromkeys(row["dtype"] for row in plan):
        subject = make(pictures, dtype, folder)
        rows = [row for row in plan if row["dtype"] == dtype]
        run = partial(measure, subject, ends=ends)
        path = TABLES / f"inversion_{what}.json"
        fill(path, header(what, subject), rows, pictures, run, order=_place)


def _place(row: Row) -> tuple[Any, ...]:
    """Where a row stands: the methods of one setting together, in one order."""
    method = list(INVERSIONS).index(row["method"])
    return row["grid"], row["dtype"], row["scale"], row["S"], method


def header(what: str, subject: Subject) -> Row:
    """What made the table, and how to read it."""
    floor = {} if subject.floor is None else {"autoencoder, dB": subject.floor}
    return floor | {
        "command": f"python -m ddim_tutorial.training.evaluate.inversion {what}",
        "model": subject.name,
        "sha256": subject.sha256,
        "versions": versions(),
        "seeds": "noise of picture i: i",
        "tolerance": TOLERANCE,
        "what": (
            "relative errors in the 2-norm of each picture; a row's pictures are the option"
            f" --pictures; sampling: against the flow's end, Adams-Bashforth in {REFERENCE} steps;"
            " finds the noise: from pictures that the method's own sampler drew"
        ),
    }


GRIDS = ["pipeline", *by_name(1000, scaled_linear())]
STEPS, SCALES = (10, 20, 50, 100), (1.0, 4.0, 7.5)


def main(arguments: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.evaluate.inversion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=SUBJECTS)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=INVERSIONS, default=list(INVERSIONS))
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="mixture: both; else float32")
    parser.add_argument(
        "--grids", nargs="+", choices=GRIDS, help="trailing; emoji: pipeline, its scheduler's own"
    )
    parser.add_argument("--folder", type=Path, help="the model, instead of the bundled one")
    asked = parser.parse_args(arguments)
    if asked.what != "emoji" and "pipeline" in (asked.grids or ()):
        parser.error(f"--grids pipeline: {asked.what} has no pipeline; choose another of {GRIDS}")
    dtypes = asked.dtypes or (list(DTYPES) if asked.what == "mixture" else ["float32"])
    grids = asked.grids or ["pipeline" if asked.what == "emoji" else "trailing"]
    parts = product(grids, asked.methods, asked.steps, asked.scales, dtypes)
    plan = [dict(zip(KEY, part, strict=True)) for part in parts]
    fill_table(asked.what, plan, asked.pictures, asked.folder)


if __name__ == "__main__":
    main()
