"""What several test modules share: one error measure and one small random network."""

import torch


def relative(seen, wanted):
    """|seen - wanted| / |wanted| in the 2-norm, as a float."""
    return ((seen - wanted).norm() / wanted.norm()).item()


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
