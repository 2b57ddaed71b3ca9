"""What a cell shows: a picture with the sentence that describes it, a table of numbers."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.figure

DPI = 80


def to_png(figure: "matplotlib.figure.Figure") -> bytes:
    """The figure as a PNG file, at one resolution wherever it is made, in 256 colours: half the
    size, 40 dB or more."""
    from PIL import Image

    picture, buffer = BytesIO(), BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    colours = Image.open(picture).convert("RGB").quantize(256)
    colours.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def description(figure: "matplotlib.figure.Figure") -> str:
    """The words that stand in a figure, from the top left to the bottom right, without their TeX:
    what it says to a reader who cannot see it.

    Of each panel its title, its labels and its legend, then the caption; what repeats is said once.
    """
    texts = []
    for ax in figure.axes:
        legend = ax.get_legend()
        entries = [] if legend is None else [entry.get_text() for entry in legend.get_texts()]
        texts += [ax.get_title(), ax.get_ylabel(), ax.get_xlabel(), *entries]
    plain = [_without_tex(text) for text in [*texts, figure.get_supxlabel()]]
    return "; ".join(dict.fromkeys(filter(None, plain))) or "a picture without words"


def _without_tex(text: str) -> str:
    return " ".join(re.sub(r"[${}\\]", "", re.sub(r"\\(\w+)\s*", r"\1 ", text)).split())


def show(fig: "matplotlib.figure.Figure", alt: str) -> None:
    """Display a figure as a PNG, and below it ``alt``, what the picture shows: JupyterLab drops a
    picture's alt text, so the sentence is there for everybody to read. Closes the figure."""
    import matplotlib.pyplot as plt
    from IPython.display import Image, Markdown, display

    if not alt.strip():
        raise ValueError(
            "alt: got an empty text, wanted a sentence that says what the picture shows"
        )
    display(Image(to_png(fig), alt=alt.strip()))
    display(Markdown(alt.strip()))
    plt.close(fig)


class Table:
    """Numbers in columns: HTML in a notebook, aligned text elsewhere."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], formats: Mapping[str, str]):
        self.head = list(columns)
        cells = [
            [entry_text(entry, formats.get(name)) for entry in values]
            for name, values in columns.items()
        ]
        self.rows = [list(row) for row in zip(*cells, strict=True)]

    def __repr__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if k else cell.ljust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><thead>{line(self.head, 'th')}</thead><tbody>{body}</tbody></table>"


def entry_text(entry: Any, form: str | None) -> str:
    """A cell's text: numbers by ``form``, or three digits; None is empty."""
    if entry is None:
        return ""
    if hasattr(entry, "item"):
        entry = entry.item()
    if isinstance(entry, Real) and not isinstance(entry, bool):
        return format(entry, form or ("d" if isinstance(entry, Integral) else ".3g"))
    return str(entry)


def table(columns: Mapping[str, Sequence[Any]], formats: Mapping[str, str] | None = None) -> Table:
    """A table whose columns are named by the keys: ``table({"S": [10, 20], "error": errors},
    formats={"error": ".1%"})``, as the last expression of a cell.

    columns: sequences of one length, of numbers, texts or one-element tensors. formats: Python's
    format of a column's numbers, three digits where there is none. ValueError for columns of
    several lengths, or a format for a column that is not there.
    """
    columns = {name: list(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns: got lengths {lengths}, wanted one or more of one length")
    unknown = set(formats or {}) - set(columns)
    if unknown:
        raise ValueError(f"formats: got {sorted(unknown)}, wanted names of {list(columns)}")
    return Table(columns, formats or {})
