"""A folder of shards, each written whole or not at all, and a manifest that says what they are."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_whole

MANIFEST = "manifest.json"
RESERVE = 2**24  # bytes that stay free


class Shards:
    """Pictures 0..count-1 in files of ``size``: images (N, C, H, W) uint8, indices (N,) int64."""

    def __init__(self, folder: str | Path, count: int, size: int):
        self.folder, self.count, self.size = Path(folder), count, size

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def indices(self, k: int) -> range:
        """The pictures of shard k: whatever the processes and batches are."""
        return range(k * self.size, min((k + 1) * self.size, self.count))

    def path(self, k: int) -> Path:
        return self.folder / f"shard-{k:05d}.safetensors"

    def done(self, k: int) -> bool:
        """Whether shard k is there. ValueError for a file that is not the shard it should be."""
        if not self.path(k).exists():
            return False
        try:
            with safe_open(self.path(k), "pt") as file:
                if file.get_tensor("indices").tolist() == list(self.indices(k)):
                    return True
            problem = "it holds other pictures"
        except SafetensorError as error:
            problem = f"it is damaged ({error})"
        raise ValueError(f"{self.path(k)}: {problem}; remove it and run again")

    def write(self, k: int, images: Tensor) -> None:
        """Write shard k so that a kill leaves the whole of it or nothing."""
        tensors = {"images": images, "indices": torch.tensor(list(self.indices(k)))}
        write_whole(self.path(k), save(tensors))

    def read(self, k: int) -> Tensor:
        with safe_open(self.path(k), "pt") as file:
            return file.get_tensor("images")

    def images(self) -> Iterator[Tensor]:
        """The pictures, shard by shard."""
        for k in range(len(self)):
            if not self.done(k):
                raise ValueError(
                    f"{self.path(k)}: missing; on several machines --out must be a folder that all"
                    " of them see"
                )
            yield self.read(k)


def require_writable(folder: Path, process: int = 0) -> None:
    """Make ``folder`` and write a file there, or say why not."""
    probe = folder / f".probe-{process}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}); pass a folder of your own"
        ) from error


def require_space(folder: Path, pictures: int, shape: tuple[int, ...]) -> None:
    """Refuse where ``pictures`` of ``shape``, a byte a value, would not fit on the disk."""
    size = torch.Size(shape).numel() + 8
    free = shutil.disk_usage(folder).free - RESERVE
    if pictures * size > free:
        raise ValueError(
            f"--out {folder}: {pictures} pictures need {pictures * size / 1e6:.1f} MB and"
            f" {max(free, 0) / 1e6:.1f} MB are free; make room, or pass another folder"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("shard-*.safetensors")):
            raise ValueError(f"--out {folder}: shards without {MANIFEST}; pass an empty folder")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); pass an empty folder") from error


def require_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to mix pictures of two kinds: every difference is named."""
    differences = [
        f"{name}: {_short(old.get(name))} there, {_short(new.get(name))} asked for"
        for old, new in ((before[part], now[part]) for part in ("arguments", "weights"))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise ValueError(
            f"--out {folder} holds pictures of another run ({'; '.join(differences)}); pass the"
            " same arguments to go on with it, or another folder"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
