"""What every notebook in notebooks/ must be, apart from right: executed in order, small, readable
without eyes."""

import base64
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "notebooks" / "_template.ipynb"
PATHS = sorted(path for path in TEMPLATE.parent.glob("*.ipynb") if path != TEMPLATE)
START = "00_start_here"  # the map: it has no theory and no exercise

LARGEST = 400_000  # bytes
LONGEST_SETUP, LONGEST_CELL = 8, 25  # lines
TAGS = {"nbval-ignore-output", "raises-exception"}
EVERYWHERE = ("Goal", "Time and memory")
LESSON = (
    "Questions",
    "Objectives",
    "Prerequisites",
    "Exercise",
    "Check",
    "Summary",
    "Where this goes wrong",
    "References",
)
WIDGETS = "application/vnd.jupyter.widget-state+json"
FOLDERS = (  # of any machine; and the one this project lies in here
    "home|root|Users|tmp|mnt|opt|var|usr/\\w+"
)
ABSOLUTE = re.compile(rf"(?<![\w.:/~-])/(?:{FOLDERS})/\w|[A-Z]:\\\w|{re.escape(str(ROOT))}")


def has_section(text: str, name: str) -> bool:
    """A heading that contains the name, or a paragraph that begins with it in bold, as the template
    shows."""
    return (
        re.search(
            rf"^\s*(?:#+ .*|\*\*[^*\n]*){re.escape(name)}", text, re.MULTILINE | re.IGNORECASE
        )
        is not None
    )


def missing_sections(name: str, cells: list) -> list[str]:
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    wanted = EVERYWHERE + (() if name == START else LESSON)
    found = [f"no section {section!r}" for section in wanted if not has_section(text, section)]
    if not re.match(r"# \S", cells[0].source if cells else ""):
        found.append("the first cell has no title")
    if name != START and not any(
        "checks.check_" in cell.source for cell in cells if cell.cell_type == "code"
    ):
        found.append("no cell calls checks.check_...")
    return found


def code_problems(cells: list) -> list[str]:
    code = [cell for cell in cells if cell.cell_type == "code"]
    found = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("code cells are not executed 1..n")
    if not code or "%matplotlib inline" not in code[0].source.splitlines():
        found.append("the set-up cell has no %matplotlib inline")
    for number, cell in enumerate(code, 1):
        lines = cell.source.splitlines()
        if len(lines) > (LONGEST_SETUP if number == 1 else LONGEST_CELL):
            found.append(f"cell [{number}] has {len(lines)} lines")
        if lines and lines[-1].rstrip().endswith(";"):
            found.append(f"cell [{number}] ends with ;")
        if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source):
            found.append(f"cell [{number}] steers nbval by a comment; use a tag")
        if unknown := set(cell.metadata.get("tags", [])) - TAGS:
            found.append(
                f"cell [{number}] has the tag {sorted(unknown)}, allowed are {sorted(TAGS)}"
            )
        for output in cell.outputs:
            found += [f"cell [{number}] {problem}" for problem in output_problems(output, cell)]
    return found


def output_problems(output: dict, cell: dict) -> list[str]:
    found = []
    if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
        found.append(f"raised {output.ename}")
    if "UsageError" in json.dumps(output):
        found.append("printed a UsageError")
    data, metadata = output.get("data", {}), output.get("metadata", {})
    if "image/png" in data and len(metadata.get("image/png", {}).get("alt", "").split()) < 3:
        found.append("shows a picture without alt text; show it with grids.show")
    if other := {kind for kind in data if kind.startswith("image/")} - {"image/png"}:
        found.append(f"shows {sorted(other)}, which the notebook test cannot compare")
    if re.search(r'<img\b(?![^>]*\balt="[^"])', "".join(data.get("text/html", ""))):
        found.append("shows an <img> without alt text")
    return found


def text_problems(notebook: dict) -> list[str]:
    """Absolute paths and pictures without alt text in what a reader sees; encoded pictures are left
    out."""
    found = []
    for cell in notebook.cells:
        seen = [cell.source]
        for output in cell.get("outputs", []):
            data = {
                kind: text
                for kind, text in output.get("data", {}).items()
                if not kind.startswith("image/")
            }
            seen.append(
                json.dumps(
                    [data, output.get("text", ""), output.get("traceback", "")], ensure_ascii=False
                )
            )
        text = re.sub(r"data:image/[\w+]+;base64,[\w+/=]+", "", "\n".join(seen))
        if match := ABSOLUTE.search(text):
            found.append(f"absolute path {text[match.start() : match.start() + 40]!r}")
        if cell.cell_type == "markdown" and re.search(
            r"!\[\s*\]\(|<img\b(?![^>]*\balt=\"[^\"])", cell.source
        ):
            found.append("a picture in the text has no alt text")
    return found


def metadata_problems(notebook: dict) -> list[str]:
    found = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("its kernel is not python3")
    if (widgets := notebook.metadata.get("widgets")) is not None and not (
        set(widgets) == {WIDGETS}
        and {"state", "version_major", "version_minor"} <= set(widgets[WIDGETS])
    ):
        found.append("metadata.widgets is not valid; remove it")
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        found.append(f"not a valid notebook: {error.message}")
    return found


