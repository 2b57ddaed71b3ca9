r"""Judges for a reader's own functions, for the cell below the exercise.

Every check prints what it verified, or the first claim that fails and by how much, or "not
attempted yet" for a stub that raises NotImplementedError. It returns the same as a :class:`Result`,
which is true where all was verified, so that a course can grade. It never raises for a wrong
answer, so that Run All goes on. What is right is taken from closed forms and from diffusers, not
from this package's own functions.
"""

from .acceleration import check_correction, check_order, check_second_run
from .consistency import check_boundary, check_multistep, check_self_consistency
from .editing import check_blend, check_edited_maps, check_found_noise, check_null_eps
from .exact import check_anderson, check_evaluations, check_unmix
from .formulas import (
    check_add_noise,
    check_ddim_sigma,
    check_ddim_step,
    check_guided_jump,
    check_predict_x0,
    check_translation,
)
from .inversion import check_invert, check_invert_step, check_slope, check_solve
from .judge import Result
from .noise import check_mix, check_noise, check_slerp
from .posterior import check_posterior_mean
from .sampling import check_jumps, check_times, check_trajectory
from .watermark import check_p_value, check_projection, check_symmetric

__all__ = [
    "Result",
    "check_add_noise",
    "check_anderson",
    "check_blend",
    "check_boundary",
    "check_correction",
    "check_ddim_sigma",
    "check_ddim_step",
    "check_edited_maps",
    "check_evaluations",
    "check_found_noise",
    "check_guided_jump",
    "check_invert",
    "check_invert_step",
    "check_jumps",
    "check_mix",
    "check_multistep",
    "check_noise",
    "check_null_eps",
    "check_order",
    "check_p_value",
    "check_posterior_mean",
    "check_predict_x0",
    "check_projection",
    "check_second_run",
    "check_self_consistency",
    "check_slerp",
    "check_slope",
    "check_solve",
    "check_symmetric",
    "check_times",
    "check_trajectory",
    "check_translation",
    "check_unmix",
]
