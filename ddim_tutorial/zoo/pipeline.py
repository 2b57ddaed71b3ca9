"""A StableDiffusionPipeline put together from a folder, each part checked before it is used."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..pipelines import require_pipeline
from .scheduler import read_scheduler
from .weights import (
    AGAIN,
    DIFFUSERS,
    TRANSFORMERS,
    find_weights,
    load_pretrained,
    read_json,
    refuse_pointer,
)

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

UNET = f"unet/{DIFFUSERS}.safetensors"
VAE, TEXT_ENCODER = f"vae/{DIFFUSERS}.safetensors", f"text_encoder/{TRANSFORMERS}.safetensors"
STEMS = {"unet": DIFFUSERS, "vae": DIFFUSERS, "text_encoder": TRANSFORMERS}


def load_pipeline(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> "StableDiffusionPipeline":
    """The pipeline in ``folder``, its weights checked, with a DDIM scheduler of its own scheduler's
    noise levels."""
    with _quiet():  # some remarks come while importing
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel

    scheduler = read_scheduler(
        folder / "scheduler" / "scheduler_config.json", ("epsilon", "v_prediction")
    )
    with _quiet(), warnings.catch_warnings():
        # on steps_offset: the grid that the scheduler walks is taken as it is
        warnings.filterwarnings("ignore", "The configuration file of this scheduler", FutureWarning)
        text_encoder, vae, unet = (
            load_pretrained(kind, folder / name, STEMS[name], device, dtype)
            for name, kind in (
                ("text_encoder", CLIPTextModel),
                ("vae", _autoencoder(folder / "vae")),
                ("unet", UNet2DConditionModel),
            )
        )
        pipe = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            unet=unet,
            tokenizer=_tokenizer(folder, text_encoder.config),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    require_pipeline(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _autoencoder(component: Path) -> Any:
    """The class of the autoencoder: AutoencoderKL, or the small one that stands in for it."""
    import diffusers

    path = component / "config.json"
    name = read_json(path).get("_class_name", "AutoencoderKL")
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"{path}: it describes {name}, wanted AutoencoderKL or AutoencoderTiny")
    return getattr(diffusers, name)


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


def _tokenizer(folder: Path, text: Any) -> Any:
    """The tokenizer, refused where the text encoder does not take its tokens, or where its
    vocabulary is missing: it would read every prompt as the same unknown words."""
    from transformers import CLIPTokenizer

    if missing := missing_files(folder):
        raise ValueError(f"{folder / missing[0]}: missing; {AGAIN}")
    for path in sorted((folder / "tokenizer").glob("*.*")):
        refuse_pointer(path)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise ValueError(
            f"{folder / 'tokenizer'}: cannot be read ({type(error).__name__}: {error}); {AGAIN}"
        ) from error
    longest, rows = text.max_position_embeddings, text.vocab_size
    if tokenizer.model_max_length > longest or len(tokenizer) > rows:
        raise ValueError(
            f"{folder / 'tokenizer'}: {len(tokenizer)} tokens, prompts of"
            f" {tokenizer.model_max_length}, where the text encoder knows {rows} and takes"
            f" {longest}; {AGAIN}"
        )
    return tokenizer


def missing_files(folder: Path) -> list[str]:
    """What of a StableDiffusionPipeline is not in ``folder``."""
    expected = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ]
    if not (folder / "tokenizer" / "tokenizer.json").exists():
        expected += ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    missing = [name for name in expected if not (folder / name).exists()]
    for name, stem in STEMS.items():
        try:
            files = find_weights(folder / name, stem).paths
        except ValueError:
            files = [folder / name / f"{stem}.safetensors"]
        missing += [
            path.relative_to(folder).as_posix()
            for path in (*files, folder / name / "config.json")
            if not path.exists()
        ]
    return missing
