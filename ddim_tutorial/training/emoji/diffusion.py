"""The diffusion model: what it learns from, its loss, its training, and samples of it."""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddim_tutorial.files import whole
from ddim_tutorial.predict import add_noise
from ddim_tutorial.schedule import scaled_linear
from ddim_tutorial.training.log import by_quarter
from ddim_tutorial.training.loop import Settings, fit, mixed_precision, processes

from .autoencoder import decode, encode
from .captions import (
    caption_table,
    choose_captions,
    tokenise,
    train_tokenizer,
    vocabulary_texts,
)
from .data import RUN, Emoji, read_data
from .family import members
from .networks import Denoiser, components, inherit, new_pipeline, new_text_encoder, new_unet
from .pictures import LOOK, sample, save_grid

SCHEDULE = scaled_linear()


class Corpus(NamedTuple):
    """What the diffusion model is trained on: mean and std (M, 4, H, W) of the scaled latents of
    the members of all families, float16; the picture (M,) of which each is a member; for every
    picture the tokens of all captions (N, K, L) and their number (N,); and the tokens (L,) of the
    empty caption."""

    mean: Tensor
    std: Tensor
    picture: Tensor
    tokens: Tensor
    counts: Tensor
    empty: Tensor


def encode_families(images: Tensor, vae, count: int, precision: str) -> dict[str, Tensor]:
    """Latents of ``count`` members of every picture (N, 3, H, W) uint8, unvaried with count 0:
    mean, std (M, 4, H, W) float16, scaled; picture (M,) int64; pose (M, 7)."""
    vae = vae.to(memory_format=torch.channels_last)
    parts: list[tuple[Tensor, ...]] = []
    for i in tqdm(range(len(images)), desc="families", mininterval=10):
        family, poses = members(images[i], count, seed=i) if count else (images[i : i + 1], None)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            mean, std = (vae.config.scaling_factor * part for part in encode(vae, family))
        poses = torch.zeros(1, 7) if poses is None else poses
        parts.append((mean.half(), std.half(), torch.full((len(mean),), i), poses))
    names = ("mean", "std", "picture", "pose")
    columns = (torch.cat(column).contiguous() for column in zip(*parts, strict=True))
    return dict(zip(names, columns, strict=True))


def corpus(data: Emoji, vae, tokenizer, path: Path, count: int, precision: str) -> Corpus:
    """The corpus of the training pictures; the latents are encoded once, into ``path``."""
    rows = (data.split == 0).nonzero()[:, 0]
    with processes().main_process_first():
        if not path.exists():
            with whole(path) as temporary:
                save_file(encode_families(data.images[rows], vae, count, precision), temporary)
    latents = load_file(path)
    size = len(rows) * max(1, count)
    if len(latents["mean"]) != size:
        raise ValueError(
            f"{path}: {len(latents['mean'])} latents, wanted {size} ({count} members of each of "
            f"{len(rows)} pictures): give the members that the run was begun with, or remove the "
            "file"
        )
    tokens, counts = caption_table(data, rows, partial(tokenise, tokenizer))
    return Corpus(
        latents["mean"],
        latents["std"],
        latents["picture"],
        tokens,
        counts,
        tokenise(tokenizer, [""])[0],
    )


def late_times(batch: int) -> Tensor:
    """Times 1..T (B,) with the density t^(2/3): what a caption shows is learnt at large t, and is
    the longest to learn. Stratified over the batch, which lowers the variance of the gradient."""
    u = (torch.rand(()) + torch.arange(batch) / batch) % 1
    return 1 + (SCHEDULE.T * u**0.6).long().clamp(max=SCHEDULE.T - 1)


