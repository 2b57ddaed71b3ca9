"""Weights as they are read: safetensors that are whole and finite, into the module that config.json
describes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..classifier import Classifier
from ..gan import Generator

AGAIN = "copy the folder again, or reinstall the package"


def load_module(
    path: Path,
    build: Callable[[dict[str, Any]], nn.Module],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module that ``config.json`` beside ``path`` describes, with the weights in ``path``, in
    eval mode, frozen."""
    weights = load_tensors(path)
    config = read_json(path.parent / "config.json")
    try:
        with torch.device("meta"):  # costs no time and leaves the global random numbers alone
            module = build(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path.parent / 'config.json'}: no network can be built from it ({error})"
        ) from error
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    seen = {key: tuple(value.shape) for key, value in weights.items()}
    for problem, keys in (
        ("lacks", wanted.keys() - seen),
        ("has the unknown", seen.keys() - wanted),
    ):
        if keys:
            raise ValueError(
                f"{path}: it {problem} {min(keys)} ({len(keys)} such), going by config.json;"
                f" {AGAIN}"
            )
    for key, shape in wanted.items():
        if seen[key] != shape:
            raise ValueError(
                f"{path}: {key} has shape {seen[key]}, config.json asks for {shape}; {AGAIN}"
            )
    module.load_state_dict(
        {
            key: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for key, value in weights.items()
        },
        assign=True,
    )
    if lost := [key for key, value in _state(module) if value.is_meta]:
        raise ValueError(f"{path}: {lost[0]} was left without a value ({len(lost)} in all)")
    return module.eval().requires_grad_(False)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def build_unet(config: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DModel

    if config.get("_class_name") != "UNet2DModel":
        raise TypeError(
            f"it describes {config.get('_class_name')}, wanted a UNet2DModel; a text-to-image"
            " pipeline needs its model_index.json"
        )
    return UNet2DModel.from_config(config)


def build_classifier(config: dict[str, Any]) -> nn.Module:
    return Classifier(**config)


def build_generator(config: dict[str, Any]) -> nn.Module:
    return Generator(**config)


def load_tensors(path: Path) -> dict[str, Tensor]:
    return dict(read_tensors(path))


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, one by one; ValueError for a file that is missing,
    pickled, cut or not finite."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        pickled = [
            p.name
            for p in path.parent.glob("*")
            if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
        ]
        why = (
            f"there is a pickled {pickled[0]}, which could run any code and is not read; convert it"
            " with save_pretrained(..., safe_serialization=True)"
            if pickled
            else AGAIN
        )
        raise ValueError(f"{path}: missing; {why}")
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04" or (
        head[:1] == b"\x80" and head[8:] != b"{"
    ):  # safetensors has its "{" there
        raise ValueError(
            f"{path}: a pickled file under the name of safetensors, which could run any code: not"
            " read"
        )
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():
                value = file.get_tensor(key)
                if value.is_floating_point() and not value.isfinite().all():
                    raise ValueError(f"{path}: {key} holds NaN or infinity; {AGAIN}")
                yield key, value
    except SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or damaged, not a whole safetensors file ({error}); {AGAIN}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path}: missing; {AGAIN}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: it holds a {type(content).__name__}, wanted an object {{...}}; {AGAIN}"
        )
    return content
