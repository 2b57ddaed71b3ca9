"""What holds for tests and notebooks alike, in this process and in every one it starts: no network,
pictures are compared, and the workers of pytest-xdist share the cores."""

import os

import offline

pytest_plugins = ["nbval_pictures"]
collect_ignore_glob = ["notebooks/_*.ipynb", "tests/*.ipynb", "build/*"]

workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # threads that spin while they wait starve the other worker's
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(offline.__file__), os.environ.get("PYTHONPATH", "")]
)


def pytest_collection_modifyitems(items):
    """Tests may come in any order, the cells of a notebook only in their own."""
    cells = [item for item in items if hasattr(item, "cell_num")]
    in_order = iter(sorted(cells, key=lambda cell: (str(cell.path), cell.cell_num)))
    items[:] = [next(in_order) if hasattr(item, "cell_num") else item for item in items]
