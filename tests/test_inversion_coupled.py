"""EDICT, BDIA, O-BELM and Rex: their formulas as the papers have them, written out here; both
directions of time; what they are worth as solvers."""

import functools
import math
from itertools import pairwise

import pytest
import torch

from ddim_tutorial import (
    Coupled,
    analytic,
    bdia,
    edict,
    guidance,
    linear,
    metrics,
    obelm,
    rex,
    round_trip,
    sample,
    scaled_linear,
    times,
)
from ddim_tutorial.inversion import METHODS, invert_coupled, neighbours
from parts import relative

SCHEDULE = scaled_linear()
ALPHA, SIGMA = SCHEDULE.alpha_bar.sqrt(), (1 - SCHEDULE.alpha_bar).sqrt()
RHO = SIGMA / ALPHA
STD = 0.3
MEANS = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EVERYTHING = analytic.mixture(MEANS, STD, torch.ones(8), SCHEDULE)
TWO_OF_EIGHT = analytic.mixture(MEANS[:2], STD, torch.ones(2), SCHEDULE)
SAMPLERS = {
    "EDICT": edict,
    "EDICT, alternating": functools.partial(edict, alternate=True),
    "BDIA": bdia,
    "BDIA .7": functools.partial(bdia, gamma=0.7),
    "O-BELM": obelm,
    "Rex": rex,
    "Rex, Euler": functools.partial(rex, step="euler"),
}
COUPLED = ("EDICT", "EDICT, alternating", "BDIA", "O-BELM", "Rex")


def noise(seed=1, batch=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 64, generator=generator, dtype=torch.float64)


def data():
    return MEANS[torch.arange(8) % 2] + STD * noise(2)


def eps(x, t):
    return EVERYTHING(x, torch.full((len(x),), t))


def A(t, s):
    return ALPHA[s] / ALPHA[t]


def B(t, s):
    return ALPHA[s] * (RHO[s] - RHO[t])


# --- one step by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize("t, s", [(600, 540), (20, 0)])
def test_edict_is_two_ddim_steps_and_two_mixtures(t, s):
    x, y, p = noise(1), noise(2), 0.93
    seen = edict(EVERYTHING, Coupled(x, y), [t, s], SCHEDULE)
    x1 = A(t, s) * x + B(t, s) * eps(y, t)
    y1 = A(t, s) * y + B(t, s) * eps(x1, t)
    x2 = p * x1 + (1 - p) * y1
    y2 = p * y1 + (1 - p) * x2
    torch.testing.assert_close(seen, Coupled(x2, y2), rtol=1e-11, atol=1e-11)


