"""What a resumed run needs, read and written: ``state.safetensors`` and ``settings.json``.

The state is safetensors throughout. ``Accelerator.save_state`` would pickle the optimisers and the
random states, and this package loads no pickle: a pickle runs whatever code its author put there.
The random states need no file: they follow from the seed and the step.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ddim_tutorial.files import whole

Optimizers = Mapping[str, torch.optim.Optimizer]


def save_state(
    path: Path,
    step: int,
    seconds: float,
    model: nn.Module,
    ema: AveragedModel,
    optimizers: Optimizers,
) -> None:
    """Write everything a resumed run needs to one file, whole or not at all."""
    metadata = {"step": str(step), "seconds": str(seconds)}
    with whole(path) as temporary:
        save_file(_flatten(model, ema, optimizers), temporary, metadata=metadata)


def _flatten(model: nn.Module, ema: AveragedModel, optimizers: Optimizers) -> dict[str, Tensor]:
    parts = {f"model.{k}": v for k, v in model.state_dict().items()}
    parts |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for name, optimizer in optimizers.items():
        for i, entry in optimizer.state_dict()["state"].items():
            parts |= {f"{name}.{i}.{k}": v for k, v in entry.items()}
    return {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in parts.items()
    }


def read_average(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The averaged weights in :func:`save_state`'s file, of the part of the model whose names begin
    with ``prefix``, without it."""
    prefix = f"ema.module.{prefix}"
    with safe_open(path, "pt") as file:
        return {
            key.removeprefix(prefix): file.get_tensor(key)
            for key in file.keys()
            if key.startswith(prefix)
        }


def finished(path: Path) -> tuple[int, float]:
    """Steps and seconds of training in :func:`save_state`'s file. ValueError for one that is
    damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    except SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or damaged ({error}); restore it from a copy, or delete the run's"
            " folder to start again from the beginning"
        ) from error
    return int(metadata["step"]), float(metadata.get("seconds", 0))


def load_state(
    path: Path, model: nn.Module, ema: AveragedModel, optimizers: Optimizers
) -> tuple[int, float]:
    """Read :func:`save_state`'s file back into these objects; return its steps and seconds."""
    done = finished(path)
    groups: dict[str, dict[str, Tensor]] = {name: {} for name in ("model", "ema", *optimizers)}
    with safe_open(path, "pt") as file:
        for key in file.keys():
            room, name = key.split(".", 1)
            groups[room][name] = file.get_tensor(key)
    model.load_state_dict(groups["model"])
    ema.load_state_dict(groups["ema"])
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, groups[name])
    return done


def _load_optimizer(optimizer: torch.optim.Optimizer, entries: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in entries.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        # fused AdamW walks weight and moments as flat memory: channels_last weights need
        # channels_last moments
        if value.shape == like.shape:
            value = torch.empty_like(like, device="cpu").copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def write_settings(path: Path, settings: dict) -> None:
    """Store the settings; say what differs from those that the run was begun with."""
    new = json.loads(json.dumps(settings))
    old = json.loads(path.read_text()) if path.exists() else {}
    for name, value in new.items():
        if old.get(name, value) != value:
            print(f"{path}: {name} was {old[name]!r}, the run continues with {value!r}", flush=True)
    path.write_text(json.dumps(new, indent=2) + "\n")
