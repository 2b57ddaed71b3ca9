"""What is asked for, and the pictures of any indices of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ddim_tutorial.grids import quantise
from ddim_tutorial.guidance import cfg
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.predict import EpsModel
from ddim_tutorial.require import require_int
from ddim_tutorial.sampling import final
from ddim_tutorial.solvers import SOLVERS
from ddim_tutorial.spacing import SPACINGS, times
from ddim_tutorial.zoo import Bundle, LatentBundle

SCALES = {"pixel": 1.0, "latent": 4.0}  # no guidance; what the emoji model's card is measured at
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
STRIDE = 2654435769  # 2^32 / golden ratio, odd: seeds lie far apart


@dataclass(frozen=True)
class Request:
    """What decides the pictures. labels, prompts: picture i gets entry i modulo their number; None
    is every class of the model in turn, and the captions of its examples. scale: of guidance; None
    is 1 for pixels, 4 for latents. batch: pictures at once; shard: pictures in a file."""

    count: int
    steps: int = 20
    solver: str = "dpmpp_2m"
    spacing: str = "trailing"
    seed: int = 0
    scale: float | None = None
    labels: Sequence[int] | None = None
    prompts: Sequence[str] | None = None
    batch: int = 50
    shard: int = 250

    def __post_init__(self) -> None:
        for name, low, high in (("count", 1, 2**32), ("batch", 1, 2**32), ("shard", 1, 2**32),
                                ("seed", 0, 2**32 - 1)):  # fmt: skip
            require_int(name, getattr(self, name), low, high)
        for name, known in (("solver", SOLVERS), ("spacing", SPACINGS)):
            if getattr(self, name) not in known:
                seen = getattr(self, name)
                raise ValueError(f"{name}={seen!r} is not known: pass one of {', '.join(known)}")
        if self.scale is not None and not (isinstance(self.scale, Real) and abs(self.scale) < 1e6):
            raise ValueError(f"scale={self.scale!r}: pass a finite number (1 is no guidance)")
        for name in ("labels", "prompts"):
            if getattr(self, name) is not None and not len(getattr(self, name)):
                raise ValueError(f"{name}: there is none, pass at least one")


def picture_seed(seed: int, i: int) -> int:
    """The seed of picture i's generator, in 0..2^32 - 1: i itself for seed 0.

    For one ``seed`` no two pictures share it. (torch's CPU generator uses the low 32 bits alone.)
    """
    return (i + seed * STRIDE) % 2**32


class Source:
    """A loaded model and a request: ``source(indices)`` gives their pictures, whatever the rest."""

    def __init__(self, bundle: Bundle | LatentBundle, request: Request):
        self.bundle, self.request = bundle, request
        kind = "latent" if isinstance(bundle, LatentBundle) else "pixel"
        self.scale = float(SCALES[kind] if request.scale is None else request.scale)
        self.labels = _labels(bundle, request)
        self.prompts = _prompts(bundle, request)
        schedule = bundle.schedule
        self.times = times(schedule.T, request.steps, request.spacing, schedule)
        if self.scale != 1 and kind == "pixel" and self.labels is None:
            raise ValueError(f"scale={self.scale}: {bundle.name} has no classes, leave it out")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a picture."""
        if isinstance(self.bundle, Bundle):
            return self.bundle.shape
        vae = self.bundle.pipe.vae.config
        factor = 2 ** (len(vae.block_out_channels) - 1)
        return (vae.out_channels, *(factor * n for n in self.bundle.shape[1:]))

    def arguments(self) -> dict[str, Any]:
        """All that decides the pictures but for the weights, as JSON takes it."""
        found = {"scale": self.scale, "labels": self.labels, "prompts": self.prompts or None}
        kind = {"device": self.bundle.device.type, "dtype": str(self.bundle.dtype)}
        return {**asdict(self.request), **found, **kind}

    def weights(self) -> dict[str, str]:
        """sha256 of the files that decide the pictures, as on the card; without one, of the UNet's
        weights alone."""
        files = self.bundle.card.get("files") or {f"{PARTS[0]}/": self.bundle.sha256}
        return {name: value for name, value in files.items() if name.split("/")[0] in PARTS}

    def floats(self, indices: Sequence[int]) -> Tensor:
        """Pictures of ``indices`` in one batch: (B, C, H, W), float32, about [-1, 1]."""
        bundle, seeds = self.bundle, [picture_seed(self.request.seed, i) for i in indices]
        x_T = randn((len(seeds), *bundle.shape), generators(seeds), device=bundle.device)
        solver = SOLVERS[self.request.solver]
        if isinstance(bundle, Bundle):
            model = self._pixel_model(bundle, indices)
            return final(solver(model, x_T, self.times, bundle.schedule))
        texts = [self.prompts[i % len(self.prompts)] for i in indices]
        space = bundle.space(texts, scale=self.scale)
        return space.decode(final(solver(space.model, x_T, self.times, bundle.schedule)))

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """The same as (B, C, H, W) uint8 on the CPU."""
        return quantise(self.floats(indices))

    def _pixel_model(self, bundle: Bundle, indices: Sequence[int]) -> EpsModel:
        if self.labels is None:
            return bundle.model
        labels = torch.tensor([self.labels[i % len(self.labels)] for i in indices])
        model = bundle.conditional(labels)
        return model if self.scale == 1 else cfg(model, bundle.model, self.scale)


def _labels(bundle: Bundle | LatentBundle, request: Request) -> list[int] | None:
    """The classes that are drawn in turn; None for a model without classes."""
    if isinstance(bundle, LatentBundle):
        if request.labels is not None:
            raise ValueError(f"labels: {bundle.name} makes pictures of texts, pass prompts")
        return None
    classes = getattr(bundle.unet.config, "num_class_embeds", None)
    if request.labels is None:
        return None if classes is None else list(range(classes - 1))
    if classes is None:
        raise ValueError(f"labels: {bundle.name} has no classes, leave them out")
    for label in request.labels:
        require_int("a label", label, 0, classes - 1)
    return list(request.labels)


def _prompts(bundle: Bundle | LatentBundle, request: Request) -> list[str]:
    """The texts that are drawn in turn; none for a model of pixels."""
    if isinstance(bundle, Bundle):
        if request.prompts is not None:
            raise ValueError(f"prompts: {bundle.name} makes pictures of classes, pass labels")
        return []
    prompts = list(bundle.captions if request.prompts is None else request.prompts)
    if not prompts:
        raise ValueError(f"prompts: {bundle.name} has no captions of its own, pass some")
    return prompts
