"""What several test modules share: one error measure, a small random network, a small random
pipeline."""

import base64
import re

import torch


def relative(seen, wanted):
    """|seen - wanted| / |wanted| in the 2-norm, as a float."""
    return ((seen - wanted).norm() / wanted.norm()).item()


def png_of(picture):
    """The PNG that an explorer's picture, an <img> in HTML, holds."""
    return base64.b64decode(re.search('src="data:image/png;base64,([^"]*)"', picture.value)[1])


def tiny_unet(device="cpu", seed=0):
    """An untrained UNet2DModel on (B, 2, 8, 8), float32, in evaluation mode."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return unet.to(device).eval().requires_grad_(False)


WORDS = ["a red apple on a table", "a cassette player", "two blue fish", "blurry"]


def tiny_pipeline(folder):
    """Stable Diffusion's parts, random and tiny, the same in each run; ``folder`` takes the
    tokenizer's files."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ddim_tutorial.training.emoji.captions import train_tokenizer
    from ddim_tutorial.training.emoji.networks import new_pipeline

    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, folder, size=600)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=16,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
    )
    vocabulary = tokenizer.get_vocab()  # merges of one frequency get their ids in any order
    rows = torch.tensor([vocabulary[token] for token in sorted(vocabulary)])
    embedding = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        embedding[rows] = embedding.clone()
        for name, parameter in unet.named_parameters():
            if "attn2.to_" in name:  # so that the prompt matters
                parameter.mul_(2)
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.3,
    )
    return new_pipeline(vae.eval(), text_encoder.eval(), tokenizer, unet.eval())


def judged(name, fn, capsys):
    """What the check of this name says of an answer: its result, and what it prints."""
    from ddim_tutorial import checks

    result = getattr(checks, f"check_{name}")(fn)
    return result, capsys.readouterr().out
