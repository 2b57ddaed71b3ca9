"""How much of a picture x_T decides: do seeds differ as the members of a family do, and can x_T be
read back from the picture?"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddim_tutorial.inversion import invert, invert_exact
from ddim_tutorial.latent import from_pipeline
from ddim_tutorial.predict import EpsModel

from .family import members
from .pictures import starts
from .subject import Subject

INK = 32  # darker than white by this, of 255: part of the thing
METHODS = {"exact": partial(invert_exact, tol=1e-4, max_iter=20), "naive": invert}
POSE = ("right", "down", "size", "elongation, lying", "elongation, diagonal")


def rms(one: Tensor, other: Tensor) -> float:
    """Root mean square difference of two batches, as one number."""
    return (one.double() - other.double()).square().mean().sqrt().item()


def families(subject: Subject, rows: Tensor, count: int, seed: int) -> Tensor:
    """``count`` members of each of the pictures of ``rows`` (P,), (P * count, 3, H, W) uint8."""
    images = subject.data.images
    return torch.cat([members(images[i], count, seed + i)[0] for i in rows.tolist()])


def seeds(subject: Subject, rows: Tensor, one: Tensor, other: Tensor) -> dict[str, float]:
    """rms between samples of two seeds, ``one`` and ``other`` (N, ...), for the prompts of ``rows``
    (N,); over that between two members of each of their families, which is what it should be, and
    over that between neighbours in ``one``, which is how far prompts lie apart."""
    pairs = families(subject, rows, 2, seed=1_000_000)
    first, second = subject.encode(pairs).unflatten(0, (len(rows), 2)).unbind(1)
    between = rms(one, other)
    return {
        "rms between two seeds": between,
        "over rms between two members of the family": between / rms(first, second),
        "over rms between two prompts": between / rms(one, one.roll(1, 0)),
    }


def likeness(x_T: Tensor, truth: Tensor) -> dict[str, float]:
    """How near a recovered x_T (N, ...) is to the true one: correlation over all numbers, |x_T -
    truth| / |truth|, and the standard deviation of x_T, which is 1 for noise."""
    return {
        "correlation": torch.corrcoef(torch.stack([x_T.flatten(), truth.flatten()]))[0, 1].item(),
        "relative error": ((x_T - truth).norm() / truth.norm()).item(),
        "std": x_T.std().item(),
    }


def in_precision(model: EpsModel, precision: str) -> EpsModel:
    """The network in bf16 where it gains by it, or as it is; the state stays float32."""

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model(x_t, t).float()

    return eps


def read_back(
    subject: Subject,
    prompts: list[str] | None,
    latents: Tensor,
    scale: float,
    steps: int,
    method: Callable,
) -> tuple[Tensor, float]:
    """x_T (N, ...) of samples, latents (N, ...), not scaled, by inversion with their ``prompts`` at
    their ``scale``; with None as somebody reads it who has the pictures alone: decoded and encoded,
    with the empty prompt. And the largest relative residual, NaN for the naive method."""
    if prompts is None:
        latents, prompts, scale = subject.encode(subject.decode(latents)), [""] * len(latents), 1.0
    space = from_pipeline(subject.pipe, prompts, "", scale)
    model = in_precision(space.model, subject.precision)
    z_0 = latents * subject.pipe.vae.config.scaling_factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the residual says it
        found = method(model, z_0, space.times(steps), space.schedule)
    return found.x_T, found.residual


def recovery(
    subject: Subject, prompts: list[str], latents: Tensor, scale: float, steps: int
) -> dict[str, dict[str, float]]:
    """:func:`likeness` for the samples 0..N-1 of seed 0, by what is known and by method."""
    truth = starts(latents.shape[1:], 0, len(latents), seed=0)
    known = {
        "prompt known, from the latent": prompts,
        "empty prompt, from the decoded and encoded picture": None,
    }
    figures = {}
    for kind, texts in known.items():
        for name, method in METHODS.items():
            x_T, residual = read_back(subject, texts, latents, scale, steps, method)
            solved = {"largest residual": residual} if name == "exact" else {}
            figures[f"{kind}, {name}"] = likeness(x_T, truth) | solved
    return figures


def poses(images: Tensor) -> Tensor:
    """The pose that the ink of pictures (N, 3, H, W) uint8 on white shows, (N, 5): centre of mass,
    pixels to the right and down of the middle; size, the root of the area, in pixels; and from the
    second moments the elongation, 0 for a disk to 1 for a line, times (cos, sin) of twice the angle
    counter-clockwise: no jump where a thing is round or turns past the vertical."""
    ink = ((255 - images.int()).amax(1) > INK).double()
    size = images.shape[-1]
    x = torch.arange(size).double() - (size - 1) / 2
    area = ink.sum((1, 2)).clamp(min=1)

    def mean(weight: Tensor) -> Tensor:
        return (ink * weight).sum((1, 2)) / area

    right, down = mean(x[None, :]), mean(x[:, None])
    xx, yy = mean(x[None, :] ** 2) - right**2, mean(x[:, None] ** 2) - down**2
    xy = mean(-x[None, :] * x[:, None]) + right * down  # y up
    trace = (xx + yy).clamp(min=1e-9)
    return torch.stack([right, down, area.sqrt(), (xx - yy) / trace, 2 * xy / trace], 1)


def pose_variance(found: Tensor, wanted: Tensor) -> dict[str, dict[str, float]]:
    """Variance of measured poses (P, K, 5) over the K pictures of one prompt, averaged over the P
    prompts: of samples, of members of the families, and the first over the second."""
    one, other = (part.var(1).mean(0) for part in (found, wanted))
    return {
        name: {"samples": a, "members": b, "ratio": a / b}
        for name, a, b in zip(POSE, one.tolist(), other.tolist(), strict=True)
    }


def pose_spread(
    subject: Subject, rows: Tensor, scale: float, steps: int, count: int = 8
) -> dict[str, dict[str, float]]:
    """:func:`pose_variance` of ``count`` samples of the prompt of each of ``rows`` (P,) against as
    many members of its family, encoded and decoded."""
    prompts = [text for text in subject.data.captions(rows.tolist()) for _ in range(count)]
    drawn = subject.decode(subject.draw(prompts, steps=steps, scale=scale, seed=5))
    real = subject.decode(subject.encode(families(subject, rows, count, seed=2_000_000)))
    shape = (len(rows), count)
    return pose_variance(*(poses(part).unflatten(0, shape) for part in (drawn, real)))


def measure(
    subject: Subject, rows: Tensor, drawn: Tensor, scale: float, steps: int
) -> dict[str, dict[str, Any]]:
    """All of this file, on the first of ``rows`` (N,), whose samples of seed 0 are ``drawn`` (N,
    ...)."""
    few, some, twelve = rows[:64], rows[:32], rows[:12]
    prompts = subject.data.captions(few.tolist())
    other = subject.draw(prompts, steps, scale, seed=4)
    return {
        f"{len(few)} prompts": seeds(subject, few, drawn[: len(few)], other),
        f"x_T read back from {len(some)} samples": recovery(
            subject, prompts[: len(some)], drawn[: len(some)], scale, steps
        ),
        f"variance of the pose, {len(twelve)} prompts x 8 seeds": pose_spread(
            subject, twelve, scale, steps
        ),
    }
