"""Anderson's acceleration, on a mixture with a closed form; the inverse of DPM-Solver++ 2M."""

import functools
import math
import warnings
from itertools import pairwise

import pytest
import torch

from ddim_tutorial import (
    analytic,
    guidance,
    invert,
    invert_exact,
    invert_fixed_point,
    round_trip,
    sample,
    scaled_linear,
    times,
)
from ddim_tutorial.inversion import invert_dpmpp_2m
from ddim_tutorial.inversion.implicit import Iterate, solve
from parts import relative

SCHEDULE = scaled_linear()
STD = 0.3
MEANS = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EVERYTHING = analytic.mixture(MEANS, STD, torch.ones(8), SCHEDULE)
TWO_OF_EIGHT = analytic.mixture(MEANS[:2], STD, torch.ones(2), SCHEDULE)
TIGHT = functools.partial(invert_exact, tol=1e-13)


def guided(scale):
    return guidance.cfg(TWO_OF_EIGHT, EVERYTHING, scale)


def noise(seed=1, batch=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 64, generator=generator, dtype=torch.float64)


def data(batch=8):
    return MEANS[torch.arange(batch) % 2] + STD * noise(2, batch)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_sampling_takes_the_inverse_back_in_few_evaluations(scale):
    grid, model = times(1000, 50), guided(scale)
    x_0 = sample(model, noise(), grid, SCHEDULE)
    exact, naive = (round_trip(model, x_0, grid, SCHEDULE, m) for m in (TIGHT, invert))
    assert exact.max <= 1e-12 and naive.rms >= 1e9 * exact.rms
    assert exact.inversion.converged and exact.inversion.evaluations <= 7 * 50


def test_real_data_come_back_too():
    exact = round_trip(guided(1.0), data(), times(1000, 50), SCHEDULE, TIGHT)
    assert exact.max <= 1e-12 and exact.inversion.evaluations <= 7 * 50


def test_float32():
    grid, model = times(1000, 50), guided(1.0)
    trip = round_trip(model, data().float(), grid, SCHEDULE, invert_exact)
    assert trip.inversion.x_T.dtype == torch.float32 and trip.inversion.converged
    assert trip.max <= 1e-5


@pytest.mark.parametrize("tol", [1e-6, 1e-12])
def test_acceleration_saves_a_third_of_the_evaluations_or_more(tol):
    grid, model = times(1000, 50), guided(1.0)
    plain, fast = (
        method(model, data(), grid, SCHEDULE, tol=tol)
        for method in (invert_fixed_point, invert_exact)
    )
    assert plain.converged and fast.converged
    assert fast.evaluations <= 0.7 * plain.evaluations
    assert relative(fast.x_T, plain.x_T) <= 100 * tol


def test_it_solves_steps_on_which_the_plain_iteration_does_not_contract():
    model = analytic.mixture(MEANS, 0.1, torch.ones(8), SCHEDULE)
    grid = times(1000, 10)
    x_0 = sample(model, noise(), grid, SCHEDULE)
    with pytest.warns(RuntimeWarning, match="did not converge"):
        assert not invert_fixed_point(model, x_0, grid, SCHEDULE).converged
    assert round_trip(model, x_0, grid, SCHEDULE, TIGHT).max <= 1e-12


def test_what_has_no_solution_in_reach_says_so_and_stays_finite():
    with pytest.warns(RuntimeWarning, match=r"did not converge.*worst from s=\d+ to t=\d+"):
        found = invert_exact(guided(7.5), data(), times(1000, 10), SCHEDULE)
    assert not found.converged and found.residual > 1e-6 and found.x_T.isfinite().all()
    assert max(step.residual.max().item() for step in found.per_step) == found.residual
    assert all(step.evaluations <= 50 for step in found.per_step)


