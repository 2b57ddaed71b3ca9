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


def pytest_collection(session):
    """Coverage is counted in this process alone: nbval would trace every notebook's kernel too."""
    session.config.option.cov_source = None
