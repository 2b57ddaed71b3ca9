"""How good a learned jump is, beside solvers with as many evaluations: ``emoji-jump`` and
``fashion-jump``, row by row; a run that is stopped goes on where it was.

The end is the teacher's: DPM-Solver++ 2M, 100 steps even in log-SNR, guided as the jump has folded
in, from the same noise. An evaluation is one pass of the network: a guided step takes two. Above
one step the jump's noise anew leads to another end, so its error says little there; ``eta=0`` keeps
the noise that it has.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim_tutorial import zoo
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import frechet, psnr, relative_error
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import sample
from ddim_tutorial.schedule import Schedule
from ddim_tutorial.solvers import END
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import classify, in_precision
from ddim_tutorial.training.evaluate.solvers import ABOUT, run
from ddim_tutorial.training.evaluate.tables import Cell, fill
from ddim_tutorial.training.fashion_data import read_data

JUMP = {"jump, noise anew": math.inf, "jump, eta=0": 0.0}
SOLVERS = {"ddim": "trailing", "dpmpp_2m": "trailing"}
ModelOf = Callable[[bool, range], EpsModel]  # learned or the teacher, pictures by number


def plan(pictures: int, seeds: int) -> list[Cell]:
    """The rows: the end; jumps of 1, 2 and 4 steps; solvers of 1, 2, 4 and, as marks, more."""
    rows = [("end", END[2]), *((name, S) for name in JUMP for S in (1, 2, 4))]
    rows += [(name, S) for name in SOLVERS for S in (1, 2, 4, 10)] + [("ddim", 50)]
    return [
        {"sampler": name, "S": S, "seed": seed, "pictures": pictures}
        for seed in range(seeds)
        for name, S in rows
    ]


def drawn(
    model_of: ModelOf,
    shape: tuple[int, ...],
    schedule: Schedule,
    batch: int,
    cell: Cell,
    device: torch.device | str = "cpu",
) -> Tensor:
    """x_0 (pictures, *shape) of a row, on the CPU; picture i of seed k starts from the noise k
    pictures + i."""
    name, S, n = cell["sampler"], cell["S"], cell["pictures"]
    parts = []
    for first in range(0, n, batch):
        part = range(first, min(first + batch, n))
        own = generators([cell["seed"] * n + i for i in part])
        x_T = randn((len(part), *shape), own, device=device)
        model = model_of(name in JUMP, part)
        with torch.no_grad():
            if name in JUMP:
                grid, eta = times(schedule.T, S), JUMP[name]
                x_0 = sample(model, x_T, grid, schedule, eta=eta, generator=own)
            else:
                solver = END if name == "end" else (name, SOLVERS[name], S)
                x_0 = run(model, x_T, schedule, *solver)
        parts.append(x_0.cpu())
    return torch.cat(parts)


def gradient_energy(x: Tensor) -> float:
    """The mean squared difference of neighbours in pictures x: (B, C, H, W)."""
    across, down = x.diff(dim=-1).square().mean(), x.diff(dim=-2).square().mean()
    return (across + down).item()


def tables(
    what: str,
    learned: zoo.Bundle | zoo.LatentBundle,
    model_of: ModelOf,
    look: Callable[[Tensor, Tensor], Cell],
    header: Cell,
    size: tuple[int, int, int],
    precision: str,
) -> None:
    """Fill the table of ``what``. look: x_0 and the teacher's end to a row's further figures; size:
    pictures, seeds and the batch."""
    count, seeds, batch = size
    passes = 1 if learned.scale in (0, 1) else 2
    ends: dict[int, Tensor] = {}

    def measure(**cell: Any) -> Cell:
        seed = cell["seed"]
        draw = partial(drawn, model_of, learned.shape, learned.schedule, batch)
        if seed not in ends:
            ends.clear()
            ends[seed] = draw(cell | {"sampler": "end", "S": END[2]}, learned.device)
        x_0 = ends[seed] if cell["sampler"] == "end" else draw(cell, learned.device)
        evaluations = cell["S"] * (1 if cell["sampler"] in JUMP else passes)
        error = relative_error(x_0, ends[seed])
        return {"evaluations": evaluations, "error": error, **look(x_0, ends[seed])}

    about = ABOUT | {"guidance": learned.scale, "spacing": "trailing", **header}
    fill(what, learned, plan(count, seeds), measure, precision, lambda: about)


def fashion_jump(
    folder: Path, data: Path, precision: str = "no", count: int = 1000, seeds: int = 1
) -> None:
    """The pixel model, class by class: error, Fréchet distance, accuracy, gradient energy."""
    teacher, learned = zoo.load(folder), zoo.load(folder, fast=True)
    if learned.scale != 1:
        raise ValueError(
            f"{folder}: its jump has guidance {learned.scale:g} folded in, and the table is of"
            " guidance 1; distil it with --scale 1"
        )
    judge = teacher.classifier
    test_features, _ = classify(judge, from_uint8(read_data(data, "test")[0]))

    def model_of(fast: bool, part: range) -> EpsModel:
        labels = torch.tensor([i % 10 for i in part])
        return in_precision((learned if fast else teacher).conditional(labels), precision)

    def look(x_0: Tensor, end: Tensor) -> Cell:
        features, seen = classify(judge, x_0)
        right = (seen == torch.arange(len(x_0)) % 10).double().mean().item()
        return {
            "frechet": frechet(features, test_features),
            "accuracy": right,
            "gradient energy": gradient_energy(x_0) / gradient_energy(end),
        }

    header = {
        "teacher_sha256": teacher.sha256,
        "frechet": "of the own classifier's features, to 10,000 test pictures",
    }
    tables("fashion-jump", learned, model_of, look, header, (count, seeds, 100), precision)


def emoji_jump(
    folder: Path, data: Path, precision: str = "no", count: int = 300, seeds: int = 1
) -> None:
    """The latent model on ``count`` prompts of the whole caption table, in a module of its own: it
    needs the recipe's data."""
    from ddim_tutorial.training.emoji.jump_prompts import questions

    teacher, learned = zoo.load(folder), zoo.load(folder, fast=True)
    prompts, judged = questions(data, teacher, count)

    def model_of(fast: bool, part: range) -> EpsModel:
        texts = [prompts[i] for i in part]
        space = learned.space(texts) if fast else teacher.space(texts, scale=learned.scale)
        return in_precision(space.model, precision)

    def look(z_0: Tensor, end: Tensor) -> Cell:
        space = teacher.space("")
        x, wanted = (space.decode(z).clamp(-1, 1) for z in (z_0, end))
        found = {"gradient energy": gradient_energy(x) / gradient_energy(wanted)}
        if z_0 is not end:
            found["psnr"] = psnr(x[None], wanted[None]).item()
        return found | judged(x)

    header = {
        "teacher_sha256": teacher.sha256,
        "top-1": "the judge's, of the object, by kind of prompt; style where it is named",
    }
    tables("emoji-jump", learned, model_of, look, header, (count, seeds, 16), precision)
