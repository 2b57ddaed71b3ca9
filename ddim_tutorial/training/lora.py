"""A network that learns by low-rank changes of its weights alone (LoRA: Hu et al. 2021,
arXiv:2106.09685), by the package peft, and the files of a learned jump: such a change, or a whole
network."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ddim_tutorial.zoo.jump import FOLDER, LORA, WHOLE

# every convolution and product of a U-Net of diffusers but its first and last
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)


def add_lora(unet: nn.Module, rank: int) -> None:
    """Freeze ``unet`` and give its LAYERS changes of ``rank``, which are zero at first. ImportError
    without the package peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            f"rank={rank}: training a LoRA needs the package peft (pip install peft), which is not"
            " installed; install it, or train all weights with rank 0"
        ) from error
    unet.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS))
    inject_adapter_in_model(config, unet)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)


def save_jump(unet: nn.Module, folder: Path, scale: float, prediction: str = "epsilon") -> Path:
    """The file of the learned jump in ``folder``/jump, fp16: of a ``unet`` with a LoRA that alone,
    else all weights. Its metadata has the guidance ``scale`` that is folded in and the
    ``prediction``, what the network answers."""
    weights: dict[str, Any] = unet.state_dict()
    lora = any("lora_" in name for name in weights)
    if lora:
        from peft import get_peft_model_state_dict

        weights = {f"unet.{k}": v for k, v in get_peft_model_state_dict(unet).items()}
    half = {name: value.to(torch.float16).contiguous() for name, value in weights.items()}
    path = folder / FOLDER / (LORA if lora else WHOLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in (LORA, WHOLE):
        (path.parent / other).unlink(missing_ok=True)
    save_file(half, path, metadata={"format": "pt", "scale": str(scale), "prediction": prediction})
    return path
