"""Make many pictures: sharded, resumable, on one process or many.

    python -m ddim_tutorial.generate --model fashion --count 50000 --out pictures
    accelerate launch --num_processes 4 -m ddim_tutorial.generate ...          # four GPUs
    torchrun --standalone --nproc-per-node 2 -m ddim_tutorial.generate ...     # two CPU processes

Run the same command again to go on with a run that was stopped. OUT/shard-*.safetensors hold
images (N, C, H, W) uint8 and indices (N,); OUT/manifest.json says how they were made. Several
machines need an OUT that all of them see.
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from ddim_tutorial import zoo
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.solvers import SOLVERS
from ddim_tutorial.spacing import SPACINGS
from ddim_tutorial.training.fashion_data import DATA

from .outputs import contact_sheet, frechet_to_fashion, require_judge
from .run import generate
from .shards import read_manifest, require_writable
from .source import Request, Source


def parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parse = argparse.ArgumentParser(
        "ddim_tutorial.generate", description=__doc__, formatter_class=kind
    )
    add = parse.add_argument
    add("--model", default="fashion", help="fashion, emoji, or a diffusers folder")
    add("--count", type=int, required=True, help="how many pictures")
    add("--out", type=Path, required=True, help="the folder of the shards")
    add("--steps", type=int, default=20, help="evaluations of the network a picture (20)")
    add("--solver", choices=SOLVERS, default="dpmpp_2m")
    add("--spacing", choices=SPACINGS, default="trailing", help="of the times")
    add("--seed", type=int, default=0, help="picture i depends on the seed and on i")
    add("--scale", type=float, help="of guidance (1 for pixels, 4 for texts)")
    add("--labels", type=int, nargs="+", help="classes, in turn (all of them)")
    add("--prompts", type=Path, help="file of texts, one a line, in turn (those of the examples)")
    add("--batch", type=int, help="pictures at once (50; a resumed run keeps its own)")
    add("--shard", type=int, default=250, help="pictures in a file (250)")
    add("--sheet", type=Path, metavar="FILE.png", help="the first 64 pictures, to look at")
    add("--frechet", action="store_true", help="distance to Fashion-MNIST's test set")
    add("--data", type=Path, default=DATA, help="folder of Fashion-MNIST's four .gz files")
    return parse


def request(arguments: argparse.Namespace) -> Request:
    """The arguments as a request; the batch is the manifest's where there is one and none is
    given."""
    prompts, batch = None, arguments.batch
    if arguments.prompts is not None:
        lines = arguments.prompts.read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
    if batch is None:
        manifest = read_manifest(arguments.out) or {"arguments": {"batch": 50}}
        batch = manifest["arguments"]["batch"]
    names = ("count", "steps", "solver", "spacing", "seed", "scale", "labels", "shard")
    given = {name: getattr(arguments, name) for name in names}
    return Request(prompts=prompts, batch=batch, **given)


def run(arguments: argparse.Namespace, state: PartialState) -> None:
    require_writable(arguments.out, state.process_index)
    if arguments.sheet is not None:
        require_writable(arguments.sheet.parent, state.process_index)
    wanted = request(arguments)
    source = Source(zoo.load(arguments.model, device=state.device), wanted)
    judge = require_judge(source.bundle, arguments.data) if arguments.frechet else None
    shards = generate(source, arguments.out, state)
    if state.is_main_process and arguments.sheet is not None:
        contact_sheet(shards, arguments.sheet)
    if state.is_main_process and judge is not None:
        distance = frechet_to_fashion(shards, judge, arguments.data)
        print(
            f"Fréchet distance of {shards.count} pictures to the test set, by the model's own"
            f" classifier: {distance:.4f}"
        )


def main() -> None:
    escape_unprintable()
    arguments = parser().parse_args()
    state = PartialState(cpu=not torch.cuda.is_available())  # else CPU processes find no others
    try:
        run(arguments, state)
    except (ValueError, TypeError, OSError) as error:
        sys.exit(str(error) if state.is_local_main_process else 1)
    finally:
        state.destroy_process_group()


if __name__ == "__main__":
    main()
