"""A column of controls over a picture."""

import asyncio
import inspect
import warnings
from base64 import b64encode
from collections.abc import Callable, Generator, Sequence
from html import escape, unescape
from time import perf_counter
from typing import Any

import torch
from ipywidgets import HTML, ValueWidget, VBox, interactive

from ..display import description, to_png

PAUSE = 0.15  # seconds without a key after which a text that is followed is drawn
AT_REST = 40_000  # characters of a PNG that a stored notebook can hold beside all its others


class Column(VBox):
    """Controls over a picture. A page without a kernel shows the picture alone, if it is small, or
    a sentence."""

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        *controls, _, picture = self.children
        names = ", ".join(control.description for control in controls)
        data = super()._repr_mimebundle_(**kwargs)
        data["text/plain"] = f"A picture with controls for {names}: run the cell to move them."
        if not 0 < len(picture.value) < AT_REST:
            return data, {}
        source, alt = picture.value.split('"')[1:4:2]
        data["image/png"] = source.partition(",")[2]
        return data, {"image/png": {"alt": unescape(alt)}}


def explorer(render: Callable[..., Any], live: str | None = None, **controls: Any) -> VBox:
    """A column of controls over the picture that ``render(**values)`` draws, drawn anew when one is
    let go.

    A control is a widget, or one of ipywidgets' abbreviations: a number, (low, high), (low, high,
    step), True, a list of choices or of (label, value) pairs; an abbreviation starts at the default
    of ``render``'s argument, if it has one. ``live`` names a text that is followed while it is
    typed, drawn when no key has come for PAUSE seconds. A ``render`` that takes long may yield
    drafts, shown until it returns the picture. The words in a figure are its alt text. An error of
    ``render`` is shown in place of the picture, its warnings above the picture.
    """
    start = {
        name: parameter.default for name, parameter in inspect.signature(render).parameters.items()
    }
    widgets = {
        name: _control(name, value, start.get(name, inspect.Parameter.empty))
        for name, value in controls.items()
    }
    # HTML, because an ipywidgets.Image takes no alt text
    picture, message, longest = HTML(), HTML(), 0.0
    picture.layout.align_self = "flex-start"  # a column would stretch it to the cell's width
    picture.layout.max_width = "100%"

    def show(image: str) -> None:
        # a picture beside settings that it does not belong to would mislead
        picture.layout.display = None if image else "none"
        picture.value = image

    def show_draft(figure: Any) -> None:
        show(_image(figure))
        message.value = _working("this is a draft, drawing on", longest)

    def draw(_: Any = None) -> None:
        nonlocal longest
        begin, message.value = perf_counter(), _working("drawing", longest)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                drawn = render(**{name: widget.value for name, widget in widgets.items()})
                show(_image(_finished(drawn, show_draft)))
                texts = _for_readers(caught)
            except Exception as error:  # also of torch, where the memory is too small
                show("")
                texts = [_error_text(error)]
            except KeyboardInterrupt:
                show("")
                message.value = _alert(["stopped: move a control to draw again"])
                raise
        longest = max(longest, perf_counter() - begin)
        message.value = _alert(texts)

    for name, widget in widgets.items():
        _observe(widget, draw, typed=name == live)
    draw()
    return Column([*widgets.values(), message, picture])


def _observe(widget: ValueWidget, draw: Callable[..., None], typed: bool) -> None:
    if typed:
        widget.continuous_update = True
    widget.observe(_after_a_pause(draw) if typed else draw, "value")


def _after_a_pause(draw: Callable[[], None]) -> Callable[[Any], None]:
    """``draw``, once no further call has come for PAUSE seconds; at once where nothing can wait, in
    a program without an event loop."""
    pending: asyncio.TimerHandle | None = None

    def call(_: Any) -> None:
        nonlocal pending
        if pending is not None:
            pending.cancel()
        try:
            pending = asyncio.get_running_loop().call_later(PAUSE, draw)
        except RuntimeError:
            draw()

    return call


def _finished(drawn: Any, show_draft: Callable[[Any], None]) -> Any:
    """The picture that ``render`` returned; if it yields drafts, after these were shown."""
    if not isinstance(drawn, Generator):
        return drawn
    while True:
        try:
            show_draft(next(drawn))
        except StopIteration as end:
            return end.value


def _image(figure: Any) -> str:
    """The figure as HTML, at its own size or narrower, with its words as alt text."""
    source = "data:image/png;base64," + b64encode(to_png(figure)).decode()
    alt = escape(description(figure))
    return f'<img src="{source}" alt="{alt}" style="display: block; max-width: 100%">'


def _working(what: str, longest: float) -> str:
    """The sign of work, with the longest seconds so far where they are worth a word."""
    seconds = f" (up to {longest:.0f} s so far)" if longest >= 1 else ""
    return f'<i role="status">{what} ...{seconds}</i>'


def _alert(texts: Sequence[str]) -> str:
    """The texts, each once, as a screen reader says them at once; "" for none."""
    if not texts:
        return ""
    return f'<b role="alert">{"<br>".join(escape(text) for text in dict.fromkeys(texts))}</b>'


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