def test_alternating_edict_moves_y_first_in_every_second_step_and_mixes_x_first_in_all():
    """In the order of the authors' code, whose runs have an even number of steps."""
    x, y, p, grid = noise(1), noise(2), 0.93, [600, 540, 400, 20, 0]
    seen = edict(EVERYTHING, Coupled(x, y), grid, SCHEDULE, alternate=True)
    for i, (t, s) in enumerate(pairwise(grid)):
        if i % 2 == 0:
            x = A(t, s) * x + B(t, s) * eps(y, t)
            y = A(t, s) * y + B(t, s) * eps(x, t)
        else:
            y = A(t, s) * y + B(t, s) * eps(x, t)
            x = A(t, s) * x + B(t, s) * eps(y, t)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    torch.testing.assert_close(seen, Coupled(x, y), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
@pytest.mark.parametrize("r, t, s", [(700, 600, 540), (60, 20, 0)])
def test_bdia_goes_both_ways_along_one_eps(r, t, s, gamma):
    x_r, x_t = noise(1), noise(2)
    seen = bdia(EVERYTHING, Coupled(x_t, x_r), [r, t, s], SCHEDULE, gamma=gamma)
    x_s = (
        gamma * x_r + (A(t, s) - gamma * A(t, r)) * x_t + (B(t, s) - gamma * B(t, r)) * eps(x_t, t)
    )
    torch.testing.assert_close(seen, Coupled(x_s, x_t), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("r, t, s", [(700, 600, 540), (60, 20, 0)])
def test_obelm_is_the_papers_linear_combination(r, t, s):
    x_r, x_t = noise(1), noise(2)
    seen = obelm(EVERYTHING, Coupled(x_t, x_r), [r, t, s], SCHEDULE)
    H, h = RHO[r] - RHO[t], RHO[t] - RHO[s]  # h_{i+1} and h_i of the paper
    x_s = (
        (h**2 / H**2) * (ALPHA[s] / ALPHA[r]) * x_r
        + ((H**2 - h**2) / H**2) * (ALPHA[s] / ALPHA[t]) * x_t
        - (h * (h + H) / H) * ALPHA[s] * eps(x_t, t)
    )
    torch.testing.assert_close(seen, Coupled(x_s, x_t), rtol=1e-11, atol=1e-11)


def euler(x, a, b):
    """What an Euler step of d(x / alpha) = eps d rho adds."""
    return (RHO[b] - RHO[a]) * eps(x, max(a, 1))


def second_order(m):
    """The Runge-Kutta step of order 2 whose second stage is at time m (Butcher's c = its share)."""

    def increment(x, a, b):
        h, c = RHO[b] - RHO[a], (RHO[m] - RHO[a]) / (RHO[b] - RHO[a])
        k1 = eps(x, max(a, 1))
        k2 = eps(ALPHA[m] * (x / ALPHA[a] + c * h * k1), m)
        return h * (1 - 1 / (2 * c)) * k1 + h / (2 * c) * k2

    return increment


def nearest_to_the_middle(t, s):
    middle = (RHO[t].log() + RHO[max(s, 1)].log()) / 2
    return min(range(max(s, 1), t + 1), key=lambda m: abs(RHO[m].log() - middle))


@pytest.mark.parametrize("t, s", [(600, 540), (20, 0), (1, 0)])
@pytest.mark.parametrize("step", ["euler", "midpoint"])
def test_rex_couples_two_runge_kutta_steps(t, s, step):
    x, y, mix = noise(1), noise(2), 0.9
    seen = rex(EVERYTHING, Coupled(x, y), [t, s], SCHEDULE, step=step, mix=mix)
    m = nearest_to_the_middle(t, s)
    phi = euler if step == "euler" or m in (t, s) else second_order(m)
    X = mix * x / ALPHA[t] + (1 - mix) * y / ALPHA[t] + phi(y, t, s)
    Y = y / ALPHA[t] - phi(ALPHA[s] * X, s, t)
    torch.testing.assert_close(seen, Coupled(ALPHA[s] * X, ALPHA[s] * Y), rtol=1e-10, atol=1e-10)


def test_neighbours_are_one_ddim_step_apart():
    x = noise()
    low = neighbours(EVERYTHING, x, [600, 540, 500], SCHEDULE)
    assert low.y is x and torch.equal(low.x, sample(EVERYTHING, x, [600, 540], SCHEDULE))
    high = neighbours(EVERYTHING, x, [0, 20, 40], SCHEDULE)
    x_20 = (x - B(20, 0) * eps(x, 20)) / A(20, 0)
    assert high.x is x and relative(high.y, x_20) <= 1e-12


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale, steps", [(1.0, 50), (7.5, 50), (1.0, 25)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_increasing_times_undo_decreasing_ones(name, scale, steps):
    model = guidance.cfg(TWO_OF_EIGHT, EVERYTHING, scale)
    grid, start = times(1000, steps), Coupled(noise(1), noise(1) + 0.01 * noise(2))
    there = SAMPLERS[name](model, start, grid, SCHEDULE)
    back = SAMPLERS[name](model, there, grid[::-1], SCHEDULE)
    assert relative(there.x, start.x) > 0.1
    limit = 1e-10 if name != "BDIA .7" else 1e-3  # divided by .7 in each of 50 steps
    assert max(relative(back.x, start.x), relative(back.y, start.y)) <= limit


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("name", COUPLED)
def test_round_trip_of_a_picture(name, scale):
    model = guidance.cfg(TWO_OF_EIGHT, EVERYTHING, scale)
    trip = round_trip(model, data(), times(1000, 50), SCHEDULE, METHODS[name])
    assert trip.max <= 1e-10


@pytest.mark.parametrize("name", COUPLED)
def test_x_T_alone_does_not_bring_ddim_back_and_the_inversion_does_not_say_so(name):
    grid = times(1000, 50)
    found = METHODS[name](EVERYTHING, data(), grid, SCHEDULE)
    assert relative(sample(EVERYTHING, found.x_T, grid, SCHEDULE), data()) >= 1e-3
    assert not found.converged and math.isnan(found.residual)
    assert found.x_T is (found.pair.y if name in ("BDIA", "O-BELM") else found.pair.x)


@pytest.mark.parametrize(
    "name, evaluations",
    [("EDICT", 24), ("EDICT, alternating", 24), ("BDIA", 12), ("O-BELM", 12), ("Rex", 48)],
)
def test_every_evaluation_is_counted(name, evaluations):
    calls, grid = [], times(1000, 12)

    def counted(x, t):
        calls.append(0)
        return EVERYTHING(x, t)

    found = METHODS[name](counted, data(), grid, SCHEDULE)
    assert found.evaluations == len(calls) == evaluations
    assert sum(step.evaluations for step in found.per_step) == evaluations
    assert [(step.s, step.t) for step in found.per_step] == list(pairwise(grid[::-1]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_in_two_parts_is_the_walk(name):
    """Two-step methods need the pair of times at the joint in both parts, alternating ones an even
    number of steps."""
    grid, start = times(1000, 10), Coupled(noise(1), noise(2))
    overlap = 1 if name.startswith(("BDIA", "O-BELM")) else 0
    half = SAMPLERS[name](EVERYTHING, start, grid[: 5 + overlap], SCHEDULE)
    seen = SAMPLERS[name](EVERYTHING, half, grid[4:], SCHEDULE)
    wanted = SAMPLERS[name](EVERYTHING, start, grid, SCHEDULE)
    assert torch.equal(seen.x, wanted.x) and torch.equal(seen.y, wanted.y)


@pytest.mark.parametrize("name", SAMPLERS)
def test_on_step_is_called_after_every_step(name):
    grid, done = times(1000, 10), []

    def on_step():
        done.append(len(asked))

    asked = []

    def spy(x, t):
        asked.append(t)
        return EVERYTHING(x, t)

    SAMPLERS[name](spy, Coupled(noise(1), noise(2)), grid, SCHEDULE, on_step=on_step)
    steps = 9 if name.startswith(("BDIA", "O-BELM")) else 10
    assert len(done) == steps and done[-1] == len(asked) and len(set(done)) == steps


def test_taking_turns_takes_most_of_what_the_order_costs_with_few_steps():
    x_T, grid = noise(5, 32), times(1000, 20)
    ode = exact_end(x_T)
    ends = (
        edict(EVERYTHING, Coupled(x_T, x_T), grid, SCHEDULE, alternate=alternate).x
        for alternate in (False, True)
    )
    fixed, turns = (relative(end, ode) for end in ends)
    assert turns < 0.3 * fixed


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_model_is_asked_in_1_to_T_in_the_precision_of_the_pair(name):
    asked = []

    def spy(x, t):
        asked.extend(t.tolist())
        assert x.dtype == torch.float32
        return EVERYTHING(x, t).double()  # as a network that predicts v

    pair = Coupled(noise(1).float(), noise(2).half())
    end = SAMPLERS[name](spy, pair, times(1000, 10), SCHEDULE)
    assert end.x.dtype == end.y.dtype == torch.float32 and 1 <= min(asked) <= max(asked) <= 1000


# --- as solvers ----------------------------------------------------------------------------------


def exact_end(x_T):
    """The ODE's end from x_T: dX/d rho = rho (X - E[x_0 | X]) / (std^2 + rho^2) for X = x / alpha,
    by the classical Runge-Kutta method over 600 steps, uniform in asinh(rho / 0.05)."""

    def slope(X, rho):
        V = STD**2 + rho**2
        weights = (-torch.cdist(X, MEANS).square() / (2 * V)).softmax(1)
        return rho * (X - weights @ MEANS) / V

    X = x_T / ALPHA[-1]

    u = torch.linspace((RHO[-1] / 0.05).asinh(), 0, 1201, dtype=torch.float64)
    grid, step = 0.05 * u.sinh(), u[2] - u[0]
    f = 0.05 * u.cosh()  # d rho / d u
    for i in range(0, 1200, 2):
        k1 = slope(X, grid[i]) * f[i]
        k2 = slope(X + step / 2 * k1, grid[i + 1]) * f[i + 1]
        k3 = slope(X + step / 2 * k2, grid[i + 1]) * f[i + 1]
        k4 = slope(X + step * k3, grid[i + 2]) * f[i + 2]
        X = X + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return X


def test_rex_with_12_steps_is_exactly_reversible_and_no_worse_than_ddim_with_50():
    x_T, grid, calls = noise(5, 32), times(1000, 12), []

    def counted(x, t):
        calls.append(0)
        return EVERYTHING(x, t)

    end = rex(counted, Coupled(x_T, x_T), grid, SCHEDULE)
    back = rex(EVERYTHING, end, grid[::-1], SCHEDULE)
    assert len(calls) == 48 and relative(back.x, x_T) <= 1e-12 and relative(back.y, x_T) <= 1e-12
    ode = exact_end(x_T)
    ddim = sample(EVERYTHING, x_T, times(1000, 50), SCHEDULE)

    def error(x):
        return ((x - ode).norm(dim=1) / ode.norm(dim=1)).median().item()

    assert error(end.x) <= error(ddim)


@pytest.mark.parametrize(
    "name, steps, low, high",
    [
        ("EDICT", (50, 100, 125, 200, 250), 0.9, 1.2),
        ("EDICT, alternating", (50, 100, 200, 250), 0.9, 1.2),
        ("BDIA", (50, 100, 125, 200, 250), 0.9, 1.5),
        ("O-BELM", (50, 100, 125, 200, 250), 1.9, 2.1),
        ("Rex", (5, 10, 20, 25, 50), 1.9, 4.0),  # beyond, whole times are seen in the error
    ],
)
def test_order_of_convergence(name, steps, low, high):
    """Gaussian data: the ODE multiplies x by |u_s| / |u_t|, u = (std alpha, sigma)."""
    schedule, std = linear(), 0.7
    model, x_T = analytic.gaussian(0.0, std, schedule), noise()
    ab = schedule.alpha_bar
    exact = x_T * std / (std**2 * ab[-1] + 1 - ab[-1]).sqrt()
    errors = []
    for N in steps:
        grid = times(1000, N)
        start = neighbours(model, x_T, grid, schedule) if "B" in name else Coupled(x_T, x_T)
        errors.append(metrics.rms(SAMPLERS[name](model, start, grid, schedule).x, exact))
    assert low <= metrics.order(steps, errors) <= high


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_bad_pairs_and_grids_are_refused(name):
    sampler, grid, x = SAMPLERS[name], times(1000, 10), noise()
    with pytest.raises(ValueError, match="the pair's x holds NaN"):
        sampler(EVERYTHING, Coupled(x * math.nan, x), grid, SCHEDULE)
    with pytest.raises(ValueError, match="the pair's y has shape"):
        sampler(EVERYTHING, Coupled(x, x[:1]), grid, SCHEDULE)
    with pytest.raises(ValueError, match="turns back"):
        sampler(EVERYTHING, Coupled(x, x), [1000, 500, 600], SCHEDULE)
    with pytest.raises(ValueError, match="of the pair at 0 holds NaN"):
        sampler(lambda x, t: x * math.nan, Coupled(x, x), grid, SCHEDULE)


@pytest.mark.parametrize("value", [0, 1.5, -1.0, math.nan, True])
@pytest.mark.parametrize("sampler, name", [(edict, "mix"), (bdia, "gamma"), (rex, "mix")])
def test_mixing_outside_0_to_1_is_refused(sampler, name, value):
    with pytest.raises(ValueError, match=f"{name}=.*above 0 and at most 1"):
        sampler(EVERYTHING, Coupled(noise(), noise()), [500, 0], SCHEDULE, **{name: value})


def test_an_unknown_runge_kutta_step_is_refused():
    with pytest.raises(ValueError, match=r"step='heun'.*euler, midpoint"):
        rex(EVERYTHING, Coupled(noise(), noise()), [500, 0], SCHEDULE, step="heun")


def test_gradients_are_kept_only_if_the_pair_requires_them():
    x, grid = noise(), times(1000, 4)
    assert not edict(EVERYTHING, Coupled(x, x), grid, SCHEDULE).x.requires_grad
    wanted = x.clone().requires_grad_()
    assert edict(EVERYTHING, Coupled(wanted, wanted), grid, SCHEDULE).x.requires_grad
    assert not invert_coupled(EVERYTHING, wanted, grid, SCHEDULE).x_T.requires_grad
