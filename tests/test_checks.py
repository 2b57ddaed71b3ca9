"""The judges: they pass the package's own functions, and name the first wrong step of wrong
ones."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ddim_tutorial import (
    Schedule,
    add_noise,
    analytic,
    checks,
    ddim_sigma,
    ddim_step,
    dpmpp_2m,
    from_betas,
    generators,
    guidance,
    invert,
    predict_x0,
    randn,
    sample,
    slerp,
    times,
    trajectory,
)


def mix(noises, weights):
    weights = torch.tensor(weights, dtype=noises.dtype)
    return torch.tensordot(weights, noises, 1) / weights.norm()


def per_seed(draw):
    return lambda seeds, shape: torch.stack(
        [draw(shape, torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def global_seed(seeds, shape):
    return torch.stack([torch.manual_seed(seed) and torch.randn(shape) for seed in seeds])


def spread_over(axis):
    """Noise by seed, drawn once along one axis and the same all along it."""

    def fn(seeds, shape):
        x = RIGHT["noise"](seeds, shape)
        return x.narrow(("channels", "rows", "columns").index(axis) + 1, 0, 1).expand_as(x)

    return fn


def noisy_forecast(x_t, eps, ab_t, ab_s, sigma=0.0, noise=None):
    x_s, x0_hat = ddim_step(x_t, eps, ab_t, ab_s, sigma=sigma, noise=noise)
    return x_s, x0_hat if noise is None else x0_hat + noise


def slerp_without_norms(a, b, weight):
    angle = (a * b).flatten(1).sum(1).clamp(-1, 1).acos().view(-1, 1, 1, 1)
    curved = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / angle.sin()
    return torch.where(angle.sin().abs() < 1e-6, torch.lerp(a, b, weight), curved)


def slerp_of_directions(a, b, weight):
    norms = [v.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for v in (a, b)]
    return torch.lerp(*norms, weight) * slerp(a / norms[0], b / norms[1], weight)


def lerp_below(angle):
    """slerp for one picture or many, but a straight line if every angle is small."""

    def fn(a, b, weight):
        cosine = torch.cosine_similarity(a.flatten(1), b.flatten(1))
        small = cosine.clamp(-1, 1).acos().max() < angle
        return torch.lerp(a, b, weight) if small else slerp(a, b, weight)

    return fn


def iterate(g, x, weight=0.5, rounds=100):
    for _ in range(rounds):
        x = x + weight * (g(x) - x)
    return x


def data_set(images, ab_t):
    """The package's closed form, on a schedule of one step to ``ab_t``."""
    return analytic.dataset(images, Schedule(torch.stack([torch.ones_like(ab_t), ab_t])))


def posterior_mean(x_t, images, ab, *, half=0.5, signal=torch.sqrt, spread=None, mean=False):
    """The weighted mean of a learner, with one thing changed."""
    spread = 1 - ab if spread is None else spread(1 - ab)
    squares = (x_t[:, None] - signal(ab) * images).square().flatten(2)
    squares = squares.mean(2) if mean else squares.sum(2)
    weights = (-half * squares / spread).exp()
    weights = weights / weights.sum(1, keepdim=True)
    return torch.tensordot(weights, images, 1)


RIGHT = {
    "translation": lambda betas: from_betas(betas).alpha_bar,
    "add_noise": add_noise,
    "predict_x0": predict_x0,
    "ddim_sigma": ddim_sigma,
    "ddim_step": ddim_step,
    "times": times,
    "trajectory": sample,
    "slerp": slerp,
    "invert_step": lambda x_s, eps, ab_s, ab_t: ddim_step(x_s, eps, ab_s, ab_t)[0],
    "invert": lambda *given: invert(*given).x_T,
    "mix": mix,
    "noise": lambda seeds, shape: randn((len(seeds), *shape), generators(seeds)),
    "jumps": lambda *given: [step.x0_hat for step in trajectory(*given)],
    "guided_jump": lambda z_t, eps_u, eps_c, ab_t, scale: predict_x0(
        z_t, guidance.cfg(lambda x, t: eps_c, lambda x, t: eps_u, scale)(z_t, None), ab_t
    ),
    "order": lambda a, error_a, b, error_b: math.log(error_a / error_b) / math.log(b / a),
    "correction": lambda new, old, a, b, c: new + (c - b) / (2 * (b - a)) * (new - old),
    "second_run": lambda *given: list(dpmpp_2m(*given))[-1].x_s,
    "slope": lambda x, y: np.polyfit(np.log(x), np.log(y), 1)[0],
    "solve": iterate,
    "posterior_mean": lambda x_t, images, ab_t: predict_x0(
        x_t, data_set(images, ab_t)(x_t, torch.ones(len(x_t), dtype=torch.int64)), ab_t
    ),
}


