r"""Samplers whose every step has an exact inverse, because they carry a second state.

A plain step asks the model at the state that it replaces, so its inverse is an equation to solve.
These ask at the state that stays, and can subtract again what they added: each walks decreasing
times to sample and increasing times to undo exactly that, up to rounding. The price: both states
are needed to come back, and the pair is not what DDIM would have made. Times as in ``sample``; with
:math:`\alpha = \sqrt{\bar\alpha}` and :math:`\rho = \sqrt{1-\bar\alpha}/\alpha` a DDIM step from t
to s adds :math:`(\rho_s - \rho_t)\,\epsilon` to :math:`x / \alpha`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..predict import EpsModel, Images, predicted_eps
from ..require import require_images, require_like, require_positive, require_times
from ..sampling import ddim_step
from ..schedule import Schedule
from .result import Coupled

OnStep = Callable[[], None] | None


def edict(
    model: EpsModel,
    pair: Coupled,
    times: Sequence[int],
    schedule: Schedule,
    *,
    mix: float = 0.93,
    alternate: bool = False,
    on_step: OnStep = None,
) -> Coupled:
    """EDICT (Wallace et al. 2022, arXiv:2211.12446, Eq. 14 and 15): x steps along y's eps, y along
    the new x's, and the two are mixed so that they stay together.

    pair: both at times[0], (B, *dims) each; start with Coupled(x_T, x_T). mix: the paper's p, in
    (0, 1]; undoing a step divides by it twice and enlarges rounding. Two evaluations a step.
    alternate: y steps before x in every second step, counted from the noisiest time, as the authors
    run it; a walk in parts then needs an even number of steps in each. on_step: called after each.
    Bad arguments and a result with NaN or infinity raise ValueError.
    """
    require_positive("mix", mix, 1)
    noisy = sorted(times, reverse=True)

    def moved(pair: Coupled, t: int, s: int, first: int) -> Coupled:
        both = [*pair]
        for i in (first, 1 - first):
            eps = predicted_eps(model, both[1 - i], max(t, s))
            both[i] = _step(both[i], eps, t, s, schedule)
        return Coupled(*both)

    def step(pair: Coupled, t: int, s: int) -> Coupled:
        first = noisy.index(max(t, s)) % 2 if alternate else 0
        if s < t:
            x, y = moved(pair, t, s, first)
            x = mix * x + (1 - mix) * y
            return Coupled(x, mix * y + (1 - mix) * x)
        y = (pair.y - (1 - mix) * pair.x) / mix
        x = (pair.x - (1 - mix) * y) / mix
        return moved(Coupled(x, y), t, s, 1 - first)

    return _walk(step, 2, pair, times, schedule, on_step)


def bdia(
    model: EpsModel,
    pair: Coupled,
    times: Sequence[int],
    schedule: Schedule,
    *,
    gamma: float = 1.0,
    on_step: OnStep = None,
) -> Coupled:
    """BDIA (Zhang et al. 2023, arXiv:2307.10829): from t both ways along one eps, forward
    to s and back to r, where what DDIM misses of the known x_r corrects x_s.

    x_s = step(x_t, t -> s) + gamma (x_r - step(x_t, t -> r)). One evaluation a step, two-step:
    pair: x at the cleaner of the first two times, y at the noisier; the result is x and y at the
    last two. Start with :func:`neighbours`. gamma: in (0, 1]; the inverse divides by it, and 0.5 is
    unstable with 50 steps. on_step: as for :func:`edict`.
    """
    require_positive("gamma", gamma, 1)

    def formula(x_r: Tensor, x_t: Tensor, r: int, t: int, s: int) -> Tensor:
        eps = predicted_eps(model, x_t, t)
        missed = x_r - _step(x_t, eps, t, r, schedule)
        return _step(x_t, eps, t, s, schedule) + missed * (gamma if s < t else 1 / gamma)

    return _walk(_two_step(formula), 3, pair, times, schedule, on_step)


def obelm(
    model: EpsModel,
    pair: Coupled,
    times: Sequence[int],
    schedule: Schedule,
    *,
    on_step: OnStep = None,
) -> Coupled:
    r"""O-BELM (Wang et al. 2024, arXiv:2410.07273): the leapfrog rule in rho for steps of
    any size, second order, its own inverse with r and s exchanged.

    .. math:: \frac{x_s}{\sqrt{\bar\alpha_s}} = q^2 \frac{x_r}{\sqrt{\bar\alpha_r}}
        + (1 - q^2) \frac{x_t}{\sqrt{\bar\alpha_t}} + (1 + q)(\rho_s - \rho_t)\,\epsilon(x_t, t),
        \quad q = \frac{\rho_s - \rho_t}{\rho_t - \rho_r}

    One evaluation a step, two-step: pair, start and on_step as for :func:`bdia`.
    """

    def formula(x_r: Tensor, x_t: Tensor, r: int, t: int, s: int) -> Tensor:
        (root_r, rho_r), (root_t, rho_t), (root_s, rho_s) = (
            _root_rho(time, schedule) for time in (r, t, s)
        )
        q = (rho_s - rho_t) / (rho_t - rho_r)
        known = q**2 / root_r * x_r + (1 - q**2) / root_t * x_t
        eps = predicted_eps(model, x_t, t).to(x_t.dtype)
        return root_s * (known + (1 + q) * (rho_s - rho_t) * eps)

    return _walk(_two_step(formula), 3, pair, times, schedule, on_step)


def rex(
    model: EpsModel,
    pair: Coupled,
    times: Sequence[int],
    schedule: Schedule,
    *,
    step: str = "midpoint",
    mix: float = 0.9,
    on_step: OnStep = None,
) -> Coupled:
    r"""Rex (Blasingame & Liu 2025, arXiv:2502.08834): an explicit Runge-Kutta step made reversible
    by the coupling of McCallum & Foster (arXiv:2410.11648).

    With X = x / sqrt(alpha_bar), Y = y / sqrt(alpha_bar), and Phi what the Runge-Kutta step in rho
    would add, from t to s < t: X <- mix X + (1 - mix) Y + Phi(Y, t -> s), then Y <- Y - Phi(X,
    s -> t).
    pair, start: as for :func:`edict`. mix: in (0, 1]; undoing a step divides by it, so that
    rounding grows as mix^-N in N steps.
    step: "euler", two evaluations a step, or "midpoint", four. The midpoint is the whole time whose
    log rho is nearest to the middle, since a network knows no others; the weights are those of its
    true place, so that rounding costs no order (:func:`_midpoint`). Where no whole time lies
    between t and s, the step is Euler's. At time 0 the model is asked at time 1. on_step: as above.
    """
    require_positive("mix", mix, 1)
    if step not in INCREMENTS:
        raise ValueError(f"step={step!r} is not known: pass one of {', '.join(INCREMENTS)}")

    def phi(X: Tensor, a: int, b: int) -> Tensor:
        return INCREMENTS[step](model, X, a, b, schedule)

    def coupled_step(pair: Coupled, t: int, s: int) -> Coupled:
        (root_t, _), (root_s, _) = (_root_rho(time, schedule) for time in (t, s))
        X, Y = pair.x / root_t, pair.y / root_t
        if s < t:
            X = mix * X + (1 - mix) * Y + phi(Y, t, s)
            Y = Y - phi(X, s, t)
        else:
            Y = Y + phi(X, t, s)
            X = (X - (1 - mix) * Y - phi(Y, s, t)) / mix
        return Coupled(root_s * X, root_s * Y)

    return _walk(coupled_step, 2, pair, times, schedule, on_step)


def _slope(model: EpsModel, X: Tensor, t: int, schedule: Schedule) -> Tensor:
    """dX / d rho = eps(alpha X, t)."""
    alpha, _ = _root_rho(t, schedule)
    return predicted_eps(model, alpha * X, max(t, 1)).to(X.dtype)


def _euler(model: EpsModel, X: Tensor, a: int, b: int, schedule: Schedule) -> Tensor:
    (_, rho_a), (_, rho_b) = (_root_rho(time, schedule) for time in (a, b))
    return (rho_b - rho_a) * _slope(model, X, a, schedule)


def _midpoint(model: EpsModel, X: Tensor, a: int, b: int, schedule: Schedule) -> Tensor:
    """Two stages, the second at a share c of the step: h ((1 - 1/2c) k1 + 1/2c k2), of second order
    for every c; c = 1/2 is the midpoint rule."""
    rho = (1 / schedule.alpha_bar - 1).sqrt()
    middle = (rho[max(a, 1)] * rho[max(b, 1)]).sqrt()
    m = int((rho[1:].log() - middle.log()).abs().argmin()) + 1
    if not min(a, b) < m < max(a, b):
        return _euler(model, X, a, b, schedule)
    h, c = rho[b] - rho[a], (rho[m] - rho[a]) / (rho[b] - rho[a])
    k1 = _slope(model, X, a, schedule)
    k2 = _slope(model, X + c * h * k1, m, schedule)
    return h * ((1 - 1 / (2 * c)) * k1 + k2 / (2 * c))


INCREMENTS = {"euler": _euler, "midpoint": _midpoint}


def neighbours(model: EpsModel, x: Images, times: Sequence[int], schedule: Schedule) -> Coupled:
    """What ``bdia`` and ``obelm`` start with: x, the state at times[0], and where one DDIM step
    takes it, at times[1]. On increasing times the step is that of naive inversion."""
    require_images("x", x)
    t, s, *_ = require_times(times, schedule.T)
    other = _step(x, predicted_eps(model, x, max(t, s)), t, s, schedule)
    return Coupled(other, x) if s < t else Coupled(x, other)


def _root_rho(t: int, schedule: Schedule) -> tuple[float, float]:
    ab = schedule.level(t)
    return math.sqrt(ab), math.sqrt(1 / ab - 1)


def _step(x: Tensor, eps: Tensor, t: int, s: int, schedule: Schedule) -> Tensor:
    return ddim_step(x, eps, schedule.level(t), schedule.level(s))[0]


def _two_step(formula: Callable[..., Tensor]) -> Callable[..., Coupled]:
    """formula(x_r, x_t, r, t, s) -> x_s as a step of the pair, whose x is always the cleaner."""

    def step(pair: Coupled, r: int, t: int, s: int) -> Coupled:
        if s < t:
            return Coupled(formula(pair.y, pair.x, r, t, s), pair.x)
        return Coupled(pair.y, formula(pair.x, pair.y, r, t, s))

    return step


def _walk(
    step: Callable[..., Coupled],
    width: int,
    pair: Coupled,
    times: Sequence[int],
    schedule: Schedule,
    on_step: OnStep,
) -> Coupled:
    """``step`` along every ``width`` neighbouring times; gradients are kept only if the pair
    requires them."""
    require_images("the pair's x", pair.x)
    require_like("the pair's y", pair.y, pair.x)
    require_images("the pair's y", pair.y)
    grid = require_times(times, schedule.T)
    dtype = torch.promote_types(torch.promote_types(pair.x.dtype, pair.y.dtype), torch.float32)
    with_grad = torch.is_grad_enabled() and (pair.x.requires_grad or pair.y.requires_grad)
    pair = Coupled(pair.x.to(dtype), pair.y.to(dtype))
    with torch.set_grad_enabled(with_grad):
        for i in range(len(grid) - width + 1):
            pair = step(pair, *grid[i : i + width])
            if on_step:
                on_step()
    require_images(f"x of the pair at {grid[-1]}", pair.x)
    require_images(f"y of the pair at {grid[-1]}", pair.y)
    return pair
