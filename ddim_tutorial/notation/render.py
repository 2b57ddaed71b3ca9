"""The tables as Markdown."""

import re
from collections.abc import Callable, Collection, Sequence

from .dictionary import DDPM_DDIM, Row
from .symbols import SYMBOLS, Symbol


class MarkdownText(str):
    """Markdown that a notebook shows as a table, as the last line of a cell."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return str(self)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> MarkdownText:
    # a bare | would end the cell, also inside a formula
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return MarkdownText("\n".join(f"| {' | '.join(row)} |" for row in lines))


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _tex(names: list[str]) -> str:
    # MathJax may break a formula at a slash, and then gives its column the width of the page
    return ", ".join(
        re.sub(r"([^\s$]+) / ([^\s$]+)", r"\\frac{\1}{\2}", f"${name}$") for name in names
    )


COLUMNS: dict[str, Callable[[Symbol], str]] = {
    "meaning": lambda symbol: symbol.meaning,
    "letter": lambda symbol: _tex([symbol.paper]),
    "code": lambda symbol: _code(symbol.names("here")),
    "DDPM": lambda symbol: _tex(symbol.names("ddpm")),
    "DDIM": lambda symbol: _tex(symbol.names("ddim")),
    "LDM, diffusers": lambda symbol: _code(symbol.names("ldm/diffusers")),
    "shape": lambda symbol: symbol.shape,
}
DICTIONARY: dict[str, Callable[[Row], str]] = {
    "quantity": lambda row: row.quantity,
    "DDPM": lambda row: f"${row.ddpm}$",
    "DDIM": lambda row: f"${row.ddim}$",
    "code": lambda row: f"`{row.code}`",
    "source": lambda row: row.source,
}


def render(
    symbols: Sequence[Symbol] = SYMBOLS, columns: Sequence[str] = tuple(COLUMNS)
) -> MarkdownText:
    """The symbol table as a markdown table.

    symbols: its rows. columns: names of COLUMNS; ValueError for another name.
    """
    _require_columns(columns, COLUMNS)
    return _table(columns, [[COLUMNS[name](symbol) for name in columns] for symbol in symbols])


def render_ddpm_ddim(
    rows: Sequence[Row] = DDPM_DDIM, columns: Sequence[str] = tuple(DICTIONARY)
) -> MarkdownText:
    """The DDPM/DDIM dictionary as a markdown table.

    rows: its rows. columns: names of DICTIONARY; ValueError for another name.
    """
    _require_columns(columns, DICTIONARY)
    return _table(columns, [[DICTIONARY[name](row) for name in columns] for row in rows])


def _require_columns(columns: Sequence[str], known: Collection[str]) -> None:
    if unknown := set(columns) - set(known):
        raise ValueError(f"columns: got {sorted(unknown)}, wanted names of {list(known)}")
