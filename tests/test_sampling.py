"""The sampler against answers it did not compute: the Gaussian's closed form, and diffusers on a
random network."""

import math
import weakref
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ddim_tutorial import (
    add_noise,
    analytic,
    ddim_sigma,
    ddim_step,
    eps_from_v,
    from_scheduler,
    generators,
    linear,
    metrics,
    predict_eps,
    predict_x0,
    randn,
    sample,
    scheduler_times,
    times,
    trajectory,
)
from parts import relative, tiny_unet

SCHEDULE = linear()
MEAN, STD = 0.3, 0.7
MODEL = analytic.gaussian(MEAN, STD, SCHEDULE)


def vectors(grid, std=STD):
    """u_t = (std alpha_t, sigma_t), (N+1, 2): DDIM and the ODE on N(mean, std^2) act on x - alpha
    mean through it."""
    ab = SCHEDULE.alpha_bar[grid]
    return torch.stack([std * ab.sqrt(), (1 - ab).sqrt()], dim=1)


def ddim_gain(grid, std=STD):
    u_t, u_s = vectors(grid, std)[:-1], vectors(grid, std)[1:]
    return ((u_t * u_s).sum(1) / u_t.square().sum(1)).prod().item()


def ode_gain(grid, std=STD):
    u = vectors(grid, std).norm(dim=1)
    return (u[-1] / u[0]).item()


def centred(x, t):
    return x - SCHEDULE.alpha_bar[t].sqrt().item() * MEAN


def start(device, *shape):
    return torch.randn(*shape, dtype=torch.float64).to(device)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "quadratic"])
@pytest.mark.parametrize("N", [10, 50, 1000])
def test_gaussian_data_have_a_closed_form(N, spacing, device):
    grid = times(1000, N, spacing)
    x_T = start(device, 8, 3, 4)
    seen = sample(MODEL, x_T, grid, SCHEDULE)
    wanted = MEAN + ddim_gain(grid) * centred(x_T, grid[0])
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("N", [10, 50, 1000])
def test_gaussian_closed_form_in_float32(N, device):
    grid = times(1000, N)
    x_T = start(device, 8, 3, 4).float()
    seen = sample(MODEL, x_T, grid, SCHEDULE)
    assert seen.dtype == torch.float32
    assert relative(seen.double(), MEAN + ddim_gain(grid) * centred(x_T.double(), 1000)) <= 1e-5


@pytest.mark.parametrize("N", [10, 50, 1000])
def test_ddim_shrinks_by_the_product_of_cosines(N, device):
    """DDIM / ODE = prod cos(angle between u_t and u_s), the angles from atan2."""
    grid = times(1000, N)
    u = vectors(grid)
    angles = torch.atan2(u[:, 1], u[:, 0])
    cosines = torch.cos(angles.diff()).prod().item()
    x_T = start(device, 64)[:, None]
    x_0 = sample(MODEL, x_T, grid, SCHEDULE)
    measured = (centred(x_0, 0) / centred(x_T, 1000)).cpu() / ode_gain(grid)
    torch.testing.assert_close(measured, torch.full_like(measured, cosines), rtol=1e-12, atol=0)
    assert cosines < 1


def test_order_of_convergence_is_one(device):
    """Halving the step halves the distance to the exact solution of the probability-flow ODE."""
    steps = [50, 100, 125, 200, 250]
    x_T = start(device, 64, 2)
    exact = MEAN + ode_gain([1000, 0]) * centred(x_T, 1000)
    errors = [metrics.rms(sample(MODEL, x_T, times(1000, N), SCHEDULE), exact) for N in steps]
    assert 0.95 <= metrics.order(steps, errors) <= 1.05


def variance_at_end(grid, eta, sigma_hat):
    """Var x_0 for centred Gaussian data, by the linear recursion v_s = gain^2 v_t + (injected
    variance)."""
    ab = SCHEDULE.alpha_bar.tolist()
    variance = 1.0
    for i, (t, s) in enumerate(pairwise(grid)):
        sigma2 = eta**2 * (1 - ab[s]) / (1 - ab[t]) * (1 - ab[t] / ab[s])
        injected = (1 - ab[t] / ab[s]) * (i < len(grid) - 2) if sigma_hat else sigma2
        slope = math.sqrt(1 - ab[t]) / (ab[t] * STD**2 + 1 - ab[t])  # eps = slope x_t
        gain = (
            math.sqrt(ab[s] / ab[t]) * (1 - math.sqrt(1 - ab[t]) * slope)
            + math.sqrt(1 - ab[s] - sigma2) * slope
        )
        variance = gain**2 * variance + injected
    return variance


