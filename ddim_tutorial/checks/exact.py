"""Exact inversion, notebook 09."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..analytic import mixture
from ..schedule import Schedule, scaled_linear
from .judge import Claim, Mistake, as_tensor, draw, find_problem, judge, verdict


@judge
def check_evaluations(fn: Callable[[float, float, float], int]) -> Iterator[Claim]:
    """Judge ``fn(q, first, tol) -> n``: how many evaluations an iteration takes whose residual is
    ``first`` at the first evaluation and shrinks by 0 < q < 1 at every further one, until it is at
    most ``tol``."""

    def counted(q: float, first: float, tol: float) -> int:
        n, residual = 1, first
        while residual > tol:
            n, residual = n + 1, residual * q
        return n

    for q, first, tol in (
        (0.5, 1.0, 0.2),
        (0.5, 1.0, 0.25),  # the tolerance met exactly
        (0.1, 0.5, 3e-6),
        (0.9, 0.05, 1e-6),
        (0.5, 1e-7, 1e-6),
    ):
        n = counted(q, first, tol)
        yield Claim(
            f"a factor of {q:g} from {first:g} to {tol:g}",
            lambda q=q, first=first, tol=tol: fn(q, first, tol),
            n,
            {
                "the first evaluation is not counted, or the quotient is rounded down": n - 1,
            },
        )


@judge
def check_anderson(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(z_old, g_old, z, g) -> z_new``, (B, d) each: Anderson's update from two states and
    their images, g - gamma (g - g_old), where r = g - z and each row's own gamma makes
    |r - gamma (r - r_old)| smallest."""
    root, slopes = draw(3, 1), torch.tensor([[0.5], [-3.0], [2.0]], dtype=torch.float64)

    def line(z: Tensor) -> Tensor:
        return root + slopes * (z - root)

    z_old = torch.zeros_like(root)
    z = line(z_old)
    given = (z_old, line(z_old), z, line(z))
    yield Claim(
        "on lines of slope 0.5, -3 and 2 it lands on the solution, each row by itself",
        lambda: fn(*given),
        root,
        {"you returned g, the plain iteration": given[3]} | _slips(*given),
    )
    z_old, g_old, z, g = (draw(4, 6, seed=i) for i in range(4))
    r, dr = g - z, (g - z) - (g_old - z_old)
    gamma = torch.stack([torch.linalg.lstsq(a[:, None], b[:, None]).solution[0] for a, b in
                         zip(dr, r, strict=True)])  # fmt: skip
    yield Claim(
        "four rows of six numbers, as by least squares",
        lambda: fn(z_old, g_old, z, g),
        g - gamma * (g - g_old),
        {"you returned g, the plain iteration": g} | _slips(z_old, g_old, z, g),
    )
    plain = _solve(lambda *history: history[-1], 200)
    most = 2 * plain // 3
    yield Claim(
        "a step of the mixture, up from t = 300 to 600: solved to 1e-8 in two thirds of the"
        f" plain iteration's {plain} evaluations",
        lambda: _solve(fn, most),
        lambda n: None if n <= most else f"not solved after {most} evaluations",
    )


def _slips(z_old: Tensor, g_old: Tensor, z: Tensor, g: Tensor) -> dict[str, Tensor]:
    r, r_old = g - z, g_old - z_old
    dr = r - r_old
    gamma = (dr * r).sum(1, keepdim=True) / dr.square().sum(1, keepdim=True)
    shared = (dr * r).sum() / dr.square().sum()
    return {
        "the sign of gamma is wrong": g + gamma * (g - g_old),
        "gamma is one for all rows": g - shared * (g - g_old),
        "it mixes the states and leaves out their residuals": z - gamma * (z - z_old),
        "gamma multiplies the residuals' difference": g - gamma * dr,
        "gamma is that of the older residual": g - (gamma - 1) * (g - g_old),
        "it starts from the older image": g_old - gamma * (g - g_old),
    }


def _solve(update: Callable[..., Any], most: int) -> int:
    """Evaluations to a relative residual of 1e-8 on a step of a mixture; most + 1 if not solved."""
    schedule, s, t = scaled_linear(), 300, 600
    model, x_s = _mixture(schedule), draw(4, 8, seed=5)
    root = schedule.alpha_bar.sqrt()
    rho = (1 / schedule.alpha_bar - 1).sqrt()

    def g_of(z: Tensor) -> Tensor:
        eps = model(z, torch.full((len(z),), t))
        return root[t] * (x_s / root[s] + (rho[t] - rho[s]) * eps)

    z_old, g_old = x_s, g_of(x_s)
    z, n = g_old, 1
    while n < most:
        g, n = g_of(z), n + 1
        if ((g - z).norm(dim=1) <= 1e-8 * z.norm(dim=1)).all():
            return n
        new = as_tensor(update(z_old, g_old, z, g))
        if problem := _shape_problem(new, z):
            raise Mistake(problem)
        z_old, g_old, z = z, g, new
    return most + 1


def _shape_problem(new: Tensor, z: Tensor) -> str | None:
    return None if new.shape == z.shape else f"got {tuple(new.shape)}, wanted {tuple(z.shape)}"


def _mixture(schedule: Schedule) -> Any:
    return mixture(draw(5, 8, seed=7), 0.4, torch.ones(5), schedule)


@judge
def check_unmix(fn: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]) -> Iterator[Claim]:
    """Judge ``fn(x, y, p) -> (x, y)``, the inverse of EDICT's mixing (arXiv:2211.12446, Eq. 14):
    first x <- p x + (1 - p) y, then y <- p y + (1 - p) x with the new x."""
    x, y = draw(2, 3), draw(2, 3, seed=1)

    def mixed(p: float) -> tuple[Tensor, Tensor]:
        new = p * x + (1 - p) * y
        return new, p * y + (1 - p) * new

    def run(p: float) -> str | None:
        answer = fn(*mixed(p), p)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            return f"got a {type(answer).__name__}, wanted the pair (x, y)"
        for name, got, wanted in zip("xy", answer, (x, y), strict=True):
            if problem := find_problem(got, wanted):
                return f"{name} {problem}" + _order_slip(answer, *mixed(p), p)
        return None

    for p in (1.0, 0.93, 0.5):
        yield Claim(f"p = {p:g}: the pair before mixing", lambda p=p: run(p), verdict)


def _order_slip(answer: Any, x: Tensor, y: Tensor, p: float) -> str:
    first = (x - (1 - p) * y) / p
    second = (y - (1 - p) * first) / p
    if find_problem(answer[0], first) is None and find_problem(answer[1], second) is None:
        return "; it looks as if x is undone first, though it was mixed first"
    return ""
