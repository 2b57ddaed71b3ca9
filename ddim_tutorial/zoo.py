"""Models with their cards: ``load("fashion")`` reads checked safetensors from disk, and from the
network only if asked.

A model is a folder of diffusers components: a pixel model (``unet/``, ``scheduler/``) or a
StableDiffusionPipeline (with ``model_index.json``, ``vae/``, ``text_encoder/``, ``tokenizer/``). A
bundled one has perhaps ``classifier/``, ``noisy_classifier/`` and ``examples.safetensors``. Its
``card.json`` says where the weights come from, how good they are, and the sha256 of every file. A
diffusers folder without a card loads too; then only its content is checked.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .classifier import Classifier
from .gan import Generator
from .latent import LatentSpace, from_pipeline
from .peers import from_scheduler
from .pixel import Labels, eps_model
from .predict import EpsModel
from .schedule import Schedule

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

ZOO = Path(__file__).parent / "zoo"
VARIABLE, DOWNLOAD = "DDIM_TUTORIAL_MODEL", "DDIM_TUTORIAL_DOWNLOAD"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE, TEXT_ENCODER = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


class Alias(NamedTuple):
    """A model on the Hugging Face hub, at one revision for ever, with what its licence asks to be
    said."""

    hub_id: str
    revision: str
    licence: str
    size: str


ALIASES = {
    "sd-v1-4": Alias(
        "CompVis/stable-diffusion-v1-4",
        "133a221b8aa7292a167afc5127cb63fb5005638b",
        "CreativeML OpenRAIL-M, which forbids some uses and asks that they are passed on: "
        "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
        "4.3 GB",
    )
}


class Examples(NamedTuple):
    """Held-out pictures: images (N, C, H, W), float32 in [-1, 1], and labels (N,) int64, on the
    CPU."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded model with all that belongs to it.

    ``model`` is the network without a condition (the null class); ``shape`` is (C, H, W);
    ``sha256`` is that of the diffusion weights, for the provenance of figures; ``examples`` is None
    where the folder has none.
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

    def conditional(self, labels: Labels) -> EpsModel:
        """The model for ``labels``: (B,) int or one int for all; None is the null class."""
        labels = labels.to(self.device) if isinstance(labels, Tensor) else labels
        return eps_model(self.unet, labels=labels, null_class=_null_class(self.card))

    @cached_property
    def classifier(self) -> Classifier:
        """The clean-picture classifier, for evaluation: ``classifier(x_0) -> logits``. float32."""
        return self._part("classifier", _classifier)

    @cached_property
    def noisy_classifier(self) -> Classifier:
        """The classifier that is told the time, for guidance: ``noisy_classifier(x_t, t) ->
        logits``. float32."""
        return self._part("noisy_classifier", _classifier)

    def _part(self, component: str, build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module:
        return _module(self.folder / component / "model.safetensors", build, self.device)


@dataclass(frozen=True, eq=False)
class LatentBundle:
    """A loaded StableDiffusionPipeline with all that belongs to it.

    ``model`` is the network without a prompt; ``shape`` is that of a latent, (C, h, w); ``sha256``
    is that of the diffusion weights; ``examples`` is None where the folder has none.
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

    def space(
        self, prompt: str | list[str], negative_prompt: str = "", scale: float = 7.5
    ) -> LatentSpace:
        """The latent space guided towards ``prompt``, see :func:`latent.from_pipeline`."""
        return from_pipeline(self.pipe, prompt, negative_prompt, scale)

    @cached_property
    def model(self) -> EpsModel:
        return self.space("", scale=1.0).model

    @cached_property
    def captions(self) -> list[str]:
        """A prompt for each of ``examples``; none where the folder has no examples."""
        from safetensors import safe_open

        if self.examples is None:
            return []
        with safe_open(self.folder / "examples.safetensors", "pt") as file:
            return json.loads((file.metadata() or {})["captions"])


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
        "examples": _examples(examples) if examples.exists() else None,
    }
    if latent:
        pipe = _pipeline(folder, device, dtype)
        return LatentBundle(
            pipe=pipe,
            schedule=from_scheduler(pipe.scheduler),
            shape=_shape(pipe.unet.config),
            sha256=_sha256(folder / UNET),
            **common,
        )
    unet = _module(folder / UNET, _unet, device, dtype)
    return Bundle(
        unet=unet,
        model=eps_model(unet, null_class=_null_class(common["card"])),
        schedule=_schedule(folder),
        shape=_shape(unet.config),
        sha256=_sha256(folder / UNET),
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
    kind = _json(index).get("_class_name") if index.exists() else "DDIMPipeline"
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


def _shape(config: Any) -> tuple[int, int, int]:
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
    return _module(folder / "model.safetensors", _generator, _device(device))


def write_card(folder: str | Path, card: dict[str, Any]) -> None:
    """Write ``folder/card.json``: ``card`` with "files", the sha256 of every other file in the
    folder."""
    folder = Path(folder)
    card = {**card, "files": {name: _sha256(folder / name) for name in _files(folder)}}
    (folder / "card.json").write_text(
        json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def verify(folder: str | Path) -> dict[str, Any]:
    """Return the card of ``folder``; raise ValueError for a file that is missing, changed or not in
    the card."""
    folder = Path(folder)
    card = _json(folder / "card.json")
    promised = card.get("files")
    if not promised or not isinstance(promised, dict):
        raise ValueError(
            f'{folder / "card.json"}: it lists no "files"; write the card with zoo.write_card'
        )
    for name, wanted in promised.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: missing, but listed in card.json; {_AGAIN}")
        if (seen := _sha256(path)) != wanted:
            if path.suffix == ".safetensors":
                _tensors(path)  # says more where the file is cut or not finite
            raise ValueError(
                f"{path}: changed, its sha256 is {seen[:12]}..., card.json has {wanted[:12]}...;"
                f" {_AGAIN}"
            )
    for name in _files(folder):
        if name not in promised and name.endswith((".safetensors", "config.json")):
            raise ValueError(
                f"{folder / name}: not listed in card.json; remove it, or write the card again"
            )
    return card


_AGAIN = "copy the folder again, or reinstall the package"


def _find(name_or_path: str | Path, download: bool = False) -> Path:
    name = str(name_or_path)
    if name in names():
        return ZOO / name
    if name and (folder := Path(name).expanduser()).is_dir():
        return folder
    if name in ALIASES or re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return _from_hub(name, download)
    raise ValueError(
        f"name_or_path: got {name!r}, which is neither a bundled model"
        f" ({', '.join(names()) or 'none is installed'}) nor a folder, nor {', '.join(ALIASES)} or"
        " another owner/name on the Hugging Face hub"
    )


_HUB_FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/*",
    "tokenizer/*",
    UNET,
    VAE,
    TEXT_ENCODER,
]


def _from_hub(name: str, download: bool) -> Path:
    """The folder of a hub model in the local cache, filled from the network if that is allowed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    alias = next(
        (alias for short, alias in ALIASES.items() if name in (short, alias.hub_id)),
        Alias(name, "main", "see its page on the hub", "some gigabytes"),
    )
    ask = {"repo_id": alias.hub_id, "revision": alias.revision, "allow_patterns": _HUB_FILES}
    tried = f"not bundled ({', '.join(names())}), not a folder, not in the cache {HF_HUB_CACHE}"
    go_on = f"To go on without it: zoo.load('emoji'), and {VARIABLE} not set"
    cause: Exception | None = None
    try:
        folder = Path(snapshot_download(**ask, local_files_only=True))
        whole = not (lost := _lost(folder))
        tried += (
            "" if whole else f" as a whole (it lacks {lost[0]}: perhaps a download was cut short)"
        )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        whole, cause = False, error
    if not whole and not download:
        raise ValueError(
            f"{name}: {tried}; the network was not used. To download it once ({alias.size}, to the"
            f" cache): {DOWNLOAD}=1, or zoo.load({name!r}, download=True). {go_on}"
        ) from cause
    if not whole:
        try:
            folder = Path(snapshot_download(**ask))
        except Exception as error:
            raise ValueError(
                f"{name}: {tried}, and the download failed ({type(error).__name__}: {error})."
                f" {go_on}"
            ) from error
        if lost := _lost(folder):
            raise ValueError(
                f"{name}: the hub has no {lost[0]} there, wanted a StableDiffusionPipeline in"
                " safetensors"
            )
    if alias.hub_id not in _NOTICED:
        _NOTICED.add(alias.hub_id)
        print(f"{alias.hub_id} is under its own licence: {alias.licence}")
    return folder


def _lost(folder: Path) -> list[str]:
    """What of a StableDiffusionPipeline is not in ``folder``."""
    wanted = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ]
    wanted += [
        name
        for path in (UNET, VAE, TEXT_ENCODER)
        for name in (path, f"{Path(path).parent}/config.json")
    ]
    vocabulary = [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt")]
    if not (folder / "tokenizer" / "tokenizer.json").exists():
        wanted += vocabulary
    return [name for name in wanted if not (folder / name).exists()]


_NOTICED: set[str] = set()  # licences that were shown


def _pipeline(folder: Path, device: torch.device, dtype: torch.dtype) -> "StableDiffusionPipeline":
    """The pipeline in ``folder``, its weights checked, with a DDIM scheduler of its own scheduler's
    configuration."""
    with _quiet():
        return _assemble(folder, device, dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar, and its remarks on an image processor that is not used
    here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _assemble(folder: Path, device: torch.device, dtype: torch.dtype) -> "StableDiffusionPipeline":
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

    def part(kind: Any, file: str) -> nn.Module:
        path = folder / file
        for _ in _read(path):
            pass
        try:
            module, info = kind.from_pretrained(
                path.parent,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path}: it does not fit its config.json ({error}); {_AGAIN}"
            ) from error
        if lost := sorted(info["missing_keys"]):
            raise ValueError(
                f"{path}: it lacks {lost[0]} ({len(lost)} such), going by config.json; {_AGAIN}"
            )
        return module.to(device).eval().requires_grad_(False)

    text_encoder = part(CLIPTextModel, TEXT_ENCODER)
    pipe = StableDiffusionPipeline(
        vae=part(AutoencoderKL, VAE),
        text_encoder=text_encoder,
        unet=part(UNet2DConditionModel, UNET),
        tokenizer=_tokenizer(folder, text_encoder.config),
        scheduler=DDIMScheduler.from_config(
            _json(folder / "scheduler" / "scheduler_config.json"), clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _tokenizer(folder: Path, text: Any) -> Any:
    """The tokenizer, refused where the text encoder does not take its tokens, or where its
    vocabulary is lost: it would read every prompt as the same unknown words."""
    from transformers import CLIPTokenizer

    if lost := _lost(folder):
        raise ValueError(f"{folder / lost[0]}: missing; {_AGAIN}")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise ValueError(
            f"{folder / 'tokenizer'}: cannot be read ({type(error).__name__}: {error}); {_AGAIN}"
        ) from error
    longest, rows = text.max_position_embeddings, text.vocab_size
    if tokenizer.model_max_length > longest or len(tokenizer) > rows:
        raise ValueError(
            f"{folder / 'tokenizer'}: {len(tokenizer)} tokens, prompts of"
            f" {tokenizer.model_max_length}, where the text encoder knows {rows} and takes"
            f" {longest}; {_AGAIN}"
        )
    return tokenizer


def _null_class(card: dict[str, Any]) -> int | None:
    """The class after those that the card names, or None where it names none."""
    return len(card["classes"]) if "classes" in card else None


def _module(
    path: Path,
    build: Callable[[dict[str, Any]], nn.Module],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The module that ``config.json`` beside ``path`` describes, with the weights in ``path``, in
    eval mode, frozen."""
    weights = _tensors(path)
    config = _json(path.parent / "config.json")
    try:
        with torch.device("meta"):  # costs no time and leaves the global random numbers alone
            module = build(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path.parent / 'config.json'}: no network can be built from it ({error})"
        ) from error
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    seen = {key: tuple(value.shape) for key, value in weights.items()}
    for problem, keys in (
        ("lacks", wanted.keys() - seen),
        ("has the unknown", seen.keys() - wanted),
    ):
        if keys:
            raise ValueError(
                f"{path}: it {problem} {min(keys)} ({len(keys)} such), going by config.json;"
                f" {_AGAIN}"
            )
    for key, shape in wanted.items():
        if seen[key] != shape:
            raise ValueError(
                f"{path}: {key} has shape {seen[key]}, config.json asks for {shape}; {_AGAIN}"
            )
    module.load_state_dict(
        {
            key: value.to(device, dtype if value.is_floating_point() else value.dtype)
            for key, value in weights.items()
        },
        assign=True,
    )
    if lost := [key for key, value in _state(module) if value.is_meta]:
        raise ValueError(f"{path}: {lost[0]} was left without a value ({len(lost)} in all)")
    return module.eval().requires_grad_(False)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _unet(config: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DModel

    if config.get("_class_name") != "UNet2DModel":
        raise TypeError(
            f"it describes {config.get('_class_name')}, wanted a UNet2DModel; a text-to-image"
            " pipeline needs its model_index.json"
        )
    return UNet2DModel.from_config(config)


def _classifier(config: dict[str, Any]) -> nn.Module:
    return Classifier(**config)


def _generator(config: dict[str, Any]) -> nn.Module:
    return Generator(**config)


def _schedule(folder: Path) -> Schedule:
    from diffusers import DDIMScheduler

    path = folder / "scheduler" / "scheduler_config.json"
    config = _json(path)
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError(
            f"{path}: prediction_type is {config['prediction_type']!r}, wanted 'epsilon'; "
            "convert its answers with eps_from_v and use it without zoo.load"
        )
    return from_scheduler(DDIMScheduler.from_config(config))


def _examples(path: Path) -> Examples:
    from .grids import from_uint8

    tensors = _tensors(path)
    return Examples(from_uint8(tensors["images"]), tensors["labels"])


def _tensors(path: Path) -> dict[str, Tensor]:
    return dict(_read(path))


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file, one by one; ValueError for a file that is missing,
    pickled, cut or not finite."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        pickled = [
            p.name
            for p in path.parent.glob("*")
            if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
        ]
        why = (
            f"there is a pickled {pickled[0]}, which could run any code and is not read; convert it"
            " with save_pretrained(..., safe_serialization=True)"
            if pickled
            else _AGAIN
        )
        raise ValueError(f"{path}: missing; {why}")
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04" or (
        head[:1] == b"\x80" and head[8:] != b"{"
    ):  # safetensors has its "{" there
        raise ValueError(
            f"{path}: a pickled file under the name of safetensors, which could run any code: not"
            " read"
        )
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():
                value = file.get_tensor(key)
                if value.is_floating_point() and not value.isfinite().all():
                    raise ValueError(f"{path}: {key} holds NaN or infinity; {_AGAIN}")
                yield key, value
    except SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or damaged, not a whole safetensors file ({error}); {_AGAIN}"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path}: missing; {_AGAIN}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: it holds a {type(content).__name__}, wanted an object {{...}}; {_AGAIN}"
        )
    return content


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path.name != "card.json" and not any(part.startswith(".") for part in path.parts)
    )


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