def problems(name: str, text: str) -> list[str]:
    """All that is wrong with the notebook ``name`` whose file holds ``text``."""
    try:
        notebook = nbformat.reads(text, as_version=4)
    except nbformat.ValidationError as error:
        return [f"not a notebook: {error.message}"]
    size = [f"{len(text.encode())} bytes, at most {LARGEST}"] * (len(text.encode()) > LARGEST)
    return [
        *size,
        *missing_sections(name, notebook.cells),
        *code_problems(notebook.cells),
        *text_problems(notebook),
        *metadata_problems(notebook),
    ]


def test_the_notebooks_are_there_and_numbered():
    """From zero on, no number twice, none left out."""
    assert [path.stem[:3] for path in PATHS] == [f"{k:02d}_" for k in range(len(PATHS))]
    assert PATHS and PATHS[0].stem == START


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook(path):
    assert problems(path.stem, path.read_text(encoding="utf-8")) == []


def test_the_template_shows_every_section():
    notebook = nbformat.read(TEMPLATE, as_version=4)
    assert missing_sections("_template", notebook.cells) == []
    assert text_problems(notebook) == metadata_problems(notebook) == []


# The test above is worth as much as what it catches: one fault at a time, planted in a notebook
# without any.

PNG = base64.b64encode(b"stands for a picture").decode()


def clean() -> nbformat.NotebookNode:
    text = "\n\n".join(f"**{section}.** Words." for section in EVERYWHERE + LESSON)
    picture = new_output(
        "display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "A garment in grey."}}
    )
    return new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        cells=[
            new_markdown_cell(f"# Title\n\n{text}"),
            new_code_cell("%matplotlib inline\nimport torch", execution_count=1),
            new_code_cell("checks.check_ddim_step(mine)", execution_count=2, outputs=[picture]),
        ],
    )


def set_tags(notebook, *tags):
    notebook.cells[2].metadata["tags"] = list(tags)


def set_outputs(notebook, *outputs):
    notebook.cells[2].outputs = list(outputs)


def replace(notebook, cell, old, new):
    assert old in notebook.cells[cell].source
    notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)


FAULTS = {
    "not executed": lambda n: n.cells[2].update(execution_count=None),
    "not executed 1..n": lambda n: n.cells[2].update(execution_count=7),
    "raised ValueError": lambda n: set_outputs(
        n, new_output("error", ename="ValueError", evalue="", traceback=[])
    ),
    "UsageError": lambda n: set_outputs(
        n, new_output("stream", name="stderr", text="UsageError: no such magic")
    ),
    "picture without alt": lambda n: n.cells[2].outputs[0].update(metadata={}),
    "without alt text": lambda n: n.cells[2].outputs[0].metadata["image/png"].update(alt="picture"),
    "image/jpeg": lambda n: set_outputs(n, new_output("display_data", {"image/jpeg": PNG})),
    "<img> without alt": lambda n: set_outputs(
        n, new_output("display_data", {"text/html": '<img src="a.png">'})
    ),
    "picture in the text": lambda n: replace(n, 0, "# Title", "# Title\n\n![](a.png)"),
    "a picture in the text": lambda n: replace(
        n, 0, "# Title", '# Title\n\n<img src="a.png" alt="">'
    ),
    "bytes, at most": lambda n: set_outputs(n, new_output("stream", text="x" * LARGEST)),
    "tag ['nbval-skip']": lambda n: set_tags(n, "nbval-skip"),
    "by a comment": lambda n: replace(n, 2, "mine)", "mine)\n# NBVAL_IGNORE_OUTPUT"),
    "absolute path '/home": lambda n: replace(n, 2, "mine", 'open("/home/someone/a")'),
    "absolute path": lambda n: set_outputs(
        n, new_output("stream", text=f"{ROOT}/ddim_tutorial/jump.py:3")
    ),
    "absolute path 'C:": lambda n: replace(n, 2, "mine", 'open("C:\\Users\\someone")'),
    "no title": lambda n: replace(n, 0, "# Title", "Title"),
    "no section 'Where this": lambda n: replace(
        n, 0, "**Where this goes wrong.**", "Where this goes wrong."
    ),
    "no cell calls checks": lambda n: replace(n, 2, "checks.check_ddim_step", "print"),
    "no %matplotlib inline": lambda n: replace(n, 1, "%matplotlib inline\n", ""),
    "cell [1] has 10 lines": lambda n: replace(n, 1, "torch", "torch" + "\nimport torch" * 8),
    "cell [2] has 31 lines": lambda n: replace(n, 2, "checks", "pass\n" * 30 + "checks"),
    "ends with ;": lambda n: replace(n, 2, "mine)", "mine);"),
    "kernel is not python3": lambda n: n.metadata.kernelspec.update(name="my-env"),
    "metadata.widgets": lambda n: n.metadata.update(
        widgets={WIDGETS: {"version_major": 2, "version_minor": 0}}
    ),
    "not a valid notebook": lambda n: n.cells[2].update(execution_counts=2),
    "not a notebook": lambda n: n.cells[2].pop("metadata"),
}


def test_nothing_is_wrong_with_the_clean_notebook():
    assert problems("01_name", nbformat.writes(clean())) == []


def test_an_error_that_is_the_lesson_may_stay():
    notebook = clean()
    set_outputs(notebook, new_output("error", ename="ValueError", evalue="", traceback=[]))
    set_tags(notebook, "raises-exception")
    assert problems("01_name", nbformat.writes(notebook)) == []


@pytest.mark.parametrize("said", FAULTS)
def test_each_fault_is_found_and_named(said):
    notebook = clean()
    FAULTS[said](notebook)
    (found,) = problems("01_name", json.dumps(notebook))
    assert said in found
