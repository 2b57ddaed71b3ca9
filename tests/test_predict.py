"""The jump and its algebra: round trips for any number, diffusers' formulas, and the closed-form
denoising error."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_tutorial import (
    add_noise,
    analytic,
    cosine,
    ddim_step,
    eps_from_v,
    from_scheduler,
    generators,
    guidance,
    jump,
    linear,
    pred_eps_and_x0,
    predict_eps,
    predict_x0,
    randn,
    sample,
    scaled_delta,
    source_delta,
    trajectory,
    v_from_eps,
)
from ddim_tutorial.pixel import eps_model
from parts import relative, tiny_unet

# the same examples every time, however busy the machine
unhurried = settings(deadline=None, derandomize=True)
levels = st.lists(st.floats(1e-4, 1 - 1e-4), min_size=3, max_size=3)
images = st.lists(st.floats(-3, 3), min_size=6, max_size=6)


def columns(level, *flat):
    return torch.tensor(level, dtype=torch.float64)[:, None], *(
        torch.tensor(x, dtype=torch.float64).view(3, 2) for x in flat
    )


@unhurried
@given(levels, images, images)
def test_noising_and_jumping_are_inverse(level, image, noise):
    ab_t, x_0, eps = columns(level, image, noise)
    x_t = add_noise(x_0, eps, ab_t)
    torch.testing.assert_close(predict_x0(x_t, eps, ab_t), x_0, rtol=0, atol=1e-11)
    torch.testing.assert_close(predict_eps(x_t, x_0, ab_t), eps, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        add_noise(predict_x0(x_0, eps, ab_t), eps, ab_t), x_0, rtol=0, atol=1e-11
    )


@unhurried
@given(levels, images, images)
def test_v_is_the_rotated_eps(level, image, noise):
    ab_t, x_0, eps = columns(level, image, noise)
    x_t = add_noise(x_0, eps, ab_t)
    v = ab_t.sqrt() * eps - (1 - ab_t).sqrt() * x_0  # Salimans & Ho 2022, App. D
    torch.testing.assert_close(eps_from_v(x_t, v, ab_t), eps, rtol=0, atol=1e-11)
    torch.testing.assert_close(v_from_eps(x_t, eps, ab_t), v, rtol=0, atol=1e-11)
    torch.testing.assert_close(ab_t.sqrt() * x_t - (1 - ab_t).sqrt() * v, x_0, rtol=0, atol=1e-11)


@unhurried
@given(levels, images, images)
def test_noising_keeps_unit_variance(level, image, noise):
    """sqrt(ab)^2 + sqrt(1 - ab)^2 = 1: the pair (x_t, v) is (x_0, eps) rotated, so lengths stay."""
    ab_t, x_0, eps = columns(level, image, noise)
    x_t, v = add_noise(x_0, eps, ab_t), v_from_eps(add_noise(x_0, eps, ab_t), eps, ab_t)
    torch.testing.assert_close(x_t**2 + v**2, x_0**2 + eps**2, rtol=0, atol=1e-10)


def test_noising_and_v_are_those_of_diffusers(device):
    scheduler = DDIMScheduler(clip_sample=False)
    schedule = from_scheduler(scheduler)
    x_0, eps = torch.randn(2, 3, 4, 5, 5, device=device)
    t = torch.tensor([1, 400, 1000], device=device)
    ab_t = schedule.at(t, x_0)
    torch.testing.assert_close(
        add_noise(x_0, eps, ab_t), scheduler.add_noise(x_0, eps, t - 1), rtol=1e-6, atol=1e-6
    )
    v = scheduler.get_velocity(x_0, eps, t - 1)
    torch.testing.assert_close(
        eps_from_v(add_noise(x_0, eps, ab_t), v, ab_t), eps, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("t", [1, 50, 300, 700, 1000])
def test_jump_has_the_least_possible_error(t, device):
    """s^2 sigma^2 / (alpha^2 s^2 + sigma^2) is the error of the best denoiser of N(mu, s^2); 10^4
    samples, 3 sigma."""
    schedule, mu, s, n = linear(), 0.3, 0.7, 10_000
    x_0 = mu + s * torch.randn(n, 1, dtype=torch.float64).to(device)
    ab = schedule.alpha_bar[t].item()
    x_t = math.sqrt(ab) * x_0 + math.sqrt(1 - ab) * torch.randn(n, 1, dtype=torch.float64).to(
        device
    )
    error = (
        (jump(analytic.gaussian(mu, s, schedule), x_t, t, schedule) - x_0).square().mean().item()
    )
    least = s**2 * (1 - ab) / (ab * s**2 + 1 - ab)
    assert abs(error - least) <= 3 * least * math.sqrt(2 / n)


def test_jump_is_the_posterior_mean(device):
    schedule, mu, s = linear(), 0.3, 0.7
    x_t = torch.randn(5, 2, 3, dtype=torch.float64, device=device)
    for t in (1, 500, 1000):
        ab = schedule.alpha_bar[t].item()
        wanted = mu + math.sqrt(ab) * s**2 / (ab * s**2 + 1 - ab) * (x_t - math.sqrt(ab) * mu)
        x0_hat = jump(analytic.gaussian(mu, s, schedule), x_t, t, schedule)
        torch.testing.assert_close(x0_hat, wanted, rtol=0, atol=1e-12)


def test_a_time_for_each_image_is_the_same_as_one_at_a_time(device):
    schedule = linear()
    model = analytic.gaussian(0.3, 0.7, schedule)
    x_t = torch.randn(3, 2, 4, 4, dtype=torch.float64, device=device)
    together = jump(model, x_t, torch.tensor([1, 500, 1000], device=device), schedule)
    for i, t in enumerate([1, 500, 1000]):
        torch.testing.assert_close(
            together[i : i + 1], jump(model, x_t[i : i + 1], t, schedule), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize("t", [900, torch.tensor([900, 900])])
def test_half_precision_comes_back_in_float32(t):
    schedule = linear()
    model, x = analytic.gaussian(0.3, 0.7, schedule), torch.randn(2, 4).bfloat16()
    wanted = jump(model, x.float(), 900, schedule)
    assert relative(jump(model, x, t, schedule), wanted) <= 1e-4
    results = (jump(model, x, t, schedule), *pred_eps_and_x0(model, x, t, schedule))
    assert {result.dtype for result in results} == {torch.float32}


@pytest.mark.parametrize("t", [1, 500, 1000])
def test_with_one_picture_in_the_world_the_jump_finds_it(t, device):
    schedule = linear()
    x_0 = torch.rand(1, 3, 4, 4, dtype=torch.float64, device=device) * 2 - 1
    noise = torch.randn_like(x_0)
    eps, x0_hat = pred_eps_and_x0(analytic.dataset(x_0, schedule), x_0, t, schedule, noise=noise)
    torch.testing.assert_close(eps, noise, rtol=0, atol=1e-11)
    torch.testing.assert_close(x0_hat, x_0, rtol=0, atol=1e-11)


def test_noise_comes_from_the_generator(device):
    schedule, x_0 = linear(), torch.zeros(2, 3, device=device)
    seen = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        pred_eps_and_x0(
            lambda x_t, t: seen.append(x_t) or x_t, x_0, 1000, schedule, generator=generator
        )
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    wanted = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).to(device)
    torch.testing.assert_close(
        seen[0], (1 - schedule.alpha_bar[1000]).sqrt().float() * wanted, rtol=1e-6, atol=0
    )


def test_noise_of_another_precision_leaves_the_picture_its_own():
    schedule, x_0, noise = linear(), torch.zeros(2, 3), torch.randn(2, 3, dtype=torch.float64)
    seen = pred_eps_and_x0(analytic.gaussian(0.3, 0.7, schedule), x_0, 500, schedule, noise=noise)
    assert [part.dtype for part in seen] == [torch.float32] * 2


def test_one_generator_per_picture(device):
    batch = randn((3, 2, 4), generators([5, 6, 7]), device=device)
    for i, seed in enumerate([5, 6, 7]):
        alone = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(seed)).to(device)
        assert torch.equal(batch[i : i + 1], alone)


def test_scaled_delta_is_signed_and_symmetric():
    delta, scale = scaled_delta(torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.0, 1.0, 0.5]))
    assert scale == 2 and delta.tolist() == [0.5, -1.0, 0.0]
    delta, scale = scaled_delta(torch.ones(3), torch.ones(3))
    assert scale == 0 and delta.tolist() == [0.0, 0.0, 0.0]


def test_source_delta_divides_by_the_signed_maximum():
    assert source_delta(torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])).tolist() == [
        1.0,
        -2.0,
        0.0,
    ]
    assert source_delta(torch.tensor([-1.0, -2.0]), torch.zeros(2)).tolist() == [
        1.0,
        2.0,
    ]  # the sign is lost


# --- numbers and arrays ---------------------------------------------------------------------------

FORMULAS = [add_noise, predict_x0, predict_eps, eps_from_v, v_from_eps]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_alpha_bar_may_be_any_number(formula, kind):
    """A quarter is exact in every precision: sqrt(1/4) = 1/2 and sqrt(3/4) are typed in here."""
    a, b = torch.randn(2, 3, 4, dtype=torch.float64)
    half, most = 0.5, math.sqrt(0.75)
    wanted = {
        add_noise: half * a + most * b,
        predict_x0: (a - most * b) / half,
        predict_eps: (a - half * b) / most,
        eps_from_v: half * b + most * a,
        v_from_eps: (b - most * a) / half,
    }[formula]
    torch.testing.assert_close(formula(a, b, kind(0.25)), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_a_step_takes_any_number(kind):
    x_t, eps, noise = torch.randn(3, 3, 4, dtype=torch.float64)
    x_s, x0_hat = ddim_step(x_t, eps, kind(0.25), kind(0.75), sigma=kind(0.25), noise=noise)
    wanted = (x_t - math.sqrt(0.75) * eps) / 0.5
    torch.testing.assert_close(x0_hat, wanted, rtol=1e-12, atol=1e-12)
    wanted = math.sqrt(0.75) * wanted + math.sqrt(0.25 - 0.0625) * eps + 0.25 * noise
    torch.testing.assert_close(x_s, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_times_may_come_in_any_container(kind, device):
    schedule, x = linear(), torch.randn(2, 3, dtype=torch.float64, device=device)
    model = analytic.gaussian(0.3, 0.7, schedule)
    wanted = torch.cat([jump(model, x[i : i + 1], t, schedule) for i, t in enumerate([10, 20])])
    torch.testing.assert_close(jump(model, x, kind([10, 20]), schedule), wanted)
    noise = torch.randn_like(x)
    eps, _ = pred_eps_and_x0(model, x, kind([10, 20]), schedule, noise=noise)
    for i, t in enumerate([10, 20]):
        one, _ = pred_eps_and_x0(model, x[i : i + 1], t, schedule, noise=noise[i : i + 1])
        torch.testing.assert_close(eps[i : i + 1], one)
    torch.testing.assert_close(
        schedule.at(kind([0, 20]), x).flatten().cpu(), schedule.alpha_bar[[0, 20]]
    )


@pytest.mark.parametrize("t", [np.int64(20), np.int32(20), np.array(20)])
def test_a_whole_number_of_numpy_is_a_time(t):
    schedule, x = linear(), torch.randn(2, 3)
    model = analytic.gaussian(0.3, 0.7, schedule)
    assert torch.equal(jump(model, x, t, schedule), jump(model, x, 20, schedule))
    assert schedule.at(t, x) == schedule.alpha_bar[20]


@pytest.mark.parametrize("seeds", [np.arange(3), torch.arange(3), range(3), (0, np.int64(1), 2)])
def test_seeds_may_come_in_any_container(seeds):
    assert torch.equal(randn((3, 4), generators(seeds)), randn((3, 4), generators([0, 1, 2])))


# --- networks that predict v or x_0 ---------------------------------------------------------------


def oracle(prediction, x_0, schedule):
    """A network whose answer is exact: data are one picture, x_0 (B, *dims) float32."""

    def unet(x_t, timestep):
        x, ab = x_t.double(), schedule.alpha_bar[timestep + 1].view(-1, 1, 1, 1)
        eps = (x - ab.sqrt() * x_0) / (1 - ab).sqrt()
        v = ab.sqrt() * eps - (1 - ab).sqrt() * x_0
        return {"epsilon": eps, "v_prediction": v, "sample": x_0}[prediction].to(x_t.dtype)

    network = torch.nn.Module()
    network.forward = unet
    return eps_model(network, prediction=prediction, schedule=schedule)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("t", [1000, 999, 500, 1])
def test_the_jump_of_a_v_network_keeps_the_digits_that_v_has(t, prediction):
    """At T of the cosine schedule sqrt(alpha_bar) is 5e-5: an eps rounded to float32 errs there by
    1e-3. v and x_0, rounded to float32, tell x_0 to 1e-7 however far t is."""
    schedule = cosine()
    x_0 = torch.rand(2, 3, 4, 4) * 2 - 1
    x_t = add_noise(x_0.double(), torch.randn(2, 3, 4, 4).double(), schedule.level(t)).float()
    model = oracle(prediction, x_0, schedule)
    for time in (t, torch.tensor([t, t])):
        x0_hat = jump(model, x_t, time, schedule)
        assert x0_hat.dtype == torch.float32 and relative(x0_hat, x_0) <= 1e-6
    first = next(iter(trajectory(model, x_t, [t, 0], schedule)))
    assert relative(first.x0_hat, x_0) <= 1e-6 and relative(first.x_s, x_0) <= 1e-6
    assert {part.dtype for part in first[2:]} == {torch.float32}
    if t == 1000:  # what is lost on the way through an eps in float32
        assert relative(jump(oracle("epsilon", x_0, schedule), x_t, t, schedule), x_0) > 1e-4


@pytest.mark.parametrize(
    "guide",
    [
        lambda m: guidance.cfg(m, m, 3.0),
        lambda m: guidance.classifier(m, lambda x, t: 0 * x.sum((1, 2, 3)), 1.0, cosine()),
    ],
)
def test_guidance_keeps_them_too(guide):
    schedule, x_0 = cosine(), torch.rand(2, 3, 4, 4) * 2 - 1
    model = guide(oracle("v_prediction", x_0, schedule))
    assert relative(jump(model, torch.randn(2, 3, 4, 4), 1000, schedule), x_0) <= 1e-6
    assert relative(sample(model, torch.randn(2, 3, 4, 4), [1000, 500, 0], schedule), x_0) <= 1e-5


def test_a_network_of_eps_answers_as_it_is():
    unet, schedule, x = tiny_unet(), linear(), torch.randn(2, 2, 8, 8)
    t = torch.tensor([5, 900])
    assert torch.equal(eps_model(unet)(x, t), unet(x, t - 1).sample)
    v = eps_model(unet, prediction="v_prediction", schedule=schedule)(x, t)
    ab = schedule.alpha_bar[t].view(2, 1, 1, 1)
    wanted = ab.sqrt() * unet(x, t - 1).sample + (1 - ab).sqrt() * x
    torch.testing.assert_close(v, wanted, rtol=1e-12, atol=1e-12)
