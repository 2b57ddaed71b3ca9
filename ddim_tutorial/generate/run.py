"""The loop over shards, on every process its own."""

import platform
import warnings
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from ..files import write_whole
from .shards import (
    MANIFEST,
    Shards,
    read_manifest,
    require_same,
    require_space,
    require_writable,
)
from .source import Source


def generate(source: Source, folder: str | Path, state: PartialState | None = None) -> Shards:
    """Make the shards that ``folder`` does not have yet; with several processes each makes its own
    and waits for the others at the end.

    ValueError, before the first picture, for a folder that cannot be written, that has no room, or
    that holds pictures of other arguments or weights.
    """
    state, folder = state or PartialState(), Path(folder)
    shards = Shards(folder, source.request.count, source.request.shard)
    require_writable(folder, state.process_index)
    manifest, before = _manifest(source), read_manifest(folder)
    if before is not None:
        require_same(folder, before, manifest)
        _warn_of_versions(before["versions"], manifest["versions"])
    missing = [k for k in range(len(shards)) if not shards.done(k)]
    require_space(folder, sum(len(shards.indices(k)) for k in missing), source.shape)
    state.wait_for_everyone()  # nobody writes before all have looked
    if before is None and state.is_main_process:
        write_whole(folder / MANIFEST, f"{dumps(manifest, indent=2)}\n".encode())
    own = [k for k in missing if k % state.num_processes == state.process_index]
    total = sum(len(shards.indices(k)) for k in own)
    name = f"process {state.process_index + 1} of {state.num_processes}"
    with tqdm(total=total, desc=name, unit="picture", disable=not state.is_main_process) as bar:
        for k in own:
            shards.write(k, _shard(source, shards.indices(k), bar))
    state.wait_for_everyone()
    return shards


def _shard(source: Source, indices: range, bar: tqdm) -> torch.Tensor:
    """The pictures of a shard, in batches that begin with it."""
    parts = []
    for first in range(0, len(indices), source.request.batch):
        part = indices[first : first + source.request.batch]
        parts.append(source(part))
        bar.update(len(part))
    return torch.cat(parts)


def _manifest(source: Source) -> dict[str, Any]:
    packages = ("torch", "diffusers", "safetensors", "numpy")
    return {
        "command": "python -m ddim_tutorial.generate",
        "model": source.bundle.name,
        "weights": source.weights(),
        "arguments": source.arguments(),
        "times": source.times,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("ddim_tutorial", *packages)},
    }


def _warn_of_versions(before: dict[str, str], now: dict[str, str]) -> None:
    changed = [f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
    if changed:
        warnings.warn(
            f"this run was begun with other versions ({', '.join(changed)}): pictures made from"
            " here on may differ from theirs in the last bits",
            stacklevel=3,
        )
