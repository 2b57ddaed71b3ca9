"""A run's figures: ``log.jsonl``, a line every so many steps, and ``curve.png``."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor


class Log:
    """The log of the run in ``folder``, taken up at ``step``. Of several processes all collect
    figures; only the ``main`` one reads and writes."""

    def __init__(self, folder: Path, step: int, main: bool):
        self.path, self.curve, self.main = folder / "log.jsonl", folder / "curve.png", main
        self.lines = trim(self.path, step) if main else []
        self.window: dict[str, list[Tensor]] = {}  # the steps since the last line

    def add(self, figures: dict[str, Tensor]) -> None:
        """The scalars of one step, "loss" among them; they stay on their device."""
        for name, value in figures.items():
            self.window.setdefault(name, []).append(value.detach().float())

    def refuse_infinite(self, step: int, state: Path) -> None:
        """FloatingPointError if a loss since the last line is NaN or infinite."""
        if not torch.stack(self.window.get("loss", [torch.zeros(())])).isfinite().all():
            kept = f"The last good state is {state}." if state.exists() else "No state was saved."
            raise FloatingPointError(
                f"the loss was not finite by step {step}. {kept} Lower the learning rate and run"
                " the same command again"
            )

    def write(self, line: dict[str, float]) -> float:
        """Append ``line`` with the means over the window, which begins anew; the mean loss."""
        line |= {name: torch.stack(values).nanmean().item() for name, values in self.window.items()}
        self.window.clear()
        if self.main:
            self.lines.append(line)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line["loss"]

    def plot(self) -> None:
        """Every logged figure against the step, on a logarithmic scale."""
        if not self.lines:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for name in self.lines[-1]:
            if name not in ("step", "lr", "seconds"):
                y = [line.get(name, math.nan) for line in self.lines]
                axes.semilogy([line["step"] for line in self.lines], y, label=name)
        axes.set_xlabel("step")
        axes.legend(fontsize="small")
        figure.savefig(self.curve, dpi=100)


def trim(path: Path, step: int) -> list[dict]:
    """Keep the log's lines up to ``step``: what came after the checkpoint will be computed again. A
    line that a kill cut short ends what is kept."""
    kept = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line["step"] <= step:
            kept.append(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return kept


def summary(folder: Path) -> dict[str, float | str]:
    """Steps, hours and precision of the run in ``folder``, for the card of what it trained."""
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    settings = json.loads((folder / "settings.json").read_text())
    return {
        "steps": last["step"],
        "hours": round(last["seconds"] / 3600, 2),
        "precision": settings["precision"],
    }


def by_quarter(errors: Tensor, t: Tensor, T: int) -> dict[str, Tensor]:
    """Means of (B,) errors over four parts of the times, for the log."""
    quarter = (t - 1) * 4 // T
    return {f"t to {T * (k + 1) // 4}": errors[quarter == k].mean() for k in range(4)}
