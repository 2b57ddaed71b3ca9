"""Inversion: closed forms on Gaussian data, diffusers' inverse scheduler, and what converged has to
mean."""

import functools
import math
import warnings
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from ddim_tutorial import (
    analytic,
    eps_from_v,
    from_scheduler,
    invert,
    invert_exact,
    invert_fixed_point,
    linear,
    metrics,
    round_trip,
    sample,
    scaled_linear,
    scheduler_times,
    times,
    trajectory,
    v_from_eps,
)
from parts import relative, tiny_unet

SCHEDULE = linear()
MEAN, STD = 0.3, 0.7
MODEL = analytic.gaussian(MEAN, STD, SCHEDULE)
TIGHT = functools.partial(invert_fixed_point, tol=1e-14, max_iter=60)


def images(device, *shape):
    return (MEAN + STD * torch.randn(*shape, dtype=torch.float64)).to(device)


def slope(t):
    """eps = slope (x_t - alpha_t mean) for Gaussian data."""
    ab = SCHEDULE.alpha_bar[t].item()
    return math.sqrt(1 - ab) / (ab * STD**2 + 1 - ab)


def naive_gain(grid, asked_at):
    """Centred data are multiplied by this on the way up, with eps asked at asked_at(s, t)."""
    ab, gain = SCHEDULE.alpha_bar.tolist(), 1.0
    up = grid[::-1]
    for s, t in pairwise(up):
        k = slope(asked_at(s, t))
        gain *= math.sqrt(ab[t] / ab[s]) * (1 - math.sqrt(1 - ab[s]) * k) + math.sqrt(1 - ab[t]) * k
    return gain


@pytest.mark.parametrize(
    "eps_time, asked_at",
    [("target", lambda s, t: t), ("source", lambda s, t: max(s, 1))],
    ids=["target", "source"],
)
@pytest.mark.parametrize("N", [10, 200])
def test_naive_inversion_of_gaussian_data_has_a_closed_form(N, eps_time, asked_at, device):
    grid, x_0 = times(1000, N), images(device, 4, 3) - MEAN
    result = invert(analytic.gaussian(0.0, STD, SCHEDULE), x_0, grid, SCHEDULE, eps_time=eps_time)
    torch.testing.assert_close(result.x_T, naive_gain(grid, asked_at) * x_0, rtol=1e-12, atol=0)


def test_target_is_the_default_convention(device):
    grid, x_0 = times(1000, 10), images(device, 2, 3)
    named = invert(MODEL, x_0, grid, SCHEDULE, eps_time="target")
    assert torch.equal(invert(MODEL, x_0, grid, SCHEDULE).x_T, named.x_T)


@pytest.mark.parametrize("eps_time", ["target", "source"])
def test_naive_inversion_asks_at_the_time_it_says(eps_time, device):
    grid, asked = times(1000, 5), []
    spy = lambda x, t: asked.append(t[0].item()) or MODEL(x, t)  # noqa: E731
    invert(spy, images(device, 2, 3), grid, SCHEDULE, eps_time=eps_time)
    assert asked == (
        [200, 400, 600, 800, 1000] if eps_time == "target" else [1, 200, 400, 600, 800]
    )


def test_source_time_inversion_is_the_sampler_walking_upwards(device):
    grid, x_0 = times(1000, 10), images(device, 2, 3)
    *_, last = trajectory(MODEL, x_0, grid[::-1], SCHEDULE)
    assert torch.equal(invert(MODEL, x_0, grid, SCHEDULE, eps_time="source").x_T, last.x_s)


@pytest.mark.parametrize("eps_time", ["target", "source"])
def test_order_of_the_naive_round_trip_is_one(eps_time, device):
    steps, x_0 = [50, 100, 125, 200, 250], images(device, 64, 2)
    method = functools.partial(invert, eps_time=eps_time)
    errors = [round_trip(MODEL, x_0, times(1000, N), SCHEDULE, method).rms for N in steps]
    assert 0.95 <= metrics.order(steps, errors) <= 1.05


FLAGS = {
    "leading": {},
    "trailing": dict(timestep_spacing="trailing"),
    "stable diffusion": dict(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
    ),
}


@pytest.mark.parametrize("flags", list(FLAGS))
@pytest.mark.parametrize("steps", [10, 50])
def test_parity_with_diffusers_inverse_scheduler(steps, flags, device):
    config = {**FLAGS[flags], "clip_sample": False}
    forward, inverse = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    schedule, unet = from_scheduler(forward), tiny_unet(device).double()
    x_0 = torch.randn(2, 2, 8, 8, dtype=torch.float64).to(device)
    inverse.set_timesteps(steps)
    theirs = x_0
    for timestep in inverse.timesteps:
        theirs = inverse.step(unet(theirs, timestep).sample, timestep, theirs).prev_sample
    ours = invert(
        lambda x, t: unet(x, t - 1).sample, x_0, scheduler_times(forward, steps), schedule
    )
    assert relative(ours.x_T, theirs) <= 1e-6


