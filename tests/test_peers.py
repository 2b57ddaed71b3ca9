"""Other libraries' schedules, grids and buffers: what their steps do, their formulas in numpy."""

import math
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from ddim_tutorial import (
    ddim_sampling_parameters,
    from_scheduler,
    ldm_buffers,
    linear,
    sample,
    scaled_linear,
    scheduler_times,
    sigma_to_t,
    t_to_sigma,
    times,
)
from ddim_tutorial.pixel import eps_model
from parts import relative, tiny_unet

SD = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_from_scheduler_keeps_every_bit(kind, beta_schedule):
    scheduler = kind.from_config(dict(beta_schedule=beta_schedule, clip_sample=False))
    alpha_bar = from_scheduler(scheduler).alpha_bar
    assert torch.equal(alpha_bar[1:].float(), scheduler.alphas_cumprod)
    assert torch.equal(alpha_bar[1:], scheduler.alphas_cumprod.double()) and alpha_bar[0] == 1


def test_from_scheduler_does_not_depend_on_set_alpha_to_one():
    one, other = (DDIMScheduler(set_alpha_to_one=flag, clip_sample=False) for flag in (True, False))
    assert torch.equal(from_scheduler(one).alpha_bar, from_scheduler(other).alpha_bar)


def test_diffusers_trailing_grid_has_an_entry_too_many():
    """np.arange(T, 0, -T / S) rounds past its end: timestep -1 is walked for 62 of the 1000 values
    of S."""
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    too_long = []
    for steps in range(1, 1001):
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            assert len(scheduler.timesteps) == steps + 1 and scheduler.timesteps[-1] == -1
            too_long.append(steps)
    assert len(too_long) == 62 and 61 in too_long
    assert len(times(1000, 61)) == 62 and times(1000, 61)[-2:] == [16, 0]
    with pytest.warns(UserWarning, match="1 away"):
        assert scheduler_times(scheduler, 61)[-2:] == [16, 0]


def test_diffusers_linspace_steps_miss_their_own_grid():
    """DDIMScheduler.step goes to t - T // S: at S = 10 the linspace grid is 111 apart and the steps
    are 100 long."""
    scheduler = DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(10)
    t, s = scheduler.timesteps[:2].tolist()
    x_t, zero = torch.ones(1, 1), torch.zeros(1, 1)
    reached = scheduler.step(zero, t, x_t).prev_sample.item()
    ratio = (scheduler.alphas_cumprod[[s, t - 100]] / scheduler.alphas_cumprod[t]).sqrt()
    assert (t, s) == (999, 888) and math.isclose(reached, ratio[1], rel_tol=1e-5)
    assert abs(reached - ratio[0]) > 0.1 * reached
    with pytest.warns(UserWarning, match="11 away"):
        assert scheduler_times(scheduler, 10) == times(1000, 10, "linspace")


def test_diffusers_trailing_misses_by_one_where_steps_do_not_divide():
    with pytest.warns(UserWarning, match="1 away"):
        grid = scheduler_times(DDIMScheduler(timestep_spacing="trailing", clip_sample=False), 30)
    assert grid == times(1000, 30)


def test_stable_diffusion_grid_ends_at_one():
    grid = scheduler_times(DDIMScheduler(**SD), 50)
    assert grid == [*range(982, 1, -20), 1] and len(grid) == 51
    assert grid[:3] == [982, 962, 942] and grid[-3:] == [22, 2, 1]


