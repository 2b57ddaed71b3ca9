"""How far apart: the figures by which the tutorial judges pictures."""

import torch
from torch import Tensor, nn


def frechet(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of the Gaussians that fit
    two sets of features (N, d), N >= 2 (Heusel et al. 2017, arXiv:1706.08500, Eq. 6), computed in
    float64. It falls with N: compare sets of equal size."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    passes_through = nn.Identity()
    passes_through.num_features = features_a.shape[1]
    metric = FrechetInceptionDistance(feature=passes_through).set_dtype(torch.float64)
    metric.update(features_a.double(), real=True)
    metric.update(features_b.double(), real=False)
    return metric.compute().item()
