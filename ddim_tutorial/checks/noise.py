"""Gaussian noise, notebook 07."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .judge import Claim, as_tensor, draw, find_problem, judge, verdict


@judge
def check_slerp(fn: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(a, b, weight)``: from a at 0 to b at 1 along the great circle, every picture of
    the (B, ...) batch on its own (DDIM appendix D.5)."""
    a, b = draw(3, 1, 4, 4), draw(3, 1, 4, 4, seed=1)
    yield Claim("weight 0 is a", lambda: fn(a, b, 0.0), a)
    yield Claim("weight 1 is b", lambda: fn(a, b, 1.0), b)
    right = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    x, y = right + torch.tensor([1.0, 0.0]), right + torch.tensor([0.0, 1.0])
    yield Claim(
        "a quarter circle: weight 1/3 is the angle of 30 degrees",
        lambda: fn(x, y, 1 / 3),
        right + torch.tensor([math.cos(math.pi / 6), 0.5], dtype=torch.float64),
    )
    for angle in (0.8, 0.3, 0.1):  # a straight line is too short by 1 - cos(angle / 2)
        end, middle = (
            right + torch.tensor([math.cos(v), math.sin(v)], dtype=torch.float64)
            for v in (angle, angle / 2)
        )
        yield Claim(
            f"an angle of {angle:g} rad: the middle is at {angle / 2:g} rad, of length 1",
            lambda end=end: fn(x, end, 0.5),
            middle,
        )
    two, three = 2 * x, 3 * (math.cos(0.8) * x + math.sin(0.8) * y)
    yield Claim(
        "lengths 2 and 3 at 0.8 rad: the weights come from the angle, and the lengths stay in",
        lambda: fn(two, three, 0.5),
        math.sin(0.4) / math.sin(0.8) * (two + three),
    )
    yield Claim(
        "each picture by its own angle: the batch equals one by one",
        lambda: fn(a, b, 0.3),
        lambda got: find_problem(
            got, torch.cat([as_tensor(fn(a[i : i + 1], b[i : i + 1], 0.3)) for i in range(3)])
        ),
    )
    yield Claim("a with itself is a, not NaN", lambda: fn(a, a.clone(), 0.5), a)


@judge
def check_mix(fn: Callable[[Tensor, Any], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(noises, weights)``: k independent standard normal draws (k, ...) combined into one
    such draw."""
    noises = draw(3, 2, 4, 4)
    yield Claim(
        "weights 1, 1 and 0: (a + b) / sqrt(2)",
        lambda: fn(noises, [1.0, 1.0, 0.0]),
        noises[:2].sum(0) / math.sqrt(2),
        {
            "the weights are not normalised": noises[:2].sum(0),
            "the weights are divided by the sum of their squares, not by its square root": (
                noises[:2].sum(0) / 2
            ),
        },
    )
    yield Claim(
        "weights 3, 4 and 0: 0.6 a + 0.8 b",
        lambda: fn(noises, [3.0, 4.0, 0.0]),
        0.6 * noises[0] + 0.8 * noises[1],
    )
    yield Claim(
        "weights 1, 1 and -1: (a + b - c) / sqrt(3)",
        lambda: fn(noises, [1.0, 1.0, -1.0]),
        (noises[0] + noises[1] - noises[2]) / math.sqrt(3),
    )


NOISE = (2, 16, 16)  # the shape of one picture of noise


def statistics(fn: Callable[[Any, tuple[int, ...]], Tensor]) -> str | None:
    """What is wrong with neighbours, mean, spread or tails of 100 pictures, within five standard
    errors."""
    x = as_tensor(fn(range(100), NOISE)).double()
    z = (x - x.mean()) / x.std()
    measured: list[tuple[str, Tensor, int, float]] = []
    for axis, name in enumerate(("channels", "rows", "columns"), 1):
        pairs = z.narrow(axis, 1, z.shape[axis] - 1) * z.narrow(axis, 0, z.shape[axis] - 1)
        measured.append((f"correlation of neighbouring {name}", pairs, 0, 1))
    measured += [("mean", x, 0, 1), ("std", x, 1, 0.5**0.5), ("kurtosis", z.pow(4), 3, 24**0.5)]
    for name, values, wanted, error in measured:
        value = (values.std() if name == "std" else values.mean()).item()
        allowed = 5 * error / math.sqrt(values.numel())
        if not abs(value - wanted) <= allowed:  # NaN, too
            return (
                f"the {name} of {values.numel()} numbers is {value:.3f}, wanted {wanted} within"
                f" {allowed:.3f}"
            )
    return None


def repeated(fn: Callable[[Any, tuple[int, ...]], Tensor]) -> str | None:
    """Two of 100 seeds with the same noise. The distance of two draws of d numbers is about
    sqrt(2 d), here 32."""
    distances = torch.pdist(as_tensor(fn(range(100), NOISE)).double().flatten(1))
    if distances.min() > 1:
        return None
    i, j = torch.triu_indices(100, 100, 1)[:, distances.argmin()].tolist()
    return f"seeds {i} and {j} give the same noise"


def untouched(fn: Callable[[Any, tuple[int, ...]], Tensor]) -> str | None:
    """Whether torch's global generator was used."""
    before = torch.random.get_rng_state()
    fn([1, 2], NOISE)
    if torch.equal(before, torch.random.get_rng_state()):
        return None
    return "torch's global random numbers were reseeded or drawn from; use a torch.Generator"


@judge
def check_noise(fn: Callable[[Any, tuple[int, ...]], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(seeds, shape) -> (len(seeds), *shape)``: standard normal noise whose row i depends
    on seeds[i] alone, and that leaves torch's global random numbers as they were."""
    yield Claim(
        "two seeds, shape (2, 16, 16): shape (2, 2, 16, 16)",
        lambda: list(as_tensor(fn([0, 1], NOISE)).shape),
        [2, 2, 16, 16],
    )
    yield Claim(
        "the same seed, the same noise",
        lambda: fn([3], NOISE),
        lambda got: find_problem(got, fn([3], NOISE)),
    )
    yield Claim(
        "seed 5 alone and as the third of four",
        lambda: as_tensor(fn([2, 9, 5, 0], NOISE))[2:3],
        lambda got: find_problem(got, fn([5], NOISE)),
    )
    yield Claim(
        "seeds 7, 3, 9 and 0: each row that of its seed alone, in the order given",
        lambda: fn([7, 3, 9, 0], NOISE),
        lambda got: find_problem(
            got, torch.cat([as_tensor(fn([seed], NOISE)) for seed in (7, 3, 9, 0)])
        ),
    )
    yield Claim("100 seeds, no two give the same noise", lambda: repeated(fn), verdict)
    yield Claim(
        "100 seeds: neighbours uncorrelated, mean 0, std 1, kurtosis 3",
        lambda: statistics(fn),
        verdict,
    )
    yield Claim("torch's global random numbers are left alone", lambda: untouched(fn), verdict)