def judge(name: str, fn, capsys, **options) -> str:
    result = getattr(checks, f"check_{name}")(fn, **options)
    output = capsys.readouterr().out
    assert output == f"{result}\n" and bool(result) == (f"{name}: right." in output)
    return output


@pytest.mark.parametrize("name", RIGHT)
def test_the_packages_own_function_passes(name, capsys):
    said = judge(name, RIGHT[name], capsys)
    assert said.startswith(f"{name}: right. Verified:") and said.count("\n  - ") >= 3


def test_the_leading_grid_passes_as_leading_only(capsys):
    def leading(T, steps):
        return times(T, steps, "leading")

    assert judge("times", leading, capsys, spacing="leading").startswith("times: right")
    assert "first difference is entry 0: [801, 601, 401], wanted [1000, 800, 600]" in judge(
        "times", leading, capsys
    )
    with pytest.raises(ValueError, match="spacing"):
        checks.check_times(leading, spacing="karras")


def test_inversion_by_the_other_convention_passes_as_that_only(capsys):
    def source(*given):
        return invert(*given, eps_time="source").x_T

    assert judge("invert", source, capsys, eps_time="source").startswith("invert: right")
    assert "asked at [1, 1], wanted [500, 500]" in judge("invert", source, capsys)
    with pytest.raises(ValueError, match="eps_time"):
        checks.check_invert(source, eps_time="middle")


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_attempted_and_an_error_is_told(name, capsys):
    def stub(*_, **__):
        raise NotImplementedError

    def broken(*_, **__):
        raise KeyError("alpha")

    assert judge(name, stub, capsys) == f"{name}: not attempted yet\n"
    assert "your function raised KeyError: 'alpha'" in judge(name, broken, capsys)
    assert "not yet right" in judge(name, lambda *_, **__: None, capsys)


def step_without(change):
    """A DDIM step with one thing changed."""

    def fn(x_t, eps, ab_t, ab_s, *, sigma=0.0, noise=None):
        x0_hat = (x_t - (1 - ab_t).sqrt() * eps) / ab_t.sqrt()
        direction = (1 - ab_s - (0 if change == "sigma" else sigma**2)).sqrt() * eps
        if change == "levels":
            x_s = ab_s * x0_hat + direction
        else:
            x_s = ab_s.sqrt() * x0_hat + direction
        if noise is not None:
            x_s = x_s + (sigma**2 if change == "variance" else sigma) * noise
        return (x0_hat, x_s) if change == "order" else x_s if change == "pair" else (x_s, x0_hat)

    return fn


