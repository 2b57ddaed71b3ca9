"""DDIM sampling, diffusion inversion and jump prediction, with models small enough for a laptop
CPU.

The names below are the core; ``zoo`` (bundled models), ``grids``, ``widgets`` and ``checks`` are
imported by name.
"""

from . import analytic, guidance, solvers
from .inversion import Inversion, RoundTrip, invert, invert_fixed_point, round_trip
from .jump import (
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
from .noise import generators, randn, slerp
from .sampling import Step, ddim_sigma, ddim_step, sample, trajectory
from .schedule import (
    Schedule,
    cosine,
    ddim_sampling_parameters,
    from_betas,
    from_scheduler,
    ldm_buffers,
    linear,
    scaled_linear,
    scheduler_times,
    times,
)
from .solvers import adams_bashforth, dpmpp_2m, gradient_estimation

__version__ = "0.1.0"
__all__ = [
    "EpsModel",
    "Inversion",
    "RoundTrip",
    "Schedule",
    "Step",
    "adams_bashforth",
    "add_noise",
    "analytic",
    "cosine",
    "ddim_sampling_parameters",
    "ddim_sigma",
    "ddim_step",
    "dpmpp_2m",
    "eps_from_v",
    "from_betas",
    "from_scheduler",
    "generators",
    "gradient_estimation",
    "guidance",
    "invert",
    "invert_fixed_point",
    "jump",
    "ldm_buffers",
    "linear",
    "pred_eps_and_x0",
    "predict_eps",
    "predict_x0",
    "randn",
    "round_trip",
    "sample",
    "scaled_delta",
    "scaled_linear",
    "scheduler_times",
    "slerp",
    "solvers",
    "source_delta",
    "times",
    "trajectory",
    "v_from_eps",
]
