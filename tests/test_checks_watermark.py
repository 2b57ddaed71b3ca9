"""The judges of notebook 11: right answers pass, the usual wrong ones are named."""

import pytest
import torch
from scipy.stats import chi2, ncx2

from ddim_tutorial.checks.watermark import noncentral
from parts import judged


def symmetric(values, *, roll=1, half=2):
    return (values + values.flip(0, 1).roll((roll, roll), (0, 1)).conj()) / half


def p_value(y, k, variance, *, dof=1, power=1):
    eta, lam = ((a.abs() ** 2).sum() / variance**power for a in (y - k, k))
    return ncx2.cdf(eta, dof * len(k), lam)


def projection(x, x_0, radius):
    return torch.minimum(torch.maximum(x, x_0 - radius), x_0 + radius).clamp(-1, 1)


RIGHT = {
    "symmetric": [symmetric, lambda values: torch.fft.fft2(torch.fft.ifft2(values).real)],
    "p_value": [p_value, lambda *given: torch.tensor(p_value(*given))],
    "projection": [projection, lambda x, x_0, r: x_0 + (x.clamp(-1, 1) - x_0).clamp(-r, r)],
}
WRONG = [
    ("symmetric", lambda values: symmetric(values, roll=0), "its own opposite"),
    ("symmetric", lambda values: symmetric(values, half=1), "not halved"),
    ("symmetric", lambda values: values, "as they are"),
    ("symmetric", lambda values: symmetric(values.conj()).conj().real, "differs"),
    ("symmetric", lambda values: symmetric(values)[:2, :2], "shape"),
    ("p_value", lambda *given: 1 - p_value(*given), "farther"),
    ("p_value", lambda *given: p_value(*given, dof=2), "twice M"),
    ("p_value", lambda y, k, v: chi2.cdf(((y - k).abs() ** 2).sum() / v, len(k)), "central"),
    ("p_value", lambda *given: p_value(*given, power=0), "not divided"),
    ("p_value", lambda *given: p_value(*given, power=0.5), "standard deviation"),
    ("projection", lambda x, x_0, r: x_0 + (x - x_0).clamp(-r, r), "[-1, 1] is forgotten"),
    ("projection", lambda x, x_0, r: x.clamp(-1, 1), "radius is forgotten"),
    ("projection", lambda x, x_0, r: projection(x, x_0, r) - x_0, "the change"),
    ("projection", lambda x, x_0, r: projection(x, x, r), "radius is forgotten"),
    ("projection", lambda x, x_0, r: x.clamp_(-r, r), "changed its argument x"),
]


@pytest.mark.parametrize(("name", "fn"), [(n, fn) for n, fns in RIGHT.items() for fn in fns])
def test_a_right_answer_passes(name, fn, capsys):
    result, output = judged(name, fn, capsys)
    assert result and len(result.verified) == 3 and output.startswith(f"{name}: right")


@pytest.mark.parametrize(("name", "fn", "said"), WRONG)
def test_a_wrong_answer_is_named(name, fn, said, capsys):
    result, output = judged(name, fn, capsys)
    assert result.passed is False and said in output


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_attempted(name, capsys):
    def stub(*given):
        raise NotImplementedError

    assert judged(name, stub, capsys)[0].passed is None


@pytest.mark.parametrize(("eta", "dof", "lam"), [(0.5, 1, 0.0), (30, 49, 45.0), (90, 49, 45.0)])
def test_the_judge_knows_the_non_central_chi_square(eta, dof, lam):
    assert noncentral(eta, dof, lam) == pytest.approx(ncx2.cdf(eta, dof, lam), rel=1e-9, abs=1e-12)
