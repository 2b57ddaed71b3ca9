"""The pictures: which emoji in which style, on white at 64 x 64, and which of them are held out."""

import json
import unicodedata
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import objects

RUN = Path("runs/emoji")
PACKAGES = RUN / "packages" / "node_modules"
SIZE = 64


class Source(NamedTuple):
    """A package of pictures: its name and version on npm, where the picture of a hex code lies in
    it, and the pictures' own licence (the package's licence field speaks of its code)."""

    package: str
    version: str
    pattern: str
    licence: str


SOURCES = {
    "noto": Source(
        "emoji-datasource-google",
        "16.0.0",
        "img/google/64/{}.png",
        "Noto Emoji pictures (Google): Apache-2.0",
    ),
    "twemoji": Source(
        "emoji-datasource-twitter",
        "16.0.0",
        "img/twitter/64/{}.png",
        "Twemoji pictures (Twitter and contributors): CC BY 4.0",
    ),
    "fluent": Source(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "assets/{}.webp",
        "Fluent Emoji pictures (Microsoft): MIT",
    ),
    "blob": Source(
        "emoji-datasource-google",
        "3.0.0",
        "img/google/64/{}.png",
        "Noto Emoji pictures of 2017, blobs (Google): Apache-2.0",
    ),
}
STYLES = tuple(SOURCES)
LATER = ("blob",)  # an object may lack these styles
NAMES = Source(
    "emojibase-data", "17.0.0", "en/data.json", "names and tags (Miles Johnson; Unicode CLDR): MIT"
)
INSTALL = "npm install --ignore-scripts --legacy-peer-deps --prefix {} " + " ".join(
    f"{alias}@npm:{source.package}@{source.version}"
    for alias, source in [*SOURCES.items(), ("names", NAMES)]
)


class Emoji(NamedTuple):
    """The data file. images (N, 3, 64, 64) uint8; objects (N,) int64 into ``names``; styles (N,)
    int64 into STYLES; split (N,) int64: 0 training, 1 this style of the object is held out, 2 the
    object is held out in all styles."""

    images: Tensor
    objects: Tensor
    styles: Tensor
    split: Tensor
    names: list[str]
    tags: list[list[str]]
    packages: dict[str, dict[str, str]]

    def captions(self, rows: Iterable[int] | None = None) -> list[str]:
        """ "STYLE emoji of NAME" for the given rows (None: all), as the evaluation asks for it."""
        rows = range(len(self.images)) if rows is None else rows
        return [caption(STYLES[self.styles[i]], self.names[self.objects[i]]) for i in rows]


def caption(style: str, name: str) -> str:
    """The caption that the evaluation asks for."""
    return f"{style} emoji of {name}"


def clean(name: str) -> str:
    """Lower case, composed Unicode, plain apostrophe."""
    return unicodedata.normalize("NFC", name).replace("’", "'").lower()


def labels(text: str) -> set[str]:
    """The cleaned names of a list that is separated by semicolons."""
    return {clean(" ".join(part.split())) for part in text.split(";")}


def rank(name: str) -> str:
    """A fixed pseudo-random key: the split depends on the names alone."""
    return sha256(name.encode()).hexdigest()


def held_out(names: list[str]) -> tuple[set[str], set[tuple[str, str]]]:
    """(objects held out in all styles: 2 %, (object, style) pairs held out: one style of the three
    complete ones for 15 % of the other objects, the blob for the next 15 %), by the order of the
    names' hashes."""
    order = sorted(names, key=rank)
    first, share = round(0.02 * len(order)), round(0.15 * len(order))
    complete = [style for style in STYLES if style not in LATER]
    pairs = {
        (name, complete[int(rank(name)[-8:], 16) % len(complete)])
        for name in order[first : first + share]
    }
    pairs |= {(name, style) for style in LATER for name in order[first + share : first + 2 * share]}
    return set(order[:first]), pairs


