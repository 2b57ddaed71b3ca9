"""``import ddim_tutorial`` is light, and needs no network."""

import subprocess
import sys

import jaxtyping
import pytest
import torch

HEAVY = ("diffusers", "transformers", "matplotlib", "ipywidgets", "accelerate")


def imported_by(statement: str) -> set[str]:
    """The heavy packages that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_loads_no_heavy_library():
    assert imported_by("import ddim_tutorial") == set()


@pytest.mark.parametrize("name", ["matplotlib", "ipywidgets"])
def test_the_probe_sees_a_heavy_library(name):
    assert name in imported_by(f"import {name}")


def test_types_are_enforced_while_testing():
    from ddim_tutorial import predict_x0

    with pytest.raises(jaxtyping.TypeCheckError, match="x_t"):
        predict_x0(
            torch.tensor(0.1), torch.tensor(0.0), torch.tensor(0.25)
        )  # a number is no batch of images


def test_types_are_free_while_running():
    code = (
        "import ddim_tutorial as d; from torch import tensor; "
        "print(d.predict_x0(tensor(0.1), tensor(0.0), tensor(0.25)).item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.2)
