"""DDIM sampling, diffusion inversion and jump prediction, with models for a laptop CPU.

The names below are the core; ``zoo`` (bundled models), ``grids``, ``widgets`` and ``checks`` are
imported by name.
"""

from . import analytic, guidance
from .inversion import (
    Coupled,
    Inversion,
    RoundTrip,
    bdia,
    edict,
    invert,
    invert_exact,
    invert_fixed_point,
    obelm,
    rex,
    round_trip,
)
from .noise import generators, randn, slerp
from .peers import (
    ddim_sampling_parameters,
    from_scheduler,
    ldm_buffers,
    scheduler_times,
    sigma_to_t,
    t_to_sigma,
)
from .predict import (
    EpsModel,
    add_noise,
    eps_from_v,
    jump,
    pred_eps_and_x0,
    predict_eps,
    predict_x0,
    scaled_delta,
    source_delta,
    v_from_eps,
)
from .sampling import Step, ddim_sigma, ddim_step, sample, trajectory
from .schedule import Schedule, cosine, from_betas, linear, scaled_linear, times

__version__ = "0.1.0"
__all__ = [
    "Coupled",
    "EpsModel",
    "Inversion",
    "RoundTrip",
    "Schedule",
    "Step",
    "add_noise",
    "analytic",
    "bdia",
    "cosine",
    "ddim_sampling_parameters",
    "ddim_sigma",
    "ddim_step",
    "edict",
    "eps_from_v",
    "from_betas",
    "from_scheduler",
    "generators",
    "guidance",
    "invert",
    "invert_exact",
    "invert_fixed_point",
    "jump",
    "ldm_buffers",
    "linear",
    "obelm",
    "pred_eps_and_x0",
    "predict_eps",
    "predict_x0",
    "randn",
    "rex",
    "round_trip",
    "sample",
    "scaled_delta",
    "scaled_linear",
    "scheduler_times",
    "sigma_to_t",
    "slerp",
    "source_delta",
    "t_to_sigma",
    "times",
    "trajectory",
    "v_from_eps",
]
