"""The formulas of notebooks 00 and 01: alpha_bar, noise, the jump, the DDIM step, guidance."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..schedule import linear
from . import slips
from .judge import Claim, Mistake, as_tensor, draw, judge


def part(answer: Any, index: int) -> Any:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Mistake(f"it returned {type(answer).__name__}, wanted the pair (x_s, x0_hat)")
    return answer[index]


@judge
def check_translation(fn: Callable[[Tensor], Tensor]) -> Iterator[Claim]:
    r"""Judge ``fn(betas) -> alpha_bar``: from the (T,) betas of DDPM to (T+1,) :math:`\bar\alpha`,
    starting at 1.

    The DDIM paper calls the same numbers alpha_t (Song et al. 2021, arXiv:2010.02502, section 2).
    """
    constant = torch.full((5,), 0.1, dtype=torch.float64)
    yield Claim(
        "constant beta = 0.1: alpha_bar_t is 0.9^t, t = 0..5",
        lambda: fn(constant),
        0.9 ** torch.arange(6.0).double(),
        {
            "alpha_bar_0 = 1 is missing": 0.9 ** torch.arange(1, 6.0).double(),
            "that is alpha, of one step, and no product": torch.tensor([1.0, *[0.9] * 5]),
            "square roots are taken": 0.9 ** (torch.arange(6.0).double() / 2),
            "that is the product of the betas": 0.1 ** torch.arange(6.0).double(),
            "that is 1 - alpha_bar": 1 - 0.9 ** torch.arange(6.0).double(),
        },
    )
    two = torch.tensor([0.2, 0.5], dtype=torch.float64)
    yield Claim(
        "beta = 0.2, 0.5: alpha_bar is 1, 0.8, 0.4", lambda: fn(two), torch.tensor([1, 0.8, 0.4])
    )
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02)
    yield Claim(
        "diffusers' alphas_cumprod for the linear schedule, shifted by one",
        lambda: fn(peer.betas.double()),
        torch.cat([torch.ones(1), peer.alphas_cumprod]),
    )


@judge
def check_add_noise(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_0, eps, ab_t) -> x_t`` (DDIM Eq. 4; DDPM Eq. 4)."""
    x_0, eps = draw(3, 1, 4, 4), draw(3, 1, 4, 4, seed=1)
    one, ab_t = torch.ones((), dtype=torch.float64), torch.tensor(0.36, dtype=torch.float64)
    yield Claim("alpha_bar_t = 1 leaves x_0 as it is", lambda: fn(x_0, eps, one), x_0)
    yield Claim(
        "alpha_bar_t = 0.36: x_t = 0.6 x_0 + 0.8 eps",
        lambda: fn(x_0, eps, ab_t),
        0.6 * x_0 + 0.8 * eps,
        slips.noising(x_0, eps, ab_t),
    )
    from diffusers import DDIMScheduler

    peer, t = DDIMScheduler(1000), torch.tensor([1, 400, 1000])
    ab = peer.alphas_cumprod.double()[t - 1].view(3, 1, 1, 1)
    yield Claim(
        "diffusers' add_noise at t = 1, 400, 1000, one time for each picture",
        lambda: fn(x_0, eps, ab),
        peer.add_noise(x_0, eps, t - 1),
    )


@judge
def check_predict_x0(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_t, eps, ab_t) -> x0_hat``, the jump (DDIM Eq. 9; the first term of Eq. 12)."""
    x_0, eps = draw(3, 1, 4, 4), draw(3, 1, 4, 4, seed=1)
    one, ab_t = torch.ones((), dtype=torch.float64), torch.tensor(0.36, dtype=torch.float64)
    yield Claim(
        "alpha_bar_t = 1: x0_hat is x_t",
        lambda: fn(x_0, eps, one),
        x_0,
        {"x0_hat is clipped to [-1, 1]": x_0.clamp(-1, 1)},
    )
    yield Claim(
        "the true noise gives back x_0",
        lambda: fn(0.6 * x_0 + 0.8 * eps, eps, ab_t),
        x_0,
        slips.jump(0.6 * x_0 + 0.8 * eps, eps, ab_t),
    )
    yield Claim(
        "eps = 0 only rescales: x_t / 0.6",
        lambda: fn(x_0, torch.zeros_like(eps), ab_t),
        x_0 / 0.6,
    )
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(1000, clip_sample=False)
    peer.set_timesteps(1000)
    for t in (1, 500, 1000):
        yield Claim(
            f"diffusers' pred_original_sample at t = {t}",
            lambda t=t: fn(x_0, eps, peer.alphas_cumprod.double()[t - 1]),
            peer.step(eps, t - 1, x_0).pred_original_sample,
        )


@judge
def check_ddim_sigma(fn: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(ab_t, ab_s, eta) -> sigma`` (DDIM Eq. 16)."""
    ab = linear().alpha_bar
    yield Claim("eta = 0 adds no noise", lambda: fn(ab[500], ab[480], 0.0), 0.0)
    yield Claim(
        "the step to t = 0 adds no noise",
        lambda: fn(ab[20], ab[0], 1.0),
        0.0,
        slips.deviation(ab[20], ab[0], 1.0),
    )
    for t, s in ((500, 499), (2, 1), (500, 400)):
        # The precision of x_s given x_0 and x_t: that of q(x_s | x_0) plus that of q(x_t | x_s), in
        # units of x_s.
        ratio = ab[t] / ab[s]
        posterior = 1 / (1 / (1 - ab[s]) + ratio / (1 - ratio))
        name = "DDPM's posterior std, DDPM Eq. 7" if t - s == 1 else "Bayes' rule for a long step"
        yield Claim(
            f"eta = 1, t = {t}, s = {s}: {name}",
            lambda t=t, s=s: fn(ab[t], ab[s], 1.0),
            posterior.sqrt(),
            slips.deviation(ab[t], ab[s], 1.0),
        )
    yield Claim(
        "eta = 0.5 is half of eta = 1",
        lambda: fn(ab[500], ab[400], 0.5) / as_tensor(fn(ab[500], ab[400], 1.0)),
        0.5,
        {"eta is squared": 0.25, "eta is not used": 1.0, "its square root is taken": 0.5**0.5},
    )
    yield Claim(
        "eta = 1.2 is 1.2 times eta = 1",
        lambda: fn(ab[500], ab[400], 1.2) / as_tensor(fn(ab[500], ab[400], 1.0)),
        1.2,
    )


