r"""DDIM sampling (Song et al. 2021, arXiv:2010.02502): jump to the clean image, then re-noise.

A step takes a pair of times: from t to s. ``trajectory`` is the loop, a generator of :class:`Step`;
``sample`` runs it to the end. The loop reads nothing back from the device; values are looked at
before the first and after the last step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import Generators, randn
from .predict import EpsModel, Images, Level, add_noise, plus_, predict_x0, predicted_eps, sqrt
from .require import (
    require_eta,
    require_generator,
    require_images,
    require_level,
    require_like,
    require_sigma,
    require_times,
)
from .schedule import Schedule


class Step(NamedTuple):
    """One step from t to s: the state before, the model's eps and jump there, the state after."""

    t: int
    s: int
    x_t: Tensor
    eps: Tensor
    x0_hat: Tensor
    x_s: Tensor


class Past(NamedTuple):
    """What a rule may remember of the step before: its time and what the model said there."""

    t: int
    eps: Tensor
    x0_hat: Tensor


# (t, s, x_t, eps, past) -> (x_s, x0_hat): how a step is made; past is None at the first
Rule = Callable[[int, int, Tensor, Tensor, Past | None], tuple[Tensor, Tensor]]


def ddim_sigma(ab_t: Level, ab_s: Level, eta: float) -> Tensor | float:
    r"""The noise of a step down from t to s (DDIM Eq. 16):
    :math:`\eta \sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}}
    \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}`.

    eta = 0: deterministic; eta = 1: DDPM's posterior; eta = inf: sqrt(1 - ab_s), all that Eq. 12
    has room for.
    """
    ab_t, ab_s = require_level("ab_t", ab_t), require_level("ab_s", ab_s)
    if eta == math.inf:
        return sqrt(1 - ab_s)
    return eta * sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))


def ddim_step(
    x_t: Images,
    eps: Images,
    ab_t: Level,
    ab_s: Level,
    *,
    sigma: Level = 0.0,
    noise: Tensor | None = None,
    noise_std: Level | None = None,
) -> tuple[Images, Images]:
    r"""One step from t to s (DDIM Eq. 12): (x_s, x0_hat), both like x_t.

    .. math:: x_s = \sqrt{\bar\alpha_s}\,\hat x_0
        + \sqrt{1-\bar\alpha_s-\sigma^2}\,\epsilon + \sigma_{noise}\,z

    x_t, eps: (B, *dims). ab_t, ab_s: numbers (``Schedule.level``) or values of ``Schedule.at``;
    s < t denoises, s > t inverts. sigma: shapes the direction. noise: z ~ N(0, I) like x_t.
    noise_std: its size, ``sigma`` if None. sigma-hat (DDIM sec. 5) is sigma = ddim_sigma(.., 1)
    with noise_std = sqrt(1 - ab_t / ab_s). Raises ValueError where sigma^2 exceeds 1 - ab_s.
    """
    x0_hat = predict_x0(x_t, eps, ab_t)
    ab_s = require_level("ab_s", ab_s)
    x_s = plus_(sqrt(ab_s) * x0_hat, sqrt(1 - ab_s - require_sigma(sigma, ab_s) ** 2), eps)
    if noise is not None:
        require_like("noise", noise, x_t)
        std = sigma if noise_std is None else noise_std
        x_s = x_s + (std if isinstance(std, Tensor) else float(std)) * noise
    if x_s.dtype != x_t.dtype:  # an eps in float64, of a network that predicts v or x_0
        return x_s.to(x_t.dtype), x0_hat.to(x_t.dtype)
    return x_s, x0_hat


