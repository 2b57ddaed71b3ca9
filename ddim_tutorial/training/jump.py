"""What the commands of the learned jump share: options, and from a run to the model's folder."""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from ddim_tutorial.schedule import Schedule
from ddim_tutorial.training.arguments import fraction, natural, positive
from ddim_tutorial.training.checkpoint import read_average
from ddim_tutorial.training.consistency import RECIPES, Options, Unet
from ddim_tutorial.training.log import summary
from ddim_tutorial.training.lora import add_lora, save_jump
from ddim_tutorial.zoo.card import file_sha256, write_card
from ddim_tutorial.zoo.weights import DIFFUSERS, find_weights


def add_options(parser: argparse.ArgumentParser, scale: float, **defaults: Any) -> None:
    """The fields of :class:`Options` but "prediction", "scale" and "precision" as options of a
    command."""
    usual = Options._field_defaults | defaults
    kinds = {
        "steps": (positive, "updates"),
        "batch": (positive, None),
        "lr": (float, None),
        "walks": (natural, "of recipe ends: trajectories that are solved first"),
        "solver_steps": (positive, "of recipe ends: steps of a trajectory"),
        "first": (fraction, "of recipe ends: the share of a batch that is pure noise"),
        "stride": (positive, "of recipe distillation: times of the teacher's step"),
        "decay": (fraction, "of recipe distillation: of the target's moving average"),
        "rank": (natural, "of a LoRA; 0 trains all weights"),
        "seed": (int, None),
    }
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    for name, (kind, text) in kinds.items():
        option = f"--{name.replace('_', '-')}"
        help_text = f"{text or name} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=usual[name], help=help_text)
    parser.add_argument("--scale", type=float, default=scale, help="guidance that is folded in")
    parser.add_argument("--precision", choices=["no", "bf16"], help="default: what the CPU has")


def taken_options(given: dict[str, Any]) -> Options:
    """The Options among a command's arguments, which they leave."""
    return Options(**{name: given.pop(name) for name in Options._fields if name in given})


def sha256_of(folder: Path) -> str:
    """Of the U-Net in the model's ``folder``."""
    return file_sha256(*find_weights(folder / "unet", DIFFUSERS).paths)


def new_network(
    unet: nn.Module, rank: int, prediction: str = "epsilon", schedule: Schedule | None = None
) -> Unet:
    """The network that learns, from the teacher's U-Net in memory of its own."""
    if rank:
        add_lora(unet, rank)
    else:
        unet.requires_grad_(True)
    return Unet(unet, prediction, schedule)


def export_jump(run: Path, unet: nn.Module, folder: Path, command: str) -> Path:
    """Put the averaged weights of the run's last checkpoint into ``folder``/jump and the run into
    its card. ``unet``: that of ``folder``, float32; it is changed.

    Raises FileNotFoundError for a run without a checkpoint, ValueError where it was distilled from
    other weights than those in ``folder``.
    """
    state = run / "state.safetensors"
    if not state.exists():
        raise FileNotFoundError(
            f"{state} is not there: start it by {command}, and wait for its first checkpoint"
        )
    claims = json.loads((run / "jump.json").read_text())
    if claims["teacher"] != sha256_of(folder):
        raise ValueError(
            f"{run}: distilled from the weights {claims['teacher'][:12]}, those in"
            f" {folder} are {sha256_of(folder)[:12]}; train it again from these"
        )
    network = new_network(unet, claims["rank"])
    network.load_state_dict(read_average(state, "network."))
    path = save_jump(network.unet, folder, claims["scale"], claims["prediction"])
    entry = claims | summary(run) | {"command": command}
    if hours := round(walking_seconds(run / "ends") / 3600, 2):
        entry["hours of walks"] = hours
    card = folder / "card.json"
    if card.exists():
        write_card(folder, json.loads(card.read_text(encoding="utf-8")) | {"jump": entry})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return path


def walking_seconds(folder: Path) -> float:
    """What the shards in ``folder`` took to solve, one after the other."""
    seconds = 0.0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            seconds += float((file.metadata() or {}).get("seconds", 0))
    return seconds
