"""A network of pixels in a folder: a diffusers UNet2DModel, tried once on its own picture size."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .weights import DIFFUSERS, load_pretrained, read_json


def load_unet(component: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The UNet2DModel in ``component``; ValueError, naming the file, for another class, for a
    network that cannot be built, and for a sample_size that does not pass through it."""
    from diffusers import UNet2DModel

    path = component / "config.json"
    config = read_json(path)
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"{path}: it describes {config.get('_class_name')}, wanted a UNet2DModel; a"
            " text-to-image pipeline needs its model_index.json"
        )
    try:
        with torch.device("meta"):  # costs no time and leaves the global random numbers alone
            network = UNet2DModel.from_config(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: no network can be built from it ({error})") from error
    _try_size(network, sample_shape(config, path), path)
    return load_pretrained(UNet2DModel, component, DIFFUSERS, device, dtype)


def sample_shape(config: Any, path: Path) -> tuple[int, int, int]:
    """(C, H, W) of what the network of ``config``, read from ``path``, takes."""
    size = config.get("sample_size")
    pair = [size, size] if isinstance(size, int) else size
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair
        )
    ):
        raise ValueError(
            f"{path}: sample_size is {size!r}, wanted the height and width that the network was"
            ' trained on; add it, such as "sample_size": 32 or [32, 48]'
        )
    return (config.get("in_channels", 3), pair[0], pair[1])


def _try_size(network: nn.Module, shape: tuple[int, int, int], path: Path) -> None:
    """Run the network on the meta device, where only shapes are computed."""
    x = torch.zeros((1, *shape), device="meta")
    zero = torch.zeros(1, dtype=torch.long, device="meta")
    labels = (zero,) if network.config.get("num_class_embeds") else ()
    try:
        out = network(x, zero, *labels).sample
    except (RuntimeError, ValueError) as error:
        levels = len(network.config.block_out_channels)
        raise ValueError(
            f"{path}: sample_size {shape[1]} x {shape[2]} does not pass through the network; with"
            f" {levels} levels wanted multiples of {2 ** (levels - 1)} ({error})"
        ) from error
    if out.shape != x.shape:
        raise ValueError(
            f"{path}: the network answers {tuple(out.shape[1:])} to {shape}: a model with a learned"
            " variance is used with pixel.eps_model(unet, learned_variance=True), without zoo.load"
        )


def unet_folder(folder: Path) -> Path:
    """Where the network of a pixel model is: in ``unet/``, or in the folder's root."""
    if (folder / "unet").is_dir() or not (folder / "config.json").exists():
        return folder / "unet"
    return folder
