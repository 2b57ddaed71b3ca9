"""What is packed: wheel and sdist are built from a copy of the sources, and the wheel is used from
a folder that knows nothing of a checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "runs", "my_notebooks", "*.egg-info", "__pycache__"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """The folder of the sdist and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("packed")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCES)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(packed) -> Path:
    """The unpacked wheel."""
    (wheel,) = packed.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packed / "site")
    return packed / "site"


def call(installed: Path, folder: Path, *arguments: str) -> str:
    """What Python prints in ``folder`` when the unpacked wheel is the only source."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if "DDIM" not in name},
            "PYTHONPATH": f"{installed}{os.pathsep}{ROOT / 'tests' / 'plugins'}",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_the_lessons(installed):
    package = ROOT / "ddim_tutorial"
    expected = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    notebooks = [*ROOT.glob("notebooks/[0-9]*.ipynb"), *ROOT.glob("notebooks/data/*.json")]
    expected |= {path.relative_to(ROOT) for path in notebooks}
    found = {
        path.relative_to(installed / "ddim_tutorial")
        for path in (installed / "ddim_tutorial").rglob("*")
        if path.is_file()
    }
    assert found == {path for path in expected if "__pycache__" not in path.parts}


def test_the_sdist_is_complete(packed):
    (sdist,) = packed.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("notebooks", "tests", "figures", "ddim_tutorial", "tools")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in inside
        if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
    }
    expected |= {"Makefile", "requirements.lock", "pyproject.toml", "conftest.py", "README.md"}
    assert expected - found == set()


def test_the_doctor_of_the_wheel_finds_nothing_wrong(installed, tmp_path):
    where = call(installed, tmp_path, "-c", "import ddim_tutorial; print(ddim_tutorial.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    assert "would fail: nothing" in call(installed, tmp_path, "-m", "ddim_tutorial", "doctor")


def test_the_lessons_of_the_wheel_are_copied_and_find_their_tables(installed, tmp_path):
    said = call(installed, tmp_path, "-m", "ddim_tutorial", "notebooks", "my lessons")
    originals = [*ROOT.glob("notebooks/[0-9]*.ipynb"), *ROOT.glob("notebooks/data/*.json")]
    assert f"{len(originals)} files copied" in said
    for path in originals:
        copy = tmp_path / "my lessons" / path.relative_to(ROOT / "notebooks")
        assert copy.read_bytes() == path.read_bytes()
    code = "from ddim_tutorial import lessons; print(lessons.table('fashion_table2')['command'])"
    assert "fashion-table2" in call(installed, tmp_path, "-c", code)
