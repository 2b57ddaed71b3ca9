"""The notebooks and their data tables, found from any working directory and in every kind of
installation: a wheel holds them beside the modules, a checkout beside the package."""

import hashlib
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

FIRST = "00_start_here.ipynb"
RECORD = ".copied.json"  # sha256 of every file as it was copied: what differs is the reader's


def folder() -> Path:
    """The folder of the notebooks, with their tables in ``data/``.

    Raises FileNotFoundError where the installation has none.
    """
    package = Path(str(files("ddim_tutorial")))
    places = package / "notebooks", package.parent / "notebooks"
    for place in places:
        if (place / FIRST).is_file():
            return place
    raise FileNotFoundError(
        f"no notebooks in {places[0]} or {places[1]}: reinstall the package, or work in a checkout"
    )


def table(name: str) -> dict[str, Any]:
    """The table ``data/<name>.json`` that a notebook reads: the numbers, and the command and the
    weights that made them. Raises FileNotFoundError with the names there are."""
    data = folder() / "data"
    path = data / f"{name}.json"
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in data.glob("*.json")))
        raise FileNotFoundError(f"there is no table {name!r}; there are {names}")
    return json.loads(path.read_text(encoding="utf-8"))


def copy(target: Path) -> tuple[list[str], list[str]]:
    """Copy the notebooks and tables into ``target``, which may exist: (copied, kept), names
    relative to it.

    What is new here, or was copied before and not touched since, is written; a file that the
    reader has changed is kept.
    """
    source = folder()
    if target.resolve() == source.resolve():
        return [], []
    record = _record(target)
    copied, kept = [], []
    for name in _names(source):
        new = hashlib.sha256((source / name).read_bytes()).hexdigest()
        mine = target / name
        old = hashlib.sha256(mine.read_bytes()).hexdigest() if mine.exists() else None
        if old not in (None, new, record.get(name)):
            kept.append(name)
            continue
        record[name] = new
        if old != new:
            mine.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, mine)
            copied.append(name)
    text = json.dumps(record, indent=1) + "\n"
    (target / RECORD).write_text(text, encoding="utf-8")
    return copied, kept


def _names(source: Path) -> list[str]:
    """The lessons and their tables, without the template."""
    paths = [*source.glob("[0-9]*.ipynb"), *source.glob("data/*.json")]
    return sorted(path.relative_to(source).as_posix() for path in paths)


def _record(target: Path) -> dict[str, str]:
    path = target / RECORD
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it: what differs is then taken as yours"
        ) from None