def test_a_network_of_v_is_inverted_unlike_there_and_nearer_to_the_exact_inverse(device):
    config = dict(clip_sample=False, timestep_spacing="trailing", prediction_type="v_prediction")
    forward, inverse = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    schedule, x_0 = from_scheduler(forward), images(device, 64, 8)
    exact_eps = analytic.gaussian(MEAN, STD, schedule)

    def v(x_t, t):
        return v_from_eps(x_t, exact_eps(x_t, t), schedule.at(t, x_t))

    def model(x_t, t):
        return eps_from_v(x_t, v(x_t, t), schedule.at(t, x_t))

    inverse.set_timesteps(50)
    theirs = x_0
    for timestep in inverse.timesteps:
        t = torch.full((len(x_0),), int(timestep) + 1, device=device)
        theirs = inverse.step(v(theirs, t), timestep, theirs).prev_sample
    grid = scheduler_times(forward, 50)
    ours = invert(model, x_0, grid, schedule).x_T
    exact = TIGHT(model, x_0, grid, schedule).x_T
    assert 0.06 <= relative(ours, theirs) <= 0.08
    assert 0.03 <= relative(ours, exact) <= 0.045 and 0.07 <= relative(theirs, exact) <= 0.085


@pytest.mark.parametrize("N", [10, 50, 200])
def test_fixed_point_undoes_sampling_on_gaussian_data(N, device):
    """sample multiplies x - alpha mean by prod (u_t . u_s) / |u_t|^2, u = (std alpha, sigma): the
    inverse divides."""
    grid, x_0 = times(1000, N), images(device, 4, 3)
    ab = SCHEDULE.alpha_bar[grid]
    u = torch.stack([STD * ab.sqrt(), (1 - ab).sqrt()], 1)
    gain = ((u[:-1] * u[1:]).sum(1) / u[:-1].square().sum(1)).prod().item()
    result = TIGHT(MODEL, x_0, grid, SCHEDULE)
    wanted = SCHEDULE.alpha_bar[1000].sqrt().item() * MEAN + (x_0 - MEAN) / gain
    torch.testing.assert_close(result.x_T, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("N", [10, 50, 200])
def test_fixed_point_round_trip_is_exact(N, device):
    trip = round_trip(MODEL, images(device, 4, 3), times(1000, N), SCHEDULE, TIGHT)
    assert trip.max <= 1e-11


def test_fixed_point_round_trip_on_a_network_in_float32(device):
    """An untrained network alone amplifies every rounding error by 1 / sqrt(alpha_bar_T); on top of
    the Gaussian's exact eps it makes a non-linear model that behaves like a trained one."""
    unet = tiny_unet(device)
    x_0 = images(device, 2, 2, 8, 8).float()

    def model(x_t, t):
        return MODEL(x_t, t) + 0.1 * unet(x_t, t - 1).sample

    naive = round_trip(model, x_0, times(1000, 50), SCHEDULE, invert)
    exact = round_trip(model, x_0, times(1000, 50), SCHEDULE, invert_fixed_point)
    assert exact.inversion.converged and exact.inversion.residual <= 1e-6
    assert exact.rms <= 1e-4 and exact.rms < naive.rms / 100


def hard():
    """Eight tight modes in 64 dimensions, Stable Diffusion's schedule, ten steps: plain iteration
    does not contract."""
    schedule = scaled_linear()
    means = torch.randn(8, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = analytic.mixture(means, 0.1, torch.ones(8), schedule)
    x_T = torch.randn(4, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = times(1000, 10)
    return model, sample(model, x_T, grid, schedule), grid, schedule


def test_what_did_not_converge_says_so():
    model, x_0, grid, schedule = hard()
    with pytest.warns(RuntimeWarning, match="did not converge"):
        result = invert_fixed_point(model, x_0, grid, schedule, tol=1e-10)
    assert not result.converged and result.residual > 1e-10 and result.x_T.isfinite().all()
    assert max(step.residual.max().item() for step in result.per_step) == result.residual


@pytest.mark.parametrize("tol", [1e-4, 1e-9])
def test_what_converged_meets_its_tolerance(tol, device):
    """The residual of the implicit equation, computed here: x_s must come back from x_t within
    about tol."""
    grid, x_0 = times(1000, 20), images(device, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = invert_fixed_point(MODEL, x_0, grid, SCHEDULE, tol=tol)
    assert result.converged and result.residual <= tol
    assert relative(sample(MODEL, result.x_T, grid, SCHEDULE), x_0) <= 20 * tol * len(grid)


def test_stagnation_ends_a_step_before_its_budget():
    model, x_0, grid, schedule = hard()
    with pytest.warns(RuntimeWarning):
        result = invert_fixed_point(model, x_0, grid, schedule, tol=1e-300, max_iter=1000)
    assert result.evaluations < 1000 and not result.converged


def test_a_budget_of_one_is_the_naive_inversion(device):
    grid, x_0 = times(1000, 10), images(device, 4, 3)
    with pytest.warns(RuntimeWarning):
        once = invert_fixed_point(MODEL, x_0, grid, SCHEDULE, max_iter=1)
    assert torch.equal(once.x_T, invert(MODEL, x_0, grid, SCHEDULE).x_T) and once.evaluations == 10


@pytest.mark.parametrize(
    "method",
    [invert_fixed_point, functools.partial(invert_exact, memory=0)],
    ids=["plain", "exact"],
)
def test_the_budget_is_fifty_evaluations_a_step(method, device):
    """A step of Gaussian data contracts by (1 - rho_s / rho_t) |1 - std^2 / rho_t^2|: .93 from 600
    to 100, which is far from 1e-12 after fifty."""
    with pytest.warns(RuntimeWarning, match="did not converge"):
        found = method(MODEL, images(device, 4, 3), [600, 100], SCHEDULE, tol=1e-12)
    assert found.evaluations == 50


@pytest.mark.parametrize(
    "method",
    [invert, functools.partial(invert, eps_time="source"), invert_fixed_point, TIGHT],
    ids=["target", "source", "fixed point", "tight"],
)
def test_every_call_of_the_model_is_counted(method, device):
    calls = []
    grid = times(1000, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = method(
            lambda x, t: calls.append(0) or MODEL(x, t), images(device, 4, 3), grid, SCHEDULE
        )
    assert result.evaluations == len(calls) == sum(step.evaluations for step in result.per_step)
    assert [(step.s, step.t) for step in result.per_step] == list(
        zip(grid[:0:-1], grid[-2::-1], strict=True)
    )


@pytest.mark.parametrize(
    "method", [invert, functools.partial(invert, eps_time="source"), invert_fixed_point]
)
def test_inversion_keeps_no_graph(method, device):
    x_0 = images(device, 4, 3).requires_grad_()
    assert not method(MODEL, x_0, times(1000, 5), SCHEDULE).x_T.requires_grad


@pytest.mark.parametrize("method", [invert, invert_fixed_point])
def test_a_picture_in_half_precision_is_inverted_in_float32(method, device):
    """The picture is rounded, the way up is not: its x_T is that of the same numbers in float32."""
    half, grid = images(device, 4, 3).half(), times(1000, 5)
    seen, wanted = (method(MODEL, x, grid, SCHEDULE).x_T for x in (half, half.float()))
    assert seen.dtype == torch.float32 and relative(seen, wanted) <= 1e-6


def test_naive_inversion_claims_nothing(device):
    result = invert(MODEL, images(device, 4, 3), times(1000, 10), SCHEDULE)
    assert not result.converged and math.isnan(result.residual)


def test_an_image_does_not_depend_on_its_batch(device):
    grid, x_0 = times(1000, 20), images(device, 3, 4)
    together = invert_fixed_point(MODEL, x_0, grid, SCHEDULE, tol=1e-8).x_T
    for i in range(3):
        alone = invert_fixed_point(MODEL, x_0[i : i + 1], grid, SCHEDULE, tol=1e-8).x_T
        assert relative(together[i : i + 1], alone) <= 1e-12


def test_round_trip_reports_rms_max_and_psnr(device):
    grid, x_0 = times(1000, 20), images(device, 4, 3)
    trip = round_trip(MODEL, x_0, grid, SCHEDULE, invert)
    difference = sample(MODEL, invert(MODEL, x_0, grid, SCHEDULE).x_T, grid, SCHEDULE) - x_0
    mse = (difference**2).mean().item()
    assert math.isclose(trip.rms, math.sqrt(mse), rel_tol=1e-12) and math.isclose(
        trip.max, difference.abs().max()
    )
    assert math.isclose(trip.psnr, 10 * math.log10(2**2 / mse), rel_tol=1e-12)


def test_the_last_time_may_be_one(device):
    """Stable Diffusion's grid ends at 1: the image is then the state at time 1."""
    grid, x_1 = [*range(982, 1, -20), 1], images(device, 4, 3)
    trip = round_trip(MODEL, x_1, grid, SCHEDULE, TIGHT)
    assert trip.max <= 1e-11 and trip.inversion.per_step[0][:2] == (1, 2)
