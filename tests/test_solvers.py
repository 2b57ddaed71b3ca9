"""Second-order solvers against diffusers, against the Gaussian's exact solution, and against each
other where two formulas are one."""

import math
import re
import weakref
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, LMSDiscreteScheduler

from ddim_tutorial import (
    Schedule,
    analytic,
    eps_from_v,
    from_scheduler,
    linear,
    metrics,
    times,
    trajectory,
)
from ddim_tutorial.sampling import final
from ddim_tutorial.solvers import SOLVERS, adams_bashforth, dpmpp_2m, gradient_estimation
from parts import relative, tiny_unet
from test_loop import HostReads, network, smooth, without_the_type_checker  # noqa: F401

SCHEDULE = linear()
MEAN, STD = 0.3, 0.7
MODEL = analytic.gaussian(MEAN, STD, SCHEDULE)
FAST = [name for name in SOLVERS if name != "ddim"]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def start(device, *shape):
    return torch.randn(*shape, dtype=torch.float64).to(device)


# --- diffusers ------------------------------------------------------------------------------------


def adapter(unet, schedule, prediction):
    def model(x_t, t):
        out = unet(x_t, t - 1).sample
        return out if prediction == "epsilon" else eps_from_v(x_t, out, schedule.at(t, x_t))

    return model


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
@pytest.mark.parametrize("N", [5, 10, 20])
def test_dpmpp_2m_is_diffusers(N, spacing, prediction, device):
    scheduler = DPMSolverMultistepScheduler(
        **SD,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        lower_order_final=True,
        prediction_type=prediction,
    )
    schedule, unet = from_scheduler(scheduler), tiny_unet(device)
    grid = times(1000, N, spacing, schedule)
    x = x_T = torch.randn(2, 2, 8, 8).to(device)
    scheduler.set_timesteps(timesteps=[t - 1 for t in grid[:-1]])
    for timestep in scheduler.timesteps:
        x = scheduler.step(unet(x, timestep).sample, timestep, x).prev_sample
    ours = final(dpmpp_2m(adapter(unet, schedule, prediction), x_T, grid, schedule))
    assert relative(ours, x) <= 1e-5
    ddim = final(trajectory(adapter(unet, schedule, prediction), x_T, grid, schedule))
    assert relative(ddim, x) > 1e-3  # the bar tells the two apart


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("N", [5, 10, 20])
def test_adams_bashforth_is_diffusers_lms_of_order_two(N, spacing, device):
    """LMS integrates the Lagrange polynomial numerically; its state is x / sqrt(alpha_bar)."""
    pytest.importorskip("scipy")
    scheduler = LMSDiscreteScheduler(**SD, timestep_spacing=spacing)
    schedule, unet = from_scheduler(scheduler), tiny_unet(device)
    scheduler.set_timesteps(N)
    grid = [round(t) + 1 for t in scheduler.timesteps.tolist()] + [0]
    levels = (1 / schedule.alpha_bar[grid] - 1).sqrt()
    scheduler.sigmas = levels.float()  # linspace has fractions of a timestep
    x_T = torch.randn(2, 2, 8, 8).to(device)
    x = x_T / schedule.alpha_bar[grid[0]].sqrt().float()
    for t, timestep in zip(grid, scheduler.timesteps, strict=False):
        eps = unet(scheduler.scale_model_input(x, timestep), t - 1).sample
        x = scheduler.step(eps, timestep, x, order=2).prev_sample
    ours = final(adams_bashforth(adapter(unet, schedule, "epsilon"), x_T, grid, schedule))
    assert relative(ours, x) <= 1e-5


# --- closed forms ---------------------------------------------------------------------------------


def even_in_log_snr(T, first=-9.0, last=9.0):
    """A schedule whose log SNR falls linearly in t = 1..T: every stride is even in log SNR."""
    log_snr = torch.linspace(last, first, T, dtype=torch.float64)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(log_snr)]))


