"""The small GAN of notebook 03, on Fashion-MNIST without labels.

    python -m ddim_tutorial.training.gan [--data FOLDER]

Trains generator and discriminator in runs/fashion/gan, goes on from the last checkpoint if it was
stopped, and exports the generator's moving average (fp16 safetensors) with its card and samples
into ddim_tutorial/zoo/fashion_gan.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ddim_tutorial import zoo
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.gan import Generator, search_code
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.metrics import psnr
from ddim_tutorial.training.fashion_data import DATA, read_data, write_grid
from ddim_tutorial.training.log import summary
from ddim_tutorial.training.loop import Settings, fit

ZOO = zoo.ZOO / "fashion_gan"
SAMPLES, FOUND = 100, 100  # pictures in samples.png; test pictures whose code is searched for


def new_discriminator(widths: tuple[int, ...] = (32, 64, 128), size: int = 32) -> nn.Module:
    """x (B, 1, size, size) -> logit (B, 1), with spectral normalisation (Miyato et al. 2018,
    arXiv:1802.05957)."""
    layers: list[nn.Module] = []
    for a, b in zip((1, *widths), widths, strict=False):
        layers += [spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(
        *layers, nn.Flatten(), spectral_norm(nn.Linear(widths[-1] * (size >> len(widths)) ** 2, 1))
    )


class Pair(nn.Module):
    """Both networks as one module, so that one loop, one optimiser and one checkpoint serve
    both."""

    def __init__(self, generator: Generator, discriminator: nn.Module):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def gan_loss(pair: Pair, images: Tensor, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The non-saturating losses of both (Goodfellow et al. 2014, arXiv:1406.2661), each blind to
    the other's weights: the discriminator gets the fake pictures, and the generator the
    discriminator's weights, without a gradient."""
    real = from_uint8(images[torch.randint(len(images), (batch,))])
    fake = pair.generator(torch.randn(batch, pair.generator.config["latent"]))
    judge = pair.discriminator
    loss_d = F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()
    frozen = {name: value.detach() for name, value in judge.named_parameters()}
    loss_g = F.softplus(-functional_call(judge, frozen, fake)).mean()
    return loss_d + loss_g, {"discriminator": loss_d, "generator": loss_g}


def train(data: Path, runs: Path, steps: int) -> None:
    torch.manual_seed(0)
    pair = Pair(Generator(), new_discriminator())
    settings = Settings(
        steps=steps,
        lr=4e-4,
        warmup=100,
        decay_from=0.5,
        betas=(0.5, 0.99),
        weight_decay=0.0,
        clip=100.0,
        ema=0.995,
        save_minutes=2,
    )

    def look(ema: Pair, step: int) -> None:
        write_grid(draw(ema.generator), runs / "gan" / "samples.png", columns=10)

    loss = partial(gan_loss, images=read_data(data)[0], batch=64)
    generator = fit(pair, loss, runs / "gan", settings, on_save=look).generator
    (ZOO / "card.json").unlink(missing_ok=True)  # it vouches for the weights of the last run
    generator.save(ZOO)
    write_grid(draw(generator), ZOO / "samples.png", columns=10)
    zoo.write_card(
        ZOO,
        {
            "name": "fashion_gan",
            "title": "A small GAN on Fashion-MNIST, 32 x 32, without labels",
            "data": (
                "the 60,000 training pictures of Fashion-MNIST (Xiao, Rasul & Vollgraf 2017,"
                " arXiv:1708.07747)"
            ),
            "licence": "weights MIT; trained on Fashion-MNIST, MIT, Copyright 2017 Zalando SE",
            "command": "python -m ddim_tutorial.training.gan",
            "training": summary(runs / "gan"),
            "parameters": sum(p.numel() for p in generator.parameters()),
            "quality": quality(data),
        },
    )


def draw(generator: Generator) -> Tensor:
    with torch.no_grad():
        return generator(
            torch.randn(
                SAMPLES, generator.config["latent"], generator=torch.Generator().manual_seed(0)
            )
        )


def quality(data: Path) -> dict[str, float]:
    """What the card says, measured on the weights as they are shipped: fp16, read back."""
    x_0 = from_uint8(read_data(data, "test")[0][:FOUND])
    found = search_code(zoo.load_generator(ZOO), x_0)
    best_start = psnr(found.x, x_0)
    gain = 10 * (found.mse.amax(1) / found.mse.amin(1)).log10()
    best = f"PSNR in dB of the codes found for {FOUND} test pictures, best of 4 starts of 200 steps"
    figures = {
        f"{best}, mean": best_start.mean().item(),
        "the same, worst picture": best_start.min().item(),
        "best start minus worst start, dB, mean": gain.mean().item(),
    }
    print(json.dumps(figures, indent=2))
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with Fashion-MNIST's four .gz files"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/fashion"), help="folder of the checkpoints and logs"
    )
    parser.add_argument("--steps", type=int, default=4000, help="optimiser updates")
    arguments = parser.parse_args()
    train(arguments.data, arguments.runs, arguments.steps)


if __name__ == "__main__":
    main()
