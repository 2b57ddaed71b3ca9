"""From one dialect to another: names, and series of numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .dictionary import RATIO
from .symbols import DIALECTS, SYMBOLS, Symbol


def _plain(name: str) -> str:
    r"""A name without TeX's typography, so that r"\bar{\alpha}_t", "$\bar\alpha_t$" and "bar
    alpha_t" are one name."""
    for part in ("\\mathbf", "\\boldsymbol", "$", "\\", "{", "}", " "):
        name = name.replace(part, "")
    return name


def find(name: str, dialect: str = "here") -> Symbol:
    """The symbol that a dialect calls ``name``.

    Raises:
        ValueError: for an unknown dialect, or a name that the dialect does not have.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect={dialect!r} is unknown: choose one of {', '.join(DIALECTS)}")
    for symbol in SYMBOLS:
        if _plain(name) in map(_plain, symbol.names(dialect)):
            return symbol
    known = "; ".join(n for symbol in SYMBOLS for n in symbol.names(dialect))
    raise ValueError(f"name={name!r} is not a symbol of dialect {dialect!r}: its names are {known}")


def translate(name: str, source: str, target: str) -> str:
    r"""The name that dialect ``target`` gives to what dialect ``source`` calls ``name``.

    >>> translate(r"\alpha_t", "ddim", "ddpm")
    '\\bar\\alpha_t'
    >>> translate(r"\alpha_t", "ddpm", "ldm/diffusers")
    'alphas'

    Raises:
        ValueError: for an unknown dialect or name, or when ``target`` has no name for the symbol.
    """
    symbol = find(name, source)
    if target not in DIALECTS:
        raise ValueError(f"target={target!r} is unknown: choose one of {', '.join(DIALECTS)}")
    if not symbol.names(target):
        raise ValueError(
            f"name={name!r}: dialect {target!r} has no name for {symbol.code} ({symbol.meaning})"
        )
    return symbol.names(target)[0]


def homonyms() -> dict[str, dict[str, str]]:
    """Names that two dialects use for different symbols: name -> dialect -> this package's name."""
    uses: dict[str, dict[str, str]] = {}
    for symbol in SYMBOLS:
        for dialect in DIALECTS:
            for name in symbol.names(dialect):
                uses.setdefault(name, {})[dialect] = symbol.names("here")[0]
    return {name: meant for name, meant in uses.items() if len(set(meant.values())) > 1}


def to_alpha_bar(values: Tensor | Sequence[float], name: str, dialect: str) -> Tensor:
    r"""Our (T+1,) float64 ``alpha_bar`` from a series for t = 1..T under a dialect's name for
    :math:`\beta_t`, for one step's signal or for :math:`\bar\alpha_t` (in the dialect "here" the
    latter already starts at t = 0).

    Raises:
        ValueError: when the name stands for no such series.
    """
    quantity = translate(name, dialect, "here")
    series = torch.as_tensor(values, dtype=torch.float64)
    if quantity == "alpha_bar_t":
        return series if dialect == "here" else torch.cat([torch.ones_like(series[:1]), series])
    if quantity not in ("beta_t", RATIO):
        raise ValueError(
            f"name={name!r} means {quantity}: alpha_bar follows only from beta_t, {RATIO} or"
            " alpha_bar_t"
        )
    kept = 1 - series if quantity == "beta_t" else series
    return torch.cat([torch.ones_like(kept[:1]), kept.cumprod(0)])


def from_alpha_bar(alpha_bar: Tensor, name: str, dialect: str) -> Tensor:
    r"""The series for t = 1..T, (T,) float64, that a dialect calls ``name``, from our (T+1,)
    ``alpha_bar``.

    Names for :math:`\bar\alpha_t` (in the dialect "here" with t = 0, so (T+1,)),
    :math:`\bar\alpha_{t-1}`,
    :math:`\beta_t` and one step's signal are known.

    Raises:
        ValueError: when the name stands for no such series.
    """
    quantity = translate(name, dialect, "here")
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    series = {
        "alpha_bar_t": alpha_bar if dialect == "here" else alpha_bar[1:],
        "alpha_bar_s": alpha_bar[:-1],
        RATIO: alpha_bar[1:] / alpha_bar[:-1],
        "beta_t": 1 - alpha_bar[1:] / alpha_bar[:-1],
    }
    if quantity not in series:
        raise ValueError(
            f"name={name!r} means {quantity}: alpha_bar determines only {', '.join(series)}"
        )
    return series[quantity]


def convert(
    values: Tensor | Sequence[float], name: str, source: str, target_name: str, target: str
) -> Tensor:
    r"""The series ``values``, called ``name`` in dialect ``source``, as the series ``target_name``
    of ``target``.

    >>> convert([0.5, 0.5], "betas", "ldm/diffusers", r"\alpha_t", "ddim").tolist()
    [0.5, 0.25]
    """
    return from_alpha_bar(to_alpha_bar(values, name, source), target_name, target)
