"""Sliders over grids: they hold the state and call a function that draws; no mathematics here."""

from .editing import editing_explorer
from .explorer import explorer
from .inversion import inversion_explorer
from .live import live_prompt
from .purification import purification_explorer
from .sampling import (
    interpolation_explorer,
    jump_explorer,
    latent_explorer,
    sampling_explorer,
)
from .solvers import solver_explorer

__all__ = [
    "editing_explorer",
    "explorer",
    "interpolation_explorer",
    "inversion_explorer",
    "jump_explorer",
    "latent_explorer",
    "live_prompt",
    "purification_explorer",
    "sampling_explorer",
    "solver_explorer",
]
