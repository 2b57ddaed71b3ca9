"""Weights as they are read: safetensors that are whole and finite, into the module that config.json
describes."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..classifier import Classifier
from ..gan import Generator

AGAIN = "copy the folder again, or reinstall the package"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"


class WeightFiles(NamedTuple):
    """A component's weights: the files, in order, and the variant that is part of their name
    ("fp16")."""

    paths: list[Path]
    variant: str | None


def find_weights(component: Path, stem: str) -> WeightFiles:
    """The safetensors of ``component``: one file, the shards that its index lists, or another
    variant (``stem.fp16.safetensors``) where there is no plain one. ValueError where there are
    none."""
    plain = component / f"{stem}.safetensors"
    if plain.exists():
        return WeightFiles([plain], None)
    indexes = [component / f"{stem}.safetensors.index.json"]
    indexes += sorted(component.glob(f"{stem}.safetensors.index.*.json"))
    for index in indexes:
        if index.exists():
            variant = index.name.removeprefix(f"{stem}.safetensors.index.").removesuffix("json")
            return WeightFiles(_shards(index), variant.rstrip(".") or None)
    for path in sorted(component.glob(f"{stem}.*.safetensors")):
        variant = path.name.removeprefix(f"{stem}.").removesuffix(".safetensors")
        return WeightFiles([path], variant)
    raise ValueError(f"{plain}: missing; {_instead_of(plain)}")


def _shards(index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f'{index}: it has no "weight_map" of the shards; {AGAIN}')
    return [index.parent / name for name in dict.fromkeys(shards.values())]


def _instead_of(path: Path) -> str:
    """What lies there in place of a missing weights file, and what to do."""
    pickled = sorted(p.name for p in path.parent.glob("*") if p.suffix in PICKLED)
    if pickled:
        return (
            f"there is a pickled {pickled[0]}, which could run any code and is not read; convert it"
            " with save_pretrained(..., safe_serialization=True)"
        )
    others = sorted(p.name for p in path.parent.glob("*.safetensors"))
    if others:
        return f"there is {others[0]}; rename it, if these are the weights"
    return AGAIN


def find_device(device: str | torch.device | int | None) -> torch.device:
    """``device``, or the default one; ValueError for one that torch cannot use here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device: got {device!r}, wanted a device of torch such as 'cpu', 'cuda', 'cuda:1' or"
            " 'mps'"
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: got {found}, but torch finds no CUDA device here; leave it out, or pass 'cpu'"
        )
    try:
        torch.empty(1, device=found).to("cpu" if found.type != "meta" else "meta")
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ValueError(
            f"device: got {found}, which torch cannot use here ({str(error).splitlines()[0]});"
            " leave it out, or pass 'cpu'"
        ) from error
    return found


def load_pretrained(
    kind: Any, component: Path, stem: str, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The network of a diffusers or transformers class, in eval mode, frozen, from weights that
    were checked first. Old names of weights are read as the class itself reads them."""
    files = find_weights(component, stem)
    for path in files.paths:
        for _ in read_tensors(path):
            pass
    config = component / "config.json"
    read_json(config)
    shown = files.paths[0]
    try:
        # building a network must leave the caller's random numbers alone
        with torch.random.fork_rng(devices=[]):
            network, info = kind.from_pretrained(
                component,
                dtype=dtype,
                variant=files.variant,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"{shown}: it does not fit its config.json ({error}); {AGAIN}") from error
    if missing_keys := info["missing_keys"]:
        raise ValueError(
            f"{shown}: it lacks {min(missing_keys)} ({len(missing_keys)} such), going by"
            f" config.json; {AGAIN}"
        )
    if stem == DIFFUSERS and (unexpected_keys := info["unexpected_keys"]):
        warnings.warn(
            f"{shown}: {min(unexpected_keys)} is not used ({len(unexpected_keys)} such), going by"
            " config.json",
            stacklevel=4,
        )
    return network.to(device).eval().requires_grad_(False)


def load_module(
    path: Path, build: Callable[[dict[str, Any]], nn.Module], device: torch.device
) -> nn.Module:
    """The module that ``config.json`` beside ``path`` describes, with the weights in ``path``,
    float32, in eval mode, frozen."""
    weights = load_tensors(path)
    config = read_json(path.parent / "config.json")
    try:
        with torch.device("meta"):  # costs no time and leaves the global random numbers alone
            module = build(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path.parent / 'config.json'}: no network can be built from it ({error})"
        ) from error
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    for problem, keys in (
        ("lacks", expected.keys() - shapes),
        ("has the unexpected", shapes.keys() - expected),
    ):
        if keys:
            raise ValueError(
                f"{path}: it {problem} {min(keys)} ({len(keys)} such), going by config.json;"
                f" {AGAIN}"
            )
    for key, shape in expected.items():
        if shapes[key] != shape:
            raise ValueError(
                f"{path}: {key} has shape {shapes[key]}, config.json asks for {shape}; {AGAIN}"
            )
    module.load_state_dict(
        {
            key: value.to(device, torch.float32 if value.is_floating_point() else value.dtype)
            for key, value in weights.items()
        },
        assign=True,
    )
    return module.eval().requires_grad_(False)


def build_classifier(config: dict[str, Any]) -> nn.Module:
    return Classifier(**config)


def build_generator(config: dict[str, Any]) -> nn.Module:
    return Generator(**config)


def load_tensors(path: Path) -> dict[str, Tensor]:
    return dict(read_tensors(path))


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, one by one; ValueError for a file that is missing,
    pickled, a pointer, cut or not finite."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise ValueError(f"{path}: missing; {_instead_of(path)}")
    refuse_pointer(path)
    with path.open("rb") as file:
        head = file.read(9)
    # safetensors has its "{" at the ninth byte
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:] != b"{"):
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


def refuse_pointer(path: Path) -> None:
    """Raise ValueError where a clone without Git LFS left a pointer in place of the file."""
    with path.open("rb") as file:
        head = file.read(200)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        size = re.search(rb"^size (\d+)", head, re.M)
        bytes_there = f", which has {int(size[1]):,} bytes" if size else ""
        raise ValueError(
            f"{path}: a Git LFS pointer of {path.stat().st_size} bytes, not the file"
            f" itself{bytes_there}; run `git lfs install` and `git lfs pull` in the clone"
        )


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path}: missing; {AGAIN}")
    refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: it holds a {type(content).__name__}, wanted an object {{...}}; {AGAIN}"
        )
    return content
