"""The code in docs/ runs as it stands, and what the text says of it is true."""

import re
import warnings
from pathlib import Path

import pytest

from parts import relative

DOCS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def run(text, names=()):
    """Run the python blocks of a page one after the other; the values that ``names`` then have, a
    dict after each block."""
    scope, seen = {}, []
    for block in blocks(text):
        exec(block, scope)
        seen.append({name: scope[name] for name in names if name in scope})
    return scope, seen


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scope, _ = run(page.read_text())
    assert len(scope) > 5


def test_a_page_that_breaks_is_seen():
    with pytest.raises(NameError):
        run("```python\nx = 1\n```\n\ntext\n\n```python\ny = missing\n```\n")


def test_five_lines_for_each_library():
    page = (DOCS[0].parent / "coming_from.md").read_text()
    _, *libraries = blocks(page)
    assert len(libraries) == len(re.findall("^## ", page, re.M)) == 4
    assert all(len(block.splitlines()) == 5 for block in libraries)


def test_the_lines_for_diffusers_make_its_pictures():
    scope, seen = run((DOCS[0].parent / "coming_from.md").read_text(), ["x_0", "scheduler"])
    scheduler, x = seen[1]["scheduler"], scope["x_T"]
    scheduler.set_timesteps(10)
    for timestep in scheduler.timesteps:
        x = scheduler.step(scope["unet"](x, timestep).sample, timestep, x).prev_sample
    assert relative(seen[1]["x_0"], x) <= 2e-5


def test_the_lines_for_k_diffusion_make_its_pictures():
    """sample_euler, written out: x += (sigma_next - sigma) (x - denoised) / sigma."""
    scope, seen = run(
        (DOCS[0].parent / "coming_from.md").read_text(), ["x_k", "x_0", "sigma", "t", "schedule"]
    )
    x, sigma = seen[3]["x_k"].double(), [*seen[3]["sigma"].tolist(), 0.0]
    for i, t in enumerate(seen[3]["t"]):
        scaled = x / (sigma[i] ** 2 + 1) ** 0.5  # CompVisDenoiser's c_in
        eps = scope["unet"](scaled.float(), t - 1).sample.double()
        denoised = x - sigma[i] * eps
        x = x + (sigma[i + 1] - sigma[i]) * (x - denoised) / sigma[i]
    assert relative(seen[3]["x_0"].double(), x) <= 2e-5
