"""Tests may run in any order; the cells of a notebook keep theirs."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [
    ROOT / "notebooks" / name for name in ("00_start_here.ipynb", "02_ddim_sampling.ipynb")
]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_cells_of_a_notebook_keep_their_order_whatever_the_seed(seed):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += [f"--randomly-seed={seed}", *map(str, NOTEBOOKS)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    seen = [line for line in run.stdout.splitlines() if "::Cell" in line]
    wanted = []
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        count = sum(cell.cell_type == "code" for cell in cells)
        wanted += [f"notebooks/{path.name}::Cell {i}" for i in range(count)]
    assert seen == wanted, run.stdout + run.stderr
