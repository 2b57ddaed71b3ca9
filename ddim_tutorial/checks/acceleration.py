"""Orders and multistep solvers, notebook 08."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..analytic import gaussian
from ..predict import EpsModel
from ..schedule import Schedule, linear
from .judge import Claim, draw, judge


@judge
def check_order(fn: Callable[[int, float, int, float], float]) -> Iterator[Claim]:
    """Judge ``fn(steps_a, error_a, steps_b, error_b) -> order``: the p of error = C / steps^p."""
    for claim, given, order in (
        ("half the error for twice the steps: order 1", (10, 0.2, 20, 0.1), 1.0),
        ("a quarter for twice the steps: order 2", (10, 0.4, 20, 0.1), 2.0),
        ("a hundredth for ten times the steps: order 2", (5, 1.0, 50, 0.01), 2.0),
        ("the error of a method that does not converge: order 0", (10, 0.3, 40, 0.3), 0.0),
        ("the two points in the other order", (40, 0.025, 10, 0.1), 1.0),
        ("an error that grows: order -1", (10, 0.1, 20, 0.2), -1.0),
    ):
        steps_a, error_a, steps_b, error_b = given
        fewer = error_a / error_b
        yield Claim(
            claim,
            lambda given=given: fn(*given),
            torch.tensor(order, dtype=torch.float64),
            {
                "the sign is wrong": -order,
                "no logarithm is taken of the errors": fewer / (steps_b / steps_a),
                "the logarithm of the steps is missing": torch.tensor(fewer).log(),
            },
        )


@judge
def check_correction(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    r"""Judge ``fn(x0_hat, x0_hat_before, lambda_before, lambda_t, lambda_s) -> D``, the correction
    of DPM-Solver++ 2M.

    For jumps that lie on a straight line in lambda, D is the line's value in the middle of the step
    from t to s.
    """
    level, slope = draw(2, 1, 4, 4), draw(2, 1, 4, 4, seed=1)
    for claim, lambdas in (
        ("a step as long as the one before", (-1.0, 0.0, 1.0)),
        ("a step twice as long as the one before", (-2.0, -1.5, -0.5)),
        ("a step that is much shorter", (0.0, 3.0, 3.5)),
        ("upwards, as inversion goes", (2.0, 1.0, -0.5)),
    ):
        before, now, after = lambdas
        jumps = level + now * slope, level + before * slope
        ratio = (after - now) / (now - before)

        def corrected(factor: float, jumps: tuple[Tensor, Tensor] = jumps) -> Tensor:
            return jumps[0] + factor * (jumps[0] - jumps[1])

        yield Claim(
            f"jumps on a line, {claim}: D is the line half way",
            lambda jumps=jumps, lambdas=lambdas: fn(*jumps, *lambdas),
            level + (now + after) / 2 * slope,
            {
                "there is no correction: that is DDIM": jumps[0],
                "the factor 1/2 is missing": corrected(ratio),
                "the two steps are swapped in the ratio": corrected(1 / ratio / 2),
                "the sign of the correction is wrong": corrected(-ratio / 2),
                "the ratio of the steps is missing": corrected(0.5),
            },
        )
    same = (level, level, -1.0, 0.0, 2.0)
    yield Claim("a jump that did not move is not corrected", lambda: fn(*same), level)


def two_m(model: EpsModel, x: Tensor, times: list[int], schedule: Schedule) -> Tensor:
    """DPM-Solver++ 2M as in Lu et al., Algorithm 2, in exponentials; the last step into 0 is
    DDIM's."""
    a, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    lam = (a / sigma).log()
    kept = None
    for t, s in pairwise(times):
        jump = (x - sigma[t] * model(x, torch.full((len(x),), t))) / a[t]
        D = jump
        if kept is not None and s > 0:
            r = (lam[t] - lam[kept[0]]) / (lam[s] - lam[t])
            D = (1 + 1 / (2 * r)) * jump - 1 / (2 * r) * kept[1]
        x = sigma[s] / sigma[t] * x - a[s] * (torch.exp(lam[t] - lam[s]) - 1) * D
        kept = t, jump
    return x


@judge
def check_second_run(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge a 2M sampler, ``fn(model, x_T, times, schedule) -> x_0``, that is called again and
    again: no call may remember another. A last step into 0 is DDIM's."""
    schedule = linear()
    model = gaussian(torch.full((1, 2, 2), 0.3, dtype=torch.float64), 0.7, schedule)
    first, second = draw(2, 1, 2, 2), draw(2, 1, 2, 2, seed=1)
    more, grid, short = draw(5, 1, 2, 2, seed=2), [1000, 700, 350, 100, 0], [900, 400, 0]
    for claim, x_T, times in (
        ("the first run, 4 steps", first, grid),
        ("the same run again", first, grid),
        ("a run from another noise", second, grid),
        ("five pictures where there were two", more, grid),
        ("another grid", first, short),
        ("a grid that stops at 350", first, [1000, 700, 350]),
        ("after that one, a grid that starts below its last time", first, [600, 100, 0]),
    ):
        yield Claim(
            f"Gaussian data, {claim}: as Algorithm 2 says",
            lambda x_T=x_T, times=times: fn(model, x_T.clone(), list(times), schedule),
            two_m(model, x_T, times, schedule),
            {"it is DDIM": ddim(model, x_T, times, schedule)},
        )


def ddim(model: EpsModel, x: Tensor, times: list[int], schedule: Schedule) -> Tensor:
    """DDIM Eq. 12 at sigma = 0."""
    a, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    for t, s in pairwise(times):
        eps = model(x, torch.full((len(x),), t))
        x = a[s] * (x - sigma[t] * eps) / a[t] + sigma[s] * eps
    return x
