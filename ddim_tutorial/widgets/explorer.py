"""A column of controls over a picture."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from ipywidgets import HTML, Image, ValueWidget, VBox, interactive

from ..grids import to_png

if TYPE_CHECKING:
    pass


def explorer(render: Callable[..., Any], **controls: Any) -> VBox:
    """A column of controls over the picture that ``render(**values)`` draws, drawn anew when one is
    let go.

    A control is a widget, or one of ipywidgets' abbreviations: a number, (low, high), (low, high,
    step), True, a list of choices or of (label, value) pairs; an abbreviation starts at the default
    of ``render``'s argument, if it has one. An error of ``render`` is shown in place of the
    picture, its warnings above the picture.
    """
    start = {
        name: parameter.default for name, parameter in inspect.signature(render).parameters.items()
    }
    widgets = {
        name: _control(name, value, start.get(name, inspect.Parameter.empty))
        for name, value in controls.items()
    }
    picture, message = Image(format="png"), HTML()
    picture.layout.align_self = "flex-start"  # a column would stretch it to the cell's width
    picture.layout.max_width = "100%"

    def draw(_: Any = None) -> None:
        message.value = "<i>drawing ...</i>"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                drawn = to_png(render(**{name: widget.value for name, widget in widgets.items()}))
                texts = _for_readers(caught)
            except Exception as error:  # also of torch, where the memory is too small
                drawn, texts = b"", [_error_text(error)]
        # a picture beside settings that it does not belong to would mislead
        picture.layout.display = None if drawn else "none"
        picture.value = drawn
        message.value = "<br>".join(f"<b>{escape(text)}</b>" for text in dict.fromkeys(texts))

    for widget in widgets.values():
        widget.observe(draw, "value")
    draw()
    return VBox([*widgets.values(), message, picture])


def _for_readers(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """The warnings that are not for programmers."""
    return [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning)]


def _error_text(error: Exception) -> str:
    """A ValueError of ours is a sentence; others need their name."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"the memory of the device is too small for this setting ({error})"
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _control(name: str, value: Any, start: Any) -> ValueWidget:
    widget = interactive.widget_from_abbrev(value, start)
    if widget is None:
        raise TypeError(
            f"{name}: got {value!r}, wanted a widget, a number, a (low, high) pair or a list of"
            " choices"
        )
    widget.description = name
    if hasattr(widget, "continuous_update"):
        widget.continuous_update = False  # a picture for every pixel of the way would lag behind
    return widget
