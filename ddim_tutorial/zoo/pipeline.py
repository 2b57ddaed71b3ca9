"""A StableDiffusionPipeline put together from a folder, each part checked before it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .weights import AGAIN, read_json, read_tensors

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE, TEXT_ENCODER = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


def load_pipeline(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> "StableDiffusionPipeline":
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
        for _ in read_tensors(path):
            pass
        try:
            network, info = kind.from_pretrained(
                path.parent,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path}: it does not fit its config.json ({error}); {AGAIN}"
            ) from error
        if lost := sorted(info["missing_keys"]):
            raise ValueError(
                f"{path}: it lacks {lost[0]} ({len(lost)} such), going by config.json; {AGAIN}"
            )
        return network.to(device).eval().requires_grad_(False)

    text_encoder = part(CLIPTextModel, TEXT_ENCODER)
    pipe = StableDiffusionPipeline(
        vae=part(AutoencoderKL, VAE),
        text_encoder=text_encoder,
        unet=part(UNet2DConditionModel, UNET),
        tokenizer=_tokenizer(folder, text_encoder.config),
        scheduler=DDIMScheduler.from_config(
            read_json(folder / "scheduler" / "scheduler_config.json"), clip_sample=False
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

    if lost := missing_files(folder):
        raise ValueError(f"{folder / lost[0]}: missing; {AGAIN}")
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
