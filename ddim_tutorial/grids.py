"""Tensors to pictures: uint8, figures. Pure functions; the one place that knows the pixel range.

Figures are bare ``matplotlib.figure.Figure`` objects, so nothing lingers in pyplot. ``show`` and
``table`` put a picture and numbers under a cell.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .display import description as description
from .display import show as show
from .display import table as table
from .display import to_png as to_png
from .predict import scaled_delta
from .sampling import Step

if TYPE_CHECKING:
    import matplotlib.figure

DIVERGING = "PuOr"  # told apart by every common kind of colour vision, and grey in the middle
# Okabe & Ito
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def to_uint8(x: Tensor) -> np.ndarray:
    """Pictures x: (B, C, H, W) in [-1, 1], C = 1 or 3, as uint8 (B, H, W) or (B, H, W, 3), as
    NumPy has them; values outside are clamped. Errors as of :func:`quantise`."""
    pixels = quantise(x)
    return (pixels[:, 0] if x.shape[1] == 1 else pixels.permute(0, 2, 3, 1)).numpy()


def quantise(x: Tensor) -> Tensor:
    """Pictures x: (B, C, H, W) in [-1, 1], C = 1 or 3, as uint8 of the same shape on the CPU;
    values outside are clamped. :func:`from_uint8` is the way back.

    Raises TypeError for an integer tensor and ValueError for another shape, NaN or infinity.
    """
    if not x.is_floating_point():
        raise TypeError(
            f"x: got {x.dtype}, wanted floats in [-1, 1]; from_uint8 makes them of uint8 pictures"
        )
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, wanted (B, 1, H, W) or (B, 3, H, W); decode latents"
            " first"
        )
    if not x.isfinite().all():
        bad = int((~x.isfinite()).sum())
        raise ValueError(f"x: got NaN or infinity in {bad} of {x.numel()} values, wanted [-1, 1]")
    return ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 pictures of any shape as float32 in [-1, 1]; :func:`quantise` gives the same bytes
    back."""
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels: got {pixels.dtype}, wanted torch.uint8")
    return pixels.float() / 127.5 - 1


def jump_grid(
    steps: Sequence[Step],
    decode: Callable[[Tensor], Tensor] | None = None,
    columns: int = 8,
    index: int = 0,
    *,
    size: float = 1.15,
) -> "matplotlib.figure.Figure":
    """Rows x_t | x0_hat | delta = x0_hat - x_t of a sampling run, for ``columns`` times spread
    evenly over ``steps``.

    Args:
        steps: what ``sampling.trajectory`` yields, each with x_t and x0_hat: (B, C, H, W).
        decode: (B, *latent) -> (B, C, H, W) in [-1, 1], for a latent model; the delta is taken
            between pictures.
        index: which picture of the batch.
        size: the width of a panel in inches.

    x_t and x0_hat share the range [-1, 1], clipped for display only (x_t has variance about 1); all
    deltas share one symmetric scale, printed in the caption. Under each delta stands its rms over
    pixels and channels, unclipped. A colour delta is shown as its mean over channels. With
    ``decode`` the rows are D(z_t) | D(z0_hat) | their difference.
    """
    if not steps or columns < 1:
        raise ValueError(
            f"steps, columns: got {len(steps)} steps and columns={columns}, wanted at least 1 of"
            " each"
        )
    if not 0 <= index < len(steps[0].x_t):
        raise ValueError(
            f"index: got {index}, wanted 0..{len(steps[0].x_t) - 1}, a picture of the batch"
        )
    picked = spread(steps, columns)
    x_t, x0_hat = (
        torch.cat([getattr(step, name)[index : index + 1] for step in picked]).detach()
        for name in ("x_t", "x0_hat")
    )
    if decode is not None:
        x_t, x0_hat = decode(x_t), decode(x0_hat)
    rms = (x0_hat - x_t).square().mean((1, 2, 3)).sqrt()
    delta, scale = scaled_delta(x0_hat.mean(1, keepdim=True), x_t.mean(1, keepdim=True))

    figure, axes = _axes(3, len(picked), (size, size + 0.1))
    for j, step in enumerate(picked):
        _panel(axes[0, j], to_uint8(x_t)[j]).set_title(f"t = {step.t}", fontsize=8)
        _panel(axes[1, j], to_uint8(x0_hat)[j])
        _panel(axes[2, j], delta[j, 0].float().cpu().numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
        axes[2, j].set_xlabel(f"rms {rms[j]:.3f}", fontsize=8)
    names = ("$x_t$", r"$\hat{x}_0$", r"$\hat x_0 - x_t$")
    if decode is not None:
        names = ("$D(z_t)$", r"$D(\hat z_0)$", "difference")
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name, fontsize=10)
    mean = ", mean over channels" if x_t.shape[1] > 1 else ""
    _caption(
        figure,
        f"{names[0]} and {names[1]} shown clipped to [-1, 1]; "
        f"difference on ±{scale:.3g}{mean}: orange below 0, purple above",
    )
    return figure


