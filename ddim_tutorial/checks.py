r"""Judges for a reader's own functions, for the cell below the exercise.

Every check prints what it verified, or the first claim that fails and by how much, or "not
attempted yet" for a stub that raises NotImplementedError. It never raises for a wrong answer and
returns None, so that Run All goes on. What is right is taken from closed forms and from diffusers,
not from this package's own functions.
"""

import math
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .analytic import gaussian
from .schedule import linear

# What the reader must show: a claim, the call that shows it, and the answer, or a test that names
# what is wrong.
Claim = tuple[str, Callable[[], Any], Any]
TOLERANCE = 1e-5  # of the largest value wanted, or of 1: float32 passes, a wrong formula does not


def _judge(check: Callable[..., Iterator[Claim]]) -> Callable[..., None]:
    """Turn a generator of claims about ``fn`` into a check that prints and never raises for what
    ``fn`` does."""

    @wraps(check)
    def run(fn: Callable, **options: Any) -> None:
        name, passed = check.__name__.removeprefix("check_"), []
        for claim, call, wanted in check(fn, **options):
            try:
                problem = _problem(call(), wanted)
            except NotImplementedError:
                print(f"{name}: not attempted yet")
                return
            except Exception as error:
                problem = f"your function raised {type(error).__name__}: {error}"
            if problem:
                print(
                    f"{name}: not yet right. Verified so far: {len(passed)}.\n  first failure:"
                    f" {claim}\n  {problem}"
                )
                return
            passed.append(claim)
        print("\n".join([f"{name}: right. Verified:", *(f"  - {claim}" for claim in passed)]))

    return run


def _problem(got: Any, wanted: Any, tolerance: float = TOLERANCE) -> str | None:
    """What is wrong with an answer, or None. A callable ``wanted`` judges by itself."""
    if callable(wanted):
        return wanted(got)
    if got is None:
        return "got None; does your function return its result?"
    if isinstance(wanted, list):
        got = list(got)
        differ = (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
        place = next(differ, min(len(got), len(wanted)))
        return (
            None
            if got == wanted
            else (
                f"{len(got)} entries, wanted {len(wanted)}; the first difference is entry "
                f"{place}: {got[place : place + 3]}, wanted {wanted[place : place + 3]}"
            )
        )
    if isinstance(got, tuple):
        return f"got a tuple of {len(got)} where one tensor is wanted"
    got, wanted = torch.as_tensor(got), torch.as_tensor(wanted)
    if got.shape != wanted.shape:
        return f"got shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
    got, wanted = got.detach().double().cpu(), wanted.double().cpu()
    if not got.isfinite().all():
        return f"got {int((~got.isfinite()).sum())} NaN or infinite values of {got.numel()}"
    error, bound = (
        (got - wanted).abs().max().item(),
        tolerance * max(1.0, wanted.abs().max().item()),
    )
    if error <= bound:
        return None
    numbers = f": {got.item():.6g}, wanted {wanted.item():.6g}" if got.numel() == 1 else ""
    return f"differs by up to {error:.2g} (allowed {bound:.0e}){numbers}"


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _verdict(problem: str | None) -> str | None:
    """For a call that says itself what is wrong."""
    return problem


def _part(answer: Any, index: int) -> Any:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"it returned {type(answer).__name__}, wanted the pair (x_s, x0_hat)")
    return answer[index]


@_judge
def check_translation(fn: Callable[[Tensor], Tensor]) -> Iterator[Claim]:
    r"""Judge ``fn(betas) -> alpha_bar``: from the (T,) betas of DDPM to (T+1,) :math:`\bar\alpha`,
    starting at 1.

    The DDIM paper calls the same numbers alpha_t (Song et al. 2021, arXiv:2010.02502, section 2).
    """
    constant = torch.full((5,), 0.1, dtype=torch.float64)
    yield (
        "constant beta = 0.1: alpha_bar_t is 0.9^t, t = 0..5",
        lambda: fn(constant),
        0.9 ** torch.arange(6.0).double(),
    )
    two = torch.tensor([0.2, 0.5], dtype=torch.float64)
    yield "beta = 0.2, 0.5: alpha_bar is 1, 0.8, 0.4", lambda: fn(two), torch.tensor([1, 0.8, 0.4])
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02)
    yield (
        "diffusers' alphas_cumprod for the linear schedule, shifted by one",
        lambda: fn(peer.betas.double()),
        torch.cat([torch.ones(1), peer.alphas_cumprod]),
    )


