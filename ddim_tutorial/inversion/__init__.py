r"""DDIM inversion: from an image to the x_T that samples to it.

One step of ``sample`` maps x_t to x_s = A x_t + B eps(x_t, t). Its inverse is implicit, because eps
is asked at the unknown x_t. Naive inversion asks at the known x_s instead, which is Euler's method
on the probability-flow ODE run backwards (Song et al. 2021, arXiv:2010.02502, Eqs. 13-14): exact
only in the limit of small steps. The fixed-point iteration solves the implicit equation, Anderson's
acceleration solves it in fewer evaluations, and the coupled samplers have no equation to solve.
"""

from collections.abc import Callable
from functools import partial

from .coupled import bdia, edict, neighbours, obelm, rex
from .implicit import invert_exact, invert_fixed_point
from .invert_coupled import invert_coupled
from .multistep import invert_dpmpp_2m
from .naive import invert
from .result import Coupled, Inversion, InversionStep, RoundTrip
from .round_trip import resample, round_trip

METHODS: dict[str, Callable[..., Inversion]] = {
    "naive, target time": invert,
    "naive, source time": partial(invert, eps_time="source"),
    "fixed point": invert_fixed_point,
    "exact (Anderson)": invert_exact,
    "EDICT": partial(invert_coupled, sampler=edict),
    "EDICT, alternating": partial(invert_coupled, sampler=partial(edict, alternate=True)),
    "BDIA": partial(invert_coupled, sampler=bdia),
    "O-BELM": partial(invert_coupled, sampler=obelm),
    "Rex": partial(invert_coupled, sampler=rex),
}

__all__ = [
    "METHODS",
    "Coupled",
    "Inversion",
    "InversionStep",
    "RoundTrip",
    "bdia",
    "edict",
    "invert",
    "invert_coupled",
    "invert_dpmpp_2m",
    "invert_exact",
    "invert_fixed_point",
    "neighbours",
    "obelm",
    "resample",
    "rex",
    "round_trip",
]
