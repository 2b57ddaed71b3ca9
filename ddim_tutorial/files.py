"""Files that are whole or not there: a stop while one is written leaves what was there before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