@pytest.mark.parametrize(
    "flags, steps",
    [
        *(
            (flags, steps)
            for flags in ({}, dict(timestep_spacing="trailing"), SD)
            for steps in (10, 50, 200)
        ),
        (dict(steps_offset=1), 600),
        (dict(steps_offset=35), 30),  # the last step aims at a time above 0
    ],
)
def test_scheduler_times_is_the_grid_that_steps_walk(flags, steps):
    """From the levels that DDIMScheduler.step itself visits: with eps = 0 a step multiplies by
    sqrt(ab_s / ab_t)."""
    scheduler = DDIMScheduler(**{**flags, "clip_sample": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = scheduler_times(scheduler, steps)
    scheduler.set_timesteps(steps)
    ab = from_scheduler(scheduler).alpha_bar
    assert [t + 1 for t in scheduler.timesteps.tolist()] == grid[:-1]
    for timestep, t, s in zip(scheduler.timesteps, grid, grid[1:], strict=False):
        gain = scheduler.step(torch.zeros(1, 1), timestep, torch.ones(1, 1)).prev_sample.item()
        assert math.isclose(gain, (ab[s] / ab[t]).sqrt(), rel_tol=1e-6)


def test_scheduler_times_leaves_the_scheduler_alone():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    scheduler_times(scheduler, 50)
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps == 7


def test_ldm_buffers_against_the_formulas_in_numpy():
    """The formulas of latent diffusion's register_schedule, computed in numpy from the betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    cumprod = np.cumprod(1 - betas)
    previous = np.append(1.0, cumprod[:-1])
    posterior = betas * (1 - previous) / (1 - cumprod)
    wanted = {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "posterior_variance": posterior,
        "posterior_log_variance_clipped": np.log(np.maximum(posterior, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - cumprod),
    }
    buffers = ldm_buffers(scaled_linear())
    for name, values in wanted.items():
        torch.testing.assert_close(
            buffers[name], torch.from_numpy(values).float(), rtol=1e-6, atol=0, msg=name
        )


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_sampling_parameters_against_the_formulas_in_numpy(eta):
    """make_ddim_sampling_parameters: alphas of the ascending grid, alphas_prev shifted and starting
    at index 0."""
    schedule = scaled_linear()
    cumprod = schedule.alpha_bar[1:].numpy()
    ascending = np.arange(0, 1000, 20) + 1  # make_ddim_timesteps("uniform", 50)
    alphas, previous = cumprod[ascending], np.append(cumprod[0], cumprod[ascending[:-1]])
    sigmas = eta * np.sqrt((1 - previous) / (1 - alphas) * (1 - alphas / previous))
    seen = ddim_sampling_parameters(schedule, scheduler_times(DDIMScheduler(**SD), 50), eta)
    for ours, theirs in zip(seen, (sigmas, alphas, previous), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-12, atol=1e-15)


# --- where a scheduler's last step lands, measured by walking it ----------------------------------

SOLVERS = [
    "DDIM DDIMParallel DDPM DDPMParallel LCM TCD EulerDiscrete EulerAncestralDiscrete LMSDiscrete",
    "DPMSolverMultistep DPMSolverSinglestep UniPCMultistep DEISMultistep",
]
SOLVERS = " ".join(SOLVERS).split()


def level_reached(scheduler, steps):
    """Walk the scheduler over data that are one picture, whose eps is known exactly: the picture
    itself comes back from a last step to x0, sqrt(ab_1) of it with noise from one to t = 1."""
    ab = from_scheduler(scheduler).alpha_bar.sqrt().float()
    scheduler.set_timesteps(steps)
    picture, x = torch.full((1, 1, 1, 4), 0.3), torch.randn(1, 1, 1, 4)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x_t, root = scheduler.scale_model_input(x, t), ab[int(t) + 1]
        eps = (x_t - root * picture) / (1 - root**2).sqrt()
        x = scheduler.step(eps, t, x).prev_sample
    return 0 if (x - picture).abs().max() < 1e-4 else 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_grid_ends_where_the_last_step_lands(name, spacing, one):
    """Made from Stable Diffusion's config, in which set_alpha_to_one is left over for most."""
    config = DDIMScheduler(**{**SD, "set_alpha_to_one": one}).config
    kind = getattr(diffusers, name + "Scheduler")
    scheduler = kind.from_config(config, timestep_spacing=spacing)
    grid = scheduler_times(scheduler, 10)
    assert grid[-1] == level_reached(scheduler, 10)
    if name not in ("DDIM", "DDIMParallel", "TCD", "DEISMultistep"):
        assert grid[-1] == 0


@pytest.mark.parametrize("kind", ["DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_a_solver_may_be_told_to_end_at_its_smallest_sigma(kind):
    scheduler = getattr(diffusers, kind + "Scheduler")(
        final_sigmas_type="sigma_min", timestep_spacing="trailing"
    )
    assert scheduler_times(scheduler, 10)[-1] == level_reached(scheduler, 10) == 1


def test_a_subclass_walks_as_its_parent_does():
    class Mine(DDIMScheduler):
        pass

    own, parent = (
        kind(timestep_spacing="linspace", clip_sample=False) for kind in (Mine, DDIMScheduler)
    )
    with pytest.warns(UserWarning, match="Mine with .* aims up to 11 away"):
        grid = scheduler_times(own, 10)
    with pytest.warns(UserWarning, match="DDIMScheduler"):
        assert grid == scheduler_times(parent, 10)


@pytest.mark.parametrize(
    "scheduler, steps, reason",
    [
        (DDIMScheduler(set_alpha_to_one=False, clip_sample=False), 1, "no step is left; pass more"),
        (DDIMScheduler(steps_offset=40, clip_sample=False), 1000, r"wanted at most 1000; .*offset"),
        (DDIMInverseScheduler(clip_sample=False), 10, r"walks up; invert\(\) takes the decreasing"),
        (HeunDiscreteScheduler(), 10, r"asks twice at a time.*convert it to DDIM"),
        (EulerDiscreteScheduler(), 50, r"lie between.*timestep_spacing='trailing'"),
        (DPMSolverMultistepScheduler(use_karras_sigmas=True), 10, r"lie between.*no Karras"),
    ],
)
def test_a_grid_that_is_none_of_ours_is_refused_with_its_reason(scheduler, steps, reason):
    with pytest.raises(ValueError, match=rf"with {steps} steps walks no decreasing grid.*{reason}"):
        scheduler_times(scheduler, steps)


@pytest.mark.parametrize("nothing", [None, "ddim", linear()])
def test_what_is_no_scheduler_is_refused(nothing):
    with pytest.raises(TypeError, match=r"pass a .*diffusers scheduler"):
        scheduler_times(nothing, 10)
    with pytest.raises(TypeError, match=r"pass a .*diffusers scheduler"):
        from_scheduler(nothing)


# --- what is said of clipping ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler, key",
    [
        (DDIMScheduler(), "clip_sample"),
        (DDPMScheduler(clip_sample=False, thresholding=True), "thres"),
    ],
)
def test_clipping_is_spoken_of_once(scheduler, key):
    with pytest.warns(UserWarning, match=f"has {key}.*=True.*pass {key}.*=False") as caught:
        from_scheduler(scheduler)
        scheduler_times(scheduler, 10)
        from_scheduler(scheduler)
    assert len(caught) == 1


def test_a_left_over_key_is_no_clipping():
    ddim = DDIMScheduler(clip_sample=False, thresholding=True)
    euler = EulerDiscreteScheduler.from_config(ddim.config)
    assert euler.config["thresholding"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_scheduler(euler)
        from_scheduler(DDIMScheduler(clip_sample=False))


# --- zero terminal SNR ----------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_terminal_snr_is_served_where_v_or_x0_is_predicted(prediction):
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True,
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    schedule, unet, x = from_scheduler(scheduler), tiny_unet(), torch.randn(2, 2, 8, 8)
    assert scheduler.alphas_cumprod[-1] == 0 and schedule.alpha_bar[-1] == 1e-10
    model = eps_model(unet, prediction=prediction, schedule=schedule)
    ours = sample(model, x, scheduler_times(scheduler, 10), schedule)
    if prediction == "sample":  # theirs divides 0 by 0 at T for eps; x_0 says all that is needed
        assert ours.isfinite().all()
        return
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    assert relative(ours, x) <= 1e-4


def test_zero_terminal_snr_is_refused_for_eps_with_what_can_be_done():
    scheduler = DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=False)
    with pytest.raises(
        ValueError, match=r"zero terminal SNR.*v_prediction.*zero_snr=False.*\[:-1\]"
    ):
        from_scheduler(scheduler)


# --- k-diffusion's noise levels -------------------------------------------------------------------


def test_sigmas_are_those_of_k_diffusion():
    schedule = scaled_linear()
    t = torch.arange(1, 1001)
    cumprod = schedule.alpha_bar[1:]
    sigma = t_to_sigma(t, schedule)
    torch.testing.assert_close(sigma, ((1 - cumprod) / cumprod).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma_to_t(sigma, schedule), t.double(), rtol=0, atol=1e-9)
    assert math.isclose(sigma_to_t(14.6146, schedule), 1000, abs_tol=0.01)  # its sigma_max
    assert math.isclose(sigma_to_t(0.0292, schedule), 1, abs_tol=0.01)  # its sigma_min


def test_between_whole_times_log_sigma_is_interpolated():
    """The numbers of numpy's own interpolation, as diffusers' EulerDiscreteScheduler has it."""
    scheduler = EulerDiscreteScheduler(use_karras_sigmas=True, beta_schedule="scaled_linear")
    scheduler.set_timesteps(7)
    schedule = from_scheduler(scheduler)
    ours = sigma_to_t(scheduler.sigmas[:-1], schedule)
    wanted = scheduler.timesteps.double() + 1
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        t_to_sigma(ours, schedule).float(), scheduler.sigmas[:-1], rtol=1e-5, atol=0
    )


def test_sigmas_beyond_the_schedule_and_times_outside_it():
    assert sigma_to_t([1e-9, 1e9], linear()).tolist() == [1, 1000]
    for call in (lambda: sigma_to_t(0.0, linear()), lambda: t_to_sigma([0, 5], linear())):
        with pytest.raises(ValueError, match="pass "):
            call()