def read_picture(path: Path) -> Tensor:
    """A PNG or WebP file on white -> (3, 64, 64) uint8."""
    import numpy as np
    from PIL import Image

    picture = Image.open(path).convert("RGBA")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", picture.size, "white")
    rgb = np.array(Image.alpha_composite(white, picture).convert("RGB"))
    return torch.from_numpy(rgb).permute(2, 0, 1)


def find(folder: Path, pattern: str, hexcode: str) -> Path | None:
    """The picture of a hex code: file names carry the variation selector fe0f or not."""
    code = hexcode.lower()
    for form in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        if (path := folder / pattern.format(form)).exists():
            return path
    return None


def package_folder(packages: Path, alias: str, source: Source) -> Path:
    """The installed package's folder. FileNotFoundError if it is missing, ValueError for another
    version: another version is another data set."""
    folder = packages / alias
    if not (folder / "package.json").exists():
        raise FileNotFoundError(
            f"{folder} is not there; install the pictures by\n{INSTALL.format(packages.parent)}"
        )
    version = json.loads((folder / "package.json").read_text())["version"]
    if version != source.version:
        raise ValueError(
            f"{folder}: version {version}, wanted {source.version}; install the pictures by\n"
            f"{INSTALL.format(packages.parent)}"
        )
    return folder


def find_pictures(packages: Path) -> tuple[dict[str, dict], dict[str, dict[str, Path]]]:
    """emojibase's entries by name, and the pictures {name: {style: file}} of the objects that have
    all complete styles, in the order of the names."""
    table = package_folder(packages, "names", NAMES) / NAMES.pattern
    smileys, dropped = labels(objects.SMILEYS), labels(objects.DROPPED)
    entries = {}
    for entry in json.loads(table.read_text(encoding="utf-8")):
        name = clean(entry["label"])
        if entry.get("group") in objects.GROUPS or name in smileys:
            entries[name] = entry
    unknown = (smileys | dropped | set(objects.ALIASES)) - set(entries)
    if unknown:
        raise ValueError(
            f"SMILEYS, DROPPED, ALIASES: {sorted(unknown)} are no labels of {NAMES.package}; "
            "correct them"
        )
    folders = {style: package_folder(packages, style, SOURCES[style]) for style in STYLES}
    pictures = {}
    for name in sorted(set(entries) - dropped):
        hexcode = entries[name]["hexcode"]
        files = {style: find(folders[style], SOURCES[style].pattern, hexcode) for style in STYLES}
        if all(files[style] for style in STYLES if style not in LATER):
            pictures[name] = {style: file for style, file in files.items() if file}
    return entries, pictures


def build_data(packages: Path, path: Path) -> Emoji:
    """Choose the objects, composite their pictures on white at 64 x 64 and write one file."""
    entries, pictures = find_pictures(packages)
    names = list(pictures)
    whole, pairs = held_out(names)
    images, rows = [], []
    for i, name in enumerate(names):
        for style, file in pictures[name].items():
            images.append(read_picture(file))
            split = 2 if name in whole else 1 if (name, style) in pairs else 0
            rows.append((i, STYLES.index(style), split))
    columns = torch.tensor(rows).T.contiguous()
    versions = {
        f"{source.package}@{source.version}": {"licence": source.licence}
        for source in [*SOURCES.values(), NAMES]
    }
    tags = [[clean(tag) for tag in entries[name].get("tags", [])] for name in names]
    data = Emoji(torch.stack(images), *columns, names, tags, versions)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: getattr(data, key).clone() for key in ("images", "objects", "styles", "split")}
    texts = {key: json.dumps(getattr(data, key)) for key in ("names", "tags", "packages")}
    save_file(tensors, path, metadata=texts)
    return data


def read_data(path: Path = RUN / "data.safetensors") -> Emoji:
    """Read :func:`build_data`'s file."""
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path} is not there: build it by python -m ddim_tutorial.training.emoji data"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
            return Emoji(**{key: file.get_tensor(key) for key in file.keys()}, **metadata)
    except (SafetensorError, TypeError) as error:
        raise ValueError(
            f"{path}: not this recipe's data, or damaged ({error}); build it again"
        ) from error
