"""What others accept in silence is refused here, by name, with what was seen and what to do.

The package's own checks are meant, so the type checker that the rest of the suite runs under is
off.
"""

import functools
import math
import re

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, KarrasVeScheduler

from ddim_tutorial import (
    Schedule,
    add_noise,
    analytic,
    cosine,
    ddim_sampling_parameters,
    ddim_step,
    eps_from_v,
    from_betas,
    from_scheduler,
    generators,
    guidance,
    invert,
    invert_fixed_point,
    jump,
    latent,
    linear,
    pixel,
    pred_eps_and_x0,
    predict_eps,
    predict_x0,
    randn,
    round_trip,
    sample,
    scaled_delta,
    scaled_linear,
    scheduler_times,
    times,
    trajectory,
    v_from_eps,
    zoo,
)

SCHEDULE = linear()
MODEL = analytic.gaussian(0.0, 0.7, SCHEDULE)
X = torch.zeros(2, 3, 4, 4)
GRID = times(1000, 5)
AB = SCHEDULE.alpha_bar[500]
T = torch.tensor([1, 1000])
UINT8 = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
NAN = torch.full_like(X, math.nan)
META = X.to("meta")


@pytest.fixture(autouse=True)
def only_our_own_checks():
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def walk(**options):
    return trajectory(
        MODEL, X, options.pop("grid", GRID), SCHEDULE, **options
    )  # refused before the first step


def says(eps):
    return lambda x_t, t: eps(x_t)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