@pytest.mark.parametrize("eta, sigma_hat", [(0.0, False), (0.3, False), (1.0, False), (1.0, True)])
@pytest.mark.parametrize("N", [5, 40])
def test_the_noise_of_a_step_has_the_right_size(N, eta, sigma_hat, device):
    n, grid = 40_000, times(1000, N)
    x_T, generator = start(device, n, 1), torch.Generator().manual_seed(1)
    model = analytic.gaussian(0.0, STD, SCHEDULE)
    x_0 = sample(model, x_T, grid, SCHEDULE, eta=eta, sigma_hat=sigma_hat, generator=generator)
    wanted = variance_at_end(grid, eta, sigma_hat)
    assert abs(x_0.square().mean().item() - wanted) <= 3 * wanted * math.sqrt(2 / n)


def test_the_last_step_adds_no_noise(device):
    for options in (dict(eta=1.0), dict(eta=1.0, sigma_hat=True)):
        *_, last = trajectory(MODEL, start(device, 2, 3), times(1000, 5), SCHEDULE, **options)
        assert last.s == 0 and torch.equal(last.x_s, last.x0_hat)


def test_sigma_hat_implies_eta_one(device):
    x_T = start(device, 2, 3)
    seen = [
        sample(
            MODEL,
            x_T,
            times(1000, 5),
            SCHEDULE,
            sigma_hat=True,
            generator=torch.Generator().manual_seed(0),
            **more,
        )
        for more in ({}, {"eta": 1.0})
    ]
    assert torch.equal(*seen)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_keeps_the_marginal(eta):
    """With the true noise of x_t, x_s is sqrt(ab_s) x_0 plus noise of variance 1 - ab_s, whatever
    eta is."""
    ab_t, ab_s = SCHEDULE.alpha_bar[700], SCHEDULE.alpha_bar[400]
    x_0, eps, z = (torch.randn(100, 1, dtype=torch.float64) for _ in range(3))
    sigma = ddim_sigma(ab_t, ab_s, eta)
    x_s, x0_hat = ddim_step(add_noise(x_0, eps, ab_t), eps, ab_t, ab_s, sigma=sigma, noise=z)
    torch.testing.assert_close(x0_hat, x_0, rtol=0, atol=1e-13)
    on_eps, on_z = (
        torch.linalg.lstsq(torch.cat([eps, z], 1), x_s - ab_s.sqrt() * x_0)
        .solution.flatten()
        .tolist()
    )
    assert math.isclose(on_eps**2 + on_z**2, 1 - ab_s, rel_tol=1e-12) and math.isclose(
        on_z, sigma, abs_tol=1e-12
    )


def test_trajectory_yields_a_chain_of_steps(device):
    grid, x_T = times(1000, 7), start(device, 2, 3)
    steps = list(trajectory(MODEL, x_T, grid, SCHEDULE))
    assert [step.t for step in steps] == grid[:-1] and [step.s for step in steps] == grid[1:]
    assert torch.equal(steps[0].x_t, x_T) and torch.equal(
        steps[-1].x_s, sample(MODEL, x_T, grid, SCHEDULE)
    )
    for step, after in pairwise(steps):
        assert torch.equal(step.x_s, after.x_t)
    for step in steps:
        t = torch.full((2,), step.t, device=device)
        torch.testing.assert_close(step.eps, MODEL(step.x_t, t), rtol=0, atol=0)
        torch.testing.assert_close(
            step.x0_hat, predict_x0(step.x_t, step.eps, SCHEDULE.alpha_bar[step.t])
        )


