"""The autoencoder: its loss, its training, and pictures to latents and back."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim_tutorial.grids import from_uint8, quantise
from ddim_tutorial.metrics import psnr
from ddim_tutorial.training.loop import Settings, fit, processes

from .data import RUN, read_data
from .networks import Autoencoder, new_vae
from .pictures import save_grid


def shifted(images: Tensor, pixels: int = 4) -> Tensor:
    """Each picture flipped or not, and moved by up to ``pixels`` on its white ground."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, value=255)
    corners = torch.randint(2 * pixels + 1, (len(images), 2)).tolist()
    moved = torch.stack(
        [
            image[:, y : y + height, x : x + width]
            for image, (y, x) in zip(padded, corners, strict=True)
        ]
    )
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, moved, moved.flip(-1))


def laplacian(x: Tensor) -> Tensor:
    return x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def autoencoder_loss(
    net: nn.Module, images: Tensor, batch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    x = from_uint8(shifted(images[torch.randint(len(images), (batch,))])).to(
        next(net.parameters()).device
    )
    x = x.contiguous(memory_format=torch.channels_last)
    reconstruction, mean, logvar = (part.float() for part in net(x))
    error = reconstruction - x
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    mse = error.square().mean()
    return error.abs().mean() + mse + laplacian(error).abs().mean() + 1e-3 * kl, {
        "mse": mse,
        "kl": kl,
    }


@torch.no_grad()
def encode(vae, images: Tensor, batch: int = 32) -> tuple[Tensor, Tensor]:
    """uint8 pictures -> mean and standard deviation of the latent posterior, (N, 4, H/4, W/4), not
    yet scaled."""
    posteriors = [
        vae.encode(from_uint8(part).to(vae.device, vae.dtype)).latent_dist
        for part in images.split(batch)
    ]
    return (
        torch.cat([p.mean for p in posteriors]).float().cpu(),
        torch.cat([p.std for p in posteriors]).float().cpu(),
    )


@torch.no_grad()
def decode(vae, latents: Tensor, batch: int = 32) -> Tensor:
    """Latents, not scaled -> uint8 pictures (N, 3, H, W)."""
    pictures = [
        vae.decode(part.to(vae.device, vae.dtype)).sample.float().cpu()
        for part in latents.split(batch)
    ]
    return quantise(torch.cat(pictures))


@torch.no_grad()
def centre(vae, images: Tensor) -> None:
    """Move the latents' channel means over ``images`` to 0, inside the two 1 x 1 convolutions
    (reconstructions do not change), and set ``scaling_factor`` to 1 / their standard deviation. SD
    starts at pure noise, which has mean 0, though x_T keeps 7 % of x_0: a white ground far from 0
    would be missed."""
    mean, _ = encode(vae, images)
    shift = mean.mean((0, 2, 3)).to(vae.device)
    vae.quant_conv.bias[: len(shift)] -= shift
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ shift
    std = (mean - mean.mean((0, 2, 3), keepdim=True)).std()
    vae.register_to_config(scaling_factor=round(1 / std.item(), 5))


def train_autoencoder(
    run: Path = RUN,
    steps: int = 2600,
    batch: int = 16,
    *,
    precision: str | None = None,
    compiled: bool = False,
) -> None:
    """Train in ``run``/autoencoder; the finished autoencoder goes to ``run``/vae. precision: "no"
    or "bf16", None is what the hardware multiplies."""
    data = read_data(run / "data.safetensors")
    train, rest = data.images[data.split == 0], data.images[data.split > 0]
    torch.manual_seed(0)
    model = Autoencoder(new_vae()).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()

    def look(ema: Autoencoder, step: int) -> None:
        seen = decode(ema.vae, encode(ema.vae, rest)[0])
        print(
            f"step {step}: PSNR on held-out pictures {psnr(seen, rest, 255).mean():.2f} dB",
            flush=True,
        )
        save_grid(
            run / "autoencoder" / "pictures.png",
            torch.stack([rest[:32], seen[:32]], 1).flatten(0, 1),
        )

    settings = Settings(steps=steps, lr=8e-4, log_every=50)
    ema = fit(
        model,
        partial(autoencoder_loss, images=train, batch=batch),
        run / "autoencoder",
        settings,
        precision=precision,
        on_save=look,
    )
    if processes().is_main_process:
        centre(ema.vae, train)
        ema.vae.save_pretrained(run / "vae")
