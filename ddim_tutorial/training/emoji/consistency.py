"""The learned jump of the emoji model: ``consistency`` distils the exported pipeline, with guidance
folded in, ``export-jump`` puts the result beside it.

    python -m ddim_tutorial.training.emoji consistency --recipe ends
    python -m ddim_tutorial.training.emoji export-jump --recipe ends

It learns from the latents and captions of the run that the pipeline was trained in; ``zoo.load(..,
fast=True)`` reads what is exported. The text encoder stays the teacher's.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ddim_tutorial.sampling import sample
from ddim_tutorial.spacing import times
from ddim_tutorial.training.consistency import Teacher, Unet, bound, train
from ddim_tutorial.training.jump import Options, export_jump, new_network, sha256_of
from ddim_tutorial.training.loop import mixed_precision, processes

from .autoencoder import decode
from .captions import choose_captions, tokenise
from .data import RUN, read_data
from .diffusion import SCHEDULE, Corpus, corpus
from .export import ZOO
from .networks import components
from .pictures import LOOK, save_grid, starts


def draw(corpus: Corpus, batch: int) -> tuple[Tensor, Tensor]:
    """Latents (B, 4, H, W) and the tokens (B, L) of one caption each: the whole table, since a
    student forgets what it is not asked; half of the time the caption of the evaluation, one in ten
    the empty one."""
    chosen = torch.randint(len(corpus.mean), (batch,))
    rows, mean = corpus.picture[chosen], corpus.mean[chosen].float()
    x_0 = mean + corpus.std[chosen] * torch.randn_like(mean)
    tokens = corpus.tokens[rows, choose_captions(corpus.counts[rows], evaluation=0.5)]
    return x_0, torch.where(torch.rand(batch, 1) < 0.1, corpus.empty, tokens)


def teacher(folder: Path, run: Path, members: int, scale: float, precision: str) -> Teacher:
    """The guided pipeline in ``folder``, with the latents and captions of ``run``."""
    vae, text_encoder, tokenizer, unet = components(
        folder, "vae", "text_encoder", "tokenizer", "unet"
    )
    device = processes().device
    path = run / "family.safetensors"
    examples = corpus(read_data(run / "data.safetensors"), vae, tokenizer, path, members, precision)
    text_encoder = text_encoder.to(device).eval().requires_grad_(False)
    network = Unet(unet).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def on_device(batch: int) -> tuple[Tensor, Tensor]:
        x_0, tokens = draw(examples, batch)
        return x_0.to(device), tokens.to(device)

    @torch.no_grad()
    def condition(tokens: Tensor) -> Tensor:
        return text_encoder(tokens)[0].float()

    null = condition(examples.empty[None].to(device))
    return Teacher(network, null, scale, SCHEDULE, on_device, condition, "ays", sha256_of(folder))


def pictures(vae, network: nn.Module, condition: Tensor, size: int) -> Tensor:
    """uint8 pictures (N, 3, H, W) in one evaluation, picture i from seed i."""
    x_T = starts((4, size, size), 0, len(condition), seed=0).to(condition.device)
    z_0 = sample(bound(network, condition), x_T, times(SCHEDULE.T, 1), SCHEDULE)
    return decode(vae, z_0.cpu() / vae.config.scaling_factor)


def train_consistency(
    run: Path,
    options: Options,
    *,
    folder: Path = ZOO,
    members: int = 16,
    scale: float = 4.0,
    precision: str | None = None,
) -> None:
    """Distil the pipeline in ``folder`` in ``run``/jump-RECIPE, with the data of ``run``."""
    precision = mixed_precision() if precision is None else precision
    guided = teacher(folder, run, members, scale, precision)
    vae, tokenizer, unet = components(folder, "vae", "tokenizer", "unet")
    network = new_network(unet, options.rank).to(memory_format=torch.channels_last)
    condition = guided.condition(tokenise(tokenizer, list(LOOK)).to(guided.null.device))
    into = run / f"jump-{options.recipe}"

    def look(ema: nn.Module, step: int) -> None:
        seen = pictures(vae, ema, condition, unet.config.sample_size)
        save_grid(into / f"samples-{step:06d}.png", seen, list(LOOK), columns=8)

    train(network, guided, into, options, precision, look)


def export_consistency(run: Path = RUN, *, recipe: str, folder: Path = ZOO) -> None:
    """Put the learned jump of ``run``/jump-RECIPE into ``folder``/jump."""
    (unet,) = components(folder, "unet")
    command = f"python -m ddim_tutorial.training.emoji consistency --recipe {recipe}"
    export_jump(run / f"jump-{recipe}", unet, folder, command)