@pytest.mark.parametrize("memory", [0, 3])
def test_on_a_linear_map_the_acceleration_ends_after_as_many_differences_as_eigenvalues(memory):
    """Three eigenvalues, one of them expanding: the plain iteration runs away, Anderson's with
    three differences is a Krylov method and done."""
    eigenvalues = torch.tensor([0.5, -0.8, 3.0] * 4, dtype=torch.float64)
    basis = torch.linalg.qr(noise(batch=12)[:, :12]).Q
    matrix, shift = basis @ eigenvalues.diag() @ basis.T, noise(3, 5)[:, :12]

    def evaluate(z):
        return Iterate(z, z, z @ matrix.T + shift)

    best, evaluations, residual = solve(evaluate, torch.zeros_like(shift), 1e-11, 6, memory)
    answer = torch.linalg.solve(torch.eye(12, dtype=torch.float64) - matrix, shift.T).T
    solved = residual.max() <= 1e-11 and relative(best.g, answer) <= 1e-9
    assert solved == (memory == 3) and evaluations <= 6


def test_a_step_ends_when_its_residual_has_not_fallen_for_five_iterations():
    """z <- -z: ||g - z|| / ||z|| is 2 for ever, so nothing after the first iteration is better."""
    best, evaluations, residual = solve(lambda z: Iterate(z, z, -z), data(), 1e-6, 50, memory=0)
    assert evaluations == 1 + 5 and residual.tolist() == [2.0] * 8 and torch.equal(best.z, data())


def test_a_residual_equal_to_the_tolerance_is_converged():
    first = invert_exact(EVERYTHING, data(), [600, 500], SCHEDULE)
    again = invert_exact(EVERYTHING, data(), [600, 500], SCHEDULE, tol=first.residual)
    assert again.residual == first.residual > 0 and again.converged


def test_without_memory_and_past_it_is_the_plain_iteration():
    """One step alone has no step before it to start from."""
    grid, x = [600, 500], data()
    plain = invert_fixed_point(guided(1.0), x, grid, SCHEDULE, tol=1e-9)
    assert torch.equal(
        invert_exact(guided(1.0), x, grid, SCHEDULE, tol=1e-9, memory=0).x_T, plain.x_T
    )


def test_a_step_starts_along_the_line_through_the_last_two_eps():
    """The second step along the one eps that there is, the third along those of t = 100 and 200,
    continued in time: uneven steps tell the line from the mere last difference."""
    grid, asked = [450, 200, 100, 50], []

    def spy(x, t):
        asked.append((t[0].item(), x))
        return EVERYTHING(x, t)

    found = invert_exact(spy, data(), grid, SCHEDULE, tol=1e-12)
    alpha, sigma = SCHEDULE.alpha_bar.sqrt(), (1 - SCHEDULE.alpha_bar).sqrt()
    solved = {t: [x for at, x in asked if at == t][-1] for t in (200, 100)}
    eps = {t: EVERYTHING(x, torch.full((8,), t)) for t, x in solved.items()}
    line = eps[200] + (450 - 200) / (200 - 100) * (eps[200] - eps[100])
    for s, t, along in ((100, 200, eps[100]), (200, 450, line)):
        start = next(x for at, x in asked if at == t)
        wanted = alpha[t] * (solved[s] - sigma[s] * along) / alpha[s] + sigma[t] * along
        torch.testing.assert_close(start, wanted, rtol=0, atol=1e-6)
        assert not torch.allclose(start, solved[s], atol=1e-2)
    assert found.evaluations == len(asked)


@pytest.mark.parametrize("method", [invert_exact, invert_dpmpp_2m])
def test_the_state_keeps_its_precision_where_eps_has_more(method):
    def precise(x, t):
        assert x.dtype == torch.float32
        return EVERYTHING(x, t).double()  # as a network that predicts v

    invert = functools.partial(method, tol=3e-7)
    trip = round_trip(precise, data().float(), times(1000, 20), SCHEDULE, invert)
    assert trip.inversion.x_T.dtype == torch.float32 and trip.max <= 1e-5


