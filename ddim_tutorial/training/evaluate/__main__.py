"""How good the bundled models are: each command measures, prints, and stores what it found.

python -m ddim_tutorial.training.evaluate fashion
    -> card.json, samples.png, examples.safetensors
python -m ddim_tutorial.training.evaluate fashion-table1
    -> notebooks/data/fashion_table1.json
python -m ddim_tutorial.training.evaluate fashion-table2
    -> notebooks/data/fashion_table2.json
python -m ddim_tutorial.training.evaluate fashion-solvers
    -> notebooks/data/fashion_solvers.json
python -m ddim_tutorial.training.evaluate emoji-solvers
    -> notebooks/data/emoji_solvers.json
python -m ddim_tutorial.training.evaluate fashion-jump
    -> notebooks/data/fashion_jump.json
python -m ddim_tutorial.training.evaluate emoji-jump
    -> notebooks/data/emoji_jump.json
python -m ddim_tutorial.training.evaluate fashion-table3
    -> notebooks/data/fashion_table3.json
python -m ddim_tutorial.training.evaluate emoji
    -> card.json, samples.png

The bundled fashion card and tables 1 and 3 were computed with --precision bf16.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from ddim_tutorial import zoo
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.training.evaluate.jump import emoji_jump, fashion_jump
from ddim_tutorial.training.evaluate.measures import NETWORK
from ddim_tutorial.training.evaluate.price import fashion_table3
from ddim_tutorial.training.evaluate.quality import fashion
from ddim_tutorial.training.evaluate.solvers import emoji_solvers, fashion_solvers
from ddim_tutorial.training.evaluate.tables import fashion_table1, fashion_table2
from ddim_tutorial.training.fashion_data import DATA


def emoji(folder: Path, data: Path, precision: str) -> None:
    """The bars of the latent model, in a module of its own: it needs the text encoder and the
    autoencoder as well."""
    from ddim_tutorial.training.emoji.evaluate import emoji

    emoji(folder, data, precision=precision)


Command = Callable[..., None]  # (folder, data, precision), and of SIZED also count and seeds
SIZED: dict[str, Command] = {
    "fashion-solvers": fashion_solvers,
    "emoji-solvers": emoji_solvers,
    "fashion-jump": fashion_jump,
    "emoji-jump": emoji_jump,
}
EMOJI = Path("runs/emoji/data.safetensors")
COMMANDS: dict[str, tuple[Command, Path]] = {  # what it runs, and the data it reads by default
    "fashion": (fashion, DATA),
    "fashion-table1": (fashion_table1, DATA),
    "fashion-table2": (fashion_table2, DATA),
    "fashion-table3": (fashion_table3, DATA),
    "emoji": (emoji, EMOJI),
    **{name: (evaluate, DATA) for name, evaluate in SIZED.items()},
    "emoji-jump": (emoji_jump, EMOJI),
}


def main() -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        prog="python -m ddim_tutorial.training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--folder", type=Path, help="the model, instead of the bundled one")
    parser.add_argument(
        "--data", type=Path, help="folder with Fashion-MNIST's four .gz files, or the emoji file"
    )
    parser.add_argument(
        "--precision",
        choices=NETWORK,
        default="no",
        help="what the networks compute in: float32 (no, the default) or bf16 autocast",
    )
    parser.add_argument(
        "--count", type=int, help="pictures of a row and seed, of solvers and jumps"
    )
    parser.add_argument("--seeds", type=int, help="repetitions of every row, of solvers and jumps")
    arguments = parser.parse_args()
    evaluate, data = COMMANDS[arguments.what]
    folder = arguments.folder or zoo.ZOO / arguments.what.split("-")[0]
    size = {k: v for k in ("count", "seeds") if (v := getattr(arguments, k)) is not None}
    if size and arguments.what not in SIZED:
        parser.error(f"--count and --seeds belong to {', '.join(SIZED)}")
    evaluate(folder, arguments.data or data, arguments.precision, **size)


if __name__ == "__main__":
    main()
