"""The closed-form models against the definition eps = -sigma grad log p_t(x_t), densities by
torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ddim_tutorial import add_noise, analytic, jump, linear, sample, times

SCHEDULE = linear()
TIMES = [1, 10, 300, 700, 1000]


def batch_of(t, x):
    return torch.full((len(x),), t, device=x.device)


def minus_sigma_score(density, x_t, t):
    x = x_t.clone().requires_grad_()
    (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    return -math.sqrt(1 - SCHEDULE.alpha_bar[t]) * score


def noisy_mixture(means, stds, weights, t):
    """p_t of a Gaussian mixture: every mean times sqrt(ab), every variance ab s^2 + 1 - ab."""
    ab = SCHEDULE.alpha_bar[t].item()
    std = (ab * stds**2 + 1 - ab).sqrt().view(-1, *[1] * (means.dim() - 1)).expand_as(means)
    components = Independent(Normal(math.sqrt(ab) * means, std), means.dim() - 1)
    return MixtureSameFamily(Categorical(weights), components), components


def toy(device, dims=(2, 3)):
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(4, *dims, generator=generator, dtype=torch.float64).to(device)
    stds = torch.tensor([0.2, 0.5, 0.1, 1.0], dtype=torch.float64, device=device)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, device=device)
    return means, stds, weights


def visits(means, t):
    """Two noisy versions of each mean, so that every component matters somewhere."""
    x_0 = means.repeat(2, *[1] * (means.dim() - 1))
    return add_noise(x_0, torch.randn_like(x_0), SCHEDULE.alpha_bar[t])


@pytest.mark.parametrize("t", TIMES)
def test_gaussian_is_the_score_of_its_density(t, device):
    mean = torch.randn(2, 3, dtype=torch.float64, device=device)
    x_t = torch.randn(5, 2, 3, dtype=torch.float64, device=device)
    ab = SCHEDULE.alpha_bar[t].item()
    density = Normal(math.sqrt(ab) * mean, math.sqrt(ab * 0.7**2 + 1 - ab))
    eps = analytic.gaussian(mean, 0.7, SCHEDULE)(x_t, batch_of(t, x_t))
    torch.testing.assert_close(eps, minus_sigma_score(density, x_t, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_mixture_is_the_score_of_its_density(t, device):
    means, stds, weights = toy(device)
    x_t = visits(means, t)
    density, _ = noisy_mixture(means, stds, weights, t)
    eps = analytic.mixture(means, stds, weights, SCHEDULE)(x_t, batch_of(t, x_t))
    torch.testing.assert_close(eps, minus_sigma_score(density, x_t, t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_responsibilities_are_bayes(t, device):
    means, stds, weights = toy(device)
    x_t = visits(means, t)
    density, components = noisy_mixture(means, stds, weights, t)
    wanted = weights.log() + components.log_prob(x_t[:, None]) - density.log_prob(x_t)[:, None]
    seen = analytic.mixture(means, stds, weights, SCHEDULE).log_responsibilities(
        x_t, batch_of(t, x_t)
    )
    torch.testing.assert_close(seen, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_dataset_jumps_to_the_softmax_mean(t, device):
    images = torch.rand(6, 1, 4, 4, dtype=torch.float64, device=device) * 2 - 1
    x_t = visits(images, t)
    ab = SCHEDULE.alpha_bar[t].item()
    squared = (x_t[:, None] - math.sqrt(ab) * images).square().flatten(2).sum(2)
    weights = torch.softmax(-squared / (2 * (1 - ab)), dim=1)
    wanted = (weights @ images.flatten(1)).view_as(x_t)
    seen = jump(analytic.dataset(images, SCHEDULE), x_t, t, SCHEDULE)
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-9)


def test_one_component_is_the_gaussian(device):
    mean = torch.randn(2, 3, dtype=torch.float64, device=device)
    x_t, t = (
        torch.randn(5, 2, 3, dtype=torch.float64, device=device),
        torch.tensor(TIMES, device=device),
    )
    one = analytic.mixture(mean[None], 0.7, torch.ones(1), SCHEDULE)(x_t, t)
    torch.testing.assert_close(
        one, analytic.gaussian(mean, 0.7, SCHEDULE)(x_t, t), rtol=1e-12, atol=1e-12
    )


def test_times_may_differ_within_a_batch(device):
    means, stds, weights = toy(device)
    model = analytic.mixture(means, stds, weights, SCHEDULE)
    x_t, t = (
        torch.randn(5, 2, 3, dtype=torch.float64, device=device),
        torch.tensor(TIMES, device=device),
    )
    alone = torch.cat([model(x_t[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(model(x_t, t), alone, rtol=1e-12, atol=1e-12)


def test_answers_in_the_precision_of_the_question(device):
    means, stds, weights = toy(device)
    x_t = torch.randn(5, 2, 3, dtype=torch.float64, device=device)
    t = torch.tensor(TIMES, device=device)
    for model in (
        analytic.mixture(means, stds, weights, SCHEDULE),
        analytic.gaussian(0.3, 0.7, SCHEDULE),
    ):
        single = model(x_t.float(), t)
        assert single.dtype == torch.float32
        torch.testing.assert_close(
            single.double(), model(x_t.float().double(), t), rtol=1e-6, atol=1e-6
        )


def test_ddim_on_a_finite_data_set_lands_on_a_picture(device):
    images = torch.rand(20, 1, 4, 4, dtype=torch.float64, device=device) * 2 - 1
    x_T = torch.randn(16, 1, 4, 4, dtype=torch.float64, device=device)
    x_0 = sample(analytic.dataset(images, SCHEDULE), x_T, times(1000, 1000), SCHEDULE)
    distance = (x_0[:, None] - images).abs().flatten(2).amax(2)
    assert distance.amin(1).max() <= 1e-3
    assert len(distance.argmin(1).unique()) > 1  # not all on one picture
