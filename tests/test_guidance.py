"""Guidance: what scale 0 and 1 must be, and the mixture's posterior as the answer of a perfect
classifier."""

import pytest
import torch

from ddim_tutorial import add_noise, analytic, linear, pred_eps_and_x0, predict_x0, sample, times
from ddim_tutorial.guidance import cfg, cfg_batched, classifier
from parts import relative

SCHEDULE = linear()


class Counted:
    """A model that counts its calls and the pictures it saw."""

    def __init__(self, model):
        self.model, self.calls, self.pictures = model, 0, 0

    def __call__(self, x_t, t, *condition):
        self.calls, self.pictures = self.calls + 1, self.pictures + len(x_t)
        return self.model(x_t, t, *condition)


def conditional_model(x_t, t, c):
    """Not linear in anything, and different for every picture, time and condition."""
    return (
        torch.tanh(x_t * c.view(-1, 1, 1))
        + torch.sin(c.view(-1, 1, 1) + t.view(-1, 1, 1) / 300) * x_t**2
    )


def question(device, batch=3):
    x_t = torch.randn(batch, 2, 4, dtype=torch.float64, device=device)
    return x_t, torch.tensor([1, 500, 1000], device=device)[:batch]


def bound(c):
    return Counted(lambda x_t, t: conditional_model(x_t, t, c.to(x_t).expand(len(x_t))))


@pytest.mark.parametrize("one", [1, 1.0])
def test_scale_one_is_the_conditional_model(one, device):
    conditional, unconditional = bound(torch.tensor([2.0])), bound(torch.tensor([0.0]))
    x_t, t = question(device)
    seen = cfg(conditional, unconditional, one)(x_t, t)
    assert (conditional.calls, unconditional.calls) == (1, 0)
    assert torch.equal(seen, conditional(x_t, t))


@pytest.mark.parametrize("zero", [0, 0.0])
def test_scale_zero_is_the_unconditional_model(zero, device):
    conditional, unconditional = bound(torch.tensor([2.0])), bound(torch.tensor([0.0]))
    x_t, t = question(device)
    seen = cfg(conditional, unconditional, zero)(x_t, t)
    assert (conditional.calls, unconditional.calls) == (0, 1)
    assert torch.equal(seen, unconditional(x_t, t))


@pytest.mark.parametrize("scale, condition", [(1, 2.0), (0, 0.5)])
def test_batched_scale_zero_and_one_call_once_on_the_plain_batch(scale, condition, device):
    model = Counted(conditional_model)
    x_t, t = question(device)
    c, null = (torch.full((1,), v, dtype=torch.float64, device=device) for v in (2.0, 0.5))
    seen = cfg_batched(model, c, null, scale)(x_t, t)
    assert (model.calls, model.pictures) == (1, 3)
    assert torch.equal(seen, conditional_model(x_t, t, torch.full_like(x_t[:, 0, 0], condition)))


def test_guidance_extrapolates_from_unconditional_to_conditional():
    x_t, t = question("cpu")
    constant = [lambda x_t, t, v=v: torch.full_like(x_t, v) for v in (3.0, 1.0)]
    for scale, wanted in [(7.5, 16.0), (2, 5.0), (0.5, 2.0), (-1, -1.0)]:
        seen = cfg(*constant, scale)(x_t, t)
        torch.testing.assert_close(seen, torch.full_like(x_t, wanted), rtol=1e-15, atol=0)
        w = scale - 1  # Ho & Salimans, Eq. 6
        torch.testing.assert_close(
            seen, torch.full_like(x_t, (1 + w) * 3.0 - w * 1.0), rtol=1e-15, atol=0
        )


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("scale", [0, 0.5, 1, 7.5])
def test_one_doubled_batch_equals_two_calls(scale, rows, device):
    x_t, t = question(device)
    c = torch.linspace(1, 2, rows, dtype=torch.float64, device=device)
    null = torch.full((1,), 0.1, dtype=torch.float64, device=device)
    model = Counted(conditional_model)
    batched = cfg_batched(model, c, null, scale)(x_t, t)
    assert (model.calls, model.pictures) == (1, 3 if scale in (0, 1) else 6)
    two = cfg(lambda x, t: conditional_model(x, t, c.expand(3)), bound(null), scale)(x_t, t)
    torch.testing.assert_close(batched, two, rtol=0, atol=1e-14)


def test_batched_equals_two_calls_on_a_network(device):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = (
        UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            num_class_embeds=4,
        )
        .eval()
        .requires_grad_(False)
        .to(device)
    )
    model = Counted(lambda x_t, t, c: unet(x_t, t - 1, c).sample)
    x_T = torch.randn(2, 1, 8, 8, device=device)
    label, null = torch.tensor([1, 2], device=device), torch.tensor([3], device=device)
    two = cfg(lambda x, t: model(x, t, label), lambda x, t: model(x, t, null.expand(2)), 3.0)
    seen = sample(cfg_batched(model, label, null, 3.0), x_T, times(1000, 5), SCHEDULE)
    assert (model.calls, model.pictures) == (5, 20)
    assert relative(seen, sample(two, x_T, times(1000, 5), SCHEDULE)) <= 5e-6


def mixture(device):
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64).to(device)
    stds = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64, device=device)
    return means, stds, analytic.mixture(means, stds, torch.tensor([0.2, 0.3, 0.5]), SCHEDULE)


