"""The learned jump of the pixel model: Fashion-MNIST in one to four evaluations.

    python -m ddim_tutorial.training.fashion_jump consistency --recipe ends
    python -m ddim_tutorial.training.fashion_jump export --recipe ends

``consistency`` distils the model in ddim_tutorial/zoo/fashion in runs/fashion/jump-RECIPE and goes
on where it was stopped; ``export`` puts the result beside the model, where ``zoo.load("fashion",
fast=True)`` reads it. Its guidance is 1 unless ``--scale`` says otherwise.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from ddim_tutorial import zoo
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.sampling import sample
from ddim_tutorial.spacing import times
from ddim_tutorial.training.consistency import RECIPES, Teacher, Unet, bound, train
from ddim_tutorial.training.fashion_data import DATA, NAMES, read_data, write_grid
from ddim_tutorial.training.jump import (
    Options,
    add_options,
    export_jump,
    new_network,
    sha256_of,
    taken_options,
)
from ddim_tutorial.training.loop import mixed_precision, processes

FOLDER, RUNS = zoo.ZOO / "fashion", Path("runs/fashion")
NULL = len(NAMES)


def teacher(folder: Path, data: Path, scale: float) -> Teacher:
    """The model in ``folder`` with the training pictures; one label in ten is the null label."""
    bundle = zoo.load(folder, dtype=torch.float32, device=processes().device)
    network = Unet(bundle.unet).to(memory_format=torch.channels_last)
    pictures, classes = read_data(data)

    def draw(batch: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(pictures), (batch,))
        labels = torch.where(torch.rand(batch) < 0.1, NULL, classes[rows])
        return from_uint8(pictures[rows]).to(bundle.device), labels.to(bundle.device)

    null = torch.tensor([NULL], device=bundle.device)
    sha256 = sha256_of(folder)
    return Teacher(
        network, null, scale, bundle.schedule, draw, lambda labels: labels, "trailing", sha256
    )


def train_consistency(
    runs: Path,
    options: Options,
    *,
    folder: Path = FOLDER,
    data: Path = DATA,
    scale: float = 1.0,
    precision: str | None = None,
) -> None:
    """Distil the model in ``folder`` in ``runs``/jump-RECIPE."""
    precision = mixed_precision() if precision is None else precision
    guided = teacher(folder, data, scale)
    unet = zoo.load(folder, dtype=torch.float32, device="cpu").unet
    network = new_network(unet, options.rank, options.prediction, guided.schedule)
    network = network.to(memory_format=torch.channels_last)
    labels = torch.arange(NULL).repeat(3)
    x_T = torch.randn(len(labels), 1, 32, 32, generator=torch.Generator().manual_seed(0))
    into = runs / f"jump-{options.recipe}"

    def look(ema: nn.Module, step: int) -> None:
        device = guided.null.device
        model = bound(ema, labels.to(device))
        x_0 = sample(model, x_T.to(device), times(guided.schedule.T, 1), guided.schedule)
        write_grid(x_0.cpu(), into / f"samples-{step:06d}.png", NULL)

    train(network, guided, into, options, precision, look)


def export(runs: Path, *, recipe: str, folder: Path = FOLDER) -> None:
    """Put the learned jump of ``runs``/jump-RECIPE into ``folder``/jump."""
    unet = zoo.load(folder, dtype=torch.float32, device="cpu").unet
    command = f"python -m ddim_tutorial.training.fashion_jump consistency --recipe {recipe}"
    export_jump(runs / f"jump-{recipe}", unet, folder, command)


def main(arguments: list[str] | None = None) -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.fashion_jump",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("consistency")
    add_options(training, scale=1.0, steps=4000, batch=64, walks=8192)
    training.add_argument(
        "--prediction",
        choices=["epsilon", "v_prediction"],
        default="v_prediction",
        help="what the student answers (default: %(default)s)",
    )
    training.add_argument("--data", type=Path, default=DATA, help="folder of the four .gz files")
    exporting = commands.add_parser("export")
    exporting.add_argument("--recipe", choices=RECIPES, required=True)
    for command in (training, exporting):
        command.add_argument("--folder", type=Path, default=FOLDER, help="the model")
    given = vars(parser.parse_args(arguments))
    runs, command = given.pop("runs"), given.pop("command")
    if command == "export":
        export(runs, **given)
    else:
        options = taken_options(given)
        train_consistency(runs, options, **given)


if __name__ == "__main__":
    main()