def sampler(change):
    """A DDIM sampler with one thing broken."""

    def fn(model, x_t, grid, schedule):
        if change == "noise":
            x_t = x_t + 1e-3
        for i, (t, s) in enumerate(pairwise(grid)):
            asked = t - 1 if change == "timestep" else s if change == "target" else t
            eps = model(x_t, torch.full((len(x_t),), max(asked, 1)))
            ab_t, ab_s = schedule.at(t, x_t), schedule.at(s, x_t)
            if change == "stride" and i > 0:  # the step of a fixed width, whatever the grid says
                ab_s = schedule.at(max(t - 1000 // (len(grid) - 1), 0), x_t)
            x0_hat = (x_t - (1 - ab_t).sqrt() * eps) / ab_t.sqrt()
            if change == "clip":
                x0_hat = x0_hat.clamp(-1, 1)
            if change == "last" and s == 0:
                break
            x_t = ab_s.sqrt() * x0_hat + (1 - ab_s).sqrt() * eps
        return x_t

    return fn


def jumps(change=""):
    """The jumps of a run in sigma space, with one thing broken."""

    def fn(model, x_T, grid, schedule):
        bar, found = schedule.alpha_bar, []
        rho = ((1 - bar) / bar).sqrt()
        y = x_T / bar[grid[0]].sqrt()
        for i, (t, s) in enumerate(pairwise(grid)):
            x_t = y if change == "unscaled" else y * bar[t].sqrt()
            eps = model(x_t, torch.full((len(y),), t))
            ab = bar[len(grid) - 1 - i if change == "counter" else t]
            state = y if change == "state" else x_t
            found.append((state - (1 - ab).sqrt() * eps) / ab.sqrt())
            y = y + (rho[s] - rho[t]) * (0.9 if change == "step" else 1) * eps
        return found[:-1] if change == "short" else found

    return fn


def test_jumps_of_a_run_in_sigma_space_pass(capsys):
    assert judge("jumps", jumps(), capsys).startswith("jumps: right")


class Multistep:
    """A 2M sampler that forgets to begin anew."""

    def __init__(self, reset=(), last=True):
        self.past, self.reset, self.last = None, reset, last

    def __call__(self, model, x, grid, schedule):
        begun_anew = {
            "run": lambda: True,
            "shape": lambda: self.past[1].shape != x.shape,
            "after 0": lambda: self.past[2] == 0,
            "later": lambda: grid[0] >= self.past[0],
        }
        if self.past and any(begun_anew[name]() for name in self.reset):
            self.past = None
        lam = 0.5 * (schedule.alpha_bar / (1 - schedule.alpha_bar)).log()
        for t, s in pairwise(grid):
            eps = model(x, torch.full((len(x),), t))
            jump = D = predict_x0(x, eps, schedule.at(t, x))
            if self.past and (s > 0 or not self.last):
                before, old, _ = self.past
                D = jump + (lam[s] - lam[t]) / (2 * (lam[t] - lam[before])) * (jump - old)
            along = (x - schedule.alpha_bar[t].sqrt() * D) / (1 - schedule.alpha_bar[t]).sqrt()
            x, _ = ddim_step(x, along, schedule.at(t, x), schedule.at(s, x))
            self.past = t, jump, s
        return x


def test_a_multistep_sampler_that_begins_anew_passes(capsys):
    assert judge("second_run", Multistep(["run"]), capsys).startswith("second_run: right")


FIRST = "step 1 of 2, from t = 1000 to s = 500"
WRONG = [
    ("order", lambda a, x, b, y: math.log(y / x) / math.log(b / a), "order 1", "sign is wrong"),
    ("order", lambda a, x, b, y: (x / y) / (b / a), "order 2", "no logarithm is taken"),
    ("order", lambda a, x, b, y: math.log(x / y), "order 1", "of the steps is missing"),
    ("order", lambda a, x, b, y: math.log2(x / y), "ten times", "differs"),
    ("order", lambda *given: abs(RIGHT["order"](*given)), "grows", "sign is wrong"),
    ("correction", lambda new, *_: new, "as long as", "that is DDIM"),
    (
        "correction",
        lambda new, old, a, b, c: new + (c - b) / (b - a) * (new - old),
        "as long as",
        "the factor 1/2 is missing",
    ),
    (
        "correction",
        lambda new, old, a, b, c: new + (b - a) / (2 * (c - b)) * (new - old),
        "twice as long",
        "the two steps are swapped",
    ),
    (
        "correction",
        lambda new, old, a, b, c: new - (c - b) / (2 * (b - a)) * (new - old),
        "as long as",
        "the sign of the correction is wrong",
    ),
    (
        "correction",
        lambda new, old, a, b, c: new + 0.5 * (new - old),
        "twice as long",
        "the ratio of the steps is missing",
    ),
    ("second_run", sample, "the first run", "it is DDIM"),
    ("second_run", Multistep(), "the same run again", "differs"),
    ("second_run", Multistep(["shape"]), "the same run again", "differs"),
    ("second_run", Multistep(["after 0"]), "below its last time", "differs"),
    ("second_run", Multistep(["later"]), "below its last time", "differs"),
    ("second_run", Multistep(["run"], last=False), "the first run", "NaN"),
    (
        "translation",
        lambda betas: torch.cumprod(1 - betas, 0),
        "constant beta",
        r"shape (5,), wanted (6,)",
    ),
    (
        "translation",
        lambda betas: torch.cat([torch.ones(1), 1 - betas]),
        "constant beta",
        "differs by up to 0.31",
    ),
    (
        "translation",
        lambda betas: torch.cat([torch.ones(1), torch.cumprod((1 - betas).sqrt(), 0)]),
        "constant beta",
        "differs by up to 0.18",
    ),
    ("add_noise", lambda x_0, eps, ab: ab * x_0 + (1 - ab) * eps, "0.6 x_0 + 0.8 eps", "differs"),
    (
        "add_noise",
        lambda x_0, eps, ab: ab.sqrt() * x_0 + (1 - ab) * eps,
        "0.6 x_0 + 0.8 eps",
        "differs",
    ),
    (
        "add_noise",
        lambda x_0, eps, ab: x_0 + (1 / ab - 1).sqrt() * eps,
        "0.6 x_0 + 0.8 eps",
        "differs",
    ),
    (
        "add_noise",
        lambda x_0, eps, ab: ab.flatten()[0].sqrt() * x_0 + (1 - ab.flatten()[0]).sqrt() * eps,
        "t = 1, 400, 1000",
        "differs",
    ),
    ("predict_x0", lambda x_t, eps, ab: x_t - (1 - ab).sqrt() * eps, "true noise", "differs"),
    (
        "predict_x0",
        lambda x_t, eps, ab: (x_t - (1 - ab).sqrt() * eps) / ab,
        "true noise",
        "differs",
    ),
    (
        "predict_x0",
        lambda x_t, eps, ab: ((x_t - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1),
        "x0_hat is x_t",
        "differs",
    ),
    ("ddim_sigma", lambda t, s, eta: eta * (1 - t / s).sqrt(), "the step to t = 0", "wanted 0"),
    (
        "ddim_sigma",
        lambda t, s, eta: eta**2 * ((1 - s) / (1 - t) * (1 - t / s)).sqrt(),
        "eta = 0.5",
        "0.25, wanted 0.5",
    ),
    (
        "ddim_sigma",
        lambda t, s, eta: eta * (1 - s) / (1 - t) * (1 - t / s),
        "t = 500, s = 499",
        "wanted",
    ),
    ("ddim_sigma", lambda t, s, eta: ddim_sigma(t, s, min(eta, 1.0)), "eta = 1.2", "wanted 1.2"),
    ("ddim_step", step_without("levels"), "sigma = 0 stays on the line", "differs"),
    ("ddim_step", step_without("sigma"), "sigma = 0.36", "differs"),
    ("ddim_step", step_without("variance"), "sigma = 0.36", "differs"),
    ("ddim_step", noisy_forecast, "sigma = 0.36: x0_hat is x_0", "differs"),
    ("ddim_step", step_without("order"), "x0_hat = x_0", "differs"),
    ("ddim_step", step_without("pair"), "x0_hat = x_0", "wanted the pair (x_s, x0_hat)"),
    (
        "times",
        lambda T, steps: [round(T * i / steps) for i in range(steps, 0, -1)],
        "5 steps",
        "5 entries, wanted 6",
    ),
    (
        "times",
        lambda T, steps: [*range(T, 0, -(T // steps)), 0],
        "30 steps",
        "32 entries, wanted 31",
    ),
    (
        "times",
        lambda T, steps: [*(round(T * i / steps) - 1 for i in range(steps, 0, -1)), 0],
        "5 steps",
        "entry 0",
    ),
    (
        "times",
        lambda T, steps: [float(t) for t in times(T, steps)],
        "1..1000 steps",
        "a time is a float, wanted whole numbers",
    ),
    (
        "times",
        lambda T, steps: [round(T * i / steps) if steps % 7 else 1 for i in range(steps, -1, -1)],
        "1..1000 steps",
        "at 7 steps",
    ),
    (
        "trajectory",
        sampler("timestep"),
        "1000, 500, 0",
        f"{FIRST}: the model was asked at [999, 999], wanted",
    ),
    (
        "trajectory",
        sampler("target"),
        "1000, 500, 0",
        f"{FIRST}: the model was asked at [500, 500], wanted",
    ),
    ("trajectory", sampler("noise"), "1000, 500, 0", f"{FIRST}: x_t differs by up to 0.001"),
    (
        "trajectory",
        sampler("stride"),
        "901, 601, 301, 1, 0",
        "the step before, from t = 601 to s = 301, is wrong",
    ),
    ("trajectory", sampler("clip"), "1000, 980, ..., 0", "is wrong"),
    ("trajectory", sampler("last"), "1000, 500, 0", "the last step, from t = 500 to s = 0"),
    (
        "trajectory",
        lambda model, x, grid, _: x,
        "1000, 500, 0",
        f"{FIRST}: the model was not asked",
    ),
    (
        "trajectory",
        lambda *given: 0 * sample(*given) + sample(*given),
        "1000, 500, 0",
        "asked more than 2 times for 2 steps",
    ),
    ("trajectory", lambda *a: list(trajectory(*a)), "1000, 500, 0", "got a list where one tensor"),
    ("slerp", torch.lerp, "a quarter circle", "differs"),
    (
        "slerp",
        lambda a, b, w: math.cos(w * math.pi / 2) * a + math.sin(w * math.pi / 2) * b,
        "0.8 rad",
        "differs",
    ),
    (
        "slerp",
        lambda a, b, w: slerp(a.flatten()[None], b.flatten()[None], w).view(a.shape),
        "each picture",
        "differs",
    ),
    ("slerp", lambda a, b, w: slerp(b, a, w), "weight 0 is a", "differs"),
    ("slerp", slerp_without_norms, "lengths 2 and 3", "differs"),
    ("slerp", slerp_of_directions, "lengths 2 and 3", "differs"),
    ("slerp", lerp_below(0.65), "0.3 rad", "differs by up to 0.011"),
    ("slerp", lerp_below(0.2), "0.1 rad", "differs by up to 0.0012"),
    (
        "invert_step",
        lambda x, e, ab_s, ab_t: ddim_step(x, e, ab_t, ab_s)[0],
        "from s = 0",
        "differs",
    ),
    ("invert_step", lambda x, e, ab_s, ab_t: add_noise(x, e, ab_t), "stays on the line", "differs"),
    (
        "invert",
        lambda m, x, grid, schedule: sample(m, x, grid, schedule),
        "1000, 500, 0",
        "step 1 of 2, from s = 0 up",
    ),
    (
        "invert",
        lambda m, x, grid, schedule: invert(m, x, [*grid[:-1], 1], schedule).x_T,
        "1000, 500, 0",
        "from s = 500 up to t = 1000: the state differs",
    ),
    ("invert", lambda m, x, grid, schedule: x, "1000, 500, 0", "the model was not asked"),
    (
        "invert",
        lambda *given: invert(*given).x_T + 0 * invert(*given).x_T,
        "1000, 500, 0",
        "asked more than 2 times for 2 steps",
    ),
    (
        "invert",
        lambda *given: 1.001 * invert(*given).x_T,
        "1000, 500, 0",
        "the last step, from s = 500 up to t = 1000",
    ),
    (
        "mix",
        lambda n, w: torch.tensordot(torch.tensor(w, dtype=n.dtype), n, 1),
        "weights 1, 1 and 0",
        "differs",
    ),
    (
        "mix",
        lambda n, w: mix(n, w) * math.sqrt(sum(v * v for v in w)) / sum(w) ** 0.5,
        "weights 3, 4",
        "differs",
    ),
    ("mix", lambda n, w: mix(n, [abs(v) for v in w]), "1, 1 and -1", "differs"),
    ("noise", lambda seeds, shape: torch.zeros(shape), "two seeds", "3 entries, wanted 4"),
    ("noise", lambda seeds, shape: torch.randn(len(seeds), *shape), "the same seed", "differs"),
    (
        "noise",
        lambda seeds, shape: per_seed(lambda s, g: torch.randn(s, generator=g))(
            [sum(seeds)] * len(seeds), shape
        ),
        "as the third of four",
        "differs",
    ),
    (
        "noise",
        per_seed(lambda s, g: torch.randn(s, generator=g.manual_seed(0))),
        "100 seeds, no two",
        "seeds 0 and 1 give the same noise",
    ),
    (
        "noise",
        lambda seeds, shape: RIGHT["noise"]([seed % 50 for seed in seeds], shape),
        "100 seeds, no two",
        "seeds 0 and 50 give the same noise",
    ),
    ("noise", lambda seeds, shape: RIGHT["noise"](sorted(seeds), shape), "7, 3, 9", "differs"),
    ("noise", spread_over("channels"), "100 seeds", "correlation of neighbouring channels"),
    ("noise", spread_over("rows"), "100 seeds", "correlation of neighbouring"),
    ("noise", spread_over("columns"), "100 seeds", "correlation of neighbouring"),
    ("noise", per_seed(lambda s, g: torch.rand(s, generator=g)), "100 seeds", "the mean of"),
    (
        "noise",
        per_seed(lambda s, g: (torch.rand(s, generator=g) - 0.5) * 12**0.5),
        "100 seeds",
        "the kurtosis of",
    ),
    ("noise", global_seed, "left alone", "use a torch.Generator"),
    ("jumps", jumps("unscaled"), "1000, 500, 0", f"{FIRST}: x_t differs by up to"),
    ("jumps", jumps("counter"), "1000, 500, 0", f"{FIRST}: x0_hat differs"),
    ("jumps", jumps("state"), "1000, 500, 0", "it holds +2.46e+04 eps too much"),
    ("jumps", jumps("step"), "1000, 500, 0", "the step before, from t = 1000 to s = 500, is wrong"),
    (
        "jumps",
        jumps("short"),
        "1000, 500, 0",
        "from t = 500 to s = 0: no x0_hat, the list ends before",
    ),
    (
        "jumps",
        lambda *given: (jumps()(*given), jumps()(*given))[1],
        "1000, 500, 0",
        "asked more than 2 times for 2 steps",
    ),
    (
        "jumps",
        lambda *given: [x[0] for x in jumps()(*given)],
        "1000, 500, 0",
        "got shape (1, 2, 2), wanted",
    ),
    (
        "guided_jump",
        lambda z, u, c, ab, w: predict_x0(z, c + w * (c - u), ab),
        "scale 1",
        "differs",
    ),
    (
        "guided_jump",
        lambda z, u, c, ab, w: predict_x0(z, c if w == 1 else u, ab),
        "scale 4",
        "differs",
    ),
    ("guided_jump", lambda z, u, c, ab, w: predict_x0(z, c, ab), "scale 0", "differs"),
    (
        "guided_jump",
        lambda z, u, c, ab, w: predict_x0(z, u + w * (c - u), ab).clamp(-1, 1),
        "scale 1",
        "differs",
    ),
    ("slope", lambda x, y: np.polyfit(np.log(y), np.log(x), 1)[0], "slope 2", "differs"),
    (
        "slope",
        lambda x, y: math.log(y[-1] / y[0]) / math.log(x[-1] / x[0]),
        "on no line",
        "differs",
    ),
    (
        "solve",
        lambda g, x: iterate(g, torch.zeros_like(x)),
        "slope 0.5",
        "another x than the one given",
    ),
    ("solve", lambda g, x: iterate(g, x, weight=1), "slope -1.2", "differs"),
    ("solve", lambda g, x: iterate(g, x, rounds=3), "slope 0.5", "differs"),
    ("solve", lambda g, x: iterate(g, x, rounds=1001), "slope 0.5", "more than 1000 times"),
    ("posterior_mean", posterior_mean, "0.9999", "NaN"),  # right, but its weights underflow
    (
        "posterior_mean",
        lambda *given: posterior_mean(*given, half=1),
        "tanh",
        "the 2 under the squared distance is missing",
    ),
    (
        "posterior_mean",
        lambda *given: posterior_mean(*given, signal=torch.ones_like),
        "tanh",
        "the images are not scaled by sqrt(alpha_bar_t)",
    ),
    (
        "posterior_mean",
        lambda *given: posterior_mean(*given, spread=torch.sqrt),
        "tanh",
        "it divides by sqrt(1 - alpha_bar_t)",
    ),
    (
        "posterior_mean",
        lambda *given: posterior_mean(*given, mean=True),
        "seven pictures",
        "averaged over the pixels",
    ),
    (
        "posterior_mean",
        lambda x_t, images, ab: posterior_mean(x_t[:1], images, ab).expand_as(x_t),
        "tanh",
        "differs",
    ),
    (
        "posterior_mean",
        lambda x_t, images, ab: torch.tensordot(
            (ab.sqrt() / (1 - ab) * x_t.flatten(1) @ images.flatten(1).T).softmax(1), images, 1
        ),
        "seven pictures",  # |x_i|^2 is forgotten, which is the same for 1 and -1
        "differs",
    ),
    (
        "posterior_mean",
        lambda x_t, images, ab: images[
            (x_t[:, None] - ab.sqrt() * images).square().flatten(2).sum(2).argmin(1)
        ],
        "tanh",
        "only the nearest image",
    ),
    ("posterior_mean", lambda x_t, images, ab: images, "tanh", "got shape (2, 1), wanted (5, 1)"),
]


@pytest.mark.parametrize(("name", "fn", "claim", "problem"), WRONG)
def test_a_wrong_function_is_told_its_first_failure(name, fn, claim, problem, capsys):
    said = judge(name, fn, capsys).splitlines()
    assert said[0].startswith(f"{name}: not yet right. Verified so far: ")
    assert claim in said[1] and problem in said[2]


def test_float32_answers_pass(capsys):
    def single(x_t, eps, ab_t, ab_s, *, sigma=0.0, noise=None):
        noise = None if noise is None else noise.float()
        return ddim_step(
            x_t.float(), eps.float(), ab_t.float(), ab_s.float(), sigma=sigma, noise=noise
        )

    assert judge("ddim_step", single, capsys).startswith("ddim_step: right")
    said = judge("trajectory", lambda model, x, *rest: sample(model, x.float(), *rest), capsys)
    assert said.startswith("trajectory: right")
    said = judge(
        "jumps",
        lambda model, x, *rest: [s.x0_hat for s in trajectory(model, x.float(), *rest)],
        capsys,
    )
    assert said.startswith("jumps: right")


def endless(model, x, grid, schedule):
    while True:
        x = x - 1e-3 * model(x, torch.full((len(x),), grid[0]))


def stubborn(model, x, grid, schedule):
    """Asks on whatever happens."""
    while True:
        try:
            endless(model, x, grid, schedule)
        except Exception:
            continue


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fn", [endless, stubborn])
@pytest.mark.parametrize("name", ["trajectory", "jumps", "invert"])
def test_a_sampler_that_never_ends_is_stopped(name, fn, capsys):
    output = judge(name, fn, capsys)
    assert "not yet right" in output and "asked" in output


@pytest.mark.timeout(60)
def test_an_endless_list_of_jumps_or_times_is_stopped(capsys):
    def forever(*given):
        while True:
            yield 1

    for name in ("jumps", "times"):
        assert "goes on without an end" in judge(name, forever, capsys)


def in_place(fn):
    """The same answer, and one argument changed."""

    def changed(*given, **options):
        answer = fn(*given, **options)
        for argument in given:
            if isinstance(argument, torch.Tensor):
                argument += 1
                return answer
            if isinstance(argument, list):
                argument.append(0.5)
                return answer
        return answer

    return changed


@pytest.mark.parametrize(
    "name", [name for name in RIGHT if name not in ("times", "noise", "order")]
)
def test_a_solution_that_changes_its_input_is_told(name, capsys):
    output = judge(name, in_place(RIGHT[name]), capsys)
    assert "not yet right" in output and "changed its argument" in output


def test_the_changed_argument_is_named(capsys):
    def add(x_0, eps, ab_t):
        x_0 *= ab_t.sqrt()
        return x_0 + (1 - ab_t).sqrt() * eps

    assert "changed its argument x_0 in place" in judge("add_noise", add, capsys)


@pytest.mark.parametrize(
    "name", [name for name in RIGHT if name not in ("times", "slope", "order")]
)
def test_numpy_answers_are_taken(name, capsys):
    def numpy(*given, **options):
        answer = RIGHT[name](*given, **options)
        if isinstance(answer, tuple):
            return tuple(part.numpy() for part in answer)
        if isinstance(answer, list):
            return [part.numpy() for part in answer]
        return answer.numpy()

    assert judge(name, numpy, capsys).startswith(f"{name}: right")


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize(
    "answer", [None, "text", {}, [[torch.zeros(2)]], object(), lambda: None, [None], 5]
)
def test_an_answer_of_another_type_is_not_called_an_error_of_the_reader(name, answer, capsys):
    output = judge(name, lambda *_, **__: answer, capsys)
    assert "not yet right" in output and "your function raised" not in output


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (
            lambda model, x: model(x, 1000),
            "asked with a t of type int, wanted one integer for each",
        ),
        (lambda model, x: model(x, torch.tensor(1000)), "asked with a t of shape (), wanted"),
        (lambda model, x: model(x.numpy(), 1000), "the model was shown an x_t of type ndarray"),
        (
            lambda model, x: model(x, np.full(2, 1000)),
            "a t of type ndarray, wanted one integer for each",
        ),
    ],
)
@pytest.mark.parametrize("name", ["trajectory", "jumps", "invert"])
def test_a_model_asked_in_another_way_is_told(name, ask, problem, capsys):
    output = judge(name, lambda model, x, grid, schedule: ask(model, x), capsys)
    assert problem in output and "your function raised" not in output


def test_a_list_of_states_is_told(capsys):
    output = judge("trajectory", lambda *given: [s.x_s for s in trajectory(*given)], capsys)
    assert "got a list of 2 where one tensor is wanted" in output
    assert "got a Tensor, wanted the pair" in judge(
        "ddim_step", lambda *given, **options: ddim_step(*given, **options)[0], capsys
    ).replace("it returned", "got a")


def sigma(power=1, first=True, swapped=False):
    def fn(ab_t, ab_s, eta):
        ratio = (1 - ab_s) / (1 - ab_t) if first else 1
        ratio = 1 / ratio if swapped else ratio
        return eta * (ratio * (1 - ab_t / ab_s)) ** (power / 2)

    return fn


SLIPS = [
    ("add_noise", lambda x, e, ab: ab * x + (1 - ab) * e, "the square roots are missing"),
    ("add_noise", lambda x, e, ab: ab.sqrt() * x - (1 - ab).sqrt() * e, "the sign of eps"),
    ("add_noise", lambda x, e, ab: ab.sqrt() * x + (1 - ab) * e, "root of 1 - alpha_bar_t is"),
    ("predict_x0", lambda x, e, ab: (x - (1 - ab).sqrt() * e) / ab, "root of alpha_bar_t is"),
    ("predict_x0", lambda x, e, ab: (x + (1 - ab).sqrt() * e) / ab.sqrt(), "the sign of eps"),
    ("predict_x0", lambda x, e, ab: x - (1 - ab).sqrt() * e, "the division by sqrt"),
    ("predict_x0", lambda *given: predict_x0(*given).clamp(-1, 1), "clipped to [-1, 1]"),
    ("ddim_sigma", sigma(power=2), "that is a variance"),
    ("ddim_sigma", sigma(first=False), "the first factor is missing"),
    ("ddim_sigma", lambda t, s, eta: sigma()(t, s, eta) * eta, "eta is squared"),
    ("ddim_step", step_without("levels"), "the square root of alpha_bar_s is missing"),
    ("ddim_step", step_without("sigma"), "sigma^2 is not taken out"),
    ("ddim_step", step_without("variance"), "scaled by sigma^2"),
    ("ddim_step", step_without("order"), "in the other order"),
    ("translation", lambda b: torch.cumprod(1 - b, 0), "alpha_bar_0 = 1 is missing"),
    ("translation", lambda b: torch.cat([torch.ones(1), 1 - b]), "of one step"),
    ("invert_step", lambda x, e, s, t: ddim_step(x, e, t, s)[0], "s and t are swapped"),
    ("invert_step", lambda x, e, s, t: add_noise(x, e, t), "x_s is taken for x_0"),
    (
        "guided_jump",
        lambda z, u, c, ab, scale: predict_x0(z, c + scale * (c - u), ab),
        "that is w = scale - 1",
    ),
    (
        "guided_jump",
        lambda z, u, c, ab, scale: predict_x0(z, c + scale * (u - c), ab),
        "eps_u and eps_c are swapped",
    ),
    (  # no guidance up to 1, as in a library's pipelines
        "guided_jump",
        lambda z, u, c, ab, scale: predict_x0(z, u + max(scale, 1) * (c - u), ab),
        "scale is not used: eps_c alone",
    ),
    ("mix", lambda n, w: torch.tensordot(torch.tensor(w, dtype=n.dtype), n, 1), "not normalised"),
    ("slope", lambda x, y: np.polyfit(np.log(y), np.log(x), 1)[0], "x and y are swapped"),
    ("solve", lambda g, x: g(x), "you returned g(x) of the first x"),
]


@pytest.mark.parametrize(("name", "fn", "slip"), SLIPS)
def test_a_usual_slip_is_named(name, fn, slip, capsys):
    last = judge(name, fn, capsys).splitlines()[-1]
    assert "; it looks as if " in last and slip in last


def test_an_unusual_mistake_is_given_no_name(capsys):
    output = judge("add_noise", lambda *given: add_noise(*given) + 0.1, capsys)
    assert "differs by up to 0.1" in output and "it looks as if" not in output


def test_a_course_can_grade(capsys):
    right, wrong = checks.check_add_noise(add_noise), checks.check_add_noise(lambda x, e, ab: x)

    def stub(*_):
        raise NotImplementedError

    blank = checks.check_add_noise(stub)
    assert [r.passed for r in (right, wrong, blank)] == [True, False, None]
    assert [bool(r) for r in (right, wrong, blank)] == [True, False, False]
    assert len(right.verified) == 3 and right.problem is None
    assert wrong.claim.startswith("alpha_bar_t = 0.36") and "differs" in wrong.problem
    assert len(capsys.readouterr().out.splitlines()) == 4 + 3 + 1


def test_a_result_is_not_shown_a_second_time_below_a_cell():
    from IPython.core.formatters import DisplayFormatter

    assert DisplayFormatter().format(checks.Result("a", True)) == ({}, {})
