"""Run the notebooks from scratch and measure them: ``python -m tools.run_notebooks`` (``make
run``).

The executed copies and ``run.json`` (seconds and peak memory of each) go to build/. ``--update``
writes the measured figures into the README and the notebooks; ``--in-place`` also stores the
executed notebooks where they came from.
"""

import argparse
import difflib
import json
import os
import platform
import re
import shutil
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddim_tutorial.console import escape_unprintable
from tools.measured import changes

BUILD = Path("build")
STORE = BUILD / "run.json"
NOTEBOOKS = Path("notebooks")
GIB = 2**30


class PeakMemory:
    """Samples the resident memory of this process's children and theirs; ``peak`` is the largest
    sum seen, in bytes.

    Start it when the kernel runs: a child that is just being started still counts as a copy of this
    process. Pages that two of the processes share count twice.
    """

    def __init__(self, interval: float = 0.05):
        self.peak, self.interval, self._stop = 0, interval, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        import psutil

        while not self._stop.wait(self.interval):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it ended between the two calls
                    continue
            self.peak = max(self.peak, total)


def notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks of the tutorial in order, without the template."""
    return sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("_"))


def run(path: Path, target: Path, cell_timeout: int | None = 600) -> dict[str, float | str]:
    """Execute the notebook ``path`` in a fresh kernel, store it as ``target``, return seconds,
    peak_gib (and error).

    seconds include starting the kernel. A notebook that stops with an error is stored as far as it
    came. Without a limit for a cell (None) a run may take hours: then what the cells print is
    passed on as they end.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    def pass_on(cell: nbformat.NotebookNode, **_: Any) -> None:
        for output in cell.outputs:
            if output.get("name") == "stdout":
                print(output.text, end="", flush=True)

    notebook, memory = nbformat.read(path, as_version=4), PeakMemory()
    client = NotebookClient(
        notebook,
        timeout=cell_timeout,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        on_notebook_start=lambda notebook: memory.start(),
        on_cell_executed=pass_on if cell_timeout is None else None,
    )
    start, failure = time.perf_counter(), ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failure = str(error).strip()
    finally:
        memory.stop()
    seconds = time.perf_counter() - start
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    measured: dict[str, float | str] = {
        "seconds": round(seconds, 1),
        "peak_gib": round(memory.peak / GIB, 2),
    }
    return measured | {"error": failure} if failure else measured


def machine() -> str:
    """The machine in a few words, for the figures' provenance."""
    import torch

    kind = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{os.cpu_count()} CPU cores, no GPU"
    )
    return (
        f"{kind} ({platform.machine()}), Python {platform.python_version()}, torch"
        f" {version('torch').split('+')[0]}"
    )


def new_record(model: str) -> dict:
    """The figures of the last run, or none if those are of another machine or model: they do not
    belong in one table."""
    here = {"machine": machine(), "model": model}
    record = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    if any(record.get(key) != value for key, value in here.items()):
        return {**here, "notebooks": {}}
    return record


def resolve_model() -> str:
    """The model that DDIM_TUTORIAL_MODEL names; a folder becomes an absolute path, because the
    kernels run in notebooks/."""
    model = os.environ.get("DDIM_TUTORIAL_MODEL", "")
    if model and Path(model).is_dir():
        os.environ["DDIM_TUTORIAL_MODEL"] = str(Path(model).resolve())
    return model


def warn_if_busy() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 * (os.cpu_count() or 1):
        print(
            f"this machine is busy (load {load:.1f}): the seconds below will be too high",
            file=sys.stderr,
        )


def run_all(paths: list[Path], record: dict, in_place: bool) -> bool:
    """Run ``paths`` and add their figures to ``record``; whether all of them ran to the end."""
    # a larger model may take hours
    cell_timeout = None if record["model"] else 600
    succeeded = True
    for path in paths:
        figures = run(path, BUILD / path.name, cell_timeout=cell_timeout)
        failure = figures.pop("error", None)
        record["notebooks"][path.stem] = figures | ({"error": True} if failure else {})
        print(
            f"{path.stem:28} {figures['seconds']:7.1f} s {figures['peak_gib']:7.2f} GiB", flush=True
        )
        if failure:
            succeeded = False
            print(f"{path}: FAILED\n{failure}", file=sys.stderr, flush=True)
        elif in_place:
            shutil.copyfile(BUILD / path.name, path)
    return succeeded


def print_changes(record: dict, paths: list[Path]) -> None:
    """The lines whose figures differ from the measured ones, as a diff."""
    for path, (old, new) in changes(record, paths).items():
        print(f"\n{path} says (-), measured (+); python -m tools.run_notebooks --update writes it:")
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        print("\n".join(line for line in lines if re.match(r"[-+][^-+]", line)))


def update(paths: list[Path]) -> bool:
    """Write the figures of the last run into README.md and the notebooks; False if there are none
    of the default model."""
    record = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    if not record.get("notebooks") or record.get("model"):
        return False
    for path, (_, text) in changes(record, paths).items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote the measured figures into {path}")
    return True


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.run_notebooks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument(
        "--in-place", action="store_true", help="also store those that ran where they came from"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="run nothing, write the figures of the last run into README.md and the notebooks",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    escape_unprintable()
    parser = arguments_parser()
    options = parser.parse_args(arguments)
    everything = notebooks()
    if options.update:
        if not update(everything):
            parser.error(
                f"{STORE}: nothing has been measured with the default model; run without --update"
                " first"
            )
        return 0
    paths = options.notebooks or everything
    if not paths:
        parser.error(f"there is no notebook in {NOTEBOOKS}/; run from the project's folder")
    record = new_record(resolve_model())
    warn_if_busy()
    succeeded = run_all(paths, record, options.in_place)
    BUILD.mkdir(exist_ok=True)
    STORE.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not record["model"]:
        print_changes(record, everything)
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
