"""A table of rows that stand alone: each is saved when it is done, one of fewer pictures is
measured again, and a table of other weights is begun anew."""

import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ddim_tutorial.files import write_whole

Row = dict[str, Any]


def versions() -> dict[str, str]:
    """What the numbers of a table were computed with."""
    return {"torch": torch.__version__, "python": platform.python_version()}


def as_text(table: Row) -> str:
    """The table as JSON, a row a line."""
    rest = {key: value for key, value in table.items() if key != "rows"}
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in table["rows"])
    return json.dumps(rest, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n'


def fill(
    path: Path,
    header: Row,
    plan: Sequence[Row],
    pictures: int,
    measure: Callable[..., Row],
    order: Callable[[Row], Any] | None = None,
) -> None:
    """Add ``measure(**key)`` for the keys of ``plan``, all with the same names, that the table at
    ``path`` does not have from as many pictures. header: what made the table, with "sha256" of the
    weights. order: by what the rows are sorted; None leaves them as they came."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = table["rows"] if table.get("sha256") == header["sha256"] else []
    path.parent.mkdir(parents=True, exist_ok=True)
    for key in plan:
        old = [row for row in rows if all(row.get(name) == key[name] for name in key)]
        if old and old[0]["pictures"] >= pictures:
            continue
        started = time.process_time()
        found = {"pictures": pictures} | measure(**key)
        seconds = {"CPU seconds": round(time.process_time() - started, 1)}
        rows = [row for row in rows if row not in old] + [key | found | seconds]
        if order is not None:
            rows.sort(key=order)
        write_whole(path, as_text(header | {"rows": rows}).encode())
        print(*key.values(), seconds, flush=True)
