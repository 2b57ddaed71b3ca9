"""The networks of a Stable Diffusion pipeline, small enough for two processor cores."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .captions import TOKENS
from .data import SIZE


def new_vae(channels: tuple[int, ...] = (32, 64, 128)):
    """64 x 64 x 3 -> 16 x 16 x 4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=SIZE,
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
    )


def new_text_encoder(vocabulary: int, width: int = 192, layers: int = 2):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def new_unet(
    channels: tuple[int, int, int] = (96, 192, 192),
    width: int = 192,
    size: int = SIZE // 4,
    attention: str = "8",
):
    """The text enters by cross-attention alone, as in Stable Diffusion: at 8 x 8 and 4 x 4, and
    with ``attention="16"`` also at 16 x 16, on the way down. The time embedding scales and shifts
    after the group norm: with 3 or 6 channels a group, a norm takes most of what is added before it
    away."""
    from diffusers import UNet2DConditionModel

    first = "CrossAttnDownBlock2D" if attention == "16" else "DownBlock2D"
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=(first, "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        time_embedding_dim=256,
        resnet_time_scale_shift="scale_shift",
    )


def inherit(unet: nn.Module, other: nn.Module) -> None:
    """Take over the weights that ``other`` has under the same name and in the same shape. What is
    new starts as the identity: the last layer of a new attention block is zero."""
    shapes = {name: value.shape for name, value in unet.state_dict().items()}
    weights = other.state_dict().items()
    fits = {name: value for name, value in weights if shapes.get(name) == value.shape}
    missing, _ = unet.load_state_dict(fits, strict=False)
    for name, parameter in unet.named_parameters():
        if name in missing and ".proj_out." in name:
            nn.init.zeros_(parameter)


def new_scheduler():
    """Stable Diffusion v1's."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def new_pipeline(vae, text_encoder, tokenizer, unet):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Autoencoder(nn.Module):
    """x (B, 3, H, W) -> (reconstruction, mean, log variance): one forward, so that it can be
    distributed."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


class Denoiser(nn.Module):
    """(x_t (B, 4, H, W), timestep (B,) 0-based, tokens (B, L)) -> eps: text encoder and UNet,
    trained together."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x_t: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(x_t, timestep, self.text_encoder(tokens)[0]).sample


def components(folder: Path, *names: str) -> list[Any]:
    """Components of a pipeline's folder, in float32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    for name in names:
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"{folder / name} is not there, wanted the folder of a pipeline with {name}/ in it"
            )
    classes = {
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
    }
    return [
        classes[name].from_pretrained(
            folder / name,
            local_files_only=True,
            **({} if name == "tokenizer" else {"dtype": torch.float32}),
        )
        for name in names
    ]
