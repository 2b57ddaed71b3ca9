"""The learned jump of a model: weights for the same network that were trained to answer the end of
the ODE (training.consistency), as a whole or as a LoRA, in the model's folder ``jump/``."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .weights import AGAIN, DIFFUSERS, load_tensors

FOLDER = "jump"
# as diffusers calls them: pipe.load_lora_weights(folder / "jump") reads the LoRA too
WHOLE, LORA = f"{DIFFUSERS}.safetensors", "pytorch_lora_weights.safetensors"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class Learned(NamedTuple):
    """What a learned jump says of itself. scale: the guidance that it has folded in, None for a
    noise model; prediction: what its network answers, as diffusers' ``prediction_type``."""

    scale: float | None
    prediction: str


def find_jump(folder: Path) -> Path:
    """The file of the learned jump of the model in ``folder``; ValueError where there is none."""
    for name in (LORA, WHOLE):
        if (path := folder / FOLDER / name).exists():
            return path
    raise ValueError(
        f"{folder.name}: got fast=True, and {folder / FOLDER} has neither {LORA} nor {WHOLE}: this"
        " model has no learned jump. Leave fast out, or train one (python -m"
        " ddim_tutorial.training.emoji consistency, then export-jump; or ... .training.fashion_jump"
        " consistency, then export)"
    )


def learn_jump(unet: nn.Module, path: Path, predictions: tuple[str, ...]) -> Learned:
    """Put the weights in ``path`` into ``unet``, in place. predictions: those that the caller can
    use. ValueError, naming the file, where they are not those of a learned jump of this network, or
    of another prediction."""
    tensors = load_tensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    scale, prediction = metadata.get("scale"), metadata.get("prediction", "epsilon")
    if prediction not in predictions:
        raise ValueError(
            f"{path}: its prediction is {prediction!r}, wanted"
            f" {' or '.join(map(repr, predictions))}; {AGAIN}"
        )
    if scale is None:
        raise ValueError(
            f"{path}: it does not say which guidance it has folded in, wanted a learned jump as the"
            f' recipe exports it, with "scale" in its metadata; {AGAIN}'
        )
    network = unet.state_dict()
    if path.name == LORA:
        tensors = _merged(network, tensors, path)
    for name, value in tensors.items():
        if name not in network or network[name].shape != value.shape:
            wanted = tuple(network[name].shape) if name in network else "no such weight"
            raise ValueError(
                f"{path}: {name} has shape {tuple(value.shape)}, wanted {wanted}, going by the"
                f" network; {AGAIN}"
            )
    if path.name == WHOLE and (missing := network.keys() - tensors.keys()):
        raise ValueError(f"{path}: it lacks {min(missing)} ({len(missing)} such); {AGAIN}")
    unet.load_state_dict(tensors, strict=False)
    return Learned(float(scale), prediction)


@torch.no_grad()
def _merged(network: dict[str, Tensor], lora: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """W + B A of every layer that the LoRA changes (Hu et al. 2021, arXiv:2106.09685, Eq. 3, with
    alpha = r). A convolution's A has its kernel, its B is 1 x 1."""
    downs = {name.removeprefix("unet.").removesuffix(DOWN) for name in lora if name.endswith(DOWN)}
    expected = {f"unet.{layer}{end}" for layer in downs for end in (DOWN, UP)}
    if not downs or (odd := sorted(expected ^ lora.keys())):
        raise ValueError(
            f"{path}: {odd[0] if downs else 'it'} is no part of a pair unet.LAYER{DOWN},"
            f" unet.LAYER{UP}, wanted a LoRA of the U-Net in peft's format; {AGAIN}"
        )
    merged = {}
    for layer in downs:
        weight = network.get(f"{layer}.weight")
        A, B = (lora[f"unet.{layer}{end}"].float() for end in (DOWN, UP))
        change = B.flatten(1) @ A.flatten(1)
        if weight is None or change.numel() != weight.numel():
            raise ValueError(f"{path}: {layer} is no layer of the network in this shape; {AGAIN}")
        merged[f"{layer}.weight"] = weight.float().cpu() + change.view(weight.shape)
    return merged
