"""Sliders over grids: they hold the state and call a function that draws; no mathematics here."""

from collections.abc import Callable
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from ipywidgets import HTML, Image, ValueWidget, VBox, interactive

from .grids import jump_grid, to_png
from .guidance import cfg
from .sampling import Step, trajectory
from .schedule import times
from .zoo import Bundle

if TYPE_CHECKING:
    import matplotlib.figure


def explorer(render: Callable[..., Any], **controls: Any) -> VBox:
    """A column of controls over the picture that ``render(**values)`` draws, drawn anew when one is let go.

    A control is a widget, or one of ipywidgets' abbreviations: a number, (low, high), (low, high, step), True, a list
    of choices or of (label, value) pairs. A ValueError of ``render`` is shown in place of a new picture.
    """
    widgets = {name: _control(name, value) for name, value in controls.items()}
    picture, message = Image(format="png"), HTML()

    def draw(_: Any = None) -> None:
        try:
            picture.value = to_png(render(**{name: widget.value for name, widget in widgets.items()}))
            message.value = ""
        except ValueError as error:
            message.value = f"<b>{escape(str(error))}</b>"

    for widget in widgets.values():
        widget.observe(draw, "value")
    draw()
    return VBox([*widgets.values(), message, picture])


def sampling_explorer(bundle: Bundle) -> VBox:
    """x_t, x0_hat and delta of a run on a class-conditional model, around the time t.

    Sliders for t, the number of steps S, eta, guidance scale, label (named by the card's "classes") and seed; moving
    t alone samples nothing anew. Raises ValueError for a model without classes.
    """
    if not bundle.unet.config.num_class_embeds:
        raise ValueError(f"bundle: {bundle.name} has no classes, wanted a class-conditional model such as fashion")
    labels = bundle.card.get("classes", range(bundle.unet.config.num_class_embeds - 1))

    @lru_cache(maxsize=8)
    def run(S: int, eta: float, scale: float, label: int, seed: int) -> list[Step]:
        generator = torch.Generator().manual_seed(seed)
        x_T = torch.randn(1, *bundle.shape, generator=generator).to(bundle.device)
        model = cfg(bundle.conditional(label), bundle.model, scale)
        grid = times(bundle.schedule.T, S)
        return list(trajectory(model, x_T, grid, bundle.schedule, eta=eta, generator=generator))

    def render(t: int, S: int, eta: float, scale: float, label: int, seed: int) -> "matplotlib.figure.Figure":
        steps = run(S, eta, scale, label, seed)
        nearest = min(range(len(steps)), key=lambda i: abs(steps[i].t - t))
        first = max(0, min(nearest - 2, len(steps) - 5))
        return jump_grid(steps[first:first + 5])

    T = bundle.schedule.T
    return explorer(render, t=(1, T), S=(1, 50), eta=(0.0, 1.0, 0.1), scale=(0.0, 7.5, 0.5),
                    label=[(str(name), i) for i, name in enumerate(labels)], seed=(0, 99))


def _control(name: str, value: Any) -> ValueWidget:
    widget = interactive.widget_from_abbrev(value)
    if widget is None:
        raise TypeError(f"{name}: got {value!r}, wanted a widget, a number, a (low, high) pair or a list of choices")
    widget.description = name
    if hasattr(widget, "continuous_update"):
        widget.continuous_update = False  # a picture for every pixel of the way would lag behind
    return widget