def trajectory(
    model: EpsModel,
    x_T: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    eta: float = 0.0,
    sigma_hat: bool = False,
    generator: Generators = None,
) -> Iterator[Step]:
    """Walk ``times`` from x_T and yield every :class:`Step`; memory does not grow, any may be last.

    x_T: (B, *dims), N(0, I) at times[0]. The state is float32 or more precise whatever the network
    computes in.
    times: decreasing to sample; increasing (with eta = 0) to invert, eps then being asked at
    max(t, 1).
    eta: 0 (DDIM) to 1 (DDPM), DDIM Eq. 16; math.inf keeps nothing of eps: jump, then noise anew,
    the multistep sampling of consistency models (Song et al. 2023, arXiv:2303.01469, Alg. 1).
    sigma_hat: with eta = 1, DDPM's larger variance in the injected noise, none in the last step.
    generator: one, or one per image (see :func:`ddim_tutorial.noise.randn`).

    Gradients are kept only if x_T requires them. Bad arguments raise here, not at the first step.
    """
    grid, state = start(x_T, times, schedule)
    require_eta(grid, schedule.alpha_bar, eta, sigma_hat)
    require_generator(generator, len(x_T))
    rule = partial(
        _ddim, schedule.levels, 1.0 if sigma_hat else eta, sigma_hat, generator, grid[-1]
    )
    return walk(model, state, grid, rule)


def _ddim(
    levels: tuple[float, ...],
    eta: float,
    sigma_hat: bool,
    generator: Generators,
    end: int,
    t: int,
    s: int,
    x_t: Tensor,
    eps: Tensor,
    past: Past | None,
) -> tuple[Tensor, Tensor]:
    """The rule of :func:`trajectory`. (A function of its own, bound by ``partial``: torch.compile
    cannot trace one that is defined inside another while types are enforced.)"""
    ab_t, ab_s = levels[t], levels[s]
    if not eta:
        return ddim_step(x_t, eps, ab_t, ab_s)
    noise = randn(x_t.shape, generator, device=x_t.device, dtype=x_t.dtype)
    if eta == math.inf:  # not by Eq. 12: the rounding of sigma^2 = 1 - ab_s has no square root
        x0_hat = predict_x0(x_t, eps, ab_t)
        return add_noise(x0_hat, noise, ab_s).to(x_t.dtype), x0_hat.to(x_t.dtype)
    sigma = noise_std = ddim_sigma(ab_t, ab_s, eta)
    if sigma_hat:  # DDIM's code and DDPM's add no noise to the finished picture
        noise_std = sqrt(1 - ab_t / ab_s) if s != end else 0.0
    return ddim_step(x_t, eps, ab_t, ab_s, sigma=sigma, noise=noise, noise_std=noise_std)


def start(x_T: Images, times: Sequence[int], schedule: Schedule) -> tuple[list[int], Images]:
    """The door of every solver: the grid, and x_T (B, *dims) as the first state, at least float32;
    or a refusal."""
    require_images("x_T", x_T)
    grid = require_times(times, schedule.T)
    return grid, x_T.to(torch.promote_types(x_T.dtype, torch.float32))


def walk(model: EpsModel, x_t: Tensor, grid: list[int], rule: Rule) -> Iterator[Step]:
    """The loop of every solver: ask the model at (x_t, t), let ``rule`` make the step, yield it.

    x_t and grid come from :func:`start`. What a rule remembers passes through this loop alone, so
    two runs share nothing.
    """
    asked_at = torch.tensor([max(t, 1) for t in grid], device=x_t.device)
    with_grad = x_t.requires_grad and torch.is_grad_enabled()
    past = None
    for i, (t, s) in enumerate(pairwise(grid)):
        with torch.set_grad_enabled(with_grad):
            eps = predicted_eps(model, x_t, asked_at[i].expand(len(x_t)))
            x_s, x0_hat = rule(t, s, x_t, eps, past)
        yield Step(t, s, x_t, eps.to(x_t.dtype), x0_hat, x_s)
        x_t, past = x_s, Past(t, eps, x0_hat)


def final(steps: Iterator[Step]) -> Images:
    """The state that a walk ends in, (B, *dims). NaN or infinity there raise ValueError."""
    for step in steps:
        x_s = step.x_s
    require_images(f"the state at s={step.s}", x_s)
    return x_s


def sample(
    model: EpsModel,
    x_T: Images,
    times: Sequence[int],
    schedule: Schedule,
    *,
    eta: float = 0.0,
    sigma_hat: bool = False,
    generator: Generators = None,
) -> Images:
    """The state at times[-1]; arguments as for :func:`trajectory`.

    Raises ValueError for a result with NaN or infinity.
    """
    steps = trajectory(
        model, x_T, times, schedule, eta=eta, sigma_hat=sigma_hat, generator=generator
    )
    return final(steps)
