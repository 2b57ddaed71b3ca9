"""Where a prompt looks: the maps of the cross-attention, token by token."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from .pictures import sample


class Recorder:
    """diffusers' own attention, which keeps its probabilities (B, positions, tokens), averaged over
    the heads; the later half of a batch of guidance is the one with the prompt."""

    def __init__(self, maps: list[Tensor]):
        from diffusers.models.attention_processor import AttnProcessor

        self.maps, self.plain = maps, AttnProcessor()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **options):
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        scores = attn.get_attention_scores(query, key).detach().float().cpu()
        self.maps.append(scores.unflatten(0, (-1, attn.heads)).mean(1))
        return self.plain(attn, hidden_states, encoder_hidden_states, *args, **options)


def attention_maps(pipe, prompt: str, *, steps: int = 50, scale: float = 4.0, side: int = 64):
    """One sample's latent (1, 4, h, w), not scaled, and its maps (tokens, side, side): the mean of
    all steps, heads and cross-attentions on the largest map that has any."""
    maps: list[Tensor] = []
    before = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(
        {name: Recorder(maps) if ".attn2." in name else old for name, old in before.items()}
    )
    try:
        latent = sample(pipe, [prompt], steps=steps, scale=scale)
    finally:
        pipe.unet.set_attn_processor(before)
    largest = max(part.shape[1] for part in maps)
    mean = torch.stack([part[-1] for part in maps if part.shape[1] == largest]).mean(0)
    mean = mean.T.unflatten(1, (int(largest**0.5), -1))[:, None]
    return latent, F.interpolate(mean, size=(side, side), mode="bilinear")[:, 0]


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
