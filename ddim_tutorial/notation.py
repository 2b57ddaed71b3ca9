r"""The symbol table as data, and a translator between the three dialects of the field.

The same letter means different things in different papers: :math:`\alpha_t` is one step's signal in
DDPM (Ho et al. 2020, arXiv:2006.11239) and the cumulative product in DDIM (Song et al. 2021,
arXiv:2010.02502); the code of LDM and diffusers writes ``alphas`` and ``alphas_cumprod``. This
package's own names are the dialect ``"here"``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

DIALECTS = ("here", "ddpm", "ddim", "ldm/diffusers")
RATIO = (  # one step's signal, s = t - 1; it has no letter of its own here
    "alpha_bar_t / alpha_bar_s"
)


@dataclass(frozen=True)
class Symbol:
    """One row of the symbol table.

    Attributes:
        paper: TeX, as this project writes it.
        code: the name in this package.
        shape: the shape and range of its value.
        meaning: one line.
        elsewhere: dialect ("ddpm", "ddim": TeX; "ldm/diffusers": identifiers, comma separated) ->
            the name there; a dialect that has no name for it is absent.
    """

    paper: str
    code: str
    shape: str
    meaning: str
    elsewhere: dict[str, str] = field(default_factory=dict)

    def names(self, dialect: str) -> list[str]:
        """Every name of this symbol in a dialect, the usual one first; [] where it has none."""
        text = self.code if dialect == "here" else self.elsewhere.get(dialect, "")
        return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True)
class Row:
    """One row of the DDPM/DDIM dictionary: the same quantity in the letters of both papers (TeX)
    and as Python."""

    quantity: str
    ddpm: str
    ddim: str
    code: str
    source: str


def _papers(ddpm: str, ddim: str, code: str) -> dict[str, str]:
    return {"ddpm": ddpm, "ddim": ddim, "ldm/diffusers": code}


SYMBOLS = (
    Symbol(
        r"x_0",
        "x_0",
        "(B, C, H, W) in [-1, 1]",
        "data",
        _papers(r"\mathbf{x}_0", "x_0", "x_start, original_samples"),
    ),
    Symbol(
        r"x_t",
        "x_t",
        "like x_0",
        "noisy at t",
        _papers(r"\mathbf{x}_t", "x_t", "img, sample, latents"),
    ),
    Symbol(
        r"x_s",
        "x_s",
        "like x_0",
        "where a step from t arrives",
        _papers(r"\mathbf{x}_{t-1}", "x_{t-1}", "x_prev, prev_sample"),
    ),
    Symbol(
        r"t",
        "t",
        "int or (B,) int in 0..T",
        "from; 0 is clean, so a diffusers timestep is t - 1; a model is asked at 1..T",
        _papers("t", "t", "timestep"),
    ),
    Symbol(
        r"s",
        "s",
        "int in 0..T",
        "to; s < t denoises, s > t inverts",
        _papers("t-1", r"\tau_{i-1}", "prev_timestep"),
    ),
    Symbol(
        r"T", "T", "int", "training steps", _papers("T", "T", "num_train_timesteps, num_timesteps")
    ),
    Symbol(
        r"S",
        "steps",
        "int in 1..T",
        "sampling steps",
        {"ddim": "S", "ldm/diffusers": "num_inference_steps, S"},
    ),
    Symbol(
        r"\tau",
        "times",
        "list of steps + 1 int, decreasing",
        "the grid that a sampler walks",
        {"ddim": r"\tau", "ldm/diffusers": "timesteps, ddim_timesteps"},
    ),
    Symbol(
        r"\beta_t",
        "beta_t",
        "() in (0, 1)",
        "noise power added by one training step",
        _papers(r"\beta_t", r"1 - \alpha_t / \alpha_{t-1}", "betas"),
    ),
    Symbol(
        r"\bar\alpha_t / \bar\alpha_{t-1}",
        RATIO,
        "() in (0, 1)",
        "signal power kept by one training step",
        _papers(r"\alpha_t", r"\alpha_t / \alpha_{t-1}", "alphas"),
    ),
    Symbol(
        r"\bar\alpha_t",
        "alpha_bar_t, ab_t",
        "() or (B, 1, 1, 1) in (0, 1]",
        "signal power at t; 1 at t = 0",
        _papers(r"\bar\alpha_t", r"\alpha_t", "alphas_cumprod, alpha_prod_t, ddim_alphas"),
    ),
    Symbol(
        r"\bar\alpha_s",
        "alpha_bar_s, ab_s",
        "() or (B, 1, 1, 1) in (0, 1]",
        "signal power at s",
        _papers(
            r"\bar\alpha_{t-1}",
            r"\alpha_{t-1}",
            "alphas_cumprod_prev, alpha_prod_t_prev, ddim_alphas_prev",
        ),
    ),
    Symbol(
        r"\epsilon",
        "eps",
        "like x_0",
        "noise in x_t",
        _papers(r"\boldsymbol\epsilon", r"\epsilon", "noise"),
    ),
    Symbol(
        r"\hat\epsilon",
        "eps_hat",
        "like x_0",
        "its prediction, where both appear; else eps",
        _papers(
            r"\boldsymbol\epsilon_\theta", r"\epsilon_\theta^{(t)}", "noise_pred, model_output, e_t"
        ),
    ),
    Symbol(
        r"\hat x_0",
        "x0_hat",
        "like x_0",
        "jump prediction of x_0 from x_t",
        _papers(
            r"\hat{\mathbf{x}}_0",
            r"f_\theta^{(t)}",
            "pred_original_sample, pred_x0, pred_xstart, denoised",
        ),
    ),
    Symbol(
        r"v",
        "v",
        "like x_0",
        "sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0",
        {"ldm/diffusers": "velocity, v"},
    ),
    Symbol(
        r"\eta",
        "eta",
        "float >= 0",
        "noise of a step as a share of DDPM's: 0 is DDIM, 1 is DDPM",
        {"ddim": r"\eta", "ldm/diffusers": "eta, ddim_eta"},
    ),
    Symbol(
        r"\sigma_{t \to s}",
        "sigma",
        "()",
        "standard deviation of a step's noise; not k-diffusion's sigma",
        _papers(r"\sigma_t", r"\sigma_t(\eta)", "std_dev_t, ddim_sigmas"),
    ),
    Symbol(
        r"\hat\sigma",
        "sigma_hat",
        "bool",
        "std sqrt(1 - alpha_bar_t / alpha_bar_s), none in the last step",
        {"ddim": r"\hat\sigma"},
    ),
    Symbol(
        r"z",
        "noise",
        "like x_0",
        "fresh noise of a step",
        _papers(r"\mathbf{z}", r"\epsilon_t", "variance_noise"),
    ),
    Symbol(
        r"\delta", "delta", "like x_0", "x0_hat - x_t as images, divided by one symmetric scale"
    ),
    Symbol(
        r"w + 1",
        "scale",
        "float; 1 = no guidance, 0 = unconditional",
        "eps_u + scale (eps_c - eps_u); w is Ho and Salimans' letter",
        {"ldm/diffusers": "guidance_scale, unconditional_guidance_scale"},
    ),
)

# Every pair is the same number under the substitution alpha_t (DDPM) = alpha_t / alpha_{t-1} (DDIM)
# and bar alpha_t (DDPM) = alpha_t (DDIM); the last two rows at eta = 1. The tests prove it from
# these very strings.
DDPM_DDIM = (
    Row(
        "signal kept by one step",
        r"\alpha_t",
        r"\frac{\alpha_t}{\alpha_{t-1}}",
        RATIO,
        "DDPM sec. 2; DDIM Eq. 60",
    ),
    Row(
        "noise added by one step",
        r"\beta_t",
        r"1 - \frac{\alpha_t}{\alpha_{t-1}}",
        f"1 - {RATIO}",
        "DDPM sec. 2; DDIM Eq. 61",
    ),
    Row(
        "signal kept since t = 0",
        r"\bar\alpha_t",
        r"\alpha_t",
        "alpha_bar_t",
        "DDPM Eq. 4; DDIM Eq. 4",
    ),
    Row(
        "mean of q(x_t | x_s), s = t - 1",
        r"\sqrt{\alpha_t} x_{t-1}",
        r"\sqrt{\frac{\alpha_t}{\alpha_{t-1}}} x_{t-1}",
        f"sqrt({RATIO}) * x_s",
        "DDPM Eq. 2; DDIM Eq. 3",
    ),
    Row(
        "variance of q(x_t | x_s), s = t - 1",
        r"1 - \alpha_t",
        r"1 - \frac{\alpha_t}{\alpha_{t-1}}",
        f"1 - {RATIO}",
        "DDPM Eq. 2; DDIM Eq. 3",
    ),
    Row(
        "x_t from x_0",
        r"\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t} \epsilon",
        r"\sqrt{\alpha_t} x_0 + \sqrt{1 - \alpha_t} \epsilon",
        "sqrt(alpha_bar_t) * x_0 + sqrt(1 - alpha_bar_t) * eps",
        "DDPM Eq. 4; DDIM Eq. 4",
    ),
    Row(
        "jump to x_0",
        r"\frac{x_t - \sqrt{1 - \bar\alpha_t} \epsilon_\theta}{\sqrt{\bar\alpha_t}}",
        r"\frac{x_t - \sqrt{1 - \alpha_t} \epsilon_\theta}{\sqrt{\alpha_t}}",
        "(x_t - sqrt(1 - alpha_bar_t) * eps_hat) / sqrt(alpha_bar_t)",
        "DDPM Eq. 15; DDIM Eq. 9",
    ),
    Row(
        "sigma_t^2 (DDIM at eta = 1)",
        r"\frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t",
        r"\frac{1 - \alpha_{t-1}}{1 - \alpha_t} (1 - \frac{\alpha_t}{\alpha_{t-1}})",
        f"(1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - {RATIO})",
        "DDPM Eq. 7; DDIM Eq. 16",
    ),
    Row(
        "mean of x_s given x_t (DDIM at eta = 1)",
        r"\frac{1}{\sqrt{\alpha_t}} (x_t - \frac{1 - \alpha_t}{\sqrt{1 - \bar\alpha_t}} \epsilon_\theta)",
        r"\sqrt{\alpha_{t-1}} \frac{x_t - \sqrt{1 - \alpha_t} \epsilon_\theta}{\sqrt{\alpha_t}}"
        r" + \sqrt{1 - \alpha_{t-1} - \sigma_t^2} \epsilon_\theta",
        "sqrt(alpha_bar_s) * (x_t - sqrt(1 - alpha_bar_t) * eps_hat) / sqrt(alpha_bar_t)"
        " + sqrt(1 - alpha_bar_s - sigma**2) * eps_hat",
        "DDPM Eq. 11; DDIM Eq. 12",
    ),
)


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
