"""Running and measuring notebooks, and the figures that the README and the notebooks state."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import measured as measured_figures
from tools import run_notebooks

ROOT = Path(__file__).parents[1]
MIB = 2**20
SLEEP = "import time\nblock = b'x' * (300 * 2**20)\ntime.sleep(1.5)\nprint(len(block))"
README = "before\n<!-- measured table -->\nold\n<!-- /measured table -->\nafter\n"


def write(path: Path, *sources: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = (
        "# A title\n\n**Time and memory.** <!-- measured -->not measured yet<!-- /measured --> on"
        " two CPU cores."
    )
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(text), *map(new_code_cell, sources)]), path
    )
    return path


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project with a README, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDIM_TUTORIAL_MODEL", raising=False)
    Path("README.md").write_text(README)
    return tmp_path


def test_seconds_and_peak_memory_are_those_of_the_kernel(project):
    start = time.perf_counter()
    measured = run_notebooks.run(
        write(Path("notebooks/00_a.ipynb"), SLEEP), Path("build/00_a.ipynb")
    )
    elapsed = time.perf_counter() - start
    idle = run_notebooks.run(
        write(Path("notebooks/01_b.ipynb"), "import time\ntime.sleep(0.5)"),
        Path("build/01_b.ipynb"),
    )
    assert 1.5 <= measured["seconds"] <= elapsed + 0.1
    assert 200 * MIB < (measured["peak_gib"] - idle["peak_gib"]) * run_notebooks.GIB < 350 * MIB
    (cell,) = nbformat.read("build/00_a.ipynb", as_version=4).cells[1:]
    assert (
        cell.execution_count == 1 and cell.outputs[0].text == f"{300 * MIB}\n" and not cell.metadata
    )


def test_run_then_update_writes_the_measured_figures(project, capsys):
    path = write(Path("notebooks/00_a.ipynb"), "1 + 1")
    write(Path("notebooks/_template.ipynb"), "1 / 0")
    assert run_notebooks.main([]) == 0
    record = json.loads(Path("build/run.json").read_text())
    summary = measured_figures.summary(record["notebooks"]["00_a"])
    assert list(record["notebooks"]) == ["00_a"]
    assert f"+| [00_a](notebooks/00_a.ipynb) | A title | {summary} |" in capsys.readouterr().out
    assert Path("README.md").read_text() == README
    assert nbformat.read(path, as_version=4).cells[1].execution_count is None

    assert run_notebooks.main(["--update"]) == 0
    text = Path("README.md").read_text()
    assert (
        text.startswith("before\n")
        and text.endswith("after\n")
        and summary in text
        and "old" not in text
    )
    assert (
        f"<!-- measured -->{summary}<!-- /measured --> on two"
        in nbformat.read(path, as_version=4).cells[0].source
    )
    assert measured_figures.changes(record, [path]) == {}


def test_in_place_stores_only_notebooks_that_ran(project):
    good, bad = (
        write(Path("notebooks/00_a.ipynb"), "1 + 1"),
        write(Path("notebooks/01_b.ipynb"), "1 + 1", "1 / 0"),
    )
    assert run_notebooks.main(["--in-place"]) == 1
    assert nbformat.read(good, as_version=4).cells[1].execution_count == 1
    assert nbformat.read(bad, as_version=4).cells[1].execution_count is None


def test_a_notebook_with_an_error_fails_the_run_and_has_no_figures(project, capsys):
    path = write(Path("notebooks/00_a.ipynb"), "1 / 0")
    assert run_notebooks.main([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    record = json.loads(Path("build/run.json").read_text())
    assert "not measured" in measured_figures.table(
        record, [path]
    ) and path not in measured_figures.changes(record, [path])


def test_figures_of_another_model_are_not_kept_or_compared(project, monkeypatch, capsys):
    write(Path("notebooks/00_a.ipynb"), "import os\nprint(os.environ['DDIM_TUTORIAL_MODEL'])")
    write(Path("notebooks/01_b.ipynb"), "1 + 1")
    assert run_notebooks.main(["notebooks/01_b.ipynb"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", "other")
    assert run_notebooks.main(["notebooks/00_a.ipynb"]) == 0
    assert "--update" not in capsys.readouterr().out
    assert list(json.loads(Path("build/run.json").read_text())["notebooks"]) == ["00_a"]
    with pytest.raises(SystemExit):
        run_notebooks.main(["--update"])


def test_a_folder_is_found_from_the_kernels_too(project, monkeypatch, capsys):
    """They run in notebooks/; and what cells print is passed on while a larger model runs, which
    may take hours."""
    (project / "models" / "sd").mkdir(parents=True)
    source = "import os\nprint('a folder:', os.path.isdir(os.environ['DDIM_TUTORIAL_MODEL']))"
    write(
        Path("notebooks/00_a.ipynb"),
        source,
        "import sys\nprint('aside', file=sys.stderr)\n'a value'",
    )
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", "models/sd")
    assert run_notebooks.main([]) == 0
    seen = capsys.readouterr()
    assert seen.out.startswith("a folder: True\n00_a ") and "aside" not in seen.out + seen.err
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", "")
    run_notebooks.main([])
    assert "a folder" not in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("given", ["MODEL", "DDIM_TUTORIAL_MODEL"])
@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("tests", True),
        ("my models/sd", True),  # beside a folder "my"
        ("it's mine", True),
        ("modèles/sd", True),
        ("-sd", True),
        ("sd-v1-4", False),
        ("no such folder", False),
        ("", False),
    ],
)
def test_make_passes_a_folder_on_in_full(given, model, folder, tmp_path):
    (tmp_path / "my").mkdir()
    if folder:
        (tmp_path / model).mkdir(parents=True)
    (tmp_path / "makefile").write_text(
        f"include {ROOT}/Makefile\nshow:\n\t@printenv DDIM_TUTORIAL_MODEL || true\n"
    )
    environment = {"PATH": os.environ["PATH"]} | ({given: model} if given != "MODEL" else {})
    arguments = [f"MODEL={model}"] if given == "MODEL" else []
    done = subprocess.run(
        ["make", "-s", "-f", "makefile", "show", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() == (str(tmp_path / model) if folder else model)


def test_only_the_default_model_has_a_limit_for_a_cell(project, monkeypatch):
    write(Path("notebooks/00_a.ipynb"), "1 + 1")
    limits = []
    monkeypatch.setattr(
        run_notebooks,
        "run",
        lambda path, target, cell_timeout: (
            limits.append(cell_timeout) or {"seconds": 1.0, "peak_gib": 1.0}
        ),
    )
    run_notebooks.main([])
    monkeypatch.setenv("DDIM_TUTORIAL_MODEL", "sd-v1-4")
    run_notebooks.main([])
    assert limits == [600, None]


def test_without_notebooks_or_measurements_it_says_so(project):
    for arguments in ([], ["--update"]):
        with pytest.raises(SystemExit) as stopped:
            run_notebooks.main(arguments)
        assert stopped.value.code == 2


def test_the_readme_lists_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = measured_figures.TABLE.search(text)[0]  # with both markers
    paths = run_notebooks.notebooks(ROOT / "notebooks")
    assert listed.count(".ipynb)") == len(paths)
    assert all(
        f"| [{path.stem}](notebooks/{path.name}) | {measured_figures.title(path)} | " in listed
        for path in paths
    )
    assert "not measured" not in listed


def test_a_stated_time_is_rounded_up():
    assert measured_figures.summary({"seconds": 8.9, "peak_gib": 0.44}) == "0.2 min, 0.4 GiB"
