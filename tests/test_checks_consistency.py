"""The judges of notebook 12: right answers pass, the usual wrong ones are named."""

import math

import pytest
import torch

from ddim_tutorial import add_noise, predict_eps, sample, scaled_linear
from ddim_tutorial.consistency import as_eps_model
from parts import judged


def boundary(ab_t):
    return 1 / ab_t.sqrt(), -(1 - ab_t).sqrt() / ab_t.sqrt()  # as with every other ab_t


def self_consistency(f, target, x_t, t, x_s, s):
    with torch.no_grad():
        end = target(x_s, s)
    return torch.nn.functional.mse_loss(f(x_t, t), end)


def flowing(f, target, x_t, t, x_s, s):
    return (f(x_t, t) - target(x_s, s)).square().mean()


def multistep(f, x_T, levels, noises, *, renoise=None):
    x = f(x_T, levels[0])
    for ab, noise in zip(levels[1:], noises, strict=True):
        x_s = add_noise(x, noise, torch.tensor(ab).double())
        x = f(x_s if renoise is None else renoise(x, noise, ab), ab)
    return x


def ddim(f, x_T, levels, noises):
    x, ab = x_T, levels[0]
    for to in [*levels[1:], None]:
        end = f(x, ab)
        if to is None:
            return end
        eps = predict_eps(x, end, torch.tensor(ab).double())
        x, ab = add_noise(end, eps, torch.tensor(to).double()), to


RIGHT = {
    "boundary": boundary,
    "self_consistency": self_consistency,
    "multistep": multistep,
}
WRONG = [
    ("boundary", lambda ab: (boundary(ab)[0], -boundary(ab)[1]), "sign of c_out"),
    ("boundary", lambda ab: (ab**-0.5, -((1 - ab) ** 0.5)), "not divided"),
    ("boundary", lambda ab: (1.0, boundary(ab)[1]), "c_skip is 1 everywhere"),
    ("boundary", lambda ab: (ab**0.5, (1 - ab) ** 0.5), "those of adding noise"),
    ("self_consistency", flowing, "runs into the target as well"),
    ("self_consistency", lambda *given: flowing(*given).detach(), "no gradient reaches f"),
    (
        "self_consistency",
        lambda f, target, x_t, t, x_s, s: (f(x_t, t).detach() - target(x_s, s)).square().mean(),
        "the gradient reaches the target, and not f",
    ),
    (
        "self_consistency",
        lambda f, target, *given: self_consistency(f, f, *given),
        "f answers at both times",
    ),
    (
        "self_consistency",
        lambda f, target, *given: self_consistency(target, target, *given),
        "the target answers at both times",
    ),
    (
        "self_consistency",
        lambda f, target, x_t, t, x_s, s: self_consistency(f, target, x_t, s, x_s, t),
        "times are exchanged",
    ),
    ("self_consistency", lambda f, target, x_t, t, x_s, s: (x_t - x_s).square().mean(), "states"),
    ("self_consistency", lambda *given: 12 * self_consistency(*given), "a sum, not a mean"),
    (
        "multistep",
        lambda *given: multistep(*given, renoise=lambda x, noise, ab: ab**0.5 * x),
        "noise is forgotten",
    ),
    ("multistep", ddim, "which is DDIM"),
    ("multistep", lambda f, x_T, levels, noises: f(x_T, levels[0]), "after the first jump"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    result, output = judged(name, RIGHT[name], capsys)
    assert result and len(result.verified) >= 2 and output.startswith(f"{name}: right")


@pytest.mark.parametrize(("name", "fn", "said"), WRONG)
def test_a_wrong_answer_is_named(name, fn, said, capsys):
    result, output = judged(name, fn, capsys)
    assert result.passed is False and any(part in output for part in said.split("|")), output


def test_the_sampler_with_fresh_noise_is_the_multistep_that_is_judged():
    """sample(.., eta=inf) on a jump that is known, against Algorithm 1 as the judge has it."""
    schedule, grid = scaled_linear(), [1000, 600, 200, 0]
    own = torch.Generator().manual_seed(0)
    x_T = torch.randn(2, 5, generator=own, dtype=torch.float64)

    def f(x, ab):
        return x.tanh() / (0.5 + ab)

    model = as_eps_model(lambda x, t: f(x, schedule.at(t, x)), schedule)
    found = sample(
        model, x_T, grid, schedule, eta=math.inf, generator=torch.Generator().manual_seed(1)
    )
    later = torch.Generator().manual_seed(1)
    noises = [torch.randn(2, 5, generator=later, dtype=torch.float64) for _ in range(2)]
    levels = [schedule.level(t) for t in grid[:-1]]
    torch.testing.assert_close(found, multistep(f, x_T, levels, noises))
