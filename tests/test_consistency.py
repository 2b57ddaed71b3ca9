"""Consistency functions against ends that are known: the Gaussian's line, the mixture's quantiles,
and Song et al.'s own sampling algorithm."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from ddim_tutorial import (
    add_noise,
    analytic,
    ddim_sigma,
    ddim_step,
    generators,
    jump,
    linear,
    predict_eps,
    sample,
    scaled_linear,
    times,
    trajectory,
)
from ddim_tutorial.consistency import (
    as_eps_model,
    consistency_function,
    pseudo_huber,
    self_consistency,
)
from ddim_tutorial.sampling import final
from ddim_tutorial.solvers import adams_bashforth
from parts import relative, tiny_unet

SCHEDULE = scaled_linear()
MEAN, STD = 0.3, 0.7
MODEL = analytic.gaussian(MEAN, STD, SCHEDULE)
LINE = analytic.mixture(
    torch.tensor([[-1.0], [0.2], [1.5]]),
    torch.tensor([0.2, 0.05, 0.4]),
    torch.tensor([3.0, 1.0, 2.0]),
    SCHEDULE,
)
BUSY = [1, 40, 300, 700, 1000]


def gaussian_flow(x_t, t, s):
    """Where the ODE of N(mean, std^2) takes x_t: the distance from the mean scales as the std."""
    ab_t, ab_s = (SCHEDULE.at(time, x_t) for time in (t, s))
    spread = ((ab_s * STD**2 + 1 - ab_s) / (ab_t * STD**2 + 1 - ab_t)).sqrt()
    return ab_s.sqrt() * MEAN + spread * (x_t - ab_t.sqrt() * MEAN)


EXACT = as_eps_model(lambda x_t, t: gaussian_flow(x_t, t, torch.zeros_like(t)), SCHEDULE)


def noisy(t, *shape):
    x_0 = MEAN + STD * torch.randn(*shape, dtype=torch.float64)
    return add_noise(x_0, torch.randn_like(x_0), SCHEDULE.at(t, x_0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_boundary_condition_holds_whatever_the_network_says(dtype, device):
    unet = tiny_unet(device)
    x_0 = torch.randn(3, 2, 8, 8, device=device).to(dtype)

    def network(x_t, t):
        return 100 * unet(x_t.float(), t - 1).sample

    alone = consistency_function(network, x_0, 0, SCHEDULE)
    assert alone.dtype == torch.float32 and torch.equal(alone, x_0.float())
    mixed = consistency_function(network, x_0, torch.tensor([0, 500, 0]), SCHEDULE)
    assert torch.equal(mixed[::2], x_0[::2].float()) and not torch.equal(mixed[1], x_0[1].float())


@pytest.mark.parametrize("t", BUSY)
def test_it_is_the_jump_of_the_same_network(t):
    x_t = noisy(t, 4, 3)
    wanted = jump(MODEL, x_t, t, SCHEDULE)
    torch.testing.assert_close(consistency_function(MODEL, x_t, t, SCHEDULE), wanted)
    mean = MEAN + STD**2 * SCHEDULE.level(t) ** 0.5 * (x_t - SCHEDULE.level(t) ** 0.5 * MEAN) / (
        SCHEDULE.level(t) * STD**2 + 1 - SCHEDULE.level(t)
    )
    torch.testing.assert_close(wanted, mean, rtol=1e-9, atol=1e-9)  # of the Gaussian's posterior


def test_the_end_of_a_gaussian_is_reached_in_one_jump():
    x_T = noisy(1000, 50, 3)
    end = gaussian_flow(x_T, 1000, 0)
    assert relative(sample(EXACT, x_T, [1000, 0], SCHEDULE), end) < 1e-12
    assert relative(sample(EXACT, x_T.float(), [1000, 0], SCHEDULE), end.float()) < 1e-6
    assert relative(sample(MODEL, x_T, [1000, 0], SCHEDULE), end) > 0.5
    fine = times(1000, 1000)
    assert relative(sample(MODEL, x_T, fine, SCHEDULE), end) < 5e-3


@pytest.mark.parametrize("k", [1, 40, 500])
def test_self_consistency_is_zero_for_the_end_alone(k):
    t = torch.tensor([k, 600, 600, 1000])
    x_t = noisy(t, 4, 6)
    x_s = gaussian_flow(x_t, t, t - k)
    exact = self_consistency(EXACT, EXACT, x_t, t, x_s, t - k, SCHEDULE)
    assert exact.shape == (4,) and exact.abs().max() < 1e-12
    jumped = self_consistency(MODEL, MODEL, x_t, t, x_s, t - k, SCHEDULE)
    # two posterior means, whose distances from the mean of the data are known
    ab = SCHEDULE.alpha_bar
    share = STD * ab.sqrt() / (ab * STD**2 + 1 - ab).sqrt()
    ends = gaussian_flow(x_t, t, torch.zeros_like(t)) - MEAN
    gap = ((share[t] - share[t - k])[:, None] * ends).norm(dim=1)
    c = 0.00054 * 6**0.5
    torch.testing.assert_close(jumped, (gap**2 + c**2).sqrt() - c, rtol=1e-6, atol=1e-12)
    assert jumped.min() > 1e3 * exact.abs().max()


def test_a_step_of_the_teacher_leaves_its_own_error():
    """A DDIM step is off the trajectory by O(k^2): the exact function is not quite consistent with
    it, less so the shorter the step."""
    t = torch.full((64,), 600)
    x_t = noisy(600, 64, 4)
    losses = []
    for k in (100, 50, 25):
        ab_t, ab_s = SCHEDULE.at(t, x_t), SCHEDULE.at(t - k, x_t)
        x_s, _ = ddim_step(x_t, MODEL(x_t, t), ab_t, ab_s)
        losses.append(self_consistency(EXACT, EXACT, x_t, t, x_s, t - k, SCHEDULE, 1e-9).mean())
    for coarse, fine in pairwise(losses):
        assert 3 < coarse / fine < 5


def test_the_target_is_not_differentiated():
    weight = torch.tensor(1.0, requires_grad=True)
    other = torch.tensor(1.0, requires_grad=True)
    t, x = torch.full((2,), 400), noisy(400, 2, 3)
    loss = self_consistency(
        lambda x_t, t: weight * x_t, lambda x_t, t: other * x_t, x, t, x, t - 1, SCHEDULE
    )
    loss.sum().backward()
    assert weight.grad.abs() > 0 and other.grad is None


@pytest.mark.parametrize("c", [1e-3, 0.5, 20.0])
def test_pseudo_huber_is_a_square_near_zero_and_a_distance_far_away(c):
    x, y = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    distance = (x - y).flatten(1).norm(dim=1)
    torch.testing.assert_close(pseudo_huber(x, y, c), (distance**2 + c**2).sqrt() - c)
    near, far = c * 1e-3 / distance, c * 1e4 / distance
    for scale, wanted in ((near, c * 0.5e-6), (far, c * 1e4)):
        z = x + scale.view(-1, 1, 1) * (y - x)
        seen = pseudo_huber(z, x, c)
        torch.testing.assert_close(seen, torch.full_like(seen, wanted), rtol=2e-4, atol=0)
    assert torch.equal(pseudo_huber(x, x), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"c=0\.0: pass a finite number above 0"):
        pseudo_huber(x, y, 0.0)


# The mixture on a line: its trajectories do not cross.


def share_below(x, t):
    """F_t by torch.distributions."""
    ab = SCHEDULE.alpha_bar[t]
    spread = (ab * LINE.stds**2 + 1 - ab).sqrt()
    components = Normal(ab.sqrt() * LINE.means[:, 0], spread)
    return MixtureSameFamily(Categorical(LINE.weights), components).cdf(x)


@pytest.mark.parametrize("t", BUSY)
def test_the_end_on_a_line_keeps_the_share_below(t):
    x_t = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    end = LINE.end(x_t, torch.full((41,), t))
    torch.testing.assert_close(share_below(end, 0), share_below(x_t, t), rtol=0, atol=1e-12)
    assert (end[1:] > end[:-1]).all()


def test_the_end_on_a_line_is_where_a_fine_walk_ends():
    x_T = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    wanted = LINE.end(x_T, torch.full((41,), 1000))
    errors = [
        relative(final(adams_bashforth(LINE, x_T, times(1000, S), SCHEDULE)), wanted)
        for S in (125, 250, 500)
    ]
    assert errors[-1] < 0.01 and errors[2] < errors[1] < errors[0]


def test_the_end_of_a_clean_number_is_itself_and_far_tails_are_told_apart():
    x = torch.tensor([[-1.7], [0.2], [4.0]])
    torch.testing.assert_close(LINE.end(x, torch.zeros(3, dtype=torch.long)), x.double())
    mean = torch.full((1, 1), MEAN, dtype=torch.float64)
    one = analytic.mixture(mean, STD, torch.ones(1), SCHEDULE)
    x_t = torch.tensor([[-12.0], [0.1], [12.0]], dtype=torch.float64)
    t = torch.tensor([900, 500, 900])
    end = gaussian_flow(x_t, t, torch.zeros_like(t))
    torch.testing.assert_close(one.end(x_t, t), end, rtol=1e-9, atol=1e-9)


def test_an_end_that_is_not_known_is_refused():
    plane = analytic.mixture(torch.zeros(2, 2), 0.5, torch.ones(2), SCHEDULE)
    points = analytic.dataset(torch.zeros(2, 1), SCHEDULE)
    for model, x in ((plane, torch.zeros(1, 2)), (points, torch.zeros(1, 1))):
        with pytest.raises(ValueError, match="known on a line, means of shape"):
            model.end(x, torch.ones(1, dtype=torch.long))


# Multistep sampling.


def algorithm_1(f, x_T, taus, noise):
    """Song et al. 2023, Algorithm 1, in their letters: x = x_0 + tau z, epsilon = 0."""
    x = f(x_T, taus[0])
    for tau, z in zip(taus[1:], noise, strict=True):
        x = f(x + tau * z, tau)
    return x


@pytest.mark.parametrize("grid", [[1000, 0], [1000, 500, 0], [1000, 750, 500, 3, 0]])
def test_multistep_sampling_is_song_et_al_s(grid):
    """Their x is our x_t / sqrt(alpha_bar_t), and their tau our rho."""
    ab = SCHEDULE.alpha_bar[grid[:-1]]
    rho = (1 / ab - 1).sqrt()
    x_T = torch.randn(4, 3, dtype=torch.float64)
    own = torch.Generator().manual_seed(5)
    noise = [torch.randn(4, 3, generator=own, dtype=torch.float64) for _ in grid[2:]]

    def f(x, tau):
        return MEAN + STD / (STD**2 + tau**2) ** 0.5 * (x - MEAN)

    wanted = algorithm_1(f, x_T / ab[0].sqrt(), rho.tolist(), noise)
    generator = torch.Generator().manual_seed(5)
    ours = sample(EXACT, x_T, grid, SCHEDULE, eta=math.inf, generator=generator)
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


def test_an_infinite_eta_is_the_largest_sigma_of_eq_12():
    """What ddim_step makes with sigma^2 just below 1 - ab_s, above which no direction is left."""
    x_t, own = noisy(800, 3, 2), torch.Generator().manual_seed(1)
    for step in trajectory(MODEL, x_t, [800, 300, 0], SCHEDULE, eta=math.inf, generator=own):
        ab_t, ab_s = SCHEDULE.level(step.t), SCHEDULE.level(step.s)
        sigma = ddim_sigma(ab_t, ab_s, math.inf)
        assert sigma == pytest.approx((1 - ab_s) ** 0.5, abs=1e-15)
        noise = torch.zeros_like(x_t)
        if step.s:
            noise = predict_eps(step.x_s, step.x0_hat, ab_s)
        x_s, x0_hat = ddim_step(step.x_t, step.eps, ab_t, ab_s, sigma=sigma * (1 - 1e-12),
                                noise=noise)  # fmt: skip
        torch.testing.assert_close(x_s, step.x_s, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x0_hat, step.x0_hat)
    at = SCHEDULE.at(torch.tensor([300, 0]), x_t[:2])
    torch.testing.assert_close(ddim_sigma(at / 2, at, math.inf), (1 - at).sqrt())


def test_noise_anew_keeps_the_data_of_the_exact_function_alone():
    """Whatever was before, the last jump starts from x_0 of the right distribution plus fresh
    noise. A jump to the mean shrinks the spread each time, by a factor that is known."""
    x_T, grid = noisy(1000, 20000, 1), [1000, 600, 300, 0]
    exact, plain = (sample(model, x_T, grid, SCHEDULE, eta=math.inf) for model in (EXACT, MODEL))
    assert exact.mean().item() == pytest.approx(MEAN, abs=4 * STD / 20000**0.5)
    assert exact.std().item() == pytest.approx(STD, rel=4 / 40000**0.5)
    variance = STD**2
    for t in grid[:-1]:
        ab = SCHEDULE.level(t)
        x_t = STD**2 * ab + 1 - ab if t == grid[0] else variance * ab + 1 - ab
        variance = (STD**2 * ab**0.5 / (STD**2 * ab + 1 - ab)) ** 2 * x_t
    assert variance**0.5 < 0.6 * STD
    assert plain.std().item() == pytest.approx(variance**0.5, rel=4 / 40000**0.5)


def test_the_noise_of_a_picture_is_its_own():
    x_T = noisy(1000, 3, 4)
    grid = [1000, 400, 0]
    together = sample(EXACT, x_T, grid, SCHEDULE, eta=math.inf, generator=generators(range(3)))
    alone = sample(EXACT, x_T[1:2], grid, SCHEDULE, eta=math.inf, generator=generators([1]))
    torch.testing.assert_close(together[1:2], alone)


def test_an_infinite_eta_has_no_way_up_and_no_larger_variance():
    x = noisy(1, 2, 2)
    with pytest.raises(ValueError, match="inversion is deterministic"):
        sample(EXACT, x, [0, 500], SCHEDULE, eta=math.inf)
    with pytest.raises(ValueError, match="sigma_hat=True with eta=inf"):
        sample(EXACT, x, [500, 0], SCHEDULE, eta=math.inf, sigma_hat=True)
    with pytest.raises(ValueError, match=r"math\.inf jumps, then noises"):
        sample(EXACT, x, [500, 0], SCHEDULE, eta=math.nan)


def test_the_loop_of_a_half_precision_network_keeps_its_state():
    schedule = linear()
    half = as_eps_model(lambda x_t, t: torch.zeros_like(x_t), schedule)  # answers float64
    x_0 = sample(half, torch.randn(2, 3), [1000, 500, 0], schedule, eta=math.inf)
    assert x_0.dtype == torch.float32 and x_0.abs().max() < 1e-6
