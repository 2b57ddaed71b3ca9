"""The test of notebooks is tested: what passes and what must fail, in a fresh pytest with the
project's settings."""

import base64
import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

import nbval_pictures

ROOT = Path(__file__).parents[2]
DRAW = """
import io
import numpy as np
from IPython.display import Image, display
from PIL import Image as Picture
picture = np.add.outer(np.arange(64), 3 * np.arange(64)).astype("uint8")
buffer = io.BytesIO()
Picture.fromarray(picture).save(buffer, "PNG")
display(Image(buffer.getvalue(), alt="A slanted ramp."))
print(f"mean {picture.mean():.3f}")
"""
OFFLINE = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except RuntimeError as error:
    print(type(error).__name__)
"""
PICTURE = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
KEPT = Path(__file__).with_name("must_fail.ipynb")
TEXT = "<IPython.core.display.Image object>"


def png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def outputs(*pictures: np.ndarray, mean: str = "126.000") -> list:
    shown = [
        new_output("display_data", {"image/png": png(p), "text/plain": TEXT}) for p in pictures
    ]
    return [*shown, new_output("stream", name="stdout", text=f"mean {mean}\n")]


def a_little_noise(picture: np.ndarray) -> np.ndarray:
    noisy = picture.copy()
    noisy[::2] ^= 1  # half of the pixels by one grey level: 51 dB
    return noisy


# name: (source of the one cell, its stored outputs, what the failure says; None where it must pass)
CASES = {
    "unchanged": (DRAW, outputs(PICTURE), None),
    "a_little_noise": (DRAW, outputs(a_little_noise(PICTURE)), None),
    "no_network": (OFFLINE, [new_output("stream", name="stdout", text="NetworkRefused\n")], None),
    "turned_picture": (DRAW, outputs(PICTURE[::-1]), "picture 1 differs"),
    "mirrored_picture": (DRAW, outputs(PICTURE[:, ::-1].copy()), "30 dB wanted"),
    "smaller_picture": (DRAW, outputs(PICTURE[:32]), "is stored with shape (32, 64, 3)"),
    "one_picture_more": (
        DRAW,
        [*outputs(PICTURE), new_output("display_data", {"image/png": png(PICTURE)})],
        "2 pictures are stored",
    ),
    "no_picture": (DRAW, outputs(), "Unexpected output fields"),
    "number": (DRAW, outputs(PICTURE, mean="126.001"), "126.001"),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> dict[str, str | None]:
    """One fresh pytest over a notebook for each case, and the one that is kept; None for those that
    passed."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, (source, stored, _) in CASES.items():
        cell = new_code_cell(source, execution_count=1, outputs=stored)
        nbformat.write(new_notebook(cells=[cell]), folder / f"{name}.ipynb")
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(ROOT / "pyproject.toml"),
        "-p",
        "conftest",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        str(folder),
        str(KEPT),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COMPARE_PICTURES": "1"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        found[case.get("classname").split(".")[-2]] = None if failure is None else failure.text
    return found


def test_every_notebook_was_run(messages):
    assert messages.keys() == {*CASES, KEPT.stem}


@pytest.mark.parametrize("name", CASES)
def test_a_notebook_passes_or_fails_as_it_must(messages, name):
    expected = CASES[name][2]
    assert messages[name] is None if expected is None else expected in messages[name]


def test_the_kept_notebook_that_must_fail_fails(messages):
    assert "picture 1 differs" in messages[KEPT.stem]


def test_another_matplotlib_only_counts_the_pictures():
    picture = torch.from_numpy(PICTURE)
    turned = picture.flip(0)
    assert nbval_pictures.difference([turned], [picture], compared=False) is None
    assert "2 pictures are stored" in nbval_pictures.difference(
        [picture], [picture, picture], compared=False
    )
    assert "picture 1 differs" in nbval_pictures.difference([turned], [picture], compared=True)
