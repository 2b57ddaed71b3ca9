"""A slider over steps and solvers."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from ipywidgets import VBox

from ..grids import image_grid
from ..metrics import relative_error
from ..predict import EpsModel
from ..sampling import final
from ..schedule import Schedule
from ..solvers import END, SOLVERS
from ..spacing import BY_LEVEL, BY_TIME, times
from .explorer import explorer

if TYPE_CHECKING:
    import matplotlib.figure


def solver_explorer(
    model: EpsModel,
    x_T: torch.Tensor,
    schedule: Schedule,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    solver: str = "ddim",
    spacing: str = "trailing",
    S: int = 5,
) -> VBox:
    """What a solver makes of x_T: (B, *dims) in S evaluations, above the end of the ODE from the
    same noise (DPM-Solver++ 2M, 100 steps even in log-SNR), with the error to it.

    Controls: S, the solver (a name in ``solvers.SOLVERS``) and the spacing of its times, at first
    those given here; a setting that was seen is not sampled anew. decode: (B, *latent) -> pictures,
    for a latent model. The error: rms difference to the end over its rms.
    """
    show = decode or (lambda x: x)

    @lru_cache(maxsize=64)
    def run(solver: str, spacing: str, S: int) -> torch.Tensor:
        grid = times(schedule.T, S, spacing, schedule)
        with torch.no_grad():
            return final(SOLVERS[solver](model, x_T, grid, schedule))

    end = run(*END)

    def render(
        S: int = S, solver: str = solver, spacing: str = spacing
    ) -> "matplotlib.figure.Figure":
        x_0 = run(solver, spacing, S)
        return image_grid(
            torch.cat([show(x_0), show(end)]),
            columns=len(x_0),
            rows=(f"S = {S}", "the end"),
            size=1.3,
            caption=f"{S} evaluations, error {relative_error(x_0, end):.3f}",
        )

    spacings = [*BY_TIME, *(name for name in BY_LEVEL if name != "ays" or schedule.T == 1000)]
    return explorer(render, S=(1, 50), solver=list(SOLVERS), spacing=spacings)