def diffusion_loss(
    net: nn.Module,
    corpus: Corpus,
    batch: int,
    *,
    dropout: float = 0.1,
    gamma: float = 5.0,
    floor: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise prediction with the min-SNR weight (Hang et al. 2023, arXiv:2303.09556: min(SNR, gamma)
    / SNR) and a floor: (min(SNR, gamma) + floor) / SNR. In terms of x0_hat the weight is min(SNR,
    gamma) + floor: without the floor what the caption alone should decide, near T, would count for
    nothing."""
    chosen = torch.randint(len(corpus.mean), (batch,))
    rows, mean = corpus.picture[chosen], corpus.mean[chosen].float()
    x_0 = mean + corpus.std[chosen] * torch.randn_like(mean)
    eps = torch.randn_like(mean)
    t = late_times(batch)
    ab_t = SCHEDULE.at(t, x_0)
    x_t = add_noise(x_0, eps, ab_t)
    tokens = corpus.tokens[rows, choose_captions(corpus.counts[rows])]
    tokens = torch.where(torch.rand(batch, 1) < dropout, corpus.empty, tokens)
    device = next(net.parameters()).device
    x_t = x_t.to(device).contiguous(memory_format=torch.channels_last)
    eps_hat = net(x_t, (t - 1).to(device), tokens.to(device)).float().cpu()
    error = (eps_hat - eps).square().mean((1, 2, 3))
    snr = (ab_t / (1 - ab_t)).flatten()
    weighted = error * (snr.clamp(max=gamma) + floor) / snr
    return weighted.mean(), by_quarter(error, t, SCHEDULE.T)


def prepare(data: Emoji, run: Path, init: Path | None, attention: str):
    """(vae, tokenizer, text encoder, unet) to start from: ``init``'s, or the run's autoencoder and
    new networks."""
    with processes().main_process_first():  # the others find the files
        if init is not None and not (run / "diffusion" / "init.json").exists():
            take_over(init, run)
        if not (run / "vae").exists():
            raise FileNotFoundError(
                f"{run / 'vae'} is not there: train the autoencoder first, or give --init FOLDER"
            )
        if not (run / "tokenizer").exists():
            train_tokenizer(vocabulary_texts(data), run / "tokenizer")
    vae, tokenizer = components(run, "vae", "tokenizer")
    torch.manual_seed(0)
    text_encoder, unet = new_text_encoder(len(tokenizer)), new_unet(attention=attention)
    if init is not None:
        text_encoder, other = components(init, "text_encoder", "unet")
        inherit(unet, other)
    return vae, tokenizer, text_encoder, unet


def take_over(init: Path, run: Path) -> None:
    """Copy the autoencoder and the tokenizer of the pipeline in ``init`` into a new run, and what
    it cost to train."""
    mine = [
        run / name
        for name in ("vae", "tokenizer", "diffusion/state.safetensors")
        if (run / name).exists()
    ]
    if mine:
        raise ValueError(
            f"--init {init}: the run has {mine[0]} of its own, which would be lost; go on without"
            " --init, or give another --run"
        )
    vae, tokenizer = components(init, "vae", "tokenizer")
    vae.save_pretrained(run / "vae")
    tokenizer.save_pretrained(run / "tokenizer")
    (run / "diffusion").mkdir(parents=True, exist_ok=True)
    card = json.loads((init / "card.json").read_text()) if (init / "card.json").exists() else {}
    (run / "diffusion" / "init.json").write_text(json.dumps(card.get("training", {})))


def matrices(model: nn.Module) -> set[str]:
    """The names of the weights for Muon: all matrices and convolutions but those next to the
    data."""
    outside = ("conv_in", "conv_out", "token_embedding", "position_embedding")
    return {
        name
        for name, p in model.named_parameters()
        if p.ndim >= 2 and not any(part in name for part in outside)
    }


def train_diffusion(
    run: Path = RUN,
    steps: int = 14_000,
    batch: int = 64,
    lr: float = 1.5e-3,
    *,
    seed: int = 0,
    warmup: int = 500,
    decay_from: float = 0.6,
    init: Path | None = None,
    members: int = 16,
    attention: str = "16",
    precision: str | None = None,
    compiled: bool = False,
) -> None:
    """Train text encoder and UNet in ``run``/diffusion, from ``init`` if given, else from the
    beginning. members: of each picture's family, 0 for the picture alone. attention: see
    :func:`new_unet`. precision: "no" or "bf16", None is what the hardware multiplies."""
    precision = mixed_precision() if precision is None else precision
    data = read_data(run / "data.safetensors")
    vae, tokenizer, text_encoder, unet = prepare(data, run, init, attention)
    examples = corpus(data, vae, tokenizer, run / "family.safetensors", members, precision)
    unet.save_config(run / "diffusion" / "unet")
    text_encoder.config.save_pretrained(run / "diffusion" / "text_encoder")
    model = Denoiser(unet, text_encoder).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()

    def look(ema: Denoiser, step: int) -> None:
        vae.to(ema.unet.device)
        pipe = new_pipeline(vae, ema.text_encoder, tokenizer, ema.unet)
        pictures = decode(vae, sample(pipe, list(LOOK), steps=20, precision=precision))
        path = run / "diffusion" / f"samples-{step:06d}.png"
        save_grid(path, pictures, list(LOOK), columns=8)

    settings = Settings(steps=steps, lr=lr, warmup=warmup, decay_from=decay_from, seed=seed)
    fit(
        model,
        partial(diffusion_loss, corpus=examples, batch=batch),
        run / "diffusion",
        settings,
        precision=precision,
        on_save=look,
        matrices=matrices(model),
    )
