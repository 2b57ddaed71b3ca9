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
from ..peers import from_scheduler
from ..pixel import eps_model
from ..predict import PREDICTIONS
from .bundle import Bundle, Examples, LatentBundle, null_class, read_examples
from .card import file_sha256, verify, write_card
from .hub import ALIASES, DOWNLOAD, VARIABLE, Alias, from_hub, hub_name
from .jump import Learned, find_jump, learn_jump
from .pipeline import TEXT_ENCODER, UNET, VAE, load_pipeline
from .scheduler import read_scheduler, to_ddim
from .unet import load_unet, sample_shape, unet_folder
from .weights import DIFFUSERS, build_generator, find_device, find_weights, load_module, read_json

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
    "to_ddim",
    "verify",
    "write_card",
]

ZOO = Path(__file__).parent
LATENT_PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
)
PIXEL_PIPELINES = ("DDIMPipeline", "DDPMPipeline", "PNDMPipeline")
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


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
    fast: bool = False,
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
        fast: with the learned jump in the model's folder ``jump/`` in place of its network: one to
            four evaluations a picture, ``sample(.., eta=math.inf)``, guidance folded in.

    Returns a :class:`Bundle`, or a :class:`LatentBundle` for a StableDiffusionPipeline.
    For a compiled network: ``pixel.eps_model(torch.compile(bundle.unet))``.

    Raises ValueError, naming the file, for weights that are missing, truncated, changed since the
    card was written, pickled, not finite, incomplete, or of another shape than the configuration,
    for a scheduler of another process (flow matching, EDM), for a sample_size that does not pass
    through the network, and for ``fast`` where there is no learned jump; TypeError for a dtype of
    integers. Warns where the scheduler would clip x0_hat, which is not done here.
    """
    download = os.environ.get(DOWNLOAD) == "1" if download is None else download
    folder = _setting(default, download) if name_or_path is None else _find(name_or_path, download)
    device, latent = find_device(device), _is_latent(folder)
    jump = find_jump(folder) if fast else None
    dtype = _dtype(latent, device) if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"dtype: got {dtype!r}, wanted torch.float32, torch.bfloat16 or torch.float16"
        )
    card = verify(folder) if (folder / "card.json").exists() else {}
    examples = folder / "examples.safetensors"
    common: dict[str, Any] = {
        "name": card.get("name") or hub_name(folder),
        "folder": folder,
        "card": card,
        "device": device,
        "dtype": dtype,
        "examples": read_examples(examples) if examples.exists() else None,
    }
    if latent:
        component = folder / "unet"
        pipe = load_pipeline(folder, device, dtype)
        prediction = pipe.scheduler.config.prediction_type
        return LatentBundle(
            pipe=pipe,
            schedule=from_scheduler(pipe.scheduler),
            shape=sample_shape(pipe.unet.config, component / "config.json"),
            sha256=_sha256(component, jump),
            scale=learn_jump(pipe.unet, jump, (prediction,)).scale if jump else None,
            **common,
        )
    return _pixel_bundle(folder, jump, common)


def _pixel_bundle(folder: Path, jump: Path | None, common: dict[str, Any]) -> Bundle:
    """The pixel model in ``folder``; ``common`` are the fields that every bundle has."""
    component = unet_folder(folder)
    unet = load_unet(component, common["device"], common["dtype"])
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if component == folder and not scheduler.exists():
        scheduler = folder / "scheduler_config.json"
    schedule = from_scheduler(read_scheduler(scheduler, ("epsilon",)))
    learned = learn_jump(unet, jump, PREDICTIONS) if jump else Learned(None, "epsilon")
    asked = {"prediction": learned.prediction, "schedule": schedule}
    return Bundle(
        unet=unet,
        model=eps_model(unet, null_class=null_class(common["card"]), **asked),
        schedule=schedule,
        shape=sample_shape(unet.config, component / "config.json"),
        sha256=_sha256(component, jump),
        scale=learned.scale,
        prediction=learned.prediction,
        **common,
    )


def _sha256(component: Path, jump: Path | None) -> str:
    return file_sha256(*([jump] if jump else find_weights(component, DIFFUSERS).paths))


def _dtype(latent: bool, device: torch.device) -> torch.dtype:
    return torch.float16 if latent and device.type == "cuda" else torch.float32


def _is_latent(folder: Path) -> bool:
    """Whether the folder holds a latent model; ValueError where it holds no diffusion model."""
    if (folder / "model.safetensors").exists():
        raise ValueError(
            f"{folder}: a single network, not a diffusion model; zoo.load_generator reads a GAN"
        )
    index, root = folder / "model_index.json", folder / "config.json"
    kind = read_json(index).get("_class_name") if index.exists() else "DDIMPipeline"
    if kind not in LATENT_PIPELINES + PIXEL_PIPELINES:
        raise ValueError(
            f"{index}: it describes a {kind}, wanted a StableDiffusionPipeline (SD 1.x or 2.x), or"
            " a DDIMPipeline or DDPMPipeline for a model of pixels"
        )
    if not index.exists() and not (folder / "unet").is_dir() and root.exists():
        network = read_json(root).get("_class_name")
        if network != "UNet2DModel":
            raise ValueError(
                f"{root}: the folder is that of one network, {network}, wanted a UNet2DModel, or a"
                " whole pipeline's folder with its model_index.json"
            )
    return kind in LATENT_PIPELINES


def _setting(default: str, download: bool) -> Path:
    """The folder of the model that the environment asks for, or of ``default`` if that is one of
    the other kind."""
    setting = os.environ.get(VARIABLE)
    if not setting:
        return _find(default, download)
    try:
        folder = _find(setting, download)
        latent = _is_latent(folder)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}={setting}: {error}") from error
    if default in names() and latent != _is_latent(ZOO / default):
        print(
            f"{VARIABLE}={setting} is a {'latent' if latent else 'pixel'} model; loaded here:"
            f" {default}"
        )
        return ZOO / default
    return folder


def load_generator(
    name_or_path: str | Path = "fashion_gan", device: str | torch.device | None = None
) -> Generator:
    """The small GAN's generator, ``generator(z) -> x``, float32, frozen; refused as in load."""
    folder = _find(name_or_path)
    if (folder / "card.json").exists():
        verify(folder)
    return load_module(folder / "model.safetensors", build_generator, find_device(device))


def _find(name_or_path: str | Path, download: bool = False) -> Path:
    name = str(name_or_path)
    if name in names():
        return ZOO / name
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    diffusion = [name for name in names() if not (ZOO / name / "model.safetensors").exists()]
    if path.suffix in SINGLE_FILES:
        raise ValueError(_single_file(path))
    if name in ALIASES or re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return from_hub(name, download, diffusion)
    bundled = ", ".join(diffusion) or "none is installed"
    raise ValueError(
        f"name_or_path: got {name!r}, which is neither a bundled model ({bundled}) nor a folder,"
        f" nor {', '.join(ALIASES)} or another owner/name on the Hugging Face hub"
    )


def _single_file(path: Path) -> str:
    if not path.exists():
        return (
            f"name_or_path: there is no file {path}, and single files are not read: wanted a folder"
        )
    file, folder = path.as_posix(), path.with_suffix("").as_posix()
    convert = f"StableDiffusionPipeline.from_single_file({file!r}).save_pretrained({folder!r})"
    return (
        f"{path}: a single-file checkpoint, which is not read here; convert it once with diffusers,"
        f" {convert}, and load the folder {folder}"
    )
