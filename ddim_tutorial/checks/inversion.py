"""Inversion, notebook 03."""

from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor

from ..analytic import gaussian
from ..schedule import linear
from . import slips
from .asked import Questions
from .judge import Claim, Mistake, as_tensor, draw, find_problem, judge, verdict


@judge
def check_invert_step(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_s, eps, ab_s, ab_t) -> x_t``: the DDIM step from s up to t with a given eps
    (DDIM Eq. 13)."""
    x_0, eps = draw(2, 1, 4, 4), draw(2, 1, 4, 4, seed=1)
    ab = torch.tensor([1.0, 0.64, 0.36], dtype=torch.float64)
    yield Claim(
        "from s = 0 it adds the noise eps: 0.6 x_0 + 0.8 eps",
        lambda: fn(x_0, eps, ab[0], ab[2]),
        0.6 * x_0 + 0.8 * eps,
        slips.step(x_0, eps, ab[0], ab[2]) | slips.noising(x_0, eps, ab[2]),
    )
    yield Claim(
        "the true noise stays on the line: from 0.8 x_0 + 0.6 eps to 0.6 x_0 + 0.8 eps",
        lambda: fn(0.8 * x_0 + 0.6 * eps, eps, ab[1], ab[2]),
        0.6 * x_0 + 0.8 * eps,
        {"x_s is taken for x_0": 0.6 * (0.8 * x_0 + 0.6 * eps) + 0.8 * eps}
        | slips.step(0.8 * x_0 + 0.6 * eps, eps, ab[1], ab[2]),
    )
    from diffusers import DDIMInverseScheduler

    peer = DDIMInverseScheduler(
        1000, clip_sample=False, beta_schedule="linear", beta_start=1e-4, beta_end=0.02
    )
    peer.set_timesteps(50)
    bar = peer.alphas_cumprod.double()
    for timestep in (20, 500, 960):
        # diffusers' inverse step with "timestep" starts at timestep - 20 and ends at timestep
        yield Claim(
            f"diffusers' inverse step from t = {timestep - 19} to t = {timestep + 1}",
            lambda timestep=timestep: fn(x_0, eps, bar[timestep - 20], bar[timestep]),
            peer.step(eps, timestep, x_0).prev_sample,
        )


@judge
def check_invert(fn: Callable[..., Tensor], eps_time: str = "target") -> Iterator[Claim]:
    r"""Judge ``fn(model, x_0, times, schedule) -> x_T``, naive inversion over sample's decreasing
    ``times``.

    eps_time: "target" or "source", the time that eps is asked at. The model is exact for Gaussian
    data of mean 0 and std 0.7, where a step multiplies by :math:`a_t/a_s + (\sigma_t - \sigma_s
    a_t/a_s)\,\sigma_q/(0.49\,a_q^2 + \sigma_q^2)`, q being the time asked at; it writes down what
    it is asked, so the first wrong step is named.
    """
    if eps_time not in ("target", "source"):
        raise ValueError(f"eps_time: got {eps_time!r}, wanted 'target' or 'source'")
    schedule, std = linear(), 0.7
    exact = gaussian(torch.zeros(1, 2, 2, dtype=torch.float64), std, schedule)
    a, sigma = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    x_0 = draw(2, 1, 2, 2)

    def run(times: list[int]) -> str | None:
        questions = Questions(len(times) - 1)

        def model(x: Any, t: Any) -> Tensor:
            questions.add(x, t)
            return exact(x, t)

        x, state = questions.run(fn, model, x_0.clone(), list(times), schedule), x_0
        for i, (s, t) in enumerate(pairwise(times[::-1])):
            where = f"step {i + 1} of {len(times) - 1}, from s = {s} up to t = {t}"
            q = t if eps_time == "target" else max(s, 1)
            if i == len(questions):
                return f"{where}: the model was not asked"
            if questions[i][0] != [q] * len(x_0):
                return f"{where}: the model was asked at {questions[i][0]}, wanted {[q] * len(x_0)}"
            if problem := find_problem(questions[i][1], state):
                origin = "the result of the step before" if i else "x_0"
                return f"{where}: the state {problem}: it should be {origin}"
            gain = a[t] / a[s] + (sigma[t] - sigma[s] * a[t] / a[s]) * sigma[q] / (
                std**2 * a[q] ** 2 + sigma[q] ** 2
            )
            state = gain * state
        if questions.stopped:
            return questions.too_many()
        last = f"the last step, from s = {times[1]} up to t = {times[0]}, or what is returned"
        problem = find_problem(x, state)
        return problem and f"{last}: {problem}"

    for times in ([1000, 500, 0], list(range(1000, -1, -20)), [982, 500, 23, 1]):
        shown = ", ".join(map(str, times if len(times) < 6 else [*times[:2], "...", times[-1]]))
        yield Claim(
            f"Gaussian data, times {shown}: every state as in closed form",
            lambda times=times: run(times),
            verdict,
        )


@judge
def check_slope(fn: Callable[[list[float], list[float]], float]) -> Iterator[Claim]:
    """Judge ``fn(x, y) -> slope`` of the least-squares line through (log x, log y): the order of a
    method."""
    x = [10.0, 20.0, 50.0, 100.0]
    yield Claim("y = 3 / x has slope -1", lambda: fn(x, [3 / v for v in x]), -1.0)
    yield Claim(
        "y = x^2 has slope 2", lambda: fn(x, [v**2 for v in x]), 2.0, {"x and y are swapped": 0.5}
    )
    from numpy import log, polyfit

    y = [0.5, 0.3, 0.09, 0.06]
    yield Claim(
        "numpy's polyfit on four points that lie on no line",
        lambda: fn(x, y),
        float(polyfit(log(x), log(y), 1)[0]),
    )


@judge
def check_solve(fn: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(g, x) -> x``: the solution of x = g(x) by averaging x and g(x) from the given x
    on, for maps whose slope lies between -2 and 0.5, where plain iteration fails below -1."""
    root, start = draw(3, 1), draw(3, 1, seed=1)

    def line(slope: float, most: int = 1000) -> Callable[[Tensor], Tensor]:
        asked = count(1)

        def g(x: Any) -> Tensor:
            number = next(asked)
            if number == 1 and not torch.equal(as_tensor(x), start):
                raise Mistake("g was first asked at another x than the one given: begin there")
            if number > most:
                raise Mistake(f"g was asked more than {most} times; after how many do you stop?")
            return root + slope * (as_tensor(x) - root)

        return g

    for slope in (0.5, -0.5, -1.2, -1.9):
        yield Claim(
            f"a line of slope {slope:g}: the x with x = g(x), three numbers at once",
            lambda slope=slope: fn(line(slope), start.clone()),
            root,
            {"you returned g(x) of the first x": line(slope)(start)},
        )