CASES = {
    # time
    "t negative": (lambda: jump(MODEL, X, -5, SCHEDULE), ValueError, r"\bt=-5\b"),
    "t zero": (lambda: jump(MODEL, X, 0, SCHEDULE), ValueError, r"\bt=0\b"),
    "t beyond T": (lambda: jump(MODEL, X, 1001, SCHEDULE), ValueError, r"\bt=1001\b.*1000"),
    "t fractional": (lambda: jump(MODEL, X, 3.5, SCHEDULE), TypeError, r"\bt=3\.5\b"),
    "t a float tensor": (
        lambda: jump(MODEL, X, torch.tensor([1.0, 2.0]), SCHEDULE),
        TypeError,
        r"\bt is torch.float32",
    ),
    "t a bool tensor": (lambda: SCHEDULE.at(T > 1, X), TypeError, r"\bt is torch.bool"),
    "t of another batch": (
        lambda: jump(MODEL, X, T[:1], SCHEDULE),
        TypeError,
        r"\bt is .*\(1,\).*\(2,\)",
    ),
    "t a bool": (lambda: SCHEDULE.at(True, X), TypeError, r"\bt=True\b"),
    "t negative in at": (lambda: SCHEDULE.at(-1, X), ValueError, r"\bt=-1\b"),
    "t negative in level": (lambda: SCHEDULE.level(-1), ValueError, r"\bt=-1\b"),
    "t beyond T in level": (lambda: SCHEDULE.level(1001), ValueError, r"\bt=1001\b.*1000"),
    "t beyond T in pred_eps_and_x0": (
        lambda: pred_eps_and_x0(MODEL, X, 2000, SCHEDULE),
        ValueError,
        r"\bt=2000\b",
    ),
    # grids
    "steps zero": (lambda: times(1000, 0), ValueError, r"\bsteps=0\b"),
    "steps negative": (lambda: times(1000, -3), ValueError, r"\bsteps=-3\b"),
    "steps fractional": (lambda: times(1000, 2.5), TypeError, r"\bsteps=2\.5\b"),
    "steps beyond T": (lambda: times(1000, 1001), ValueError, r"\bsteps=1001\b.*1000"),
    "steps of a scheduler": (
        lambda: scheduler_times(DDIMScheduler(clip_sample=False), 1001),
        ValueError,
        r"\bsteps=1001\b",
    ),
    "a scheduler that makes no step": (
        lambda: scheduler_times(DDIMScheduler(set_alpha_to_one=False, clip_sample=False), 1),
        ValueError,
        "DDIMScheduler with 1 steps walks no decreasing grid.*no step is left",
    ),
    "a scheduler that starts above T": (
        lambda: scheduler_times(FlowMatchEulerDiscreteScheduler(), 10),
        ValueError,
        "FlowMatchEulerDiscreteScheduler .*from 999 down",
    ),
    "LDM's parameters, eta negative": (
        lambda: ddim_sampling_parameters(SCHEDULE, GRID, -1.0),
        ValueError,
        "eta=-1",
    ),
    "LDM's parameters, increasing": (
        lambda: ddim_sampling_parameters(SCHEDULE, GRID[::-1], 1.0),
        ValueError,
        r"times=\[0, 200\].*decreasing",
    ),
    "spacing misspelt": (
        lambda: times(1000, 10, "trialing"),
        ValueError,
        r"spacing='trialing'.*trailing",
    ),
    "no schedule for a spacing of levels": (
        lambda: times(1000, 10, "logsnr"),
        ValueError,
        r"spacing='logsnr'.*None: pass the schedule",
    ),
    "a number for a schedule": (
        lambda: times(1000, 10, "karras", 1000),
        ValueError,
        r"spacing='karras'.*schedule is 1000: pass",
    ),
    "T of a grid": (lambda: times(0, 1), ValueError, "^T=0 is out"),
    "times empty": (lambda: walk(grid=[]), ValueError, "times"),
    "times of one": (lambda: walk(grid=[500]), ValueError, "times"),
    "times repeated": (lambda: walk(grid=[500, 500, 0]), ValueError, "times"),
    "times turning back": (lambda: walk(grid=[500, 100, 300]), ValueError, "times"),
    "times beyond T": (lambda: walk(grid=[1001, 0]), ValueError, r"times.*1001"),
    "times negative": (lambda: walk(grid=[500, -1]), ValueError, r"times.*-1"),
    "times fractional": (lambda: walk(grid=[500.5, 0]), TypeError, r"times.*500\.5"),
    # noise
    "eta negative": (lambda: walk(eta=-0.1), ValueError, r"eta=-0\.1"),
    "eta beyond the grid": (lambda: walk(eta=1.5), ValueError, r"eta=1\.5.*t=\d+.*s=\d+"),
    "eta nan": (lambda: walk(eta=math.nan), ValueError, "eta=nan"),
    "eta a string": (lambda: walk(eta="1"), (ValueError, TypeError), "eta='1'"),
    "eta while inverting": (
        lambda: walk(grid=GRID[::-1], eta=0.5),
        ValueError,
        r"eta=0\.5 with s=200 > t=0",
    ),
    "sigma-hat while inverting": (
        lambda: walk(grid=GRID[::-1], sigma_hat=True),
        ValueError,
        "sigma_hat=True with s=200 > t=0",
    ),
    "sigma-hat with another eta": (
        lambda: walk(eta=0.5, sigma_hat=True),
        ValueError,
        r"sigma_hat=True with eta=0\.5",
    ),
    "generators too few": (lambda: randn((3, 2), generators([1, 2])), ValueError, "generator"),
    "generators too few, walking": (
        lambda: walk(eta=1.0, generator=generators([1])),
        ValueError,
        "got 1 for a batch",
    ),
    "a seed for a generator": (lambda: walk(eta=1.0, generator=5), TypeError, "generator=5"),
    "seeds for generators": (
        lambda: walk(eta=1.0, generator=[5, 6]),
        TypeError,
        r"generator=\[5, 6\]",
    ),
    "noise of another shape": (
        lambda: add_noise(X, X[:1], AB),
        ValueError,
        r"eps.*\(1, 3, 4, 4\).*\(2, 3, 4, 4\)",
    ),
    "step noise of another shape": (
        lambda: ddim_step(X, X, AB, AB, noise=X[:, :1]),
        ValueError,
        r"noise.*\(2, 1, 4, 4\)",
    ),
    "noise on another device": (lambda: add_noise(X, META, AB), ValueError, "eps is on meta.*cpu"),
    "pred_eps_and_x0's noise": (
        lambda: pred_eps_and_x0(MODEL, X, 5, SCHEDULE, noise=X[:1]),
        ValueError,
        r"noise has shape \(1, 3, 4, 4\)",
    ),
    # the model's answer
    "eps nan": (lambda: sample(says(lambda x: x * math.nan), X, GRID, SCHEDULE), ValueError, "NaN"),
    "eps nan while inverting": (
        lambda: invert(says(lambda x: x * math.nan), X, GRID, SCHEDULE),
        ValueError,
        "NaN",
    ),
    "eps nan while solving": (
        lambda: invert_fixed_point(says(lambda x: x * math.nan), X + 1, GRID, SCHEDULE),
        ValueError,
        "NaN",
    ),
    "eps nan at one step while solving": (
        lambda: invert_fixed_point(
            lambda x, t: x * (math.nan if t[0] == 600 else 0.1), X + 1, GRID, SCHEDULE
        ),
        ValueError,
        "NaN",
    ),
    "eps a tuple": (
        lambda: jump(says(lambda x: (x,)), X, 5, SCHEDULE),
        TypeError,
        "eps is .*tuple.*pixel.eps_model",
    ),
    "eps of whole numbers": (
        lambda: jump(says(lambda x: x.long()), X, 5, SCHEDULE),
        TypeError,
        "eps is torch.int64",
    ),
    "predict_x0's eps of another batch": (
        lambda: predict_x0(X, X[:1], AB),
        ValueError,
        r"eps has shape \(1, 3",
    ),
    "predict_eps's x0_hat of one image": (
        lambda: predict_eps(X, X[:1], AB),
        ValueError,
        r"x0_hat has shape \(1, 3",
    ),
    "v of another batch": (lambda: eps_from_v(X, X[:1], AB), ValueError, r"v has shape \(1, 3"),
    "v_from_eps's eps of another batch": (
        lambda: v_from_eps(X, X[:1], AB),
        ValueError,
        r"eps has shape \(1, 3",
    ),
    "eps of another batch under guidance": (
        lambda: guidance.cfg(MODEL, says(lambda x: x[:1]), 2.0)(X, T),
        ValueError,
        r"the conditional model's eps.*\(2, 3, 4, 4\)",
    ),
    "eps infinite": (
        lambda: sample(says(lambda x: x + math.inf), X, GRID, SCHEDULE),
        ValueError,
        "NaN or inf",
    ),
    "eps of another batch": (
        lambda: sample(says(lambda x: x[:1]), X, GRID, SCHEDULE),
        ValueError,
        r"eps.*\(1, 3, 4, 4\)",
    ),
    "eps of one channel": (
        lambda: sample(says(lambda x: x[:, :1]), X, GRID, SCHEDULE),
        ValueError,
        r"eps.*\(2, 1, 4, 4\)",
    ),
    "eps of 2C channels": (
        lambda: sample(says(lambda x: torch.cat([x, x], 1)), X, GRID, SCHEDULE),
        ValueError,
        r"eps.*\(2, 6, 4, 4\).*learned_variance",
    ),
    "eps on another device": (
        lambda: jump(says(lambda x: x.to("meta")), X, 5, SCHEDULE),
        ValueError,
        "eps is on meta",
    ),
    "eps of another batch, inverting": (
        lambda: invert_fixed_point(says(lambda x: x[:1]), X, GRID, SCHEDULE),
        ValueError,
        r"eps.*\(1, 3, 4, 4\)",
    ),
    "eps of another batch, guided": (
        lambda: guidance.classifier(
            says(lambda x: x[:1]), lambda x, t: x.sum((1, 2, 3)), 1.0, SCHEDULE
        )(X, T),
        ValueError,
        r"eps.*\(1, 3, 4, 4\)",
    ),
    # pictures
    "integer images": (lambda: jump(MODEL, UINT8, 5, SCHEDULE), TypeError, "x_t is torch.uint8"),
    "integer images, sampling": (
        lambda: sample(MODEL, UINT8, GRID, SCHEDULE),
        TypeError,
        "x_T is torch.uint8",
    ),
    "integer images, inverting": (
        lambda: invert(MODEL, UINT8, GRID, SCHEDULE),
        TypeError,
        "x_0 is torch.uint8",
    ),
    "integer images, noising": (
        lambda: pred_eps_and_x0(MODEL, UINT8, 5, SCHEDULE),
        TypeError,
        "x_0 is torch.uint8",
    ),
    "a list of images": (lambda: sample(MODEL, [[0.0]], GRID, SCHEDULE), TypeError, "x_T is list"),
    "nan images": (lambda: invert(MODEL, NAN, GRID, SCHEDULE), ValueError, "x_0 holds NaN"),
    "nan noise": (lambda: sample(MODEL, NAN, GRID, SCHEDULE), ValueError, "x_T holds NaN"),
    "no batch": (
        lambda: sample(MODEL, torch.zeros(3), GRID, SCHEDULE),
        ValueError,
        r"x_T has shape \(3,\)",
    ),
    "an empty batch": (
        lambda: sample(MODEL, X[:0], GRID, SCHEDULE),
        ValueError,
        r"x_T has shape \(0, 3, 4, 4\)",
    ),
    "a delta of different shapes": (
        lambda: scaled_delta(X, X[:1]),
        ValueError,
        r"xt_image.*\(1, 3, 4, 4\)",
    ),
    "a delta of integers": (
        lambda: scaled_delta(UINT8, UINT8),
        TypeError,
        "xt_image is torch.uint8.*of floats$",
    ),
    # schedules
    "beta_last above one": (lambda: linear(10, 1e-4, 1.5), ValueError, r"^beta in .*1\.5"),
    "beta_last one": (lambda: linear(10, 1e-4, 1.0), ValueError, r"^beta in \["),
    "beta_first zero": (lambda: linear(10, 0.0, 0.02), ValueError, r"^beta in \["),
    "beta_first negative": (lambda: linear(10, -1e-4, 0.02), ValueError, r"^beta in \["),
    "a scale that is text": (
        lambda: guidance.cfg(MODEL, MODEL, "7.5"),
        ValueError,
        r"scale: got '7\.5', wanted a fin",
    ),
    "a dtype that is text": (
        lambda: zoo.load("fashion", dtype="bf16"),
        TypeError,
        "dtype: got 'bf16', wanted torch",
    ),
    "no prompt": (
        lambda: latent.from_pipeline(None, None),
        ValueError,
        "prompt, negative_prompt: got None",
    ),
    "a prompt that is a number": (
        lambda: latent.from_pipeline(None, [5]),
        ValueError,
        r"got \[5\] and '', wanted",
    ),
    "no scale": (lambda: guidance.cfg_batched(MODEL, X, X, None), ValueError, "scale: got None"),
    "a scale of NaN": (
        lambda: guidance.classifier(MODEL, MODEL, math.nan, SCHEDULE),
        ValueError,
        "scale: got nan",
    ),
    "scaled beta negative": (
        lambda: scaled_linear(10, -1e-4, 0.02),
        ValueError,
        r"beta_first=-0\.0001",
    ),
    "beta nan": (lambda: from_betas(f64(0.1, math.nan)), ValueError, r"^beta in \["),
    "beta_max one": (lambda: cosine(10, beta_max=1.0), ValueError, r"^beta in \["),
    "T zero": (lambda: linear(0), ValueError, "^T=0 is out"),
    "T zero, scaled": (lambda: scaled_linear(0), ValueError, "^T=0 is out"),
    "T zero, cosine": (lambda: cosine(0), ValueError, "^T=0 is out"),
    "T fractional": (lambda: linear(10.5), TypeError, r"\bT=10\.5\b"),
    "alpha_bar of one entry": (
        lambda: Schedule(f64(1.0)),
        ValueError,
        "alpha_bar has 1 entries, so T=0",
    ),
    "alpha_bar rising": (lambda: Schedule(f64(1.0, 0.5, 0.6)), ValueError, r"alpha_bar\[2\]=0\.6"),
    "alpha_bar level": (lambda: Schedule(f64(1.0, 0.5, 0.5)), ValueError, r"alpha_bar\[2\]=0\.5"),
    "alpha_bar nan": (lambda: Schedule(f64(1.0, math.nan)), ValueError, r"alpha_bar\[1\]=nan"),
    "alpha_bar without x_0": (lambda: Schedule(f64(0.9, 0.5)), ValueError, r"alpha_bar\[0\]=0\.9"),
    "alpha_bar ending at zero": (
        lambda: Schedule(f64(1.0, 0.5, 0.0)),
        ValueError,
        r"alpha_bar\[T\]=0.*terminal SNR",
    ),
    "alpha_bar float32": (
        lambda: Schedule(torch.tensor([1.0, 0.5])),
        TypeError,
        "alpha_bar is torch.float32",
    ),
    "alpha_bar a matrix": (
        lambda: Schedule(f64(1.0, 0.5)[None]),
        TypeError,
        r"alpha_bar.*\(1, 2\)",
    ),
    "zero terminal SNR": (
        lambda: from_scheduler(DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=False)),
        ValueError,
        "terminal SNR",
    ),
    "no alphas_cumprod": (
        lambda: from_scheduler(KarrasVeScheduler()),
        TypeError,
        "KarrasVeScheduler.*alphas_cumprod",
    ),
    # arrays and numbers
    "times of another number": (
        lambda: jump(MODEL, X, np.array([10, 20, 30]), SCHEDULE),
        ValueError,
        r"t has 3 entries, wanted 2",
    ),
    "a time of an array beyond T": (
        lambda: jump(MODEL, X, np.array([10, 2000]), SCHEDULE),
        ValueError,
        r"an entry of t=2000",
    ),
    "times that are fractions": (
        lambda: SCHEDULE.at(np.array([1.0, 2.0]), X),
        TypeError,
        r"an entry of t=.*1\.0",
    ),
    "t as text": (lambda: jump(MODEL, X, "10", SCHEDULE), TypeError, r"t='10' is a str"),
    "a grid that is a number": (lambda: walk(grid=50), TypeError, "times=50 is a int.*50"),
    "no grid": (lambda: walk(grid=None), TypeError, "times=None is a NoneType"),
    "one seed": (lambda: generators(5), TypeError, "seeds=5: pass whole numbers"),
    "fractional seeds": (lambda: generators([0.5]), TypeError, r"a seed=0\.5"),
    "an alpha_bar above one": (lambda: add_noise(X, X, 1.5), ValueError, r"ab_t=1\.5"),
    "an alpha_bar that is nan": (lambda: predict_x0(X, X, math.nan), ValueError, "ab_t=nan"),
    "an alpha_bar as an array": (
        lambda: predict_eps(X, X, np.array([0.5, 0.5])),
        TypeError,
        "ab_t is a ndarray: pass a number",
    ),
    "no alpha_bar": (lambda: eps_from_v(X, X, None), TypeError, "ab_t is a NoneType"),
    "a step with alpha_bar as text": (
        lambda: ddim_step(X, X, 0.5, "0.9"),
        TypeError,
        "ab_s is a str",
    ),
    "sigma too large": (
        lambda: ddim_step(X, X, 0.5, 0.75, sigma=0.6, noise=X),
        ValueError,
        r"sigma=0\.6 with ab_s=0\.75",
    ),
    "pictures as arrays": (
        lambda: add_noise(X.numpy(), X.numpy(), 0.5),
        TypeError,
        "eps is <class 'numpy.ndarray'>, wanted a tensor",
    ),
    "a state that is an array": (
        lambda: add_noise(X.numpy(), X, 0.5),
        TypeError,
        "the state a ndarray, wanted tensors",
    ),
    "alpha_bar a list": (lambda: Schedule([1.0, 0.5]), TypeError, "alpha_bar is a list: pass a"),
    # inversion
    "eps_time misspelt": (
        lambda: invert(MODEL, X, GRID, SCHEDULE, eps_time="taget"),
        ValueError,
        "eps_time='taget'",
    ),
    "times increasing": (
        lambda: invert(MODEL, X, GRID[::-1], SCHEDULE),
        ValueError,
        "times.*increase",
    ),
    "tol zero": (lambda: invert_fixed_point(MODEL, X, GRID, SCHEDULE, tol=0), ValueError, "tol=0"),
    "tol nan": (
        lambda: invert_fixed_point(MODEL, X, GRID, SCHEDULE, tol=math.nan),
        ValueError,
        "tol=nan",
    ),
    "max_iter zero": (
        lambda: invert_fixed_point(MODEL, X, GRID, SCHEDULE, max_iter=0),
        ValueError,
        "max_iter=0",
    ),
    "no tol": (
        lambda: invert_fixed_point(MODEL, X, GRID, SCHEDULE, tol=None),
        ValueError,
        "tol=None",
    ),
    "method not a function": (
        lambda: round_trip(MODEL, X, GRID, SCHEDULE, "naive"),
        TypeError,
        "method='naive'",
    ),
    # guidance and closed forms
    "condition of another batch": (
        lambda: guidance.cfg_batched(lambda x, t, c: x, torch.zeros(3), torch.zeros(1), 2.0)(X, T),
        ValueError,
        "condition has 3 rows for a batch of 2",
    ),
    "log_prob a scalar": (
        lambda: guidance.classifier(MODEL, lambda x, t: x.sum(), 1.0, SCHEDULE)(X, T),
        ValueError,
        r"log_prob returned tensor\(.*wanted shape \(2,\)",
    ),
    "log_prob that returns nothing": (
        lambda: guidance.classifier(MODEL, lambda x, t: None, 1.0, SCHEDULE)(X, T),
        ValueError,
        "log_prob returned None",
    ),
    "log_prob that forgets x": (
        lambda: guidance.classifier(MODEL, lambda x, t: torch.zeros(2), 1.0, SCHEDULE)(X, T),
        ValueError,
        "differentiable in x_t",
    ),
    "labels a list": (
        lambda: pixel.eps_model(torch.nn.Linear(1, 1), labels=[1, 2]),
        TypeError,
        r"labels=\[1, 2\]",
    ),
    "mean nan": (lambda: analytic.gaussian(math.nan, 1.0, SCHEDULE), ValueError, "mean=nan"),
    "std infinite": (lambda: analytic.gaussian(0.0, math.inf, SCHEDULE), ValueError, "std=inf"),
    "no std": (lambda: analytic.gaussian(0.0, None, SCHEDULE), ValueError, "std=None"),
    "a data set of integers": (
        lambda: analytic.dataset(UINT8, SCHEDULE),
        TypeError,
        "means is torch.uint8",
    ),
    "a data set of none": (
        lambda: analytic.dataset(X[:0], SCHEDULE),
        ValueError,
        r"means has shape \(0, 3",
    ),
    "means nan": (
        lambda: analytic.mixture(NAN, 0.1, torch.ones(2), SCHEDULE),
        ValueError,
        "means holds NaN",
    ),
    "weight infinite": (
        lambda: analytic.mixture(X, 0.1, f64(1.0, math.inf), SCHEDULE),
        ValueError,
        "weights",
    ),
    "stds too many": (
        lambda: analytic.mixture(X, f64(1, 1, 1), torch.ones(2), SCHEDULE),
        ValueError,
        "stds",
    ),
    "stds infinite": (
        lambda: analytic.mixture(X, math.inf, torch.ones(2), SCHEDULE),
        ValueError,
        "stds",
    ),
    "pictures unlike the data": (
        lambda: analytic.dataset(X, SCHEDULE)(X[:, 1:], T),
        ValueError,
        r"x_t.*\(3, 4, 4\)",
    ),
    "std negative": (lambda: analytic.gaussian(0.0, -1.0, SCHEDULE), ValueError, r"std=-1"),
    "weight zero": (
        lambda: analytic.mixture(X, 0.1, torch.zeros(2), SCHEDULE),
        ValueError,
        "weights",
    ),
    "weights too few": (
        lambda: analytic.mixture(X, 0.1, torch.ones(1), SCHEDULE),
        ValueError,
        "weights",
    ),
    "stds negative": (
        lambda: analytic.mixture(X, -0.1, torch.ones(2), SCHEDULE),
        ValueError,
        "stds",
    ),
}
ADVICE = re.compile(r"pass |allows |move |convert|wanted|must|end the schedule|look for|wrapped by")


