"""Time grids and whole samplers, notebooks 02, 04 and 06."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..analytic import gaussian
from ..schedule import linear
from .asked import Questions
from .judge import TOLERANCE, Claim, Mistake, as_tensor, draw, find_problem, judge, verdict


@judge
def check_times(fn: Callable[[int, int], list[int]], spacing: str = "trailing") -> Iterator[Claim]:
    """Judge ``fn(T, steps) -> list[int]``: the "trailing" or "leading" grid, decreasing to 0, steps
    + 1 long."""
    literal = {"trailing": [1000, 800, 600, 400, 200, 0], "leading": [801, 601, 401, 201, 1, 0]}
    if spacing not in literal:
        raise ValueError(f"spacing: got {spacing!r}, wanted one of {', '.join(literal)}")
    yield Claim(f"T = 1000, 5 steps: {literal[spacing]}", lambda: fn(1000, 5), literal[spacing])
    yield Claim("T = 4, 4 steps: every time", lambda: fn(4, 4), [4, 3, 2, 1, 0])
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(1000, timestep_spacing=spacing)
    for steps in (10, 50, 30, 1000):
        peer.set_timesteps(steps)
        yield Claim(
            f"diffusers' {spacing} timesteps + 1, then 0, at {steps} steps",
            lambda steps=steps: fn(1000, steps),
            [int(timestep) + 1 for timestep in peer.timesteps] + [0],
        )
    yield Claim(
        "1..1000 steps: steps + 1 times, strictly decreasing, the last is 0",
        lambda: _uneven(fn),
        verdict,
    )


def _uneven(fn: Callable[[int, int], list[int]]) -> str | None:
    for steps in range(1, 1001):
        grid = fn(1000, steps)
        if not isinstance(grid, list | tuple | range):
            raise Mistake(f"at {steps} steps: got a {type(grid).__name__}, wanted a list of times")
        kinds = {type(t).__name__ for t in grid if not isinstance(t, Integral)}
        if kinds:
            raise Mistake(f"at {steps} steps: a time is a {min(kinds)}, wanted whole numbers, int")
        if len(grid) != steps + 1 or grid[-1] != 0 or any(a <= b for a, b in pairwise(grid)):
            return f"at {steps} steps: {len(grid)} times, {list(grid[:3])} ... {list(grid[-3:])}"
    return None


class _Gaussian:
    r"""DDIM on Gaussian data of mean 0.3 and std 0.7, where every state has a closed form:
    :math:`x_s - a_s \mu` is
    :math:`(d^2 a_t a_s + \sigma_t \sigma_s)/(d^2 a_t^2 + \sigma_t^2)` times :math:`x_t - a_t \mu`,
    with :math:`d` the std, :math:`a = \sqrt{\bar\alpha}` and :math:`\sigma^2 = 1 - \bar\alpha`. The
    exact model writes down what it is asked, so that the first wrong step can be named.
    """

    schedule, mean, std = linear(), 0.3, 0.7
    a, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    x_T = draw(2, 1, 2, 2)

    def __init__(self, times: list[int]):
        self.times, self.questions = times, Questions(len(times) - 1)
        self.exact = gaussian(
            torch.full((1, 2, 2), self.mean, dtype=torch.float64), self.std, self.schedule
        )
        self.states = [self.x_T]
        for t, s in pairwise(times):
            gain = (
                self.std**2 * self.a[t] * self.a[s] + self.sigma[t] * self.sigma[s]
            ) / self._power(t)
            self.states.append(
                self.a[s] * self.mean + gain * (self.states[-1] - self.a[t] * self.mean)
            )

    def _power(self, t: int) -> Tensor:
        return self.std**2 * self.a[t] ** 2 + self.sigma[t] ** 2

    def jump(self, i: int) -> Tensor:
        """E[x_0 | x_t] at the i-th time."""
        t = self.times[i]
        return self.mean + self.std**2 * self.a[t] / self._power(t) * (
            self.states[i] - self.a[t] * self.mean
        )

    def noise_in(self, x0_hat: Any, i: int) -> str:
        """How often the eps of the i-th state is in x0_hat - E[x_0 | x_t], in words."""
        eps = self.exact(self.states[i], torch.full((len(self.x_T),), self.times[i]))
        wrong = as_tensor(x0_hat).double()
        if wrong.shape != eps.shape:
            return ""
        share = ((wrong - self.jump(i)) * eps).sum() / eps.square().sum()
        return f"; it holds {share.item():+.3g} eps too much"

    def __call__(self, x_t: Any, t: Any) -> Tensor:
        self.questions.add(x_t, t)
        return self.exact(x_t, t)

    def run(self, fn: Callable) -> Any:
        """What ``fn`` makes of the model; None where it was stopped."""
        return self.questions.run(fn, self, self.x_T.clone(), list(self.times), self.schedule)

    def where(self, i: int) -> str:
        return (
            f"step {i + 1} of {len(self.times) - 1}, from t = {self.times[i]} to s ="
            f" {self.times[i + 1]}"
        )

    def asked_wrongly(self, i: int) -> str | None:
        """How the i-th question to the model differs from the one that it should have been."""
        expected = [self.times[i]] * len(self.x_T)
        if i == len(self.questions):
            return f"{self.where(i)}: the model was not asked"
        if self.questions[i][0] != expected:
            return (
                f"{self.where(i)}: the model was asked at {self.questions[i][0]}, wanted {expected}"
            )
        if problem := find_problem(self.questions[i][1], self.states[i]):
            before = (
                f"the step before, from t = {self.times[i - 1]} to s = {self.times[i]}, is wrong"
            )
            return f"{self.where(i)}: x_t {problem}: {before if i else 'x_T itself'}"
        return None


def _runs(of_run: Callable[[_Gaussian], str | None], claim: str) -> Iterator[Claim]:
    """The claim for four grids: short, regular, leading, and Stable Diffusion's end at 1."""
    for times in (
        [1000, 500, 0],
        list(range(1000, -1, -20)),
        [901, 601, 301, 1, 0],
        [982, 500, 23, 1],
    ):
        shown = ", ".join(map(str, times if len(times) < 6 else [*times[:2], "...", times[-1]]))
        yield Claim(
            f"Gaussian data, times {shown}: {claim}",
            lambda times=times: of_run(_Gaussian(times)),
            verdict,
        )


