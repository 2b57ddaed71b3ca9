r"""DDIM inversion: from an image to the x_T that samples to it.

One step of ``sample`` maps x_t to x_s = A x_t + B eps(x_t, t). Its inverse is implicit, because eps
is asked at the unknown x_t. Naive inversion asks at the known x_s instead, which is Euler's method
on the probability-flow ODE run backwards (Song et al. 2021, arXiv:2010.02502, Eqs. 13-14): exact
only in the limit of small steps. The fixed-point iteration solves the implicit equation.
"""

from functools import partial

from .implicit import invert_exact, invert_fixed_point
from .naive import invert
from .result import Inversion, InversionStep, RoundTrip
from .round_trip import round_trip

METHODS = {
    "naive, target time": invert,
    "naive, source time": partial(invert, eps_time="source"),
    "fixed point": invert_fixed_point,
    "exact (Anderson)": invert_exact,
}

__all__ = [
    "METHODS",
    "Inversion",
    "InversionStep",
    "RoundTrip",
    "invert",
    "invert_exact",
    "invert_fixed_point",
    "round_trip",
]
