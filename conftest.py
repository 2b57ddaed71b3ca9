"""What holds for tests and notebooks alike, in this process and in every one it starts: no network,
pictures are compared, one thread, and notebooks run from their first cell to their last."""

import os

import offline

pytest_plugins = ["nbval_pictures"]
collect_ignore_glob = ["notebooks/_*.ipynb", "tests/*.ipynb", "build/*"]

# One thread in each process: the sums are then the same whatever the cores and the workers (JOBS=).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(offline.__file__), os.environ.get("PYTHONPATH", "")]
)


def pytest_collection(session):
    """Coverage is counted in this process alone: nbval would trace every notebook's kernel too."""
    session.config.option.cov_source = None


def pytest_collection_modifyitems(items):
    """Tests may come in any order, the cells of a notebook only in their own."""
    cells = [item for item in items if hasattr(item, "cell_num")]
    in_order = iter(sorted(cells, key=lambda cell: (str(cell.path), cell.cell_num)))
    items[:] = [next(in_order) if hasattr(item, "cell_num") else item for item in items]
