"""The pictures: from installed packages to one file, and which of them are held out."""

import json
from hashlib import sha256

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ddim_tutorial import zoo
from ddim_tutorial.training.emoji import data as recipe
from ddim_tutorial.training.emoji import objects

TABLE = [
    ("1F34E", "red apple", 4),
    ("2764-FE0F", "Red Heart", 0),
    ("1F383", "jack-o-lantern", 6),
    ("1F468", "man", 1),
    ("1F6A7", "one style only", 5),
    ("1F9C0", "dropped", 4),
]


def save_picture(path, colour, size: int) -> None:
    """The left half is opaque, the right half transparent."""
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste((*colour, 255), (0, 0, size // 2, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, lossless=True)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The installed packages: the heart's file carries fe0f in one of them, the lantern has no
    blob, the fluent pictures are twice as large."""
    monkeypatch.setattr(objects, "SMILEYS", "red heart")
    monkeypatch.setattr(objects, "DROPPED", "dropped")
    monkeypatch.setattr(objects, "ALIASES", {"red heart": ["heart"]})
    folder = tmp_path / "node_modules"
    for k, (style, source) in enumerate(recipe.SOURCES.items()):
        codes = ["1f34e", "2764-fe0f" if k == 0 else "2764", "1f383", "1f468", "1f9c0"]
        for i, code in enumerate(codes + ["1f6a7"] * (k == 0)):
            if (style, code) != ("blob", "1f383"):
                path = folder / style / source.pattern.format(code)
                save_picture(path, (40 * i, 100 + k, 7), 128 if style == "fluent" else 64)
    table = [{"hexcode": c, "label": name, "group": g, "tags": ["Tag"]} for c, name, g in TABLE]
    (folder / "names" / "en").mkdir(parents=True)
    (folder / "names" / recipe.NAMES.pattern).write_text(json.dumps(table))
    for alias, source in [*recipe.SOURCES.items(), ("names", recipe.NAMES)]:
        text = json.dumps({"name": source.package, "version": source.version})
        (folder / alias / "package.json").write_text(text)
    return folder


def test_data_from_packages(packages, tmp_path):
    recipe.build_data(packages, tmp_path / "run" / "data.safetensors")
    data = recipe.read_data(tmp_path / "run" / "data.safetensors")
    assert data.names == ["jack-o-lantern", "red apple", "red heart"]
    assert data.images.shape == (11, 3, 64, 64) and data.tags[0] == ["tag"]
    columns = zip(data.objects, data.styles, strict=True)
    pairs = [(data.names[i], recipe.STYLES[k]) for i, k in columns]
    assert len(set(pairs)) == 11 and ("jack-o-lantern", "blob") not in pairs
    for (name, style), image in zip(pairs, data.images, strict=True):
        red = 40 * ["red apple", "red heart", "jack-o-lantern"].index(name)
        colour = torch.tensor([red, 100 + recipe.STYLES.index(style), 7], dtype=torch.uint8)
        torch.testing.assert_close(image[:, 5, 5], colour)
        torch.testing.assert_close(image[:, 5, -5], torch.full((3,), 255, dtype=torch.uint8))
    assert data.packages["emoji-datasource-google@3.0.0"]["licence"].endswith("Apache-2.0")
    assert len(data.packages) == 5
    assert data.captions([4]) == ["twemoji emoji of red apple"] and len(data.captions()) == 11


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    packages, tmp_path, monkeypatch
):
    path = tmp_path / "data.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(objects, "DROPPED", "dropped; no such label")
        with pytest.raises(ValueError, match="no such label"):
            recipe.build_data(packages, path)
    description = packages / "blob" / "package.json"
    description.write_text(json.dumps({"version": "16.0.0"}))
    with pytest.raises(ValueError, match=r"blob: version 16\.0\.0, wanted 3\.0\.0"):
        recipe.build_data(packages, path)
    description.unlink()
    with pytest.raises(FileNotFoundError, match=r"blob is not there(.|\n)*npm install") as error:
        recipe.build_data(packages, path)
    for part in ("blob@npm:emoji-datasource-google@3.0.0", f"--prefix {tmp_path} noto@npm:"):
        assert part in str(error.value)
    assert not path.exists()


def test_a_data_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.emoji data"):
        recipe.read_data(tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"images": torch.zeros(1)}, other, metadata={"labels": "[]"})
    (tmp_path / "cut.safetensors").write_bytes(other.read_bytes()[:20])
    for name in ("other", "cut"):
        match = rf"{name}\.safetensors: not this recipe's data, or damaged"
        with pytest.raises(ValueError, match=match):
            recipe.read_data(tmp_path / f"{name}.safetensors")


def test_the_split_is_disjoint_and_of_the_promised_size():
    names = [f"thing {i}" for i in range(600)]
    whole, pairs = recipe.held_out(names)
    blobs = {name for name, style in pairs if style == "blob"}
    others = {name for name, style in pairs if style != "blob"}
    assert (len(whole), len(others), len(blobs), len(pairs)) == (12, 90, 90, 180)  # 2, 15, 15 %
    assert not whole & others and not whole & blobs and not others & blobs
    assert {style for _, style in pairs} == set(recipe.STYLES)
    assert recipe.held_out(names[::-1]) == (whole, pairs)


def test_what_the_first_model_did_not_see_stays_held_out():
    """Its rule, for three styles, by hand."""
    names = [f"thing {i}" for i in range(600)]
    order = sorted(names, key=lambda name: sha256(name.encode()).hexdigest())
    styles = ("noto", "twemoji", "fluent")
    first = {(n, styles[int(sha256(n.encode()).hexdigest()[-8:], 16) % 3]) for n in order[12:102]}
    whole, pairs = recipe.held_out(names)
    assert whole == set(order[:12])
    assert {pair for pair in pairs if pair[1] != "blob"} == first


def test_the_bundled_models_held_out_pictures_are_those_of_the_split():
    with safe_open(zoo.ZOO / "emoji" / "examples.safetensors", "pt") as file:
        stored = {key: json.loads(value) for key, value in file.metadata().items()}
    whole, pairs = recipe.held_out(stored["names"])
    wanted = pairs | {(name, style) for name in whole for style in recipe.STYLES}
    captions = {recipe.caption(style, name) for name, style in wanted if style != "blob"}
    assert {text for text in stored["captions"] if not text.startswith("blob")} == captions
