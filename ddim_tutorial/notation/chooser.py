"""A dictionary with two menus: the dialect that is read, and a name in it."""

from typing import TYPE_CHECKING, Any

from .symbols import DIALECTS, SYMBOLS
from .translator import find

if TYPE_CHECKING:
    from ipywidgets import VBox


def entry(name: str, dialect: str) -> str:
    """What a dialect calls ``name``, and what the others call it, as HTML with TeX."""
    symbol = find(name, dialect)
    lines = [f"<b>{symbol.meaning}</b>"]
    for other in DIALECTS:
        mark = "${}$" if other in ("ddpm", "ddim") else "<code>{}</code>"  # papers' names are TeX
        names = ", ".join(map(mark.format, symbol.names(other)))
        lines.append(f"{other}: {names or 'no name'}")
    return "<br>".join(lines)


def chooser(dialect: str = "ddim", name: str = r"\alpha_t") -> "VBox":
    """Menus for a dialect and for its names, above the :func:`entry` of the chosen one."""
    from ipywidgets import Dropdown, HTMLMath, VBox

    reading = Dropdown(options=DIALECTS, description="reading")
    word, answer = Dropdown(description="name"), HTMLMath()

    def offer_names(_: Any = None) -> None:
        word.options = [one for symbol in SYMBOLS for one in symbol.names(reading.value)]

    def answer_name(_: Any = None) -> None:
        answer.value = entry(word.value, reading.value)

    word.observe(answer_name, "value")
    reading.observe(offer_names, "value")
    reading.value = dialect
    offer_names()
    word.value = name
    return VBox([reading, word, answer])