def wanted_component(model, y):
    return lambda x_t, t: model.log_responsibilities(x_t, t)[:, y]


@pytest.mark.parametrize("scale", [0.5, 1, 4.0])
@pytest.mark.parametrize("y", [0, 1, 2])
def test_classifier_gradient_is_the_mixtures_posterior_gradient(y, scale, device):
    """grad log r_y = sum_k r_k (x - alpha mu_k) / V_k - (x - alpha mu_y) / V_y, by hand."""
    means, stds, model = mixture(device)
    t = torch.tensor([1, 300, 700, 1000], device=device)
    x_0 = means[[0, 1, 2, 0]]
    x_t = add_noise(x_0, torch.randn_like(x_0), SCHEDULE.at(t, x_0))
    ab = SCHEDULE.alpha_bar.to(device)[t].view(4, 1, 1, 1)
    V = ab * stds.view(1, 3, 1, 1) ** 2 + 1 - ab
    pull = (x_t[:, None] - ab.sqrt() * means) / V
    log_density = (
        -0.5 * (pull**2 * V + V.log()).sum((2, 3)) + torch.tensor([0.2, 0.3, 0.5]).to(x_t).log()
    )
    r = log_density.softmax(1)[:, :, None, None]
    gradient = (r * pull).sum(1) - pull[:, y]
    seen = classifier(model, wanted_component(model, y), scale, SCHEDULE)(x_t, t)
    sigma = (1 - ab).sqrt().view(4, 1, 1)
    torch.testing.assert_close(
        seen, model(x_t, t) - scale * sigma * gradient, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("y", [0, 1, 2])
def test_a_perfect_classifier_makes_the_conditional_model(y, device):
    """Bayes: the mixture with grad log p(y | x_t) at scale 1 is the model of component y alone,
    also when sampling."""
    means, stds, model = mixture(device)
    guided = classifier(model, wanted_component(model, y), 1.0, SCHEDULE)
    alone = analytic.gaussian(means[y], stds[y].item(), SCHEDULE)
    x_t, t = question(device)
    torch.testing.assert_close(guided(x_t, t), alone(x_t, t), rtol=1e-10, atol=1e-10)
    seen, wanted = (sample(m, x_t, times(1000, 20), SCHEDULE) for m in (guided, alone))
    torch.testing.assert_close(seen, wanted, rtol=1e-8, atol=1e-8)


def test_classifier_scale_zero_is_the_plain_model(device):
    _, _, model = mixture(device)
    log_prob = Counted(wanted_component(model, 0))
    x_t, t = question(device)
    assert (
        torch.equal(classifier(model, log_prob, 0, SCHEDULE)(x_t, t), model(x_t, t))
        and log_prob.calls == 0
    )


def test_classifier_needs_no_outer_gradient_and_leaves_none(device):
    _, _, model = mixture(device)
    x_t, t = question(device)
    with torch.no_grad():
        inside = classifier(model, wanted_component(model, 0), 1.0, SCHEDULE)(x_t, t)
    outside = classifier(model, wanted_component(model, 0), 1.0, SCHEDULE)(x_t, t)
    assert torch.equal(inside, outside) and not inside.requires_grad and not x_t.requires_grad
    with torch.inference_mode():
        x_t, t = x_t.clone(), t.clone()
        assert torch.equal(
            classifier(model, wanted_component(model, 0), 1.0, SCHEDULE)(x_t, t), outside
        )


def test_a_classifier_may_keep_the_time_for_its_gradient(device):
    """A tensor made in inference mode cannot be saved for backward: t is a copy. By hand,
    d(t sum x) / dx = t."""
    with torch.inference_mode():
        x_t, t = question(device)
        plain = lambda x, t: torch.zeros_like(x)  # noqa: E731
        log_prob = lambda x, t: (t.view(-1, 1, 1) * x).sum((1, 2))  # noqa: E731
        seen = classifier(plain, log_prob, 2.0, SCHEDULE)(x_t, t)
        sigma = (1 - SCHEDULE.alpha_bar.to(device)[t]).sqrt()
    wanted = (-2 * sigma * t).view(3, 1, 1).expand_as(seen)
    torch.testing.assert_close(seen, wanted, rtol=1e-12, atol=0)


def test_pred_eps_and_x0_carries_the_classifiers_gradient(device):
    """With the perfect classifier the jump is that of component y: the posterior mean given the
    label."""
    means, stds, model = mixture(device)
    x_0, noise = means[:1], torch.randn(1, 2, 4, dtype=torch.float64).to(device)
    guided = classifier(model, wanted_component(model, 2), 1.0, SCHEDULE)
    eps, x0_hat = pred_eps_and_x0(guided, x_0, 600, SCHEDULE, noise=noise)
    ab = SCHEDULE.alpha_bar[600].item()
    x_t = ab**0.5 * x_0 + (1 - ab) ** 0.5 * noise
    gain = ab**0.5 * stds[2] ** 2 / (ab * stds[2] ** 2 + 1 - ab)
    torch.testing.assert_close(
        x0_hat, means[2] + gain * (x_t - ab**0.5 * means[2]), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        predict_x0(x_t, eps, SCHEDULE.alpha_bar[600]), x0_hat, rtol=0, atol=1e-12
    )
