"""nbval with pictures: it compares text strictly but never looks at a PNG, so this compares those.

The pictures of a cell must be equal in number and shape and agree to FLOOR dB. What depends on the
machine and is not part of a lesson (warnings and progress bars on stderr, HTML and scripts of
widgets) is left out. Another release of matplotlib than the lock's lays out text differently and so
moves every panel by a pixel or two: there the pictures are only counted.
"""

import base64
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import nbval.plugin

if TYPE_CHECKING:
    from torch import Tensor

# dB; the same picture drawn by another build of matplotlib or torch stays above, another one below
FLOOR = 30.0
LOCKED = re.search(
    r"^matplotlib==(\d+\.\d+)", (Path(__file__).parents[2] / "requirements.lock").read_text(), re.M
)[1]
COMPARED = version("matplotlib").startswith(f"{LOCKED}.") or "COMPARE_PICTURES" in os.environ
SKIPPED = ("stderr", "text/html", "application/javascript")


def pictures(outputs) -> "list[Tensor]":
    """The PNGs of a cell's outputs as (H, W, 3) uint8, in order."""
    from tools.figures import read_png

    encoded = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    return [read_png(base64.b64decode(text)) for text in encoded]


def difference(
    seen: "list[Tensor]", wanted: "list[Tensor]", compared: bool = COMPARED
) -> str | None:
    """What is wrong with the pictures ``seen`` where ``wanted`` were stored; None if nothing is."""
    from ddim_tutorial.metrics import psnr

    if len(seen) != len(wanted):
        return f"{len(wanted)} pictures are stored, {len(seen)} were drawn"
    if not compared:
        return None
    for number, (a, b) in enumerate(zip(seen, wanted, strict=True), 1):
        if a.shape != b.shape:
            stored, drawn = tuple(b.shape), tuple(a.shape)
            return f"picture {number} is stored with shape {stored}, {drawn} was drawn"
        if (decibels := psnr(a[None], b[None], 255).item()) < FLOOR:
            return (
                f"picture {number} differs from the stored one: PSNR {decibels:.1f} dB, {FLOOR:.0f}"
                " dB wanted"
            )
    return None


def pytest_report_header() -> str | None:
    return (
        None
        if COMPARED
        else (
            f"pictures are counted, not compared: they were drawn with matplotlib {LOCKED}, "
            f"this is {version('matplotlib')}"
        )
    )


compare_text = nbval.plugin.IPyNbCell.compare_outputs


def compare_outputs(self, test, ref, skip_compare=None) -> bool:
    if not compare_text(self, test, ref, (skip_compare or self.parent.skip_compare) + SKIPPED):
        return False
    if problem := difference(pictures(test), pictures(ref)):
        self.comparison_traceback.append(problem)
        return False
    return True


nbval.plugin.IPyNbCell.compare_outputs = compare_outputs
