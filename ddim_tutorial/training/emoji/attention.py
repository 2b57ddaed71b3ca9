"""Where a prompt looks: the maps of the cross-attention, token by token."""

from pathlib import Path

import torch
from torch.nn import functional as F

from ddim_tutorial import editing

from .pictures import sample


def attention_maps(pipe, prompt: str, *, steps: int = 50, scale: float = 4.0, side: int = 64):
    """One sample's latent (1, 4, h, w), not scaled, and its maps (tokens, side, side): the mean of
    all steps, heads and cross-attentions on the largest map that has any."""
    with editing.Attention(pipe, prompt) as run:
        latent = sample(pipe, [prompt], steps=steps, scale=scale)
    tokens = range(pipe.tokenizer.model_max_length)
    maps = torch.stack([editing.attention_maps(run, token) for token in tokens])
    return latent, F.interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0]


def save_maps(pipe, decode, prompts: list[str], path: Path, **options) -> None:
    """One row a prompt: the sample, then the map of each of its tokens, from 0 to the row's own
    largest value, as PNG."""
    from matplotlib.figure import Figure

    tokens = [pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(p).input_ids) for p in prompts]
    columns = 1 + max(map(len, tokens))
    figure = Figure(figsize=(0.9 * columns, 1.1 * len(prompts)), layout="constrained")
    grid = figure.subplots(len(prompts), columns, squeeze=False)
    for row, prompt, words in zip(grid, prompts, tokens, strict=True):
        latent, maps = attention_maps(pipe, prompt, **options)
        row[0].imshow(decode(latent)[0].permute(1, 2, 0).numpy())
        for axes, word, values in zip(row[1:], words, maps, strict=False):
            axes.imshow(values.numpy(), vmin=0, vmax=maps[: len(words)].max().item())
            axes.set_title(word.removesuffix("</w>").strip("<|>"), fontsize=6, pad=2)
        for axes in row:
            axes.axis("off")
    figure.savefig(path, dpi=100)
