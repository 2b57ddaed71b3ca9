"""The tables as Markdown."""

from collections.abc import Sequence

from .dictionary import DDPM_DDIM, Row
from .symbols import SYMBOLS, Symbol


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # a bare | would end the cell, also inside a formula
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *escaped])


def _set(names: list[str], mark: str) -> str:
    return ", ".join(f"{mark}{name}{mark}" for name in names)


def render(symbols: Sequence[Symbol] = SYMBOLS) -> str:
    """The symbol table as a markdown table."""
    rows = [
        [f"${s.paper}$", _set(s.names("here"), "`"), s.shape, s.meaning, _set(s.names("ddpm"), "$"),
         _set(s.names("ddim"), "$"), _set(s.names("ldm/diffusers"), "`")]
        for s in symbols
    ]  # fmt: skip
    return _table(["paper", "code", "shape", "meaning", "DDPM", "DDIM", "LDM, diffusers"], rows)


def render_ddpm_ddim(rows: Sequence[Row] = DDPM_DDIM) -> str:
    """The DDPM/DDIM dictionary as a markdown table."""
    cells = [
        [row.quantity, f"${row.ddpm}$", f"${row.ddim}$", f"`{row.code}`", row.source]
        for row in rows
    ]
    return _table(["quantity", "DDPM", "DDIM", "code", "source"], cells)
