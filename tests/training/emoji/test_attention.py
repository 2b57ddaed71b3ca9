"""Where a prompt looks."""

import pytest
import torch
from torch import nn

from ddim_tutorial.training.emoji import attention as recipe
from ddim_tutorial.training.emoji.pictures import sample
from parts import tiny_pipeline


@pytest.fixture
def pipe(tmp_path):
    return tiny_pipeline(tmp_path)


def test_the_maps_are_shares_and_the_sample_is_as_without_them(pipe):
    latent, maps = recipe.attention_maps(pipe, "two blue fish", steps=3)
    assert maps.shape == (pipe.tokenizer.model_max_length, 64, 64)
    torch.testing.assert_close(maps.sum(0), torch.ones(64, 64))
    assert maps.std() > 1e-3
    plain = sample(pipe, ["two blue fish"], steps=3)
    torch.testing.assert_close(latent, plain, atol=1e-4, rtol=1e-4)
    names = {type(part).__name__ for part in pipe.unet.attn_processors.values()}
    assert names <= {"AttnProcessor", "AttnProcessor2_0"}


def test_queries_of_nothing_look_everywhere_alike(pipe):
    for name, part in pipe.unet.named_modules():
        if name.endswith("attn2"):
            nn.init.zeros_(part.to_q.weight)
    _, maps = recipe.attention_maps(pipe, "two blue fish", steps=2)
    torch.testing.assert_close(maps, torch.full_like(maps, 1 / len(maps)))


def test_the_maps_are_those_of_the_prompt_not_of_the_empty_one(pipe):
    """Without guidance only the prompt is there: one step from the same x_T looks the same."""
    alone, guided = (
        recipe.attention_maps(pipe, "two blue fish", steps=1, scale=scale)[1]
        for scale in (1.0, 4.0)
    )
    torch.testing.assert_close(alone, guided, atol=1e-5, rtol=1e-4)


def test_maps_as_a_picture(pipe, tmp_path):
    def decode(latent):
        return torch.zeros(1, 3, 16, 16, dtype=torch.uint8)

    recipe.save_maps(pipe, decode, ["two blue fish", "blurry"], tmp_path / "maps.png", steps=1)
    assert (tmp_path / "maps.png").stat().st_size > 5_000