@_judge
def check_add_noise(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_0, eps, ab_t) -> x_t`` (DDIM Eq. 4; DDPM Eq. 4)."""
    x_0, eps = _draw(3, 1, 4, 4), _draw(3, 1, 4, 4, seed=1)
    one, ab_t = torch.ones((), dtype=torch.float64), torch.tensor(0.36, dtype=torch.float64)
    yield "alpha_bar_t = 1 leaves x_0 as it is", lambda: fn(x_0, eps, one), x_0
    yield (
        "alpha_bar_t = 0.36: x_t = 0.6 x_0 + 0.8 eps",
        lambda: fn(x_0, eps, ab_t),
        0.6 * x_0 + 0.8 * eps,
    )
    from diffusers import DDIMScheduler

    peer, t = DDIMScheduler(1000), torch.tensor([1, 400, 1000])
    ab = peer.alphas_cumprod.double()[t - 1].view(3, 1, 1, 1)
    yield (
        "diffusers' add_noise at t = 1, 400, 1000, one time for each picture",
        lambda: fn(x_0, eps, ab),
        peer.add_noise(x_0, eps, t - 1),
    )


@_judge
def check_predict_x0(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_t, eps, ab_t) -> x0_hat``, the jump (DDIM Eq. 9; the first term of Eq. 12)."""
    x_0, eps = _draw(3, 1, 4, 4), _draw(3, 1, 4, 4, seed=1)
    one, ab_t = torch.ones((), dtype=torch.float64), torch.tensor(0.36, dtype=torch.float64)
    yield "alpha_bar_t = 1: x0_hat is x_t", lambda: fn(x_0, eps, one), x_0
    yield "the true noise gives back x_0", lambda: fn(0.6 * x_0 + 0.8 * eps, eps, ab_t), x_0
    yield (
        "eps = 0 only rescales: x_t / 0.6",
        lambda: fn(x_0, torch.zeros_like(eps), ab_t),
        x_0 / 0.6,
    )
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(1000, clip_sample=False)
    peer.set_timesteps(1000)
    for t in (1, 500, 1000):
        yield (
            f"diffusers' pred_original_sample at t = {t}",
            lambda t=t: fn(x_0, eps, peer.alphas_cumprod.double()[t - 1]),
            peer.step(eps, t - 1, x_0).pred_original_sample,
        )


