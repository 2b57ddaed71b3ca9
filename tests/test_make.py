"""How `make` sets up the environment, with a Python and a pip that only write down what is asked of
them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INDEX = "https://download.pytorch.org/whl/cpu"
STUB = """#!/bin/sh
case "$*" in
*"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*"-m pip"*) echo "$*" >> "$LOG" ;;
*"version_info < (3, 11)"*) exit "$OLD" ;;
esac
case "$*" in *--index-url*) exit "$UNREACHABLE" ;; esac
"""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("make"), reason="Linux with make"
)


def set_up(folder: Path, gpu: bool = False, **answers: str) -> tuple[str, list[str]]:
    """What make prints, and what pip was asked for; no program but those below is found."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("make", "uname", "grep", "touch", "mkdir", "cp"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ["python", *(["nvidia-smi"] if gpu else [])]:
        (tools / name).write_text(STUB)
        (tools / name).chmod(0o755)
    venv, log = folder / "venv", folder / "log"
    environment = {"PATH": str(tools), "LOG": str(log), "OLD": "0", "UNREACHABLE": "0"} | answers
    done = subprocess.run(
        ["make", f"PYTHON={tools / 'python'}", f"VENV={venv}", venv / "ready"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (venv / "ready").exists()
    return done.stdout, log.read_text().splitlines()


def test_without_a_gpu_torch_comes_from_its_index_for_the_cpu(tmp_path):
    said, asked = set_up(tmp_path)
    assert INDEX in asked[0] and "torch==" in asked[0] and "--no-deps" in asked[0]
    assert "requirements.lock" in asked[1] and INDEX not in asked[1]
    assert "minutes" in said.splitlines()[0] and "GB" in said.splitlines()[0]


def test_where_that_index_cannot_be_reached_the_installation_goes_on(tmp_path):
    said, asked = set_up(tmp_path, UNREACHABLE="1")
    assert "going on with" in said and len(asked) == 3


def test_with_a_gpu_pip_chooses(tmp_path):
    said, asked = set_up(tmp_path, gpu=True)
    assert INDEX not in said + "".join(asked) and len(asked) == 2


def test_python_3_10_takes_what_pyproject_allows(tmp_path):
    _, asked = set_up(tmp_path, OLD="1")
    assert INDEX in asked[0] and asked[1].endswith("-e .[lab,train,test]")
