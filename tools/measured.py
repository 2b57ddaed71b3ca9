"""Measured figures in the README and the notebooks: how they are stated, and where they differ."""

import json
import math
import re
from pathlib import Path

README = Path("README.md")
TABLE = re.compile(r"(<!-- measured table -->\n).*?(<!-- /measured table -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- measured -->).*?(<!-- /measured -->)", re.DOTALL)


def summary(figures: dict[str, float]) -> str:
    """Time and memory as the README and a notebook state them; time rounded up, so that a notebook
    of nine seconds does not promise six."""
    minutes = math.ceil(figures["seconds"] / 6) / 10
    return f"{minutes:.1f} min, {figures['peak_gib']:.1f} GiB"


def title(path: Path) -> str:
    """The first heading of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return next(
        (line[2:].strip() for line in text.splitlines() if line.startswith("# ")), path.stem
    )


def table(record: dict, paths: list[Path]) -> str:
    """The README's table of ``paths``; a notebook that was not measured says so."""
    rows = ["| notebook | | time, memory |", "|---|---|---|"]
    for path in paths:
        figures = record["notebooks"].get(path.stem)
        figure = summary(figures) if figures and "error" not in figures else "not measured"
        rows.append(f"| [{path.stem}]({path.as_posix()}) | {title(path)} | {figure} |")
    return "\n".join(
        [*rows, "", f"Measured on {record['machine']}, each notebook in a fresh kernel.", ""]
    )


def _filled(place: re.Pattern[str], text: str, content: str) -> str:
    """``text`` with ``content`` between the two groups of ``place``."""
    return place.sub(lambda found: found[1] + content + found[2], text)


def changes(record: dict, paths: list[Path], readme: Path = README) -> dict[Path, tuple[str, str]]:
    """Files whose figures differ from the measured ones: path -> (text, text with the measured
    figures)."""
    new = {}
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        new[readme] = text, _filled(TABLE, text, table(record, paths))
    for path in paths:
        figures = record["notebooks"].get(path.stem)
        if figures and "error" not in figures:
            text = path.read_text(encoding="utf-8")
            new[path] = text, _filled(FIGURE, text, summary(figures))
    return {path: (old, text) for path, (old, text) in new.items() if old != text}