def spread(steps: Sequence[Step], count: int) -> list[Step]:
    """``count`` of the steps, evenly from the first to the last; all if there are fewer."""
    chosen = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[i] for i in np.unique(chosen)]


def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    caption: str | None = None,
    *,
    rows: Sequence[str] | None = None,
    size: float = 1.0,
) -> "matplotlib.figure.Figure":
    """Pictures (B, C, H, W) in [-1, 1], row by row, on that one range.

    titles: one short text for each picture, above it. rows: one for each row, at its left. size:
    the width of a panel in inches.
    """
    pixels = to_uint8(images)
    count = -(-len(pixels) // columns)
    for name, texts, wanted in (("titles", titles, len(pixels)), ("rows", rows, count)):
        if texts is not None and len(texts) != wanted:
            raise ValueError(
                f"{name}: got {len(texts)}, wanted one for each of the {wanted} "
                f"{'images' if name == 'titles' else 'rows'}"
            )
    above = [(titles or ())[i * columns :][:columns] for i in range(count)]
    lines = sum(max((1 + t.count("\n") for t in row if t), default=0) for row in above)
    height = size + 0.25 * lines / count  # room for the lines of titles where there are some
    figure, axes = _axes(count, min(columns, len(pixels)), (size, height))
    for i, ax in enumerate(axes.flat):
        if i < len(pixels):
            _panel(ax, pixels[i]).set_title("" if titles is None else titles[i], fontsize=8)
        else:
            ax.axis("off")
    for i, text in enumerate(rows or ()):
        axes[i, 0].set_ylabel(text, fontsize=9, rotation=0, ha="right", va="center")
    _caption(figure, caption)
    return figure


def curve(
    x: Iterable | Mapping[str, Iterable],
    ys: Mapping[str, Iterable],
    xlabel: str,
    ylabel: str,
    *,
    log: str = "",
    caption: str | None = None,
    errors: Mapping[str, Iterable] | None = None,
) -> "matplotlib.figure.Figure":
    """Lines over a common x, or each over its own, told apart by colour and by marker; ``log`` is
    "", "x", "y" or "xy". The legend of more than seven stands beside them.

    errors: for some of the lines, by name, how far the bar at each point reaches up and down.
    """
    if unknown := set(errors or ()) - set(ys):
        raise ValueError(f"errors: got {sorted(unknown)}, wanted names among {sorted(ys)}")
    beside = len(ys) > 7
    figure, axes = _axes(1, 1, (6.3 if beside else 5.1, 2.8))
    if not isinstance(x, Mapping):
        x = dict.fromkeys(ys, tuple(x))
    own = {name: list(x[name]) for name in ys}
    ax = axes[0, 0]
    for i, (name, y) in enumerate(ys.items()):
        at = own[name]
        marker = "os^Dv<>"[i % 7] if len(at) <= 30 else None
        style = ("-", "--", ":")[i // 7 % 3]
        y = list(y)
        look = {"color": COLOURS[i % 7], "marker": marker, "linestyle": style, "markersize": 4}
        ax.plot(at, y, label=name, **look)
        if errors and name in errors:
            bars = {"fmt": "none", "capsize": 2, "ecolor": COLOURS[i % 7]}
            ax.errorbar(at, y, list(errors[name]), **bars)
    xscale, yscale = ("log" if axis in log else "linear" for axis in "xy")
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    ticks = sorted({value for at in own.values() for value in at}) if "x" in log else []
    if 0 < len(ticks) <= 12:
        ax.set_xticks(ticks, [f"{value:g}" for value in ticks])
        ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {}
    ax.legend(fontsize=8, **place)
    _caption(figure, caption)
    return figure


def _axes(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of rows x columns panels, each ``inches`` (width, height), and its array of axes."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(inches[0] * columns + 0.4, inches[1] * rows + 0.4), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False)


def _caption(figure: Any, text: str | None) -> None:
    if text:
        figure.supxlabel(fill(text, int(16 * figure.get_figwidth())), fontsize=8)


def _panel(ax: Any, pixels: np.ndarray, **how: Any) -> Any:
    # a panel is 80 to 90 pixels wide: larger pictures are averaged down, smaller ones show their
    # pixels
    interpolation = "nearest" if len(pixels) <= 96 else "antialiased"
    ax.imshow(
        pixels, **{"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": interpolation} | how
    )
    ax.set(xticks=[], yticks=[])
    return ax