def test_a_step_to_where_it_stands_and_the_way_through_the_middle_agree():
    """With one eps, t -> r -> s is t -> s: a DDIM step only re-mixes the same x0_hat and eps."""
    ab_t, ab_r, ab_s = SCHEDULE.alpha_bar[[900, 500, 100]]
    x_t, eps = (torch.randn(2, 3, dtype=torch.float64) for _ in range(2))
    x_r, _ = ddim_step(x_t, eps, ab_t, ab_r)
    torch.testing.assert_close(
        ddim_step(x_r, eps, ab_r, ab_s)[0], ddim_step(x_t, eps, ab_t, ab_s)[0]
    )
    torch.testing.assert_close(
        ddim_step(x_r, eps, ab_r, ab_t)[0], x_t, rtol=0, atol=1e-12
    )  # and back


def test_memory_does_not_grow_with_the_steps(device):
    seen = []
    for step in trajectory(MODEL, start(device, 2, 3), times(1000, 50), SCHEDULE):
        seen.append(weakref.ref(step.x_s))
        assert sum(ref() is not None for ref in seen) <= 2
    assert len(seen) == 50


def test_the_model_is_asked_once_a_step_and_no_more_than_wanted(device):
    asked = []
    spy = lambda x, t: asked.append(t.tolist()) or MODEL(x, t)  # noqa: E731
    walk = trajectory(spy, start(device, 2, 3), times(1000, 50), SCHEDULE)
    assert asked == []
    for step in walk:
        if step.s == 900:
            break
    assert asked == [[t, t] for t in (1000, 980, 960, 940, 920)]


def test_gradients_flow_only_when_asked_for(device):
    grid, x_T = times(1000, 20), start(device, 2, 3)
    weight = torch.ones(
        (), dtype=torch.float64, device=device, requires_grad=True
    )  # as a network in training has
    assert not sample(lambda x, t: weight * MODEL(x, t), x_T, grid, SCHEDULE).requires_grad
    x_T.requires_grad_()
    (gradient,) = torch.autograd.grad(sample(MODEL, x_T, grid, SCHEDULE).sum(), x_T)
    torch.testing.assert_close(gradient, torch.full_like(x_T, ddim_gain(grid)), rtol=1e-12, atol=0)
    with torch.no_grad():
        assert not sample(MODEL, x_T, grid, SCHEDULE).requires_grad


# --- parity with diffusers ------------------------------------------------------------------------

PREDICTIONS = {
    "epsilon": lambda x_t, out, ab_t: out,
    "v_prediction": eps_from_v,
    "sample": predict_eps,
}


def adapter(unet, schedule, prediction="epsilon"):
    """The network as an eps model, whatever it predicts."""

    def model(x_t, t):
        return PREDICTIONS[prediction](x_t, unet(x_t, t - 1).sample, schedule.at(t, x_t))

    return model


def diffusers_loop(scheduler, unet, x, steps, eta=0.0, generator=None):
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        noise = torch.randn(x.shape, generator=generator).to(x) if eta else None
        x = scheduler.step(
            unet(x, timestep).sample, timestep, x, eta=eta, variance_noise=noise
        ).prev_sample
    return x


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_parity_with_diffusers_ddim(spacing, eta, prediction, device):
    scheduler = DDIMScheduler(
        timestep_spacing=spacing, prediction_type=prediction, clip_sample=False
    )
    schedule, unet = from_scheduler(scheduler), tiny_unet(device)
    for steps in (10, 25):
        x_T = torch.randn(2, 2, 8, 8).to(device)
        theirs = diffusers_loop(scheduler, unet, x_T, steps, eta, torch.Generator().manual_seed(1))
        ours = sample(
            adapter(unet, schedule, prediction),
            x_T,
            scheduler_times(scheduler, steps),
            schedule,
            eta=eta,
            generator=torch.Generator().manual_seed(1),
        )
        assert relative(ours, theirs) <= 2e-5


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_parity_on_stable_diffusions_schedule_and_grid(eta, device):
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    schedule, unet, x_T = (
        from_scheduler(scheduler),
        tiny_unet(device),
        torch.randn(2, 2, 8, 8).to(device),
    )
    theirs = diffusers_loop(scheduler, unet, x_T, 50, eta, torch.Generator().manual_seed(1))
    ours = sample(
        adapter(unet, schedule),
        x_T,
        scheduler_times(scheduler, 50),
        schedule,
        eta=eta,
        generator=torch.Generator().manual_seed(1),
    )
    assert relative(ours, theirs) <= 2e-5