@_judge
def check_ddim_sigma(fn: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(ab_t, ab_s, eta) -> sigma`` (DDIM Eq. 16)."""
    ab = linear().alpha_bar
    yield "eta = 0 adds no noise", lambda: fn(ab[500], ab[480], 0.0), 0.0
    yield "the step to t = 0 adds no noise", lambda: fn(ab[20], ab[0], 1.0), 0.0
    for t, s in ((500, 499), (2, 1), (500, 400)):
        # The precision of x_s given x_0 and x_t: that of q(x_s | x_0) plus that of q(x_t | x_s), in
        # units of x_s.
        ratio = ab[t] / ab[s]
        posterior = 1 / (1 / (1 - ab[s]) + ratio / (1 - ratio))
        name = "DDPM's posterior std, DDPM Eq. 7" if t - s == 1 else "Bayes' rule for a long step"
        yield (
            f"eta = 1, t = {t}, s = {s}: {name}",
            lambda t=t, s=s: fn(ab[t], ab[s], 1.0),
            posterior.sqrt(),
        )
    yield (
        "eta = 0.5 is half of eta = 1",
        lambda: torch.as_tensor(fn(ab[500], ab[400], 0.5)) / fn(ab[500], ab[400], 1.0),
        0.5,
    )


@_judge
def check_ddim_step(fn: Callable[..., tuple[Tensor, Tensor]]) -> Iterator[Claim]:
    """Judge ``fn(x_t, eps, ab_t, ab_s, sigma=0.0, noise=None) -> (x_s, x0_hat)`` (DDIM Eq. 12)."""
    x_0, eps, noise = (_draw(2, 1, 4, 4, seed=seed) for seed in range(3))
    ab = torch.tensor([1.0, 0.64, 0.36], dtype=torch.float64)
    x_t = 0.6 * x_0 + 0.8 * eps
    yield "the true noise gives x0_hat = x_0", lambda: _part(fn(x_t, eps, ab[2], ab[1]), 1), x_0
    yield (
        "sigma = 0 stays on the line: from 0.6 x_0 + 0.8 eps to 0.8 x_0 + 0.6 eps",
        lambda: _part(fn(x_t, eps, ab[2], ab[1]), 0),
        0.8 * x_0 + 0.6 * eps,
    )
    yield "s = 0 ends at x0_hat", lambda: _part(fn(x_t, eps, ab[2], ab[0]), 0), x_0
    yield (
        "sigma = 0.36: 0.48 of eps are left, sqrt(0.6^2 - 0.36^2), and 0.36 of fresh noise come in",
        lambda: _part(fn(x_t, eps, ab[2], ab[1], sigma=0.36, noise=noise), 0),
        0.8 * x_0 + 0.48 * eps + 0.36 * noise,
    )
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(1000, clip_sample=False)
    peer.set_timesteps(50)
    bar = torch.cat([torch.ones(1), peer.alphas_cumprod]).double()
    for t, eta in ((981, 0.0), (501, 0.3), (501, 1.0), (21, 1.0)):
        s = t - 20
        sigma = eta * peer._get_variance(t - 1, s - 1) ** 0.5
        yield (
            f"diffusers' DDIM step from t = {t} to s = {s} at eta = {eta:g}",
            lambda t=t, s=s, sigma=sigma: _part(
                fn(x_t, eps, bar[t], bar[s], sigma=sigma, noise=noise), 0
            ),
            peer.step(eps, t - 1, x_t, eta=eta, variance_noise=noise).prev_sample,
        )


@_judge
def check_times(fn: Callable[[int, int], list[int]], spacing: str = "trailing") -> Iterator[Claim]:
    """Judge ``fn(T, steps) -> list[int]``: the "trailing" or "leading" grid, decreasing to 0, steps
    + 1 long."""
    literal = {"trailing": [1000, 800, 600, 400, 200, 0], "leading": [801, 601, 401, 201, 1, 0]}
    if spacing not in literal:
        raise ValueError(f"spacing: got {spacing!r}, wanted one of {', '.join(literal)}")
    yield f"T = 1000, 5 steps: {literal[spacing]}", lambda: fn(1000, 5), literal[spacing]
    yield "T = 4, 4 steps: every time", lambda: fn(4, 4), [4, 3, 2, 1, 0]
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(1000, timestep_spacing=spacing)
    for steps in (10, 50, 30, 1000):
        peer.set_timesteps(steps)
        yield (
            f"diffusers' {spacing} timesteps + 1, then 0, at {steps} steps",
            lambda steps=steps: fn(1000, steps),
            [int(timestep) + 1 for timestep in peer.timesteps] + [0],
        )
    yield (
        "1..1000 steps: steps + 1 times, strictly decreasing, the last is 0",
        lambda: _uneven(fn),
        _verdict,
    )


def _uneven(fn: Callable[[int, int], list[int]]) -> str | None:
    for steps in range(1, 1001):
        grid = list(fn(1000, steps))
        if len(grid) != steps + 1 or grid[-1] != 0 or any(a <= b for a, b in pairwise(grid)):
            return f"at {steps} steps: {len(grid)} times, {grid[:3]} ... {grid[-3:]}"
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
    x_T = _draw(2, 1, 2, 2)

    def __init__(self, times: list[int]):
        self.times, self.asked = times, []
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
        wrong = torch.as_tensor(x0_hat).double()
        if wrong.shape != eps.shape:
            return ""
        share = ((wrong - self.jump(i)) * eps).sum() / eps.square().sum()
        return f"; it holds {share.item():+.3g} eps too much"

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((t.tolist(), x_t.detach().clone()))
        return self.exact(x_t, t)

    def where(self, i: int) -> str:
        return (
            f"step {i + 1} of {len(self.times) - 1}, from t = {self.times[i]} to s ="
            f" {self.times[i + 1]}"
        )

    def asked_wrongly(self, i: int) -> str | None:
        """How the i-th question to the model differs from the one that it should have been."""
        wanted = [self.times[i]] * len(self.x_T)
        if i == len(self.asked):
            return f"{self.where(i)}: the model was not asked"
        if self.asked[i][0] != wanted:
            return f"{self.where(i)}: the model was asked at {self.asked[i][0]}, wanted {wanted}"
        if problem := _problem(self.asked[i][1], self.states[i]):
            before = (
                f"the step before, from t = {self.times[i - 1]} to s = {self.times[i]}, is wrong"
            )
            return f"{self.where(i)}: x_t {problem}: {before if i else 'x_T itself'}"
        return None

    def asked_too_often(self) -> str | None:
        steps = len(self.times) - 1
        return (
            f"the model was asked {len(self.asked)} times for {steps} steps"
            if len(self.asked) > steps
            else None
        )


def _runs(of_run: Callable[[_Gaussian], str | None], claim: str) -> Iterator[Claim]:
    """The claim for four grids: short, regular, leading, and Stable Diffusion's end at 1."""
    for times in (
        [1000, 500, 0],
        list(range(1000, -1, -20)),
        [901, 601, 301, 1, 0],
        [982, 500, 23, 1],
    ):
        shown = ", ".join(map(str, times if len(times) < 6 else [*times[:2], "...", times[-1]]))
        yield (
            f"Gaussian data, times {shown}: {claim}",
            lambda times=times: of_run(_Gaussian(times)),
            _verdict,
        )


@_judge
def check_trajectory(fn: Callable[..., Tensor]) -> Iterator[Claim]:
    """Judge a whole sampler, ``fn(model, x_T, times, schedule) -> x at times[-1]``, deterministic
    (eta = 0)."""

    def of_run(model: _Gaussian) -> str | None:
        x = fn(model, model.x_T.clone(), list(model.times), model.schedule)
        for i in range(len(model.times) - 1):
            if problem := model.asked_wrongly(i):
                return problem
        t, s = model.times[-2:]
        end = _problem(x, model.states[-1])
        return model.asked_too_often() or (
            end and f"the last step, from t = {t} to s = {s}, or what is returned: {end}"
        )

    yield from _runs(of_run, "every state as in closed form")


@_judge
def check_jumps(fn: Callable[..., list[Tensor]]) -> Iterator[Claim]:
    """Judge ``fn(model, x_T, times, schedule) -> [x0_hat of every step]``, the jumps of a
    deterministic run.

    The run may keep its state in any scale (x_t, or x_t / sqrt(alpha_bar_t) as K-LMS does), but the
    model has to be shown x_t. What is wrong with a jump is told in units of eps, too: noise that
    was left in, or taken out twice.
    """

    def of_run(model: _Gaussian) -> str | None:
        jumps = list(fn(model, model.x_T.clone(), list(model.times), model.schedule))
        for i in range(len(model.times) - 1):
            if problem := model.asked_wrongly(i):
                return problem
            if i == len(jumps):
                return f"{model.where(i)}: no x0_hat, the list ends before"
            # float32 passes: the jump divides rounding by sqrt(alpha_bar_T) = 0.0064
            if problem := _problem(jumps[i], model.jump(i), 10 * TOLERANCE):
                return f"{model.where(i)}: x0_hat {problem}{model.noise_in(jumps[i], i)}"
        return model.asked_too_often()

    yield from _runs(of_run, "every jump is E[x_0 | x_t]")


@_judge
def check_guided_jump(
    fn: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor],
) -> Iterator[Claim]:
    """Judge ``fn(z_t, eps_u, eps_c, ab_t, scale) -> z0_hat``: classifier-free guidance (Ho &
    Salimans 2022,
    arXiv:2207.12598, Eq. 6), then the jump (DDIM Eq. 9)."""
    z_0, eps, apart = (_draw(2, 4, 4, 4, seed=seed) for seed in range(3))
    ab_t, z_t, eps_u = torch.tensor(0.36, dtype=torch.float64), 0.6 * z_0 + 0.8 * eps, eps + apart
    yield "scale 1: eps_c, the true noise, gives z_0", lambda: fn(z_t, eps_u, eps, ab_t, 1.0), z_0
    yield (
        "scale 0: eps_u alone, off by -0.8/0.6 of its error",
        lambda: fn(z_t, eps_u, eps, ab_t, 0.0),
        (z_0 - 0.8 / 0.6 * apart),
    )
    yield (
        "scale 4 goes on beyond eps_c by three times the way from eps_u",
        lambda: fn(z_t, eps_u, eps, ab_t, 4.0),
        z_0 + 3 * 0.8 / 0.6 * apart,
    )
    from diffusers import DDIMScheduler

    peer, w = DDIMScheduler(1000, clip_sample=False, beta_schedule="scaled_linear"), 6.5
    peer.set_timesteps(50)
    for t in (21, 501, 981):
        yield (
            (
                f"diffusers' pred_original_sample at t = {t} for (1 + w) eps_c - w eps_u, w = scale"
                " - 1 = 6.5"
            ),
            lambda t=t: fn(z_t, eps_u, eps, peer.alphas_cumprod.double()[t - 1], 1 + w),
            peer.step((1 + w) * eps - w * eps_u, t - 1, z_t).pred_original_sample,
        )