def test_nan_of_the_network_is_refused_by_name():
    def broken(x, t):
        return torch.where(t[:, None] > 500, math.nan, EVERYTHING(x, t))

    for method in (invert_exact, invert_dpmpp_2m):
        with pytest.raises(ValueError, match="NaN or infinity"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            method(broken, data(), times(1000, 10), SCHEDULE)


def test_nan_in_a_later_iteration_of_one_image_costs_that_image_its_tolerance_only():
    calls = []

    def once(x, t):
        calls.append(0)
        eps = EVERYTHING(x, t)
        return eps.index_fill(0, torch.tensor([0]), math.nan) if len(calls) >= 2 else eps

    with pytest.warns(RuntimeWarning, match="did not converge"):
        found = invert_exact(once, data(), [600, 500], SCHEDULE)
    (step,) = found.per_step
    assert found.x_T.isfinite().all() and step.residual[0] > 1e-6 >= step.residual[1:].max()


def test_an_image_does_not_depend_on_its_batch():
    grid, x_0 = times(1000, 20), data(3)
    together = invert_exact(guided(4.0), x_0, grid, SCHEDULE, tol=1e-9).x_T
    for i in range(3):
        alone = invert_exact(guided(4.0), x_0[i : i + 1], grid, SCHEDULE, tol=1e-9).x_T
        assert relative(together[i : i + 1], alone) <= 1e-10


@pytest.mark.parametrize(
    "bad, match",
    [({"memory": -1}, "memory=-1"), ({"tol": 0.0}, "tol=0.0"), ({"max_iter": 0}, "max_iter=0")],
)
@pytest.mark.parametrize("method", [invert_exact, invert_dpmpp_2m])
def test_bad_options_are_refused(method, bad, match):
    with pytest.raises(ValueError, match=match):
        method(EVERYTHING, data(), times(1000, 10), SCHEDULE, **bad)


# --- DPM-Solver++ 2M ------------------------------------------------------------------------------


def dpmpp_2m(model, x, grid):
    """Algorithm 2 of arXiv:2211.01095 as it stands there, DDIM in the first step and into 0."""
    alpha, sigma = SCHEDULE.alpha_bar.sqrt(), (1 - SCHEDULE.alpha_bar).sqrt()
    lam, before, h_before = (alpha / sigma).log(), None, None
    for t, s in pairwise(grid):
        x0 = (x - sigma[t] * model(x, torch.full((len(x),), t))) / alpha[t]
        h = lam[s] - lam[t]
        D = x0
        if before is not None and s > 0:
            r = h_before / h
            D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x = sigma[s] / sigma[t] * x - alpha[s] * torch.expm1(-h) * D
        before, h_before = x0, h
    return x


@pytest.mark.parametrize("grid", [times(1000, 20), [*range(981, 1, -49), 1]], ids=["to 0", "to 1"])
def test_dpmpp_2m_takes_the_inverse_back(grid):
    calls = []

    def counted(x, t):
        calls.append(0)
        return EVERYTHING(x, t)

    found = invert_dpmpp_2m(counted, data(), grid, SCHEDULE, tol=1e-11)
    assert found.converged and found.evaluations == len(calls)
    assert relative(dpmpp_2m(EVERYTHING, found.x_T, grid), data()) <= 1e-9
    assert relative(sample(EVERYTHING, found.x_T, grid, SCHEDULE), data()) >= 1e-2


def test_the_round_trip_of_dpmpp_2m_is_its_own():
    method = functools.partial(invert_dpmpp_2m, tol=1e-11)
    assert round_trip(EVERYTHING, data(), times(1000, 20), SCHEDULE, method).max <= 1e-9


def test_a_path_that_is_not_solved_says_so():
    with pytest.warns(RuntimeWarning, match="did not converge") as told:
        found = invert_dpmpp_2m(guided(7.5), data(), times(1000, 10), SCHEDULE, max_iter=5)
    assert not found.converged and found.residual > 1e-6 and found.x_T.isfinite().all()
    assert "worst" not in str(told[0].message)