def test_eta_one_on_the_full_grid_is_ddpm(device):
    """DDPMScheduler samples Eq. 7 of DDPM, mean and variance, from x0_hat: the same chain with the
    same noise."""
    T = 100
    scheduler = DDPMScheduler(num_train_timesteps=T, clip_sample=False)
    # in float32, as it comes, its 1 - ab_t / ab_s cancels to three digits
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    schedule, unet, x_T = (
        from_scheduler(scheduler),
        tiny_unet(device),
        torch.randn(2, 2, 8, 8).to(device),
    )
    x, generator = x_T, torch.Generator().manual_seed(1)
    for timestep in range(T - 1, -1, -1):
        x = scheduler.step(unet(x, timestep).sample, timestep, x, generator=generator).prev_sample
    ours = sample(
        adapter(unet, schedule),
        x_T,
        times(T, T),
        schedule,
        eta=1.0,
        generator=torch.Generator().manual_seed(1),
    )
    assert relative(ours, x) <= 2e-5


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_eta_one_has_ddpms_variance_and_sigma_hat_the_larger_one(t):
    small, large = (DDPMScheduler(variance_type=kind) for kind in ("fixed_small", "fixed_large"))
    ab = from_scheduler(small).alpha_bar
    sigma = ddim_sigma(ab[t], ab[t - 1], 1.0).item()
    assert math.isclose(
        sigma**2, small._get_variance(t - 1), rel_tol=1e-3
    )  # theirs: float32, 1 - ab_t / ab_s
    assert math.isclose(1 - ab[t] / ab[t - 1], large._get_variance(t - 1), rel_tol=1e-3)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    steps = trajectory(
        lambda x, _: zero,
        zero,
        [t, t - 1, 0],
        from_scheduler(small),
        sigma_hat=True,
        generator=torch.Generator().manual_seed(2),
    )
    noise = randn((1, 1), torch.Generator().manual_seed(2), dtype=torch.float64)
    assert math.isclose(next(steps).x_s, (1 - ab[t] / ab[t - 1]).sqrt() * noise, rel_tol=1e-12)


# --- batches and precision ------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_picture_does_not_depend_on_its_batch(eta, device):
    model = adapter(tiny_unet(device), SCHEDULE)
    grid, seeds = times(1000, 20), [3, 1, 4, 15]
    x_T = randn((4, 2, 8, 8), generators(seeds), device=device)
    together = sample(
        model, x_T, grid, SCHEDULE, eta=eta, generator=generators([10 + s for s in seeds])
    )
    for i, seed in enumerate(seeds):
        alone = sample(
            model,
            randn((1, 2, 8, 8), generators([seed]), device=device),
            grid,
            SCHEDULE,
            eta=eta,
            generator=generators([10 + seed]),
        )
        assert relative(together[i : i + 1], alone) <= 5e-6


def test_noise_is_drawn_from_the_generator_given(device):
    x_T = start(device, 2, 3)
    a, b, c = (
        sample(
            MODEL,
            x_T,
            times(1000, 5),
            SCHEDULE,
            eta=1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_the_state_stays_float32_under_a_half_precision_network(dtype, tolerance, device):
    # leading: it does not divide eps by the smallest sqrt(alpha_bar)
    grid, x_T = times(1000, 10, "leading"), torch.randn(2, 2, 8, 8).to(device)
    unet, half_unet = tiny_unet(device), tiny_unet(device).to(dtype)
    half = lambda x, t: half_unet(x.to(dtype), t - 1).sample  # noqa: E731
    steps = list(trajectory(half, x_T, grid, SCHEDULE))
    assert {part.dtype for step in steps for part in step[2:]} == {torch.float32}
    assert (
        relative(steps[-1].x_s, sample(adapter(unet, SCHEDULE), x_T, grid, SCHEDULE)) <= tolerance
    )
    assert sample(half, x_T.to(dtype), grid, SCHEDULE).dtype == torch.float32
    # the step's own arithmetic is float32: with the same eps it agrees with a float64 step far
    # below half precision
    for step in steps:
        ab = [SCHEDULE.alpha_bar[t] for t in (step.t, step.s)]
        exact, _ = ddim_step(step.x_t.double(), step.eps.double(), *ab)
        assert relative(step.x_s.double(), exact) <= 1e-6
