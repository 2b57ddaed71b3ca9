"""Editing, notebook 10."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .judge import Claim, draw, judge


@judge
def check_edited_maps(fn: Callable[[Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(maps) -> maps``, (4, heads, positions, tokens) each, of a guided batch: source and
    target without a prompt, source and target with theirs. The target looks where the source does,
    where both have their prompt; the others are left alone."""
    for heads in (1, 3):
        maps = draw(4, heads, 5, 6).softmax(-1)
        u_source, u_target, source, target = maps
        yield Claim(
            f"{heads} heads: the fourth row is the third, the others are as they were",
            lambda maps=maps: fn(maps.clone()),
            torch.stack([u_source, u_target, source, source]),
            {
                "nothing is edited": maps,
                "the unconditional half is edited": torch.stack(
                    [u_source, u_source, source, target]
                ),
                "both halves are edited": torch.stack([u_source, u_source, source, source]),
                "the source looks where the target does": torch.stack(
                    [u_source, u_target, target, target]
                ),
                "all rows are the source's": torch.stack([source] * 4),
            },
        )


@judge
def check_blend(fn: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(z_source, z_target, maps, threshold) -> z``: (C, h, w) states and two maps (2, h,
    w), of a word of the source and of one of the target. The target's state where either map
    exceeds ``threshold`` times its own maximum, the source's elsewhere."""
    for threshold, seed in ((0.3, 0), (0.6, 1), (0.9, 2)):
        z_source, z_target = draw(2, 4, 6, 6, seed=seed)
        maps = draw(2, 6, 6, seed=10 + seed).abs() * torch.tensor([1.0, 0.5]).view(2, 1, 1)
        inside = maps > threshold * maps.amax((1, 2), keepdim=True)
        shared = maps > threshold * maps.max()

        def blend(
            where: Tensor, z_source: Tensor = z_source, z_target: Tensor = z_target
        ) -> Tensor:
            return torch.where(where, z_target, z_source)

        yield Claim(
            f"threshold {threshold:g}, the second map half as strong as the first",
            lambda given=(z_source, z_target, maps, threshold): fn(*given),
            blend(inside.any(0)),
            {
                "source and target are swapped": blend(~inside.any(0)),
                "both maps must exceed it, not either": blend(inside.all(0)),
                "the target's map alone counts": blend(inside[1]),
                "the source's map alone counts": blend(inside[0]),
                "the maximum is that of both maps together": blend(shared.any(0)),
                "the threshold is no share of the maximum": blend((maps > threshold).any(0)),
            },
        )


@judge
def check_found_noise(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_t, x_s, eps, ab_t, ab_s) -> z``, the noise with which DDPM's step (eta = 1)
    leads from x_t to x_s: z = (x_s - mu) / sigma, where sigma is DDIM's Eq. 16 and mu its Eq. 12
    without noise."""
    for ab_t, ab_s in ((0.1, 0.3), (0.5, 0.8), (0.9, 0.99)):
        x_t, x_s, eps = draw(3, 2, 5, seed=int(100 * ab_t))
        z = _found(x_t, x_s, eps, ab_t, ab_s)
        yield Claim(
            f"alpha_bar from {ab_t:g} to {ab_s:g}",
            lambda given=(x_t, x_s, eps, ab_t, ab_s): fn(*given),
            z,
            {
                "the direction keeps all its length, sqrt(1 - ab_s)": _found(
                    x_t, x_s, eps, ab_t, ab_s, shaped=False
                ),
                "it is divided by sigma^2": z / _sigma(ab_t, ab_s),
                "it is not divided by sigma": z * _sigma(ab_t, ab_s),
                "it is sqrt(1 - ab_s) that divides": z * _sigma(ab_t, ab_s) / (1 - ab_s) ** 0.5,
                "the sign is wrong": -z,
            },
        )


def _sigma(ab_t: float, ab_s: float) -> float:
    return ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)) ** 0.5


def _found(
    x_t: Tensor, x_s: Tensor, eps: Tensor, ab_t: float, ab_s: float, shaped: bool = True
) -> Tensor:
    """z, with DDPM's posterior mean (arXiv:2006.11239, Eq. 7) in place of DDIM's Eq. 12 at eta = 1,
    its equal; shaped=False: the mean whose direction has no sigma taken off."""
    x0_hat = (x_t - (1 - ab_t) ** 0.5 * eps) / ab_t**0.5
    if shaped:
        mu = ab_s**0.5 * (1 - ab_t / ab_s) * x0_hat + (ab_t / ab_s) ** 0.5 * (1 - ab_s) * x_t
        mu = mu / (1 - ab_t)
    else:
        mu = ab_s**0.5 * x0_hat + (1 - ab_s) ** 0.5 * eps
    return (x_s - mu) / _sigma(ab_t, ab_s)


@judge
def check_null_eps(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge ``fn(eps, eps_c, scale) -> eps_u``: what the empty prompt must answer, beside the
    prompt's eps_c, for guidance at ``scale`` to go along eps."""
    for scale in (0.5, 2.0, 7.5):
        eps, eps_c = draw(2, 3, 4, seed=int(2 * scale))
        # the line from eps_u through eps_c reaches eps at ``scale``
        eps_u = eps_c + (eps - eps_c) / (1 - scale)
        yield Claim(
            f"guidance {scale:g}",
            lambda given=(eps, eps_c, scale): fn(*given),
            eps_u,
            {
                "you guided instead of solving": eps + scale * (eps_c - eps),
                "the sign is wrong": eps_c - (eps - eps_c) / (1 - scale),
                "it is not divided by 1 - scale": eps - scale * eps_c,
                "eps_u is eps, right at scale 0 alone": eps,
            },
        )
