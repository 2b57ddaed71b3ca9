"""How far from the end of the ODE a solver's pictures are, by evaluations: the tables of notebook
08, row by row; a run that is stopped goes on where it was.

The end: DPM-Solver++ 2M, 100 steps even in log-SNR, from the same noise. The error: rms difference
to it over its rms. How far DDIM's 1,000 steps end from it, on a few pictures, is a row as well.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddim_tutorial import zoo
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import frechet, relative_error
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.sampling import final
from ddim_tutorial.schedule import Schedule
from ddim_tutorial.solvers import END, SOLVERS
from ddim_tutorial.spacing import times
from ddim_tutorial.training.evaluate.measures import balanced, classify, in_precision
from ddim_tutorial.training.evaluate.tables import Cell, fill
from ddim_tutorial.training.fashion_data import read_data

EVALUATIONS = (5, 10, 20)
OURS = (
    *(("ddim", grid) for grid in ("trailing", "quadratic", "logsnr")),
    *(("dpmpp_2m", grid) for grid in ("trailing", "quadratic", "karras", "logsnr", "ays")),
    *(("adams_bashforth", grid) for grid in ("trailing", "quadratic")),
    ("gradient_estimation", "trailing"),
)
# whose Fréchet distances are compared with the end's, over all seeds
CONTENDERS = (("ddim", "trailing"), ("ddim", "quadratic"), ("dpmpp_2m", "quadratic"),
              ("dpmpp_2m", "ays"))  # fmt: skip
# evaluations -> steps; the class, and what it is made with beside the model's own configuration
TRAILING = {"timestep_spacing": "trailing"}
PEERS: dict[str, tuple[str, dict[str, Any], Callable[[int], int]]] = {
    "UniPC": ("UniPCMultistepScheduler", TRAILING, lambda n: n),
    "UniPC, Karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, lambda n: n),
    "DEIS": ("DEISMultistepScheduler", TRAILING, lambda n: n),
    "Heun": ("HeunDiscreteScheduler", TRAILING, lambda n: (n + 1) // 2),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, lambda n: n - 1),
}


def plan(pictures: int, seeds: int, scale: float, others: int | None = None) -> list[Cell]:
    """The rows: the end, DDIM down to one step and up to a hundred, every solver at 5, 10, 20; of
    further seeds the end and CONTENDERS alone. ``others``: the pictures of every other solver
    (None for as many). Last DDIM with 1,000 steps, for ten pictures of the first seed at most."""
    again = [END, *((*contender, S) for contender in CONTENDERS for S in EVALUATIONS)]
    ladder = [("ddim", "trailing", S) for S in (1, 2, 3, 4, 50, 100)] + [("ddim", "quadratic", 50)]
    rest = [(*ours, S) for ours in OURS for S in EVALUATIONS]
    rest += [(peer, "its own", S) for peer in PEERS for S in EVALUATIONS]
    rest = [row for row in rest if row not in again]
    rows = [(seed, row, pictures) for seed in range(seeds) for row in again]
    rows += [(0, row, pictures) for row in ladder] + [(0, row, others or pictures) for row in rest]
    rows.append((0, ("ddim", "trailing", 1000), min(pictures, 10)))
    names = ("solver", "grid", "S")
    return [
        dict(zip(names, row, strict=True)) | {"seed": seed, "scale": scale, "pictures": n}
        for seed, row, n in rows
    ]


def sampled_by(scheduler: Any, model: EpsModel, x_T: Tensor, steps: int) -> Tensor:
    """The end of a run of one of diffusers' schedulers on a model of eps, x_T like N(0, I)."""
    scheduler.set_timesteps(steps)
    x = x_T * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        t = (timestep.round().long() + 1).clamp(1, scheduler.config.num_train_timesteps)
        eps = model(scheduler.scale_model_input(x, timestep), t.expand(len(x)))
        x = scheduler.step(eps, timestep, x).prev_sample
    return x


def run(model: EpsModel, x_T: Tensor, schedule: Schedule, solver: str, grid: str, S: int) -> Tensor:
    """x_0 after S evaluations: of our solver, or of one of PEERS (Heun: one fewer if S is even)."""
    if solver in SOLVERS:
        return final(SOLVERS[solver](model, x_T, times(schedule.T, S, grid, schedule), schedule))
    import diffusers

    name, options, steps = PEERS[solver]
    betas = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    scheduler = getattr(diffusers, name)(trained_betas=betas.numpy(), **options)
    return sampled_by(scheduler, model, x_T, steps(S))


def counted(model: EpsModel, calls: list[int]) -> EpsModel:
    """The model, which adds one to ``calls`` for every evaluation."""

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        calls[0] += 1
        return model(x_t, t)

    return eps


