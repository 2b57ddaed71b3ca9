"""What the texts say can be followed: every relative link leads to a file, every anchor to a
heading, and the words are spelt as a dictionary of common slips has them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *NOTEBOOKS])
# [text](target "title"), ![alt](target), <img src="target">, [label]: target; not a formula's f](x)
INLINE = re.compile(r"(?<=\]\()([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)(?=(?:\s+\"[^\"]*\")?\))")
OTHERS = re.compile(r"(?:^\[[^\]]+\]:\s*|\b(?:src|href)=\")([^\s\"]+)", re.M)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.I)


def markdown(path: Path) -> str:
    """The text without code, formulas and encoded pictures, where brackets mean something else."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        text = "\n\n".join(sources)
    return re.sub(r"```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.S)


def anchor(heading: str) -> str:
    """A heading's anchor as forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(path: Path) -> list[str]:
    """The relative links of a text that lead nowhere."""
    text, broken = markdown(path), []
    for link in [*INLINE.findall(text), *OTHERS.findall(text)]:
        if ELSEWHERE.match(link):
            continue
        name, _, fragment = unquote(link).partition("#")
        target = path.parent / name if name else path
        if not target.exists():
            broken.append(link)
        elif fragment and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            if fragment not in map(anchor, headings):
                broken.append(link)
    return broken


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path):
    assert broken_links(path) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# A heading, here")
    (tmp_path / "with space.md").touch()
    text = """[a](there.md) [b](gone.md) ![c](gone.png "title") <img src="gone.jpg"> `[x](code)`
[d](https://example.org/gone) [e](there.md#a-heading-here) [f](there.md#gone) $f[i](t)$
[g](with%20space.md) [h](#gone)

[i]: gone.txt
"""
    (tmp_path / "text.md").write_text(text)
    expected = ["gone.md", "gone.png", "there.md#gone", "#gone", "gone.jpg", "gone.txt"]
    assert broken_links(tmp_path / "text.md") == expected


def described(text: str, folder: str) -> list[str]:
    """The modules and folders that the README's table of ``folder`` names."""
    table = re.search(rf"^\| in `{folder}/`.*\n\|.*\n((?:\|.*\n)+)", text, re.M)[1]
    return re.findall(r"`([^`]+)`", " ".join(row.split(" | ")[0] for row in table.splitlines()))


def rooms(folder: Path) -> set[str]:
    modules = {path.name for path in folder.glob("*.py") if path.name != "__init__.py"}
    return modules | {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}


@pytest.mark.parametrize("folder", ["ddim_tutorial", "tools"])
def test_the_readme_names_every_room_once(folder):
    named = described((ROOT / "README.md").read_text(encoding="utf-8"), folder)
    assert len(named) == len(set(named))
    assert all((ROOT / folder / name).exists() for name in named)
    assert rooms(ROOT / folder) - set(named) == set()


def misspelt(folder: Path) -> str:
    command = [sys.executable, "-m", "codespell_lib", "--toml", ROOT / "pyproject.toml", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 65), done.stderr
    return done.stdout


def test_the_spelling_of_the_notebooks(tmp_path):
    """`codespell` itself, which `make test` runs over everything else, would read their encoded
    pictures as words."""
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
        (tmp_path / f"{path.stem}.md").write_text(text, encoding="utf-8")
    assert misspelt(tmp_path) == ""


def test_a_slip_is_found_and_british_spelling_is_none(tmp_path):
    (tmp_path / "a.md").write_text("normalise the colour of the centre")
    assert misspelt(tmp_path) == ""
    (tmp_path / "b.md").write_text("fluent emoji of a teh")  # codespell:ignore
    assert misspelt(tmp_path).startswith("./b.md:1:")


def test_the_quick_start_draws_what_it_says(tmp_path, monkeypatch):
    """Its picture is judged by the classifier, which the sampler does not know."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "boot" in code]
    names = {}
    exec(code, names)
    assert names["bundle"].classifier(names["x_0"]).argmax(1).tolist() == [9]  # ankle boot
    assert Image.open("boot.png").size[0] > 50