@judge
def check_trajectory(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge a whole sampler, ``fn(model, x_T, times, schedule) -> x at times[-1]``, deterministic
    (eta = 0)."""

    def of_run(model: _Gaussian) -> str | None:
        x = model.run(fn)
        for i in range(len(model.times) - 1):
            if problem := model.asked_wrongly(i):
                return problem
        if model.questions.stopped:
            return model.questions.too_many()
        t, s = model.times[-2:]
        end = find_problem(x, model.states[-1])
        return end and f"the last step, from t = {t} to s = {s}, or what is returned: {end}"

    yield from _runs(of_run, "every state as in closed form")


@judge
def check_jumps(fn: Callable[..., list[Tensor]]) -> Iterator[Claim]:
    """Judge ``fn(model, x_T, times, schedule) -> [x0_hat of every step]``, the jumps of a
    deterministic run.

    The run may keep its state in any scale (x_t, or x_t / sqrt(alpha_bar_t) as K-LMS does), but the
    model has to be shown x_t. What is wrong with a jump is told in units of eps, too: noise that
    was left in, or taken out twice.
    """

    def of_run(model: _Gaussian) -> str | None:
        jumps = model.run(fn)
        if model.questions.stopped:
            jumps = []
        elif not isinstance(jumps, list | tuple | Tensor):
            return f"got a {type(jumps).__name__}, wanted a list with the x0_hat of every step"
        for i in range(len(model.times) - 1):
            if problem := model.asked_wrongly(i):
                return problem
            if model.questions.stopped:
                continue
            if i == len(jumps):
                return f"{model.where(i)}: no x0_hat, the list ends before"
            # float32 passes: the jump divides rounding by sqrt(alpha_bar_T) = 0.0064
            if problem := find_problem(jumps[i], model.jump(i), 10 * TOLERANCE):
                return f"{model.where(i)}: x0_hat {problem}{model.noise_in(jumps[i], i)}"
        return model.questions.too_many()

    yield from _runs(of_run, "every jump is E[x_0 | x_t]")
