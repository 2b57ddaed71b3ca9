"""Files that are whole or not there: a stop while one is written leaves what was there before."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """``with whole(path) as temporary:`` takes the name to write to; the file gets ``path`` at the
    end, and is on the disk by then (fsync, rename). After an error ``path`` is as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # the rename itself; other systems do not open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, all of it or nothing."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def save_network(network: nn.Module, folder: str | Path) -> None:
    """Write config.json, ``network.config``, and model.safetensors (fp16, whole numbers as they
    are) into ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", f"{json.dumps(network.config, indent=2)}\n".encode())
    state = {
        name: (value.to(torch.float16) if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    with whole(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
