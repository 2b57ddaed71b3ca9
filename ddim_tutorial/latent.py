"""Latent diffusion as the same noise model: what a ``StableDiffusionPipeline`` holds, for our one
sampler.

The constants and habits of these pipelines live here only: the scale of the latents, the timestep
that counts from 0, the doubled batch of guidance, and the grid that ends at t = 1 (Rombach et al.
2022, arXiv:2112.10752).
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .guidance import cfg_batched
from .peers import from_scheduler, scheduler_times
from .predict import EpsModel, eps_from_v
from .require import require_images, require_int
from .schedule import Schedule

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PIXELS = (
    2**19
)  # decoded at once: two pictures of 512 x 512, whose widest layers take half a gigabyte each


class LatentSpace(NamedTuple):
    """A pipeline with its prompt: all that ``sample(model, z_T, times(S), schedule)`` and a picture
    need.

    model: the guided noise model, z_t (B, 4, h, w) and t in 1..T to eps. encode: pictures (B, 3, H,
    W) in [-1, 1] to latents z_0, the mean of the encoder's distribution, scaled. decode: latents to
    pictures, not clipped. times: the number of steps to the grid that the pipeline's own scheduler
    walks.
    """

    model: EpsModel
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    schedule: Schedule
    times: Callable[[int], list[int]]


def from_pipeline(
    pipe: "StableDiffusionPipeline",
    prompt: str | Sequence[str],
    negative_prompt: str = "",
    scale: float = 7.5,
) -> LatentSpace:
    """The pipeline as a latent space, guided towards ``prompt``.

    Args:
        pipe: any StableDiffusionPipeline, on its device and in its dtype; the latents keep their
        own (float32).
        prompt: one for the whole batch, or one for each picture of it.
        negative_prompt: what guidance leads away from; "" is no prompt.
        scale: eps_u + scale (eps_c - eps_u) in one doubled batch; 1 is the prompt alone, 0 the
            negative prompt alone. (diffusers' pipeline takes every scale <= 1 for 1.)

    ``times`` walks the pipeline's own grid, which needs a scheduler that counts as DDIM does;
    ``zoo.load`` sets one.

    Raises ValueError for a prediction type that is neither epsilon nor v_prediction, for a prompt
    that is not text, for latents that are not (B, 4, h, w), and for a scale that is no finite
    number. Warns, with the text that is lost, where a prompt is longer than the text encoder takes,
    and where the pipeline's scheduler clips its x0_hat: our sampler does not.
    """
    prompts = (
        [prompt]
        if isinstance(prompt, str)
        else list(prompt)
        if isinstance(prompt, Sequence)
        else []
    )
    if not prompts or not all(isinstance(text, str) for text in [*prompts, negative_prompt]):
        raise ValueError(
            f"prompt, negative_prompt: got {prompt!r} and {negative_prompt!r}, wanted text"
        )
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"prediction_type: got {prediction!r} in {type(pipe.scheduler).__name__}'s"
            " configuration, wanted 'epsilon' or 'v_prediction'"
        )
    for name, text in dict.fromkeys(
        [*(("prompt", text) for text in prompts), ("negative_prompt", negative_prompt)]
    ):
        warn_of_cut(pipe.tokenizer, text, name)
    if clips := [key for key in ("clip_sample", "thresholding") if pipe.scheduler.config.get(key)]:
        warnings.warn(
            f"the pipeline's scheduler has {clips[0]}=True, which ruins latents; it is not done"
            " here, so the pipeline's own pictures will differ",
            stacklevel=2,
        )
    with torch.no_grad():
        condition, null_condition = pipe.encode_prompt(
            prompts, pipe.device, 1, True, [negative_prompt] * len(prompts)
        )
    schedule, unet, vae = from_scheduler(pipe.scheduler), pipe.unet, pipe.vae

    def network(z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        _require_channels("z_t", z_t, unet.config.in_channels)
        out = unet(z_t.to(unet.dtype), t - 1, encoder_hidden_states=text.to(unet.dtype)).sample.to(
            z_t.dtype
        )
        return out if prediction == "epsilon" else eps_from_v(z_t, out, schedule.at(t, z_t))

    return LatentSpace(
        model=cfg_batched(network, condition, null_condition, scale),
        encode=partial(encode, vae),
        decode=partial(decode, vae),
        schedule=schedule,
        times=partial(scheduler_times, pipe.scheduler),
    )


def encode(vae: torch.nn.Module, x: Tensor) -> Tensor:
    """Pictures x: (B, 3, H, W) in [-1, 1], to scaled latents (B, 4, h, w), the mean of the
    encoder's distribution."""
    _require_channels("x", x, vae.config.in_channels)
    with torch.no_grad():
        return (
            vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mean.to(x.dtype)
            * vae.config.scaling_factor
        )


def decode(vae: torch.nn.Module, z: Tensor, chunk: int | None = None) -> Tensor:
    """Scaled latents z: (B, 4, h, w), to pictures (B, 3, H, W) about [-1, 1], ``chunk`` at a time
    (None: as many as have PIXELS pixels), or fewer if they do not fit into the memory of the
    GPU."""
    _require_channels("z", z, vae.config.latent_channels)
    if chunk is None:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        chunk = max(1, PIXELS // (z.shape[-2] * z.shape[-1] * factor**2))
    require_int("chunk", chunk, 1)
    pictures: list[Tensor] = []
    done = 0
    while done < len(z):
        try:
            part = z[done : done + chunk].to(vae.device, vae.dtype) / vae.config.scaling_factor
            with torch.no_grad():
                pictures.append(vae.decode(part).sample.to(z.dtype))
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise
            chunk = max(1, chunk // 2)
            continue
        done += chunk
    return torch.cat(pictures)


def warn_of_cut(tokenizer, text: str, name: str = "prompt") -> None:
    """Warn, with what is lost, where ``text`` is longer than the text encoder of ``tokenizer``
    takes."""
    limit = tokenizer.model_max_length
    tokens = tokenizer(text, truncation=False, verbose=False).input_ids
    if len(tokens) > limit:
        lost = tokenizer.decode(tokens[limit - 1 : -1])
        warnings.warn(
            f"{name}: {len(tokens)} tokens, the text encoder takes {limit}; cut: {lost!r}",
            stacklevel=3,
        )


def _require_channels(name: str, x: Tensor, channels: int) -> None:
    require_images(name, x)
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, wanted (B, {channels}, height, width)"
        )
