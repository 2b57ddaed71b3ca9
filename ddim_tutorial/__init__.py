"""DDIM sampling, diffusion inversion and jump prediction, with models small enough for a laptop CPU.

The names below are the core; ``zoo`` (bundled models), ``grids``, ``widgets`` and ``checks`` are imported by name.
"""

from . import analytic, guidance
from .inversion import Inversion, RoundTrip, invert, invert_fixed_point, round_trip
from .jump import (EpsModel, add_noise, eps_from_v, generators, jump, pred_eps_and_x0, predict_eps, predict_x0, randn,
                   scaled_delta, source_delta, v_from_eps)
from .sampling import Step, ddim_sigma, ddim_step, sample, trajectory
from .schedule import (Schedule, cosine, ddim_sampling_parameters, from_betas, from_scheduler, ldm_buffers, linear,
                       scaled_linear, scheduler_times, times)

__version__ = "0.1.0"
