"""A slider over the way back."""

import math
import warnings
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import torch
from ipywidgets import VBox

from ..grids import image_grid
from ..guidance import cfg
from ..inversion import METHODS, Inversion, resample
from ..metrics import rms
from ..predict import EpsModel
from ..spacing import times
from ..zoo import Bundle

if TYPE_CHECKING:
    import matplotlib.figure
from .explorer import explorer

MOST_EVALUATIONS = 400  # of one inversion in the explorer: about ten seconds on two cores


def inversion_explorer(bundle: Bundle, methods: Sequence[str] = tuple(METHODS)) -> VBox:
    """A held-out picture, the x_T that inversion finds for it, and what is sampled from that x_T,
    with the error.

    Controls: the picture (an index into ``bundle.examples``, with its own label), the number of
    steps S of the quadratic grid that ends at 1, the method (of ``methods``, names in
    ``inversion.METHODS``; the coupled ones come back by their own sampler) and the guidance scale;
    at first the first of each, S = 20, scale = 1. An inversion that takes more than
    ``MOST_EVALUATIONS`` is stopped, with a message in place of the picture. Raises ValueError for a
    bundle without examples.
    """
    examples = bundle.examples
    if examples is None:
        raise ValueError(f"bundle: {bundle.name} has no held-out examples to invert")

    def render(
        picture: int = 0, S: int = 20, method: str = methods[0], scale: float = 1.0
    ) -> "matplotlib.figure.Figure":
        x_0, label = (part[picture : picture + 1].to(bundle.device) for part in examples)
        model = cfg(bundle.conditional(label), bundle.model, scale)
        grid = [*(t for t in times(bundle.schedule.T, S, "quadratic") if t > 1), 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the caption says it
            found = METHODS[method](_capped(model), x_0, grid, bundle.schedule)
        return _round_trip_grid(x_0, found, resample(model, found, grid, bundle.schedule))

    return explorer(
        render,
        picture=(0, len(examples.images) - 1),
        S=(2, 50),
        method=list(methods),
        scale=(0.0, 7.5, 0.5),
    )


def _capped(model: EpsModel) -> EpsModel:
    """The model, which refuses to be asked more than ``MOST_EVALUATIONS`` times."""
    asked, most = count(1), MOST_EVALUATIONS

    def eps(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if next(asked) > most:
            raise ValueError(f"stopped after {most} evaluations: take fewer steps or less guidance")
        return model(x_t, t)

    return eps


def _round_trip_grid(
    x_0: torch.Tensor, found: Inversion, back: torch.Tensor
) -> "matplotlib.figure.Figure":
    solved = ", converged" if found.converged else ", NOT converged"
    if math.isnan(found.residual):  # no equation was solved
        solved = ""
    return image_grid(
        torch.cat([x_0, found.x_T / 3, back]),
        ["$x_0$", "$x_T / 3$", "sampled again"],
        columns=3,
        size=1.6,
        caption=f"rms error {rms(back, x_0):.3g}; std of x_T {found.x_T.std():.2f}; "
        f"{found.evaluations} evaluations{solved}",
    )
