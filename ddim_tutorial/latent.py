"""Latent diffusion as the same noise model: what a ``StableDiffusionPipeline`` holds, for our one
sampler.

The constants and habits of these pipelines live here only: the scale of the latents, the timestep
that counts from 0, the doubled batch of guidance, and the grid that ends at t = 1 (Rombach et al.
2022, arXiv:2112.10752).
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .guidance import cfg_batched
from .peers import from_scheduler, scheduler_times
from .pipelines import require_pipeline, require_scheduler
from .predict import EpsModel, eps_from_v
from .prompts import as_prompts, warn_of_cut, without_remarks
from .require import require_images, require_int
from .schedule import Schedule

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# decoded at once: two pictures of 512 x 512, whose widest layers take half a gigabyte each
PIXELS = 2**19


class LatentSpace(NamedTuple):
    """A pipeline with its prompt: all that ``sample(model, z_T, times(S), schedule)`` and a picture
    need.

    model: the guided noise model, z_t (B, 4, h, w) and t in 1..T to eps. encode: pictures (B, 3, H,
    W) in [-1, 1] to latents z_0, the mean of the encoder's distribution, scaled. decode: latents to
    pictures, not clipped. times: the number of steps to the grid that the pipeline's own scheduler
    walks. network: the noise model before guidance, :func:`network`; condition, null_condition: the
    states of the prompts and of the negative prompts, (P, tokens, dim), that ``model`` asks it
    with.
    """

    model: EpsModel
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    schedule: Schedule
    times: Callable[[int], list[int]]
    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    condition: Tensor
    null_condition: Tensor


def from_pipeline(
    pipe: "StableDiffusionPipeline",
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] = "",
    scale: float = 7.5,
) -> LatentSpace:
    """The pipeline as a latent space, guided towards ``prompt``.

    Args:
        pipe: a StableDiffusionPipeline (SD 1.x or 2.x), on its device and in its dtype; the latents
            keep their own (float32).
        prompt: one for the whole batch, or one for each picture of it.
        negative_prompt: what guidance leads away from, one for all or one for each prompt; "" is no
            prompt.
        scale: eps_u + scale (eps_c - eps_u) in one doubled batch; 1 is the prompt alone, 0 the
            negative prompt alone. (diffusers' pipeline takes every scale <= 1 for 1.)

    ``times`` walks the pipeline's own grid, which needs a scheduler that counts as DDIM does;
    ``zoo.load`` sets one.

    Raises ValueError for a pipeline whose network takes more than z_t, t and the prompt (a control
    network, an IP-Adapter, SDXL, a picture to edit), naming its class or the key of its
    configuration; for a prediction type that is neither epsilon nor v_prediction, for a prompt that
    is not text, for latents that are not (B, 4, h, w), and for a scale that is no finite number.
    Warns, with the text that is cut, where a prompt is longer than the text encoder takes, and
    where the pipeline's scheduler clips its x0_hat: our sampler does not.
    """
    prompts, negative_prompts = as_prompts(prompt, negative_prompt)
    noise_model = network(pipe)
    for name, texts in (("prompt", prompts), ("negative_prompt", negative_prompts)):
        for text in dict.fromkeys(texts):
            warn_of_cut(pipe, text, name)
    with torch.no_grad(), without_remarks():  # the warning above says it
        condition, null_condition = pipe.encode_prompt(
            prompts, pipe.device, 1, True, negative_prompts
        )
    return LatentSpace(
        model=cfg_batched(noise_model, condition, null_condition, scale),
        encode=partial(encode, pipe.vae),
        decode=partial(decode, pipe.vae),
        schedule=from_scheduler(pipe.scheduler),
        times=partial(scheduler_times, pipe.scheduler),
        network=noise_model,
        condition=condition,
        null_condition=null_condition,
    )


def network(pipe: "StableDiffusionPipeline") -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The pipeline's noise model, without guidance: z_t (B, 4, h, w), t (B,) in 1..T and text (B,
    tokens, dim), the states of the text encoder, to eps. Gradients pass through it. Raises and
    warns for the pipeline as :func:`from_pipeline`."""
    prediction = require_scheduler(pipe.scheduler)
    require_pipeline(pipe)
    schedule, unet = from_scheduler(pipe.scheduler), pipe.unet

    def eps(z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        _require_channels("z_t", z_t, unet.config.in_channels)
        out = unet(z_t.to(unet.dtype), t - 1, encoder_hidden_states=text.to(unet.dtype)).sample.to(
            z_t.dtype
        )
        return out if prediction == "epsilon" else eps_from_v(z_t, out, schedule.at(t, z_t))

    return eps


def encode(vae: torch.nn.Module, x: Tensor) -> Tensor:
    """Pictures x: (B, 3, H, W) in [-1, 1], to scaled latents (B, 4, h, w), the mean of the
    encoder's distribution.

    ValueError where H or W is no multiple of the autoencoder's factor: it would cut the rest off.
    """
    _require_channels("x", x, vae.config.in_channels)
    factor = _factor(vae)
    sizes = [tuple(x.shape[-2:])]
    sizes += [tuple(step(side / factor) * factor for side in sizes[0]) for step in (floor, ceil)]
    if sizes[0] != sizes[1]:
        actual, cropped, padded = (f"{height} x {width}" for height, width in sizes)
        smaller = f"crop to {cropped} or " if min(sizes[1]) > 0 else ""
        raise ValueError(
            f"x has {actual} pixels, the autoencoder takes multiples of {factor}: {smaller}enlarge"
            f" to {padded}"
        )
    with torch.no_grad():
        out = vae.encode(x.to(vae.device, vae.dtype))
    # AutoencoderTiny has no distribution
    mean = out.latents if hasattr(out, "latents") else out.latent_dist.mean
    return mean.to(x.dtype) * vae.config.scaling_factor


def _factor(vae: torch.nn.Module) -> int:
    """How many pixels a latent has along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def decode(vae: torch.nn.Module, z: Tensor, chunk: int | None = None) -> Tensor:
    """Scaled latents z: (B, 4, h, w), to pictures (B, 3, H, W) about [-1, 1].

    ``chunk`` at a time (None: as many as have PIXELS pixels), or fewer if they do not fit into the
    memory of the GPU.
    """
    _require_channels("z", z, vae.config.latent_channels)
    if chunk is None:
        chunk = max(1, PIXELS // (z.shape[-2] * z.shape[-1] * _factor(vae) ** 2))
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


def _require_channels(name: str, x: Tensor, channels: int) -> None:
    require_images(name, x)
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, wanted (B, {channels}, height, width)"
        )
