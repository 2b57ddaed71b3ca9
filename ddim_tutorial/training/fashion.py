"""The bundled pixel model: Fashion-MNIST at 32 x 32, one channel, conditioned on the class.

    python -m ddim_tutorial.training.fashion {classifier,noisy-classifier,diffusion} [--data FOLDER]

Each command trains one network in runs/fashion/<command>, goes on from the last checkpoint if it
was stopped, and exports fp16 safetensors into ddim_tutorial/zoo/fashion. ``python -m
ddim_tutorial.training.evaluate fashion`` then measures them and completes the card.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddim_tutorial import zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.console import escape_unprintable
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.pixel import eps_model
from ddim_tutorial.predict import add_noise
from ddim_tutorial.sampling import sample
from ddim_tutorial.schedule import Schedule, linear
from ddim_tutorial.spacing import times
from ddim_tutorial.training.fashion_data import DATA, NAMES, read_data, write_grid
from ddim_tutorial.training.log import summary
from ddim_tutorial.training.loop import Settings, fit

ZOO = Path(__file__).parents[1] / "zoo" / "fashion"
NULL = len(NAMES)  # the label that stands for no label
T = 1000
FIRST = 7000  # updates of the first phase of the diffusion model


def mirrored(x: Tensor) -> Tensor:
    """About every second picture mirrored: for the judge only, since all shoes point one way."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def classifier_loss(
    model: nn.Module, data: tuple[Tensor, Tensor], batch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on clean pictures, mirrored or not."""
    index = torch.randint(len(data[0]), (batch,))
    x, y = mirrored(from_uint8(data[0][index])), data[1][index]
    logits = model(x).float()
    return F.cross_entropy(logits, y, label_smoothing=0.05), {
        "error": (logits.argmax(1) != y).float().mean()
    }


def noisy_classifier_loss(
    model: nn.Module, data: tuple[Tensor, Tensor], schedule: Schedule, batch: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on x_t, t even over 0..T: no mirroring, so that a guide shares the direction of
    the shoes."""
    index = torch.randint(len(data[0]), (batch,))
    x_0, y = from_uint8(data[0][index]), data[1][index]
    t = spread_times(batch) - 1
    x_t = add_noise(x_0, torch.randn_like(x_0), schedule.at(t, x_0))
    logits = model(x_t, t).float()
    wrong = (logits.argmax(1) != y).float()
    return F.cross_entropy(logits, y), {
        "error t<200": wrong[t < 200].mean(),
        "error t>=200": wrong[t >= 200].mean(),
    }


def diffusion_loss(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    schedule: Schedule,
    batch: int,
    weight: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of eps, weighted by ``weight(alpha_bar_t)``, and its plain value in five bands
    of t. One label in ten is the null label (Ho & Salimans 2022, arXiv:2207.12598)."""
    index = torch.randint(len(data[0]), (batch,))
    x_0 = from_uint8(data[0][index])
    y = torch.where(torch.rand(batch) < 0.1, NULL, data[1][index])
    t = spread_times(batch)
    eps = torch.randn_like(x_0)
    ab_t = schedule.at(t, x_0)
    x_t = add_noise(x_0, eps, ab_t).contiguous(memory_format=torch.channels_last)
    errors = (model(x_t, t - 1, y).sample.float() - eps).square().mean((1, 2, 3))
    bands = {
        f"t<={last}": errors[(t > first) & (t <= last)].mean()
        for first, last in ((0, 50), (50, 200), (200, 500), (500, 800), (800, T))
    }
    return (weight(ab_t.flatten()) * errors).mean(), bands


def as_v(ab_t: Tensor) -> Tensor:
    """The weight that makes the squared error of eps that of v (Salimans & Ho 2022,
    arXiv:2202.00512), at most 500: near t = T the error of x0_hat is 157 times that of eps, and eta
    = 0 never forgets a systematic one."""
    return ab_t.reciprocal().clamp(max=500)


def middle_first(ab_t: Tensor) -> Tensor:
    """min(SNR, 20) / SNR (Hang et al. 2023, arXiv:2303.09556): the middle of the way, where a
    garment takes its form. But at least a tenth of :func:`as_v`, so that what was learned near T
    stays."""
    snr = ab_t / (1 - ab_t)
    return torch.maximum(snr.clamp(max=20) / snr, 0.1 * as_v(ab_t))


def spread_times(batch: int) -> Tensor:
    """A batch of t, each uniform on 1..T, together spread evenly: less variance than independent
    ones."""
    return (((torch.arange(batch) + torch.rand(1)) / batch * T).long() + 1).clamp(max=T)


def build_unet() -> nn.Module:
    """Narrow where the map is large, wide where it is small. Few groups: the last normalisation
    would otherwise hide the length of x_t, which near t = T is all that eps has to repeat."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(24, 32, 64, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=32,
        num_class_embeds=NULL + 1,
    )
    return unet.to(memory_format=torch.channels_last)


