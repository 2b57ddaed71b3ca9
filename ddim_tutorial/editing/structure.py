r"""How much of a picture's structure an edit has kept, whatever its colours.

Structure is what is alike within the picture: the cosines S_ij between the features at its
positions i and j (the self-similarity of Tumanyan et al. 2022, arXiv:2201.00424, there of the keys
of a vision transformer). Here the features are those of a pipeline's own autoencoder, before its
last layer, so that nothing else need be loaded; figures of the two are not to be compared.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..predict import Images


def self_similarity(vae: torch.nn.Module, x: Images) -> Float[Tensor, "B positions positions"]:
    """The cosines, in -1..1, of the centred features of an AutoencoderKL's encoder at all pairs of
    positions; pictures x: (B, 3, H, W) in [-1, 1]."""
    kept: list[Tensor] = []
    hook = vae.encoder.conv_norm_out.register_forward_pre_hook(
        lambda _, given: kept.append(given[0].detach())
    )
    try:
        with torch.no_grad():
            vae.encode(x.to(vae.device, vae.dtype))
    finally:
        hook.remove()
    features = kept[0].float().flatten(2)
    features = F.normalize(features - features.mean(2, keepdim=True), dim=1)
    return (features.mT @ features).to(x.device)


def structure_distance(vae: torch.nn.Module, x: Images, other: Images) -> Float[Tensor, " B"]:
    """Root mean square difference of the :func:`self_similarity` of each picture to that of the
    other, 0 for the same one."""
    one, two = self_similarity(vae, x), self_similarity(vae, other)
    return (one - two).square().mean((1, 2)).sqrt()