def order_of(solver, grids, schedule, x_T):
    """The order of convergence to the exact end of the Gaussian's ODE, on
    which x - alpha mean grows like |(std alpha, sigma)|."""
    model, errors = analytic.gaussian(MEAN, STD, schedule), []
    for grid in grids:
        ab = schedule.alpha_bar[[grid[0], grid[-1]]]
        gain = (STD**2 * ab + 1 - ab).sqrt()
        exact = ab[1].sqrt() * MEAN + gain[1] / gain[0] * (x_T - ab[0].sqrt() * MEAN)
        errors.append(metrics.rms(final(solver(model, x_T, grid, schedule)), exact))
    return metrics.order([len(grid) - 1 for grid in grids], errors)


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpmpp_2m", 2), ("adams_bashforth", 2)])
def test_order_of_convergence(name, order, device):
    """Grids even in log SNR down to t = 20; a step into t = 0, where log SNR is infinite, is of
    first order."""
    schedule = even_in_log_snr(7221)
    grids = [list(range(7220, 19, -7200 // N)) for N in (60, 90, 120, 180, 240)]
    assert [len(grid) - 1 for grid in grids] == [60, 90, 120, 180, 240]
    seen = order_of(SOLVERS[name], grids, schedule, start("cpu", 64, 2))
    assert order - 0.1 <= seen <= order + 0.1


def even_in_rho(T=400, step=0.05):
    rho = step * torch.arange(T + 1, dtype=torch.float64)
    return Schedule(1 / (1 + rho**2))


@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_on_equal_steps_adams_bashforth_is_gradient_estimation_with_three_halves(gamma, device):
    """eps + (eps - eps_before) / 2, the textbook's Adams-Bashforth, is gamma = 3/2 and no other."""
    schedule, x_T = even_in_rho(), start(device, 4, 3)
    model, grid = analytic.gaussian(MEAN, STD, schedule), list(range(400, -1, -20))
    ours = final(adams_bashforth(model, x_T, grid, schedule))
    theirs = final(gradient_estimation(model, x_T, grid, schedule, gamma=gamma))
    assert (relative(theirs, ours) <= 1e-12) == (gamma == 1.5)


def test_adams_bashforth_is_exact_where_eps_is_linear_in_rho(device):
    """eps = rho: x / alpha grows by the integral of rho, whatever the sizes of the steps, from the
    second step on."""
    grid = times(1000, 12, "quadratic")
    rho, alpha = (1 / SCHEDULE.alpha_bar - 1).sqrt().to(device), SCHEDULE.alpha_bar.sqrt().tolist()
    model = lambda x_t, t: rho[t][:, None].expand_as(x_t)  # noqa: E731
    for step in list(adams_bashforth(model, start(device, 2, 3), grid, SCHEDULE))[1:]:
        grown = step.x_s / alpha[step.s] - step.x_t / alpha[step.t]
        wanted = (rho[step.s] ** 2 - rho[step.t] ** 2).item() / 2
        torch.testing.assert_close(grown, torch.full_like(grown, wanted), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_gradient_estimation_against_its_authors_recursion(gamma, device):
    """Their state is y = x / alpha: y <- y + (rho_s - rho_t) (gamma eps + (1 - gamma) before)."""
    grid, x_T, before = times(1000, 15), start(device, 3, 2), None
    alpha = SCHEDULE.alpha_bar.sqrt().tolist()
    rho = (1 / SCHEDULE.alpha_bar - 1).sqrt().tolist()
    y = x_T / alpha[grid[0]]
    for t, s in pairwise(grid):
        eps = MODEL(y * alpha[t], torch.full((3,), t, device=device))
        average = eps if before is None else gamma * eps + (1 - gamma) * before
        y, before = y + (rho[s] - rho[t]) * average, eps
    ours = final(gradient_estimation(MODEL, x_T, grid, SCHEDULE, gamma=gamma))
    assert relative(ours, y) <= 1e-12


@pytest.mark.parametrize("solver, options", [(gradient_estimation, {"gamma": 1}),
                                             (adams_bashforth, {"order": 1})])  # fmt: skip
def test_ddim_is_a_special_case_bit_for_bit(solver, options, device):
    x_T, grid = torch.randn(2, 2, 8, 8).to(device), times(1000, 10)
    model = network(tiny_unet(device))
    seen = list(solver(model, x_T, grid, SCHEDULE, **options))
    for step, wanted in zip(seen, trajectory(model, x_T, grid, SCHEDULE), strict=True):
        assert step[:2] == wanted[:2]
        assert all(torch.equal(a, b) for a, b in zip(step[2:], wanted[2:], strict=True))


@pytest.mark.parametrize("name", FAST)
def test_a_solver_gets_nearer_to_the_exact_end_than_ddim(name, device):
    grid, x_T = times(1000, 20), start(device, 64, 2)
    ab = SCHEDULE.alpha_bar[1000]
    exact = MEAN + STD / (STD**2 * ab + 1 - ab).sqrt() * (x_T - ab.sqrt() * MEAN)
    error, ddim = (
        (final(SOLVERS[which](MODEL, x_T, grid, SCHEDULE)) - exact).norm().item()
        for which in (name, "ddim")
    )
    assert error < 0.7 * ddim


# --- the one loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_are_a_chain_with_the_models_own_answers(name, device):
    grid, x_T = times(1000, 7), start(device, 2, 3)
    steps = list(SOLVERS[name](MODEL, x_T, grid, SCHEDULE))
    assert [(step.t, step.s) for step in steps] == list(pairwise(grid))
    assert torch.equal(steps[0].x_t, x_T)
    for step, after in pairwise(steps):
        assert torch.equal(step.x_s, after.x_t)
    for step in steps:
        eps = MODEL(step.x_t, torch.full((2,), step.t, device=device))
        ab_t = SCHEDULE.alpha_bar[step.t].item()
        torch.testing.assert_close(step.eps, eps, rtol=0, atol=0)
        wanted = (step.x_t - math.sqrt(1 - ab_t) * eps) / math.sqrt(ab_t)
        torch.testing.assert_close(step.x0_hat, wanted, rtol=1e-12, atol=1e-11)
    if name == "dpmpp_2m":
        assert torch.equal(steps[-1].x_s, steps[-1].x0_hat)  # first order into t = 0


@pytest.mark.parametrize("name", FAST)
def test_two_runs_share_nothing(name, device):
    """Interleaved, restarted after a break, or alone: the same steps."""
    grid, a, b = times(1000, 6), start(device, 2, 3), start(device, 2, 3)
    run = lambda x: SOLVERS[name](MODEL, x, grid, SCHEDULE)  # noqa: E731
    alone = [[step.x_s for step in run(x)] for x in (a, b)]
    left = run(b)
    next(left), next(left)
    together = [(p.x_s, q.x_s) for p, q in zip(run(a), run(b), strict=True)]
    for seen, wanted in zip(zip(*together, strict=True), alone, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(seen, wanted, strict=True))


@pytest.mark.parametrize("name", FAST)
def test_increasing_times_invert(name, device):
    """From t = 0 on, where rho is 0 and log SNR infinite; more steps bring x_0 back better."""
    x_0, errors = start(device, 8, 3), []
    for N in (25, 50, 100):
        grid = times(1000, N)
        x_T = final(SOLVERS[name](MODEL, x_0, grid[::-1], SCHEDULE))
        errors.append(relative(final(SOLVERS[name](MODEL, x_T, grid, SCHEDULE)), x_0))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05


@pytest.mark.parametrize("name", FAST)
def test_memory_and_calls_are_those_of_ddim(name, device):
    asked, refs = [], []

    def spy(x_t, t):
        asked.append(t.tolist())
        return MODEL(x_t, t)

    walk = SOLVERS[name](spy, start(device, 2, 3), times(1000, 50), SCHEDULE)
    assert asked == []
    for step in walk:
        refs.append([weakref.ref(part) for part in step[2:]])
        assert sum(ref() is not None for parts in refs for ref in parts) <= 8
    assert asked == [[t, t] for t in times(1000, 50)[:-1]]


@pytest.mark.parametrize("name", FAST)
def test_the_state_stays_float32_and_gradients_flow_only_when_asked_for(name, device):
    grid, x_T = times(1000, 10), start(device, 2, 3)
    half = lambda x_t, t: MODEL(x_t, t).bfloat16()  # noqa: E731
    for step in SOLVERS[name](half, x_T.half(), grid, SCHEDULE):
        assert {part.dtype for part in step[2:]} == {torch.float32}
    assert not final(SOLVERS[name](MODEL, x_T, grid, SCHEDULE)).requires_grad
    x_T.requires_grad_()
    x_0 = final(SOLVERS[name](MODEL, x_T, grid, SCHEDULE))
    (gradient,) = torch.autograd.grad(x_0.sum(), x_T)
    with torch.no_grad():  # the model is affine: the gradient is the gain of a difference
        moved = final(SOLVERS[name](MODEL, x_T + 1, grid, SCHEDULE)) - x_0
    torch.testing.assert_close(gradient, moved, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FAST)
def test_an_answer_in_half_precision_is_taken_as_the_numbers_it_is(name, device):
    """The direction is made of it in float32: nothing is rounded but the answer itself."""
    grid, x_T = times(1000, 10), start(device, 2, 3).float()
    half = lambda x_t, t: MODEL(x_t, t).bfloat16()  # noqa: E731
    models = half, lambda x_t, t: half(x_t, t).float()
    seen, wanted = (final(SOLVERS[name](model, x_T, grid, SCHEDULE)) for model in models)
    assert relative(seen, wanted) <= 1e-6


def untyped(test):
    return pytest.mark.usefixtures("without_the_type_checker")(test)


@untyped
@pytest.mark.parametrize("name", FAST)
def test_the_whole_loop_runs_without_values(name):
    unet, x_T = tiny_unet().to("meta"), torch.randn(2, 2, 8, 8, device="meta")
    x_0 = final(SOLVERS[name](network(unet), x_T, times(1000, 10), SCHEDULE))
    assert x_0.is_meta and x_0.shape == x_T.shape and x_0.dtype == torch.float32


@untyped
@pytest.mark.parametrize("name", FAST)
def test_the_loop_reads_nothing_back(name, device):
    x_T = torch.randn(2, 2, 8, 8).to(device)
    walk = SOLVERS[name](network(tiny_unet(device)), x_T, times(1000, 10), SCHEDULE)
    with HostReads() as reads:
        steps = sum(1 for _ in walk)
    assert steps == 10 and reads.count == 0


@untyped
@pytest.mark.parametrize("name", FAST)
def test_the_loop_is_one_graph(name, device):
    x_T, grid = torch.randn(2, 2, 8, 8).to(device), times(1000, 4)
    run = lambda x: final(SOLVERS[name](smooth, x, grid, SCHEDULE))  # noqa: E731
    torch._dynamo.reset()
    report = torch._dynamo.explain(run)(x_T)
    assert report.graph_count == 1 and report.graph_break_count == 0, report.break_reasons
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    assert relative(compiled(x_T), run(x_T)) <= 1e-6


# --- refusals -------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4, 4)
GRID = times(1000, 5)
BAD = {
    "images of integers": (X.to(torch.uint8), GRID, MODEL),
    "images with NaN": (X * math.nan, GRID, MODEL),
    "a list": ([[0.0]], GRID, MODEL),
    "no batch": (X[:0], GRID, MODEL),
    "no times": (X, [], MODEL),
    "one time": (X, [500], MODEL),
    "times repeated": (X, [500, 500, 0], MODEL),
    "times turning back": (X, [500, 100, 300], MODEL),
    "times beyond T": (X, [1001, 0], MODEL),
    "times negative": (X, [500, -1], MODEL),
    "times fractional": (X, [500.5, 0], MODEL),
    "eps of NaN": (X, GRID, lambda x, t: x * math.nan),
    "eps a tuple": (X, GRID, lambda x, t: (x,)),
    "eps of another batch": (X, GRID, lambda x, t: x[:1]),
    "eps of 2C channels": (X, GRID, lambda x, t: torch.cat([x, x], 1)),
    "eps elsewhere": (X, GRID, lambda x, t: x.to("meta")),
}


@untyped
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("case", BAD)
def test_refused_as_by_trajectory(case, name):
    x_T, grid, model = BAD[case]
    with pytest.raises((TypeError, ValueError)) as wanted:
        final(trajectory(model, x_T, grid, SCHEDULE))
    with pytest.raises(wanted.type, match=re.escape(str(wanted.value))):
        walk = SOLVERS[name](model, x_T, grid, SCHEDULE)
        assert case.startswith("eps"), (
            "what is wrong with an argument is said before the first step"
        )
        final(walk)


@untyped
@pytest.mark.parametrize(
    "solver, options, kind, says",
    [
        (gradient_estimation, {"gamma": math.nan}, ValueError, "gamma=nan.*finite"),
        (gradient_estimation, {"gamma": math.inf}, ValueError, "gamma=inf.*finite"),
        (gradient_estimation, {"gamma": "2"}, ValueError, "gamma='2'.*finite"),
        (adams_bashforth, {"order": 0}, ValueError, "order=0.*1..2"),
        (adams_bashforth, {"order": 3}, ValueError, "order=3.*1..2"),
        (adams_bashforth, {"order": 1.5}, TypeError, "order=1.5.*1..2"),
    ],
)
def test_options_refused_by_name(solver, options, kind, says):
    with pytest.raises(kind, match=says):
        solver(MODEL, X, GRID, SCHEDULE, **options)