@pytest.mark.parametrize("case", list(CASES))
def test_refused_by_name(case):
    call, kind, names = CASES[case]
    with pytest.raises(kind, match=names) as caught:
        call()
    assert ADVICE.search(str(caught.value)), (
        f"says what was seen, but not what to do: {caught.value}"
    )


def test_eta_beyond_one_is_allowed_where_the_grid_allows_it():
    """sigma^2 <= 1 - alpha_bar_s: on a single step from T, eta may be sqrt((1 - ab_t) / (1 - ab_t /
    ab_s))."""
    ab_t, ab_s = SCHEDULE.alpha_bar[[1000, 500]].tolist()
    limit = math.sqrt((1 - ab_t) / (1 - ab_t / ab_s))
    assert limit > 1
    generator = torch.Generator().manual_seed(0)
    sample(MODEL, X, [1000, 500], SCHEDULE, eta=limit * (1 - 1e-9), generator=generator)
    with pytest.raises(ValueError, match=f"eta <= {limit:.4f}"):
        sample(MODEL, X, [1000, 500], SCHEDULE, eta=limit * (1 + 1e-6), generator=generator)


def test_good_input_passes():
    """The cases above fail for what is wrong with them: the same calls, put right."""
    for good in (
        lambda: jump(MODEL, X, 1, SCHEDULE),
        lambda: jump(MODEL, X, torch.tensor([1, 1000]), SCHEDULE),
        lambda: sample(MODEL, X, GRID, SCHEDULE, eta=1, generator=generators([1, 2])),
        lambda: invert(MODEL, X, GRID, SCHEDULE),
        functools.partial(round_trip, MODEL, X, GRID, SCHEDULE, invert),
        lambda: guidance.cfg_batched(lambda x, t, c: x, torch.zeros(2), torch.zeros(1), 2.0)(X, T),
    ):
        good()


def test_whole_numbers_of_other_kinds_are_times():
    grid = np.array(GRID)
    assert torch.equal(sample(MODEL, X + 1, grid, SCHEDULE), sample(MODEL, X + 1, GRID, SCHEDULE))
    assert all(type(step.t) is int for step in walk(grid=grid))
    assert torch.equal(
        sample(MODEL, X + 1, iter(GRID), SCHEDULE), sample(MODEL, X + 1, GRID, SCHEDULE)
    )
    as_mask = torch.tensor(
        [1, 1, 0], dtype=torch.uint8
    )  # torch takes these for a mask if it is let
    assert torch.equal(
        linear(2).at(as_mask, torch.zeros(3, 1))[:, 0], linear(2).alpha_bar[[1, 1, 0]].float()
    )
