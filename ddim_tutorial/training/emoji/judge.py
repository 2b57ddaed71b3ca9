"""The judge: a small network that names the object and the style of a picture in any pose.

It only judges. So it has seen every picture, held-out ones as well, and what counts is that it
knows them in poses that it has not seen: its own accuracy there, on pictures that went through the
autoencoder, is the ceiling of every figure it gives.
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ddim_tutorial.classifier import Classifier
from ddim_tutorial.grids import from_uint8
from ddim_tutorial.training.loop import Settings, fit, processes

from .autoencoder import decode, encode
from .data import RUN, STYLES, Emoji, read_data
from .family import apply_poses, content, draw_pose
from .networks import components

WIDTHS = (16, 32, 64, 128)


class Labelled(NamedTuple):
    """What the judge learns from: pictures (N, 3, 64, 64) uint8, the coordinates of what is not
    white in each, objects (N,) and styles (N,) int64."""

    images: Tensor
    contents: list[Tensor]
    objects: Tensor
    styles: Tensor


def labelled(data: Emoji, vae: nn.Module) -> Labelled:
    """All pictures twice: as they are, and as the autoencoder gives them back."""
    images = torch.cat([data.images, decode(vae, encode(vae, data.images)[0])])
    contents = [content(image) for image in data.images] * 2
    return Labelled(images, contents, data.objects.repeat(2), data.styles.repeat(2))


def new_judge(objects: int, widths: tuple[int, ...] = WIDTHS) -> Classifier:
    """Pictures (B, 3, 64, 64) in [-1, 1] -> logits (B, objects + styles)."""
    return Classifier(objects + len(STYLES), channels=3, widths=widths)


def draw_members(
    images: Tensor, contents: list[Tensor], rows: Tensor, generator: torch.Generator
) -> Tensor:
    """A new member (B, 3, H, W) uint8 of the family of each picture of ``rows`` (B,)."""
    size = images.shape[-1]
    poses = [draw_pose(contents[i], size, generator) for i in rows.tolist()]
    return apply_poses(images[rows], torch.tensor(poses))


def judge_loss(net: nn.Module, examples: Labelled, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the object and of the style on new members."""
    rows = torch.randint(len(examples.images), (batch,))
    members = draw_members(examples.images, examples.contents, rows, torch.default_generator)
    device = next(net.parameters()).device
    x = from_uint8(members).to(device).contiguous(memory_format=torch.channels_last)
    logits = net(x).float().cpu()
    names, styles = logits.split([logits.shape[1] - len(STYLES), len(STYLES)], 1)
    truth = examples.objects[rows], examples.styles[rows]
    loss = F.cross_entropy(names, truth[0]) + F.cross_entropy(styles, truth[1])
    right = (part.argmax(1) == label for part, label in zip((names, styles), truth, strict=True))
    return loss, {
        f"{name} wrong": 1 - share.float().mean()
        for name, share in zip(("object", "style"), right, strict=True)
    }


@torch.no_grad()
def judged(judge: nn.Module, images: Tensor, batch: int = 100) -> tuple[Tensor, Tensor]:
    """The object (N,) and the style (N,) that the judge sees in pictures (N, 3, 64, 64) uint8."""
    logits = torch.cat([judge(from_uint8(part)) for part in images.split(batch)])
    names, styles = logits.split([logits.shape[1] - len(STYLES), len(STYLES)], 1)
    return names.argmax(1), styles.argmax(1)


def accuracy(judge: nn.Module, images: Tensor, objects: Tensor, styles: Tensor) -> dict[str, float]:
    """Shares of the pictures (N, 3, 64, 64) uint8 with the right object and the right style."""
    seen = judged(judge, images)
    return {
        name: (part == truth).double().mean().item()
        for name, part, truth in zip(("object", "style"), seen, (objects, styles), strict=True)
    }


def ceiling(judge: nn.Module, data: Emoji, vae, rows: Tensor, seed: int = 1) -> dict[str, dict]:
    """The judge's accuracy on new members of the pictures of ``rows`` (N,): as they are, and
    encoded and decoded, as samples are."""
    contents = [content(image) for image in data.images]
    generator = torch.Generator().manual_seed(seed)
    images = draw_members(data.images, contents, rows, generator)
    truth = data.objects[rows], data.styles[rows]
    return {
        "pictures in new poses": accuracy(judge, images, *truth),
        "the same, encoded and decoded": accuracy(
            judge, decode(vae, encode(vae, images)[0]), *truth
        ),
    }


def train_judge(
    run: Path = RUN,
    steps: int = 3000,
    batch: int = 64,
    *,
    lr: float = 3e-3,
    precision: str | None = None,
    compiled: bool = False,
) -> None:
    """Train in ``run``/judge, with the autoencoder ``run``/vae; the finished judge and its accuracy
    go to ``run``/judge.safetensors."""
    data = read_data(run / "data.safetensors")
    (vae,) = components(run, "vae")
    torch.manual_seed(0)
    model = new_judge(len(data.names)).to(memory_format=torch.channels_last)
    if compiled:
        model.compile()
    settings = Settings(steps=steps, lr=lr, warmup=100, decay_from=0.4, ema=0.99)
    examples = labelled(data, vae)
    matrices = {name for name, p in model.named_parameters() if p.ndim == 4 and "stem" not in name}
    judge = fit(
        model,
        partial(judge_loss, examples=examples, batch=batch),
        run / "judge",
        settings,
        precision=precision,
        matrices=matrices,
    )
    if processes().is_main_process:
        found = ceiling(judge, data, vae, torch.arange(len(data.images)))
        print(json.dumps(found, indent=2))
        save_judge(judge, data.names, run / "judge.safetensors")


def save_judge(judge: Classifier, names: list[str], path: Path) -> None:
    """One file: weights, widths and the names of the objects."""
    weights = {key: value.contiguous() for key, value in judge.state_dict().items()}
    texts = {"widths": json.dumps(judge.config["widths"]), "names": json.dumps(names)}
    save_file(weights, path, metadata=texts)


def read_judge(path: Path, names: list[str]) -> Classifier:
    """:func:`save_judge`'s network, in evaluation mode. ``names`` are those of the data that it is
    to judge: ValueError if it was trained on others."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: train the judge by python -m ddim_tutorial.training.emoji judge"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or damaged ({error}); train the judge again"
        ) from error
    if not {"widths", "names"} <= metadata.keys():
        raise ValueError(f"{path}: not a judge, it names no objects; train the judge again")
    known = json.loads(metadata["names"])
    if known != names:
        raise ValueError(
            f"{path}: trained on {len(known)} objects, not on the {len(names)} of this data; train"
            " the judge again"
        )
    judge = new_judge(len(names), tuple(json.loads(metadata["widths"])))
    judge.load_state_dict(weights)
    return judge.eval().requires_grad_(False)
