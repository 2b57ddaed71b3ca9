"""A model's card: where its weights come from, how good they are, and the sha256 of every file."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from .weights import AGAIN, load_tensors, read_json, refuse_pointer


def write_card(folder: str | Path, card: dict[str, Any]) -> None:
    """Write ``folder/card.json``: ``card`` with "files", the sha256 of every other file in the
    folder."""
    folder = Path(folder)
    card = {**card, "files": {name: file_sha256(folder / name) for name in _files(folder)}}
    (folder / "card.json").write_text(
        json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def verify(folder: str | Path) -> dict[str, Any]:
    """Return the card of ``folder``; raise ValueError for a file that is missing, changed or not in
    the card."""
    folder = Path(folder)
    card = read_json(folder / "card.json")
    listed = card.get("files")
    if not listed or not isinstance(listed, dict):
        raise ValueError(
            f'{folder / "card.json"}: it lists no "files"; write the card with zoo.write_card'
        )
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: missing, but listed in card.json; {AGAIN}")
        if (actual := file_sha256(path)) != expected:
            refuse_pointer(path)
            if path.suffix == ".safetensors":
                load_tensors(path)  # says more where the file is cut or not finite
            raise ValueError(
                f"{path}: changed, its sha256 is {actual[:12]}..., card.json has"
                f" {expected[:12]}...; {AGAIN}"
            )
    for name in _files(folder):
        if name not in listed and name.endswith((".safetensors", "config.json")):
            raise ValueError(
                f"{folder / name}: not listed in card.json; remove it, or write the card again"
            )
    return card


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path.name != "card.json" and not any(part.startswith(".") for part in path.parts)
    )


def file_sha256(*paths: Path) -> str:
    """The sha256 of a file, or of several one after the other."""
    digest = sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
