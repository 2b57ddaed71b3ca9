"""Models with their cards: ``load("fashion")`` reads checked safetensors from disk, and from the
network only if asked.

A model is a folder of diffusers components: a pixel model (``unet/``, ``scheduler/``) or a
StableDiffusionPipeline (with ``model_index.json``, ``vae/``, ``text_encoder/``, ``tokenizer/``). A
bundled one has perhaps ``classifier/``, ``noisy_classifier/`` and ``examples.safetensors``. Its
``card.json`` says where the weights come from, how good they are, and the sha256 of every file. A
diffusers folder without a card loads too; then only its content is checked.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch

from ..gan import Generator
from ..pixel import eps_model
from ..schedule import Schedule, from_scheduler
from .bundle import Bundle, Examples, LatentBundle, read_examples
from .card import file_sha256, verify, write_card
from .hub import ALIASES, DOWNLOAD, VARIABLE, Alias, from_hub
from .pipeline import TEXT_ENCODER, UNET, VAE, load_pipeline
from .weights import build_generator, build_unet, load_module, read_json

__all__ = [
    "ALIASES",
    "DOWNLOAD",
    "TEXT_ENCODER",
    "UNET",
    "VAE",
    "VARIABLE",
    "ZOO",
    "Alias",
    "Bundle",
    "Examples",
    "LatentBundle",
    "load",
    "load_generator",
    "names",
    "verify",
    "write_card",
]

ZOO = Path(__file__).parent


def names() -> list[str]:
    """The bundled models."""
    return sorted(card.parent.name for card in ZOO.glob("*/card.json"))


def load(
    name_or_path: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    download: bool | None = None,
    default: str = "fashion",
) -> Bundle | LatentBundle:
    """Load a bundled model by name, a diffusers folder, or a Stable Diffusion model of the Hugging
    Face hub.

    Looked for in this order: the bundled models; a folder; an alias (sd-v1-4) or hub id
    (owner/name) in the local cache; and only with ``download`` on the hub.

    Args:
        name_or_path: None is the environment variable DDIM_TUTORIAL_MODEL, or ``default`` where it
        is not set.
        device: None is CUDA where there is one, else the CPU.
        dtype: of the networks alone (torch.bfloat16, torch.float16); the state keeps its own. None
            is float32, and float16 for a latent model on CUDA.
        download: whether the network may be used. None is the environment variable
        DDIM_TUTORIAL_DOWNLOAD=1, else no.
        default: a bundled model. Where the variable names a model of the other kind (pixel or
            latent), ``default`` is loaded and a line says so: one setting serves notebooks on both
            kinds.

    Returns a :class:`Bundle`, or a :class:`LatentBundle` for a StableDiffusionPipeline.
    For a compiled network: ``pixel.eps_model(torch.compile(bundle.unet))``.

    Raises ValueError, naming the file, for weights that are missing, truncated, changed since the
    card was written, pickled, not finite, incomplete, or of another shape than the configuration;
    TypeError for a dtype of integers.
    """
    download = os.environ.get(DOWNLOAD) == "1" if download is None else download
    folder = _setting(default, download) if name_or_path is None else _find(name_or_path, download)
    if (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder}: a single network, not a diffusion model; zoo.load_generator reads a GAN"
        )
    device, latent = _device(device), _is_latent(folder)
    dtype = _dtype(latent, device) if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"dtype: got {dtype!r}, wanted torch.float32, torch.bfloat16 or torch.float16"
        )
    card = verify(folder) if (folder / "card.json").exists() else {}
    examples = folder / "examples.safetensors"
    common: dict[str, Any] = {
        "name": card.get("name") or _name(folder),
        "folder": folder,
        "card": card,
        "device": device,
        "dtype": dtype,
        "examples": read_examples(examples) if examples.exists() else None,
    }
    if latent:
        pipe = load_pipeline(folder, device, dtype)
        return LatentBundle(
            pipe=pipe,
            schedule=from_scheduler(pipe.scheduler),
            shape=sample_shape(pipe.unet.config),
            sha256=file_sha256(folder / UNET),
            **common,
        )
    unet = load_module(folder / UNET, build_unet, device, dtype)
    return Bundle(
        unet=unet,
        model=eps_model(unet),
        schedule=read_schedule(folder),
        shape=sample_shape(unet.config),
        sha256=file_sha256(folder / UNET),
        **common,
    )


def _device(device: str | torch.device | None) -> torch.device:
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: got {device}, but torch finds no CUDA device here; leave it out, or pass"
            " 'cpu'"
        )
    return device


def _dtype(latent: bool, device: torch.device) -> torch.dtype:
    return torch.float16 if latent and device.type == "cuda" else torch.float32


def _name(folder: Path) -> str:
    """The folder's name, or the hub id where the folder lies in the hub's cache
    (models--owner--name/snapshots/...)."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return folder.name


def _is_latent(folder: Path) -> bool:
    index = folder / "model_index.json"
    kind = read_json(index).get("_class_name") if index.exists() else "DDIMPipeline"
    if kind not in ("StableDiffusionPipeline", "DDIMPipeline", "DDPMPipeline"):
        raise ValueError(
            f"{index}: it describes a {kind}, wanted a StableDiffusionPipeline (SD 1.x or 2.x), or"
            " a DDIMPipeline or DDPMPipeline for a model of pixels"
        )
    return kind == "StableDiffusionPipeline"


def _setting(default: str, download: bool) -> Path:
    """The folder of the model that the environment asks for, or of ``default`` if that is one of
    the other kind."""
    asked = os.environ.get(VARIABLE)
    try:
        folder = _find(asked or default, download)
    except ValueError as error:
        if not asked:
            raise
        raise ValueError(f"{VARIABLE}={asked}: {error}") from error
    if default in names() and _is_latent(folder) != _is_latent(ZOO / default):
        print(
            f"{VARIABLE}={asked} is a {'latent' if _is_latent(folder) else 'pixel'} model; loaded"
            f" here: {default}"
        )
        return ZOO / default
    return folder


def sample_shape(config: Any) -> tuple[int, int, int]:
    size = config.sample_size
    return (config.in_channels, *((size, size) if isinstance(size, int) else size))


def load_generator(
    name_or_path: str | Path = "fashion_gan", device: str | torch.device | None = None
) -> Generator:
    """Load the small GAN's generator, ``generator(z) -> x``, float32 and frozen; refused as in
    :func:`load`."""
    folder = _find(name_or_path)
    if (folder / "card.json").exists():
        verify(folder)
    return load_module(folder / "model.safetensors", build_generator, _device(device))


def _find(name_or_path: str | Path, download: bool = False) -> Path:
    name = str(name_or_path)
    if name in names():
        return ZOO / name
    if name and (folder := Path(name).expanduser()).is_dir():
        return folder
    if name in ALIASES or re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return from_hub(name, download, names())
    raise ValueError(
        f"name_or_path: got {name!r}, which is neither a bundled model"
        f" ({', '.join(names()) or 'none is installed'}) nor a folder, nor {', '.join(ALIASES)} or"
        " another owner/name on the Hugging Face hub"
    )


def read_schedule(folder: Path) -> Schedule:
    from diffusers import DDIMScheduler

    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError(
            f"{path}: prediction_type is {config['prediction_type']!r}, wanted 'epsilon'; "
            "convert its answers with eps_from_v and use it without zoo.load"
        )
    return from_scheduler(DDIMScheduler.from_config(config))
