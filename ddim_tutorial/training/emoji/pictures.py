"""Samples of a run, and contact sheets to be looked at."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm


def save_grid(
    path: Path, images: Tensor, titles: list[str] | None = None, columns: int = 16
) -> None:
    """uint8 pictures (N, 3, H, W) in rows, with titles if there are any, as PNG."""
    import textwrap

    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 0.9, rows * (1.2 if titles else 0.9)), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if i < len(images):
            axes.imshow(images[i].permute(1, 2, 0).numpy(), interpolation="lanczos")
            if titles:
                axes.set_title("\n".join(textwrap.wrap(titles[i], 17)), fontsize=6, pad=2)
    figure.savefig(path, dpi=80)


def starts(shape: tuple[int, ...], first: int, count: int, seed: int) -> Tensor:
    """x_T (count, *shape) of the pictures ``first``, ``first`` + 1 and so on: each has a generator
    of its own, so that it depends on neither the batch nor the pictures beside it."""
    seeds = range(seed * 1_000_003 + first, seed * 1_000_003 + first + count)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in seeds]
    )


@torch.no_grad()
def sample(
    pipe,
    prompts: list[str],
    *,
    steps: int = 50,
    scale: float = 4.0,
    seed: int = 0,
    batch: int = 50,
    precision: str = "no",
) -> Tensor:
    """Latents (N, 4, H, W), not scaled, through the diffusers pipeline, from :func:`starts`. The
    networks compute in ``precision`` ("no" or "bf16"), the state is float32."""
    size = pipe.unet.config.sample_size
    parts = []
    for first in tqdm(range(0, len(prompts), batch), desc=f"{len(prompts)} pictures", leave=False):
        part = prompts[first : first + batch]
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=precision == "bf16"):
            latents = pipe(
                part,
                num_inference_steps=steps,
                guidance_scale=scale,
                latents=starts((4, size, size), first, len(part), seed),
                output_type="latent",
            ).images
        parts.append(latents.float().cpu())
    return torch.cat(parts) / pipe.vae.config.scaling_factor


# looked at after every checkpoint
LOOK = (
    "noto emoji of red apple",
    "twemoji emoji of red apple",
    "fluent emoji of red apple",
    "fluent emoji of videocassette",
    "noto emoji of cat face",
    "twemoji emoji of grinning face",
    "noto emoji of smiling face with heart-eyes",
    "noto emoji of guitar",
    "fluent emoji of blue book",
    "twemoji emoji of camera",
    "noto emoji of radio",
    "twemoji emoji of dog face",
    "fluent emoji of rocket",
    "twemoji emoji of pizza",
    "noto emoji of crab",
    "noto emoji of bus",
    "fluent emoji of mushroom",
    "twemoji emoji of hamburger",
    "noto emoji of octopus",
    "twemoji emoji of sunflower",
    "noto emoji of penguin",
    "noto emoji of penguin",
    "noto emoji of penguin",
    "image of red apple",
    "cassette player",
    "blob emoji of cat face",
    "blob emoji of grinning face",
    "fluent emoji of rocket",
    "fluent emoji of rocket",
    "twemoji emoji of red heart",
)
