"""``python -m ddim_tutorial.training.emoji COMMAND``: data, training, export, judge, quick look."""

import argparse
from pathlib import Path

from .autoencoder import train_autoencoder
from .data import PACKAGES, RUN, build_data
from .diffusion import train_diffusion
from .evaluate import quick
from .export import ZOO, export
from .judge import train_judge


def positive(text: str) -> int:
    """A whole number from 1 up, of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 1 or more")
    return value


def natural(text: str) -> int:
    """A whole number from 0 up, of the command line."""
    return positive(text) if text != "0" else 0


def fraction(text: str) -> float:
    """A number from 0 to 1, of the command line."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {value}, wanted 0 to 1")
    return value


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
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = vars(build_parser().parse_args(arguments))
    run, command = options.pop("run"), options.pop("command")
    functions = {
        "data": data,
        "autoencoder": train_autoencoder,
        "diffusion": train_diffusion,
        "export": export,
        "judge": train_judge,
        "quick": quick,
    }
    functions[command](run, **options)


if __name__ == "__main__":
    main()