@judge
def check_ddim_step(fn: Callable[..., tuple[Tensor, Tensor]]) -> Iterator[Claim]:
    """Judge ``fn(x_t, eps, ab_t, ab_s, sigma=0.0, noise=None) -> (x_s, x0_hat)`` (DDIM Eq. 12)."""
    x_0, eps, noise = (draw(2, 1, 4, 4, seed=seed) for seed in range(3))
    ab = torch.tensor([1.0, 0.64, 0.36], dtype=torch.float64)
    x_t = 0.6 * x_0 + 0.8 * eps
    yield Claim(
        "the true noise gives x0_hat = x_0",
        lambda: part(fn(x_t, eps, ab[2], ab[1]), 1),
        x_0,
        {"x_s and x0_hat are returned in the other order": 0.8 * x_0 + 0.6 * eps}
        | slips.jump(x_t, eps, ab[2]),
    )
    yield Claim(
        "sigma = 0 stays on the line: from 0.6 x_0 + 0.8 eps to 0.8 x_0 + 0.6 eps",
        lambda: part(fn(x_t, eps, ab[2], ab[1]), 0),
        0.8 * x_0 + 0.6 * eps,
        slips.step(x_t, eps, ab[2], ab[1]),
    )
    yield Claim("s = 0 ends at x0_hat", lambda: part(fn(x_t, eps, ab[2], ab[0]), 0), x_0)
    yield Claim(
        "sigma = 0.36: 0.48 of eps are left, sqrt(0.6^2 - 0.36^2), and 0.36 of fresh noise come in",
        lambda: part(fn(x_t, eps, ab[2], ab[1], sigma=0.36, noise=noise), 0),
        0.8 * x_0 + 0.48 * eps + 0.36 * noise,
        slips.step(x_t, eps, ab[2], ab[1], 0.36, noise),
    )
    yield Claim(
        "sigma = 0.36: x0_hat is x_0, without noise",
        lambda: part(fn(x_t, eps, ab[2], ab[1], sigma=0.36, noise=noise), 1),
        x_0,
    )
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(1000, clip_sample=False)
    peer.set_timesteps(50)
    bar = torch.cat([torch.ones(1), peer.alphas_cumprod]).double()
    for t, eta in ((981, 0.0), (501, 0.3), (501, 1.0), (21, 1.0)):
        s = t - 20
        sigma = eta * peer._get_variance(t - 1, s - 1) ** 0.5
        yield Claim(
            f"diffusers' DDIM step from t = {t} to s = {s} at eta = {eta:g}",
            lambda t=t, s=s, sigma=sigma: part(
                fn(x_t, eps, bar[t], bar[s], sigma=sigma, noise=noise), 0
            ),
            peer.step(eps, t - 1, x_t, eta=eta, variance_noise=noise).prev_sample,
        )


@judge
def check_guided_jump(
    fn: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor],
) -> Iterator[Claim]:
    """Judge ``fn(z_t, eps_u, eps_c, ab_t, scale) -> z0_hat``: classifier-free guidance (Ho &
    Salimans 2022,
    arXiv:2207.12598, Eq. 6), then the jump (DDIM Eq. 9)."""
    z_0, eps, apart = (draw(2, 4, 4, 4, seed=seed) for seed in range(3))
    ab_t, z_t, eps_u = torch.tensor(0.36, dtype=torch.float64), 0.6 * z_0 + 0.8 * eps, eps + apart
    yield Claim(
        "scale 1: eps_c, the true noise, gives z_0",
        lambda: fn(z_t, eps_u, eps, ab_t, 1.0),
        z_0,
        slips.guided(z_t, eps_u, eps, ab_t, 1.0),
    )
    yield Claim(
        "scale 0: eps_u alone, off by -0.8/0.6 of its error",
        lambda: fn(z_t, eps_u, eps, ab_t, 0.0),
        z_0 - 0.8 / 0.6 * apart,
        slips.guided(z_t, eps_u, eps, ab_t, 0.0),
    )
    yield Claim(
        "scale 4 goes on beyond eps_c by three times the way from eps_u",
        lambda: fn(z_t, eps_u, eps, ab_t, 4.0),
        z_0 + 3 * 0.8 / 0.6 * apart,
        slips.guided(z_t, eps_u, eps, ab_t, 4.0),
    )
    from diffusers import DDIMScheduler

    peer, w = DDIMScheduler(1000, clip_sample=False, beta_schedule="scaled_linear"), 6.5
    peer.set_timesteps(50)
    for t in (21, 501, 981):
        yield Claim(
            (
                f"diffusers' pred_original_sample at t = {t} for (1 + w) eps_c - w eps_u, w = scale"
                " - 1 = 6.5"
            ),
            lambda t=t: fn(z_t, eps_u, eps, peer.alphas_cumprod.double()[t - 1], 1 + w),
            peer.step((1 + w) * eps - w * eps_u, t - 1, z_t).pred_original_sample,
        )
