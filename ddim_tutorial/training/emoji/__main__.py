"""``python -m ddim_tutorial.training.emoji COMMAND``: data, training, export, judge, quick look."""

import argparse
from pathlib import Path
from typing import Any

from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.training.arguments import fraction, natural, positive
from ddim_tutorial.training.consistency import RECIPES
from ddim_tutorial.training.jump import add_options, taken_options

from .autoencoder import train_autoencoder
from .consistency import export_consistency, train_consistency
from .data import PACKAGES, RUN, build_data
from .diffusion import train_diffusion
from .evaluate import quick
from .export import ZOO, export
from .judge import train_judge


def data(run: Path, packages: Path) -> None:
    """Build the data file, and say what is in it."""
    emoji = build_data(packages, run / "data.safetensors")
    training, pairs, whole = ((emoji.split == k).sum() for k in range(3))
    print(
        f"{len(emoji.images)} pictures of {len(emoji.names)} objects: {training} for training, "
        f"{pairs} pairs and {whole} pictures of whole objects held out"
    )


def add_precision(command: argparse.ArgumentParser, default: str | None) -> None:
    shown = default or "bf16 where the hardware has it"
    command.add_argument(
        "--precision", choices=["no", "bf16"], default=default, help=f"default: {shown}"
    )


def add_training(command: argparse.ArgumentParser, steps: int, batch: int) -> None:
    command.add_argument("--steps", type=positive, default=steps)
    command.add_argument("--batch", type=positive, default=batch)
    command.add_argument(
        "--compile", action="store_true", dest="compiled", help="torch.compile the network"
    )
    add_precision(command, None)


def add_diffusion(command: argparse.ArgumentParser) -> None:
    add_training(command, steps=14_000, batch=64)
    add = command.add_argument
    add("--lr", type=float, default=1.5e-3)
    add("--seed", type=int, default=0, help="another one when going on from --init")
    add("--warmup", type=positive, default=500, help="steps over which the rate rises")
    add("--decay-from", type=fraction, default=0.6, help="share of the steps at the full rate")
    add("--init", type=Path, help="folder of an exported pipeline to start from")
    add("--members", type=natural, default=16, help="of each picture's family; 0: no variation")
    add("--attention", choices=["8", "16"], default="16", help="largest map with cross-attention")


def add_consistency(command: argparse.ArgumentParser) -> None:
    add_options(command, scale=4.0, steps=4000, rank=16, lr=1e-3, batch=16, walks=4096, first=0.5)
    command.add_argument("--folder", type=Path, default=ZOO, help="the exported pipeline")
    command.add_argument("--members", type=natural, default=16, help="as diffusion was given")


def consistency(run: Path, **given: Any) -> None:
    options = taken_options(given)
    train_consistency(run, options, **given)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.emoji", description=__doc__
    )
    parser.add_argument("--run", type=Path, default=RUN, help="folder (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("data").add_argument(
        "--packages", type=Path, default=PACKAGES, help="folder with the installed npm packages"
    )
    add_training(commands.add_parser("autoencoder"), steps=2600, batch=16)
    add_diffusion(commands.add_parser("diffusion"))
    commands.add_parser("export").add_argument("--folder", type=Path, default=ZOO)
    add_training(commands.add_parser("judge"), steps=3000, batch=64)
    add_precision(commands.add_parser("quick"), "bf16")
    add_consistency(commands.add_parser("consistency"))
    jump = commands.add_parser("export-jump")
    jump.add_argument("--recipe", choices=RECIPES, required=True)
    jump.add_argument("--folder", type=Path, default=ZOO)
    return parser


def main(arguments: list[str] | None = None) -> None:
    escape_unprintable()
    options = vars(build_parser().parse_args(arguments))
    run, command = options.pop("run"), options.pop("command")
    functions = {
        "data": data,
        "autoencoder": train_autoencoder,
        "diffusion": train_diffusion,
        "export": export,
        "judge": train_judge,
        "quick": quick,
        "consistency": consistency,
        "export-jump": export_consistency,
    }
    functions[command](run, **options)


if __name__ == "__main__":
    main()
