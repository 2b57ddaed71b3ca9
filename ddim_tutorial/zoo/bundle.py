"""A loaded model with all that belongs to it."""

import json
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..classifier import Classifier
from ..latent import LatentSpace, from_pipeline
from ..pixel import Labels, eps_model
from ..predict import EpsModel
from ..schedule import Schedule
from ..spacing import times
from .weights import build_classifier, load_module, load_tensors

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class Examples(NamedTuple):
    """Held-out pictures: images (N, C, H, W), float32 in [-1, 1], and labels (N,) int64, on the
    CPU."""

    images: Tensor
    labels: Tensor


def null_class(card: dict[str, Any]) -> int | None:
    """The class after those that the card names, or None where it names none."""
    return len(card["classes"]) if "classes" in card else None


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded model with all that belongs to it.

    ``model`` is the network without a condition (the null class); ``shape`` is (C, H, W);
    ``sha256`` is that of the diffusion weights, for the provenance of figures; ``examples`` is None
    where the folder has none; ``scale`` is the guidance that a learned jump has folded in, None for
    a noise model; ``prediction`` is what ``unet`` answers, as diffusers' ``prediction_type``.
    """

    name: str
    folder: Path
    unet: nn.Module = field(repr=False)
    model: EpsModel = field(repr=False)
    schedule: Schedule = field(repr=False)
    shape: tuple[int, int, int]
    card: dict[str, Any] = field(repr=False)
    examples: Examples | None = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    sha256: str
    scale: float | None = None
    prediction: str = "epsilon"

    def conditional(self, labels: Labels) -> EpsModel:
        """The model for ``labels``: (B,) int or one int for all; None is the null class."""
        labels = labels.to(self.device) if isinstance(labels, Tensor) else labels
        return eps_model(
            self.unet,
            labels=labels,
            null_class=null_class(self.card),
            prediction=self.prediction,
            schedule=self.schedule,
        )

    @cached_property
    def classifier(self) -> Classifier:
        """The clean-picture classifier, for evaluation: ``classifier(x_0) -> logits``. float32."""
        return _classifier(self.folder / "classifier", self.device)

    @cached_property
    def noisy_classifier(self) -> Classifier:
        """The classifier that is told the time, for guidance: ``noisy_classifier(x_t, t) ->
        logits``. float32."""
        return _classifier(self.folder / "noisy_classifier", self.device)


def _classifier(folder: Path, device: torch.device) -> Classifier:
    return load_module(folder / "model.safetensors", build_classifier, device)


@dataclass(frozen=True, eq=False)
class LatentBundle:
    """A loaded StableDiffusionPipeline with all that belongs to it.

    ``model`` is the network without a prompt; ``shape`` is that of a latent, (C, h, w); ``sha256``
    is that of the diffusion weights; ``examples`` is None where the folder has none; ``scale`` is
    the guidance that a learned jump has folded in, None for a noise model.
    """

    name: str
    folder: Path
    pipe: "StableDiffusionPipeline" = field(repr=False)
    schedule: Schedule = field(repr=False)
    shape: tuple[int, int, int]
    card: dict[str, Any] = field(repr=False)
    examples: Examples | None = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    sha256: str
    scale: float | None = None

    def space(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] = "",
        scale: float | None = None,
    ) -> LatentSpace:
        """The latent space guided towards ``prompt``, see :func:`latent.from_pipeline`.

        scale: None is 7.5. A learned jump has its own folded in: there the model is asked with the
        prompt alone, ``times`` are trailing, from T to 0, and another scale or a negative prompt is
        refused with ValueError.
        """
        if self.scale is None:
            return from_pipeline(
                self.pipe, prompt, negative_prompt, 7.5 if scale is None else scale
            )
        if scale not in (None, self.scale) or any(negative_prompt):
            asked = f"scale={scale}" if not any(negative_prompt) else f"{negative_prompt=}"
            raise ValueError(
                f"{asked}: the learned jump of {self.name} has guidance {self.scale:g} without a"
                " negative prompt folded in; leave it out, or load the model without fast=True"
            )
        grid = partial(times, self.schedule.T)
        return from_pipeline(self.pipe, prompt, scale=1.0)._replace(times=grid)

    @cached_property
    def model(self) -> EpsModel:
        return self.space("", scale=1.0 if self.scale is None else None).model

    @cached_property
    def classifier(self) -> Classifier:
        """The judge of pictures in any pose, for evaluation: ``classifier(x_0) -> logits`` of the
        objects in ``names``, then of the styles that the card names. float32."""
        return _classifier(self.folder / "classifier", self.device)

    @cached_property
    def captions(self) -> list[str]:
        """A prompt for each of ``examples``; none where the folder has no examples."""
        return self._texts("captions")

    @cached_property
    def names(self) -> list[str]:
        """The names of the objects, which the labels of ``examples`` count; none where the folder
        has no examples."""
        return self._texts("names")

    def _texts(self, key: str) -> list[str]:
        from safetensors import safe_open

        if self.examples is None:
            return []
        with safe_open(self.folder / "examples.safetensors", "pt") as file:
            return json.loads((file.metadata() or {})[key])


def read_examples(path: Path) -> Examples:
    from ..grids import from_uint8

    tensors = load_tensors(path)
    return Examples(from_uint8(tensors["images"]), tensors["labels"])