def runner(
    model_of: Callable[[range], EpsModel],
    shape: tuple[int, ...],
    schedule: Schedule,
    batch: int,
    device: torch.device | str = "cpu",
) -> Callable[[Cell], tuple[Tensor, int]]:
    """Row -> its x_0 (pictures, *shape), on the CPU, and the evaluations of a picture. model_of:
    the model for those pictures of a row, by number; picture i of seed k starts from the noise k
    pictures + i."""

    def draw(cell: Cell) -> tuple[Tensor, int]:
        parts, calls = [], [0]
        n, rows = cell["pictures"], (cell["solver"], cell["grid"], cell["S"])
        starts = range(0, n, batch)
        for first in tqdm(starts, desc=" ".join(map(str, rows)), leave=False):
            part = range(first, min(first + batch, n))
            own = generators([cell["seed"] * n + i for i in part])
            x_T = randn((len(part), *shape), own, device=device)
            with torch.no_grad():
                parts.append(run(counted(model_of(part), calls), x_T, schedule, *rows).cpu())
        return torch.cat(parts), calls[0] // len(starts)

    return draw


def ends(draw: Callable[[Cell], tuple[Tensor, int]]) -> Callable[[Cell], Tensor]:
    """The end of the ODE for the pictures of a row, computed once for each seed."""
    solver, grid, S = END

    @lru_cache(maxsize=1)
    def end(fixed: tuple[tuple[str, Any], ...]) -> Tensor:
        return draw({"solver": solver, "grid": grid, "S": S, **dict(fixed)})[0]

    return lambda cell: end(tuple((k, cell[k]) for k in ("seed", "scale", "pictures")))


ABOUT = {
    "spacing": "that of the row, under grid",
    "seeds": "picture i of n under seed k starts from the noise of seed k n + i",
    "end": "DPM-Solver++ 2M, 100 steps even in log-SNR, from the same noise",
    "error": "rms difference to the end / rms of the end",
}


def fashion_solvers(
    folder: Path, data: Path, precision: str = "no", count: int = 1000, seeds: int = 3
) -> None:
    """The pixel model, class by class, without guidance: error and Fréchet distance."""
    bundle = zoo.load(folder)
    judge = bundle.classifier
    test_features, _ = classify(judge, from_uint8(read_data(data, "test")[0]))
    train, train_labels = read_data(data, "train")

    def model_of(part: range) -> EpsModel:
        labels = torch.tensor([i % 10 for i in part])
        return in_precision(bundle.conditional(labels), precision)

    draw = runner(model_of, bundle.shape, bundle.schedule, 100, bundle.device)
    end = ends(draw)

    def measure(**cell: Any) -> Cell:
        target = end(cell)
        of_end = (cell["solver"], cell["grid"], cell["S"]) == END
        x, evaluations = (target, END[2]) if of_end else draw(cell)
        features, seen = classify(judge, x)
        right = (seen == torch.arange(len(x)) % 10).double().mean().item()
        measured = {"error": relative_error(x, target), "accuracy": right}
        if len(x) == count:  # it depends on the number of pictures
            measured["frechet"] = frechet(features, test_features)
        return {"evaluations": evaluations, **measured}

    def header() -> Cell:
        some = from_uint8(train[balanced(train_labels, count // 10)])
        floor = {str(len(some)): frechet(classify(judge, some)[0], test_features)}
        return ABOUT | {"frechet": "of the own classifier's features, to 10,000 test pictures",
                        "train_to_test": floor}  # fmt: skip

    rows = plan(count, seeds, 1.0, min(count, 100))
    fill("fashion-solvers", bundle, rows, measure, precision, header)


def emoji_solvers(
    folder: Path, data: Path, precision: str = "no", count: int = 32, seeds: int = 1
) -> None:
    """The latent model, prompts of its held-out pictures, guidance 4: the error of the latents, the
    PSNR of the pictures to the end's, and their sharpness, mean |Laplacian| over the end's."""
    from ddim_tutorial.latent import decode
    from ddim_tutorial.metrics import psnr

    bundle, scale = zoo.load(folder), 4.0
    prompts = bundle.captions or ["image of red apple"]

    def model_of(part: range) -> EpsModel:
        texts = [prompts[i % len(prompts)] for i in part]
        return in_precision(bundle.space(texts, scale=scale).model, precision)

    draw = runner(model_of, bundle.shape, bundle.schedule, 16, bundle.device)
    end = ends(draw)

    def picture(z: Tensor) -> Tensor:
        return decode(bundle.pipe.vae, z).clamp(-1, 1)

    def measure(**cell: Any) -> Cell:
        target = end(cell)
        of_end = (cell["solver"], cell["grid"], cell["S"]) == END
        z, evaluations = (target, END[2]) if of_end else draw(cell)
        x, wanted = picture(z), picture(target)
        found = {"error": relative_error(z, target), "sharpness": sharpness(x) / sharpness(wanted)}
        if not of_end:
            found["psnr"] = psnr(x[None], wanted[None]).item()
        return {"evaluations": evaluations, **found}

    fill("emoji-solvers", bundle, plan(count, seeds, scale), measure, precision, lambda: ABOUT)


def sharpness(x: Tensor) -> float:
    """The mean size of the Laplacian of pictures x: (B, C, H, W), inside the border."""
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (around - 4 * x[..., 1:-1, 1:-1]).abs().mean().item()
