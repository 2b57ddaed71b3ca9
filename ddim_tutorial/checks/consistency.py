"""Consistency functions, notebook 12."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .judge import Claim, draw, judge


def _numbers(pair: tuple[Tensor | float, Tensor | float]) -> Tensor:
    return torch.tensor([float(number) for number in pair], dtype=torch.float64)


@judge
def check_boundary(fn: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Iterator[Claim]:
    """Judge ``fn(ab_t) -> (c_skip, c_out)``, of one number in a tensor: f = c_skip x_t + c_out eps,
    the jump of a noise model, written so that f(x_0, 0) = x_0 whatever the network says."""
    for ab_t, claim in (
        (0.25, "alpha_bar = 0.25: c_skip = 2, c_out = -sqrt(3)"),
        (0.8, "alpha_bar = 0.8"),
        (1.0, "alpha_bar = 1, the picture itself: (1, 0)"),
    ):
        scale, noise = ab_t**-0.5, (1 / ab_t - 1) ** 0.5
        yield Claim(
            claim,
            lambda ab_t=ab_t: _numbers(fn(torch.tensor(ab_t, dtype=torch.float64))),
            torch.tensor([scale, -noise], dtype=torch.float64),
            {
                "the sign of c_out is wrong": torch.tensor([scale, noise]),
                "c_out is not divided by sqrt(alpha_bar)": torch.tensor(
                    [scale, -((1 - ab_t) ** 0.5)]
                ),
                "c_skip is 1 everywhere": torch.tensor([1.0, -noise]),
                "they are those of adding noise": torch.tensor([ab_t**0.5, (1 - ab_t) ** 0.5]),
            },
        )


def _gradients(loss: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """Of a loss in each of the scalar ``weights``; zeros where it has none."""
    if not loss.requires_grad:
        return torch.zeros(len(weights))
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return torch.stack(found)


@judge
def check_self_consistency(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge ``fn(f, target, x_t, t, x_s, s) -> loss``, the mean square of f(x_t, t) - target(x_s,
    s) over everything, whose gradient reaches f alone."""
    x_t, x_s = draw(3, 4), draw(3, 4, seed=1)
    t, s = torch.tensor([9, 5, 7]), torch.tensor([8, 2, 0])
    w, v = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 0.5))

    def f(x: Tensor, time: Tensor) -> Tensor:
        return w * x + time[:, None]

    def target(x: Tensor, time: Tensor) -> Tensor:
        return v * x - 2 * time[:, None]

    def square(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).square().mean().detach()

    ends = f(x_t, t), target(x_s, s)
    yield Claim(
        "the mean square between f at t and the target at s",
        lambda: fn(f, target, x_t, t, x_s, s),
        square(*ends),
        {
            "f answers at both times, the target at none": square(ends[0], f(x_s, s)),
            "the target answers at both times": square(target(x_t, t), ends[1]),
            "the times are exchanged": square(f(x_t, s), target(x_s, t)),
            "it is the states that are compared": square(x_t, x_s),
            "it is a sum, not a mean": 12 * square(*ends),
        },
    )
    apart = (ends[0] - ends[1]).detach()
    own = (2 * apart * x_t).mean()
    flows = (-2 * apart * x_s).mean()
    yield Claim(
        "its gradient reaches f, and not the target",
        lambda: _gradients(fn(f, target, x_t, t, x_s, s), (w, v)),
        torch.stack([own, torch.zeros_like(own)]),
        {
            "the gradient runs into the target as well": torch.stack([own, flows]),
            "no gradient reaches f": torch.zeros(2),
            "the gradient reaches the target, and not f": torch.stack([0 * own, flows]),
        },
    )


@judge
def check_multistep(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge ``fn(f, x_T, levels, noises) -> x_0``, multistep sampling (Song et al. 2023, Algorithm
    1): jump from x_T, then for each alpha_bar of ``levels[1:]`` add its noise to the picture and
    jump again. f(x, ab) is the jump from the level ``ab``; levels[0] is that of x_T."""
    noises = draw(3, 2, 5, seed=4)

    def f(x: Tensor, ab: float) -> Tensor:
        return x.tanh() / (0.5 + ab)

    def walk(x: Tensor, levels: tuple[float, ...], kept: float = 1.0, held: bool = False) -> Tensor:
        end = f(x, levels[0])
        for before, ab, noise in zip(levels, levels[1:], noises, strict=False):
            z = (x - before**0.5 * end) / (1 - before) ** 0.5 if held else noise
            x = ab**0.5 * end + kept * (1 - ab) ** 0.5 * z
            end = f(x, ab)
        return end

    for levels in ((0.1,), (0.1, 0.5), (0.05, 0.3, 0.7), (0.01, 0.2, 0.6, 0.9)):
        x_T, count = draw(2, 5, seed=len(levels)), len(levels)
        used = noises[: count - 1]
        slips = {
            "the noise is forgotten": walk(x_T, levels, kept=0.0),
            "the old noise is kept, which is DDIM": walk(x_T, levels, held=True),
            "it stops after the first jump": f(x_T, levels[0]),
        }
        yield Claim(
            f"{count} jump{'s' if count > 1 else ''}",
            lambda given=(x_T, levels, used): fn(f, given[0].clone(), list(given[1]), given[2]),
            walk(x_T, levels),
            slips if count > 1 else {},
        )
