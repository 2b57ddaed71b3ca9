"""The judges of notebook 10: right answers pass, the usual wrong ones are named."""

import pytest
import torch

from ddim_tutorial import ddim_sigma, ddim_step
from ddim_tutorial.guidance import cfg
from parts import judged


def edited_maps(maps, into=3, of=2):
    maps = maps.clone()
    maps[into] = maps[of]
    return maps


def blend(z_source, z_target, maps, threshold, *, most=None, join=torch.any):
    most = maps.flatten(1).max(1).values.view(2, 1, 1) if most is None else most
    return torch.where(join(maps > threshold * most, 0), z_target, z_source)


def found_noise(x_t, x_s, eps, ab_t, ab_s):
    sigma = ddim_sigma(ab_t, ab_s, 1.0)
    mu, _ = ddim_step(x_t, eps, ab_t, ab_s, sigma=sigma)
    return (x_s - mu) / sigma


def null_eps(eps, eps_c, scale):
    return (eps - scale * eps_c) / (1 - scale)


RIGHT = {
    "edited_maps": edited_maps,
    "blend": blend,
    "found_noise": found_noise,
    "null_eps": null_eps,
}
WRONG = [
    ("edited_maps", lambda maps: maps, "nothing is edited"),
    ("edited_maps", lambda maps: edited_maps(maps, 1, 0), "the unconditional half"),
    ("edited_maps", lambda maps: edited_maps(edited_maps(maps), 1, 0), "both halves"),
    ("edited_maps", lambda maps: edited_maps(maps, 2, 3), "source looks where the target"),
    ("edited_maps", lambda maps: maps[2:3].expand(4, -1, -1, -1), "all rows"),
    ("edited_maps", lambda maps: edited_maps(maps)[2:], "shape"),
    ("blend", lambda a, b, maps, c: blend(b, a, maps, c), "swapped"),
    ("blend", lambda *given: blend(*given, join=torch.all), "both maps must exceed"),
    ("blend", lambda a, b, maps, c: blend(a, b, maps[1:].expand(2, -1, -1), c), "target's map"),
    ("blend", lambda a, b, maps, c: blend(a, b, maps[:1].expand(2, -1, -1), c), "source's map"),
    ("blend", lambda a, b, maps, c: blend(a, b, maps, c, most=maps.max()), "both maps together"),
    ("blend", lambda *given: blend(*given, most=1.0), "no share of the maximum"),
    ("found_noise", lambda *given: -found_noise(*given), "the sign"),
    ("found_noise", lambda *g: found_noise(*g) * ddim_sigma(*g[3:], 1.0), "not divided by sigma"),
    ("found_noise", lambda *g: found_noise(*g) / ddim_sigma(*g[3:], 1.0), "by sigma^2"),
    (
        "found_noise",
        lambda *g: found_noise(*g) * ddim_sigma(*g[3:], 1.0) / (1 - g[4]) ** 0.5,
        "sqrt(1 - ab_s) that divides",
    ),
    (
        "found_noise",
        lambda x_t, x_s, *g: (x_s - ddim_step(x_t, *g)[0]) / ddim_sigma(*g[1:], 1.0),
        "keeps all its length",
    ),
    ("null_eps", lambda eps, eps_c, scale: eps + scale * (eps_c - eps), "you guided"),
    ("null_eps", lambda eps, eps_c, scale: 2 * eps_c - null_eps(eps, eps_c, scale), "the sign"),
    ("null_eps", lambda eps, eps_c, scale: eps - scale * eps_c, "not divided"),
    ("null_eps", lambda eps, eps_c, scale: eps, "right at scale 0 alone"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    result, output = judged(name, RIGHT[name], capsys)
    assert result and len(result.verified) >= 2 and output.startswith(f"{name}: right")


@pytest.mark.parametrize(("name", "fn", "said"), WRONG)
def test_a_wrong_answer_is_named(name, fn, said, capsys):
    result, output = judged(name, fn, capsys)
    assert result.passed is False and said in output


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_attempted(name, capsys):
    def stub(*given):
        raise NotImplementedError

    assert judged(name, stub, capsys)[0].passed is None


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guiding_from_the_answer_goes_along_the_wanted_eps(scale):
    eps, eps_c = torch.randn(2, 3, 4, dtype=torch.float64)
    eps_u = null_eps(eps, eps_c, scale)
    guided = cfg(lambda x, t: eps_c, lambda x, t: eps_u, scale)
    torch.testing.assert_close(guided(eps, torch.ones(3)), eps)