@_judge
def check_invert_step(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(x_s, eps, ab_s, ab_t) -> x_t``: the DDIM step from s up to t with a given eps
    (DDIM Eq. 13)."""
    x_0, eps = _draw(2, 1, 4, 4), _draw(2, 1, 4, 4, seed=1)
    ab = torch.tensor([1.0, 0.64, 0.36], dtype=torch.float64)
    yield (
        "from s = 0 it adds the noise eps: 0.6 x_0 + 0.8 eps",
        lambda: fn(x_0, eps, ab[0], ab[2]),
        0.6 * x_0 + 0.8 * eps,
    )
    yield (
        "the true noise stays on the line: from 0.8 x_0 + 0.6 eps to 0.6 x_0 + 0.8 eps",
        lambda: fn(0.8 * x_0 + 0.6 * eps, eps, ab[1], ab[2]),
        0.6 * x_0 + 0.8 * eps,
    )
    from diffusers import DDIMInverseScheduler

    peer = DDIMInverseScheduler(
        1000, clip_sample=False, beta_schedule="linear", beta_start=1e-4, beta_end=0.02
    )
    peer.set_timesteps(50)
    bar = peer.alphas_cumprod.double()
    for timestep in (20, 500, 960):
        # diffusers' inverse step with "timestep" starts at timestep - 20 and ends at timestep
        yield (
            f"diffusers' inverse step from t = {timestep - 19} to t = {timestep + 1}",
            lambda timestep=timestep: fn(x_0, eps, bar[timestep - 20], bar[timestep]),
            peer.step(eps, timestep, x_0).prev_sample,
        )


@_judge
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
    x_0 = _draw(2, 1, 2, 2)

    def run(times: list[int]) -> str | None:
        asked: list[tuple[list[int], Tensor]] = []

        def model(x: Tensor, t: Tensor) -> Tensor:
            asked.append((t.tolist(), x.detach().clone()))
            return exact(x, t)

        x, state = fn(model, x_0.clone(), list(times), schedule), x_0
        for i, (s, t) in enumerate(pairwise(times[::-1])):
            where = f"step {i + 1} of {len(times) - 1}, from s = {s} up to t = {t}"
            q = t if eps_time == "target" else max(s, 1)
            if i == len(asked):
                return f"{where}: the model was not asked"
            if asked[i][0] != [q] * len(x_0):
                return f"{where}: the model was asked at {asked[i][0]}, wanted {[q] * len(x_0)}"
            if problem := _problem(asked[i][1], state):
                wanted = "the result of the step before" if i else "x_0"
                return f"{where}: the state {problem}: it should be {wanted}"
            gain = a[t] / a[s] + (sigma[t] - sigma[s] * a[t] / a[s]) * sigma[q] / (
                std**2 * a[q] ** 2 + sigma[q] ** 2
            )
            state = gain * state
        if len(asked) > len(times) - 1:
            return f"the model was asked {len(asked)} times for {len(times) - 1} steps"
        problem = _problem(x, state)
        return (
            problem
            and f"the last step, from s = {times[1]} up to t = {times[0]}, or what is returned: {problem}"
        )

    for times in ([1000, 500, 0], list(range(1000, -1, -20)), [982, 500, 23, 1]):
        shown = ", ".join(map(str, times if len(times) < 6 else [*times[:2], "...", times[-1]]))
        yield (
            f"Gaussian data, times {shown}: every state as in closed form",
            lambda times=times: run(times),
            _verdict,
        )


@_judge
def check_slope(fn: Callable[[list[float], list[float]], float]) -> Iterator[Claim]:
    """Judge ``fn(x, y) -> slope`` of the least-squares line through (log x, log y): the order of a
    method."""
    x = [10.0, 20.0, 50.0, 100.0]
    yield "y = 3 / x has slope -1", lambda: fn(x, [3 / v for v in x]), -1.0
    yield "y = x^2 has slope 2", lambda: fn(x, [v**2 for v in x]), 2.0
    from numpy import log, polyfit

    y = [0.5, 0.3, 0.09, 0.06]
    yield (
        "numpy's polyfit on four points that lie on no line",
        lambda: fn(x, y),
        float(polyfit(log(x), log(y), 1)[0]),
    )


@_judge
def check_slerp(fn: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(a, b, weight)``: from a at 0 to b at 1 along the great circle, every picture of
    the (B, ...) batch on its own (DDIM appendix D.5)."""
    a, b = _draw(3, 1, 4, 4), _draw(3, 1, 4, 4, seed=1)
    yield "weight 0 is a", lambda: fn(a, b, 0.0), a
    yield "weight 1 is b", lambda: fn(a, b, 1.0), b
    right = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    x, y = right + torch.tensor([1.0, 0.0]), right + torch.tensor([0.0, 1.0])
    yield (
        "a quarter circle: weight 1/3 is the angle of 30 degrees",
        lambda: fn(x, y, 1 / 3),
        right + torch.tensor([math.cos(math.pi / 6), 0.5], dtype=torch.float64),
    )
    middle = right + torch.tensor([math.cos(0.4), math.sin(0.4)], dtype=torch.float64)
    yield (
        "an angle of 0.8 rad: the middle is at 0.4 rad, of length 1",
        lambda: fn(
            x, right + torch.tensor([math.cos(0.8), math.sin(0.8)], dtype=torch.float64), 0.5
        ),
        middle,
    )
    yield (
        "each picture by its own angle: the batch equals one by one",
        lambda: fn(a, b, 0.3),
        lambda got: _problem(
            got, torch.cat([fn(a[i : i + 1], b[i : i + 1], 0.3) for i in range(3)])
        ),
    )
    yield "a with itself is a, not NaN", lambda: fn(a, a.clone(), 0.5), a


@_judge
def check_mix(fn: Callable[[Tensor, Any], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(noises, weights)``: k independent standard normal draws (k, ...) combined into one
    such draw."""
    noises = _draw(3, 2, 4, 4)
    yield (
        "weights 1, 1 and 0: (a + b) / sqrt(2)",
        lambda: fn(noises, [1.0, 1.0, 0.0]),
        noises[:2].sum(0) / math.sqrt(2),
    )
    yield (
        "weights 3, 4 and 0: 0.6 a + 0.8 b",
        lambda: fn(noises, [3.0, 4.0, 0.0]),
        0.6 * noises[0] + 0.8 * noises[1],
    )
    yield (
        "weights 1, 1 and -1: (a + b - c) / sqrt(3)",
        lambda: fn(noises, [1.0, 1.0, -1.0]),
        (noises[0] + noises[1] - noises[2]) / math.sqrt(3),
    )


@_judge
def check_noise(fn: Callable[[Any, tuple[int, ...]], Tensor]) -> Iterator[Claim]:
    """Judge ``fn(seeds, shape) -> (len(seeds), *shape)``: standard normal noise whose row i depends
    on seeds[i] alone, and that leaves torch's global random numbers as they were."""
    shape = (1, 16, 16)

    def statistics() -> str | None:
        x = torch.as_tensor(fn(range(100), shape)).double()
        count, kurtosis = x.numel(), ((x - x.mean()) / x.std()).pow(4).mean().item()
        for name, value, wanted, error in (
            ("mean", x.mean().item(), 0, 1),
            ("std", x.std().item(), 1, 0.5**0.5),
            ("kurtosis", kurtosis, 3, 24**0.5),
        ):
            if abs(value - wanted) > (allowed := 5 * error / math.sqrt(count)):
                return (
                    f"the {name} of {count} numbers is {value:.3f}, wanted {wanted} within"
                    f" {allowed:.3f}"
                )
        return None

    def untouched() -> str | None:
        before = torch.random.get_rng_state()
        fn([1, 2], shape)
        same = torch.equal(before, torch.random.get_rng_state())
        return (
            None
            if same
            else "torch's global random numbers were reseeded or drawn from; use a torch.Generator"
        )

    yield (
        "two seeds, shape (1, 16, 16): shape (2, 1, 16, 16)",
        lambda: list(fn([0, 1], shape).shape),
        [2, 1, 16, 16],
    )
    yield (
        "the same seed, the same noise",
        lambda: fn([3], shape),
        lambda got: _problem(got, fn([3], shape)),
    )
    yield (
        "seed 5 alone and as the third of four",
        lambda: fn([2, 9, 5, 0], shape)[2:3],
        lambda got: _problem(got, fn([5], shape)),
    )
    yield (
        "other seeds, other noise",
        lambda: (fn([0], shape) - fn([1], shape)).abs().max() > 0.1,
        lambda got: None if got else "seeds 0 and 1 give the same noise",
    )
    yield "100 seeds: mean 0, std 1, kurtosis 3", statistics, _verdict
    yield "torch's global random numbers are left alone", untouched, _verdict
