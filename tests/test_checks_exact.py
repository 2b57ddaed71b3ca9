"""The judges of notebook 09: right answers pass, the usual wrong ones are named."""

import math

import pytest
import torch

from parts import judged


def evaluations(q, first, tol):
    return 1 + max(0, math.ceil(math.log(tol / first) / math.log(q)))


def anderson(z_old, g_old, z, g, *, shared=False, sign=1):
    r, r_old = g - z, g_old - z_old
    dr, over = r - r_old, None if shared else 1
    gamma = (dr * r).sum(over, keepdim=True) / dr.square().sum(over, keepdim=True)
    return g - sign * gamma * (g - g_old)


def with_the_older_residual(z_old, g_old, z, g):
    r_old, dr = g_old - z_old, (g - z) - (g_old - z_old)
    return g - (dr * r_old).sum(1, keepdim=True) / dr.square().sum(1, keepdim=True) * (g - g_old)


def unmix(x, y, p):
    y = (y - (1 - p) * x) / p
    return (x - (1 - p) * y) / p, y


def in_the_wrong_order(x, y, p):
    x = (x - (1 - p) * y) / p
    return x, (y - (1 - p) * x) / p


RIGHT = {
    "evaluations": [evaluations, lambda *given: torch.tensor(evaluations(*given))],
    "anderson": [anderson],
    "unmix": [unmix, lambda *given: list(unmix(*given))],
}
WRONG = [
    ("evaluations", lambda *given: evaluations(*given) - 1, "first evaluation is not counted"),
    ("evaluations", lambda q, first, tol: math.log(tol / first) / math.log(q), "differs"),
    ("evaluations", lambda q, first, tol: evaluations(q, 1.0, tol), "differs"),
    (
        "evaluations",
        lambda q, first, tol: math.floor(max(0, math.log(tol / first) / math.log(q))) + 2,
        "from 1 to 0.25",
    ),
    ("anderson", lambda z_old, g_old, z, g: g, "the plain iteration"),
    ("anderson", lambda *given: anderson(*given, shared=True), "one for all rows"),
    ("anderson", lambda *given: anderson(*given, sign=-1), "sign of gamma"),
    ("anderson", lambda *given: anderson(*given)[0], "shape (1,), wanted (3, 1)"),
    (
        "anderson",
        lambda z_old, g_old, z, g: anderson(g_old, z_old, g, z),
        "leaves out their residuals",
    ),
    ("anderson", with_the_older_residual, "gamma is that of the older residual"),
    (
        "anderson",
        lambda z_old, g_old, z, g: anderson(z_old, g_old, z, g) - (g - g_old),
        "starts from the older image",
    ),
    ("anderson", lambda *given: None, "does your function return"),
    ("unmix", in_the_wrong_order, "x is undone first"),
    ("unmix", lambda x, y, p: (x, y), "differs"),
    ("unmix", lambda x, y, p: x, "wanted the pair"),
    ("unmix", lambda x, y, p: (x, unmix(x, y, p)[1]), "x differs"),
]


@pytest.mark.parametrize(("name", "fn"), [(n, fn) for n, fns in RIGHT.items() for fn in fns])
def test_a_right_answer_passes(name, fn, capsys):
    result, output = judged(name, fn, capsys)
    assert result and len(result.verified) >= 3 and output.startswith(f"{name}: right")


@pytest.mark.parametrize(("name", "fn", "said"), WRONG)
def test_a_wrong_answer_is_named(name, fn, said, capsys):
    result, output = judged(name, fn, capsys)
    assert result.passed is False and said in output


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_attempted(name, capsys):
    def stub(*given):
        raise NotImplementedError

    assert judged(name, stub, capsys)[0].passed is None


def test_an_update_right_on_paper_that_stops_converging_is_told(capsys):
    """Right for one row of one number and for the draws of least squares, then plain iteration."""

    def lazy(z_old, g_old, z, g):
        return anderson(z_old, g_old, z, g) if z.shape in ((3, 1), (4, 6)) else g

    result, output = judged("anderson", lazy, capsys)
    assert len(result.verified) == 2 and "not solved after" in output
