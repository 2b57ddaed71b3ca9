"""A random tiny pipeline in float64, so that an edit that must change nothing shows it."""

import pytest
import torch

from parts import tiny_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    made = tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))
    for part in (made.unet, made.vae, made.text_encoder):
        part.double().requires_grad_(False)
    return made


@pytest.fixture
def z_T():
    """One start for a source and a target."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise.expand(2, -1, -1, -1)