def draw(unet: nn.Module, schedule: Schedule, labels: Tensor, steps: int, seed: int = 0) -> Tensor:
    """Pictures (B, 1, 32, 32) for labels (B,): DDIM, eta 0, trailing grid, the noise fixed by the
    seed."""
    x_T = torch.randn(len(labels), 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    return sample(eps_model(unet, labels=labels), x_T, times(T, steps), schedule)


def train_classifier(data: Path, runs: Path, steps: int) -> None:
    torch.manual_seed(0)
    model = Classifier().to(memory_format=torch.channels_last)
    settings = Settings(
        steps=steps, lr=3e-3, warmup=100, weight_decay=0.05, ema=0.995, save_minutes=2
    )
    loss = partial(classifier_loss, data=read_data(data), batch=128)
    fit(model, loss, runs / "classifier", settings).save(ZOO / "classifier")
    note("classifier", runs)


def train_noisy_classifier(data: Path, runs: Path, steps: int) -> None:
    torch.manual_seed(0)
    model = Classifier(time=True).to(memory_format=torch.channels_last)
    settings = Settings(
        steps=steps, lr=2e-3, warmup=100, weight_decay=0.05, ema=0.995, save_minutes=2
    )
    loss = partial(noisy_classifier_loss, data=read_data(data), schedule=linear(T), batch=128)
    fit(model, loss, runs / "noisy-classifier", settings).save(ZOO / "noisy_classifier")
    note("noisy-classifier", runs)


def train_diffusion(data: Path, runs: Path, steps: int) -> None:
    """Two phases in one run: a first third or so that learns the ends of the way, and the rest for
    its middle."""
    from diffusers import DDIMScheduler

    schedule, labels = linear(T), torch.arange(NULL).repeat(3)
    pictures = read_data(data)

    def look(ema_unet: nn.Module, step: int) -> None:
        write_grid(
            draw(ema_unet, schedule, labels, steps=50),
            runs / "diffusion" / f"samples_{step:06d}.png",
            10,
        )

    for last, weight in ((min(FIRST, steps), as_v), (steps, middle_first)):
        loss = partial(diffusion_loss, data=pictures, schedule=schedule, batch=64, weight=weight)
        settings = Settings(steps=last, lr=1.2e-3, warmup=200, decay_from=0.2, ema=0.999)
        unet = fit(build_unet(), loss, runs / "diffusion", settings, on_save=look)
    unet.half().to(memory_format=torch.contiguous_format).save_pretrained(ZOO / "unet")
    DDIMScheduler(
        num_train_timesteps=T,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        prediction_type="epsilon",
        timestep_spacing="trailing",
    ).save_pretrained(ZOO / "scheduler")
    note("diffusion", runs)


def note(network: str, runs: Path) -> None:
    """Put the run into the card; a figure measured on the weights that were there before is not
    true of these."""
    path = ZOO / "card.json"
    card = {"name": "fashion", "training": {}}
    if path.exists():
        card = json.loads(path.read_text(encoding="utf-8"))
    card.pop("quality", None)
    command = f"python -m ddim_tutorial.training.fashion {network}"
    card["training"][network] = {"command": command} | summary(runs / network)
    zoo.write_card(ZOO, card)


def main() -> None:
    escape_unprintable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=RECIPES)
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with Fashion-MNIST's four .gz files"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/fashion"), help="folder of the checkpoints and logs"
    )
    parser.add_argument(
        "--steps", type=int, help="optimiser updates, instead of the recipe's own number"
    )
    arguments = parser.parse_args()
    recipe, steps = RECIPES[arguments.network]
    recipe(arguments.data, arguments.runs, arguments.steps or steps)


RECIPES = {
    "classifier": (train_classifier, 4000),
    "noisy-classifier": (train_noisy_classifier, 3000),
    "diffusion": (train_diffusion, 22000),
}

if __name__ == "__main__":
    main()
