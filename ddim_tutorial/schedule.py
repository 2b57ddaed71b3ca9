r"""Noise schedules and time grids: how much signal is left at time t, and which times to visit.

``Schedule.alpha_bar[t]`` is :math:`\bar\alpha_t` for t = 0..T, with :math:`\bar\alpha_0 = 1`: x_0
has index 0, as in the DDIM paper (Song et al. 2021, arXiv:2010.02502, where the same number is
called :math:`\alpha_t`). The timestep of diffusers and of latent diffusion is t - 1; peers.py
translates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .require import Whole, require_alpha_bar, require_int, require_time

Times = Whole | Sequence[Whole] | np.ndarray | Int[Tensor, " B"]  # one, or one an image

NO_FLOAT64 = {"mps"}  # the kinds of device that have no float64: Apple's GPU


def float64_or_32(x: Tensor) -> Tensor:
    """``x`` in float64, or in float32 where its device has no float64."""
    return x.to(torch.float32 if x.device.type in NO_FLOAT64 else torch.float64)


def on_float64_device(x: Tensor) -> Tensor:
    """``x`` on a device that has float64: its own, or else the CPU."""
    return x.cpu() if x.device.type in NO_FLOAT64 else x


@dataclass(frozen=True, eq=False)
class Schedule:
    r"""The variance-preserving schedule
    :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon`.

    alpha_bar: (T+1,) float64 on the CPU, strictly decreasing from ``alpha_bar[0] == 1`` to
    ``alpha_bar[T] >= 1e-12``. float64 because 1 - alpha_bar[1] is about 1e-4: a float32 alpha_bar
    is off by 1e-4 relative there. The bound because a jump divides the rounding of a float32 eps,
    6e-8, by sqrt(alpha_bar): at 1e-12 that is an error of 6 %, below it the jump says nothing.
    """

    alpha_bar: Float[Tensor, " T_plus_1"]
    levels: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_alpha_bar(self.alpha_bar)
        # a copy, since the caller's tensor may change later
        object.__setattr__(self, "alpha_bar", self.alpha_bar.clone())
        object.__setattr__(self, "levels", tuple(self.alpha_bar.tolist()))

    @property
    def T(self) -> int:
        """The number of diffusion steps."""
        return len(self.levels) - 1

    def level(self, t: Whole) -> float:
        """alpha_bar at ``t``, an int in 0..T, as a Python number: what a loop multiplies with."""
        require_int("t", t, 0, self.T)
        return self.levels[t]

    def at(self, t: Times, like: Shaped[Tensor, " B *dims"]) -> Float[Tensor, "..."]:
        """alpha_bar at ``t``, ready to be multiplied with ``like``: the one place of broadcasting.

        t: an int in 0..T -> a 0-dim float64 CPU tensor (torch treats it as a number: no device
        copy, no host read).
        t: B of them -> (B, 1, .., 1) on like's device, in like's precision but at least float32.
        The values of a tensor are not range-checked, because that would read from its device.
        """
        t = require_time(t, self.T, like, low=0)
        if not isinstance(t, Tensor):
            return self.alpha_bar[t].clone()
        dtype = torch.promote_types(like.dtype, torch.float32)
        levels = self.alpha_bar.to(dtype).to(like.device)  # in this order: not all have float64
        return levels[t.long()].view(-1, *[1] * (like.dim() - 1))


def time_batch(t: int | Int[Tensor, " B"], like: Shaped[Tensor, " B *dims"]) -> Int[Tensor, " B"]:
    """``t`` as the (B,) integer tensor that a network takes, on like's device."""
    if isinstance(t, Tensor):
        return t
    return torch.full((len(like),), t, dtype=torch.long, device=like.device)


def from_betas(betas: Float[Tensor, " T"]) -> Schedule:
    """alpha_bar_t = prod_{i<=t} (1 - beta_i) (DDPM, arXiv:2006.11239, sec. 2).

    betas: (T,), each in (0, 1).
    """
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(
            f"beta in [{betas.min():.4g}, {betas.max():.4g}]: every beta must lie in (0, 1)"
        )
    alpha_bar = torch.cumprod(1 - betas.double(), 0)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]))


def linear(T: Whole = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> Schedule:
    """beta rises linearly from beta_first to beta_last (DDPM, arXiv:2006.11239, sec. 4). T >= 1."""
    T = require_int("T", T, 1)
    return from_betas(torch.linspace(beta_first, beta_last, T, dtype=torch.float64))


def scaled_linear(
    T: Whole = 1000, beta_first: float = 0.00085, beta_last: float = 0.012
) -> Schedule:
    """sqrt(beta) rises linearly, as in latent and Stable Diffusion (arXiv:2112.10752). T >= 1."""
    T = require_int("T", T, 1)
    if not (beta_first > 0 and beta_last > 0):
        raise ValueError(
            f"beta_first={beta_first}, beta_last={beta_last}: every beta must lie in (0, 1)"
        )
    return from_betas(torch.linspace(beta_first**0.5, beta_last**0.5, T, dtype=torch.float64) ** 2)


def cosine(T: Whole = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Schedule:
    r""":math:`\bar\alpha(u) \propto \cos^2(\frac{\pi}{2}\frac{u+\text{offset}}{1+\text{offset}})`,
    u = t/T, with every beta cut at beta_max (Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 17).
    T >= 1."""
    T = require_int("T", T, 1)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return from_betas((1 - f[1:] / f[:-1]).clamp(max=beta_max))
