"""Sliders over grids: they hold the state and call a function that draws; no mathematics here."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from ipywidgets import HTML, Image, ValueWidget, VBox, interactive

from .grids import image_grid, jump_grid, to_png
from .guidance import cfg
from .inversion import METHODS, resample
from .latent import decode, warn_of_cut
from .noise import generators, randn
from .sampling import Step, trajectory
from .spacing import times
from .zoo import Bundle, LatentBundle

if TYPE_CHECKING:
    import matplotlib.figure

Decode = Callable[[torch.Tensor], torch.Tensor]


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


def sampling_explorer(bundle: Bundle) -> VBox:
    """x_t, x0_hat and delta of a run on a class-conditional model, around the time t.

    Sliders for t, the number of steps S, eta, guidance scale, label (named by the card's "classes")
    and seed, at first a plain run (S = 50, eta = 0, scale = 1); moving t alone samples nothing
    anew. Raises ValueError for a model without classes.
    """
    if not bundle.unet.config.num_class_embeds:
        raise ValueError(
            f"bundle: {bundle.name} has no classes, wanted a class-conditional model such as"
            " fashion"
        )
    labels = bundle.card.get("classes", range(bundle.unet.config.num_class_embeds - 1))

    @lru_cache(maxsize=8)
    def run(S: int, eta: float, scale: float, label: int, seed: int) -> list[Step]:
        generator = torch.Generator().manual_seed(seed)
        x_T = torch.randn(1, *bundle.shape, generator=generator).to(bundle.device)
        model = cfg(bundle.conditional(label), bundle.model, scale)
        grid = times(bundle.schedule.T, S)
        return list(trajectory(model, x_T, grid, bundle.schedule, eta=eta, generator=generator))

    def render(
        t: int, S: int = 50, eta: float = 0.0, scale: float = 1.0, label: int = 0, seed: int = 0
    ) -> "matplotlib.figure.Figure":
        return _around(run(S, eta, scale, label, seed), t)

    T = bundle.schedule.T
    return explorer(
        render,
        t=(1, T),
        S=(1, 50),
        eta=(0.0, 1.0, 0.1),
        scale=(0.0, 7.5, 0.5),
        label=[(str(name), i) for i, name in enumerate(labels)],
        seed=(0, 99),
    )


def latent_explorer(bundle: LatentBundle, prompt: str) -> VBox:
    """z_t, z0_hat (both decoded) and delta of a run on a latent model, around the time t.

    Controls: t, the prompt, the number of steps S, guidance scale and seed; moving t alone samples
    nothing anew.
    """

    @lru_cache(maxsize=8)
    def run(prompt: str, S: int, scale: float, seed: int) -> list[Step]:
        space = bundle.space(prompt, scale=scale)
        z_T = randn((1, *bundle.shape), generators([seed]), device=bundle.device)
        return list(trajectory(space.model, z_T, space.times(S), space.schedule))

    def render(t: int, prompt: str, S: int, scale: float, seed: int) -> "matplotlib.figure.Figure":
        warn_of_cut(bundle.pipe, prompt)  # a run that is kept does not say it again
        return _around(run(prompt, S, scale, seed), t, partial(decode, bundle.pipe.vae))

    return explorer(
        render,
        t=(1, bundle.schedule.T),
        prompt=prompt,
        S=(1, 50),
        scale=(0.0, 10.0, 0.5),
        seed=(0, 99),
    )


def _around(steps: list[Step], t: int, decode: Decode | None = None) -> "matplotlib.figure.Figure":
    """Five neighbouring steps with the one nearest to t in the middle, if there are two on either
    side of it."""
    nearest = min(range(len(steps)), key=lambda i: abs(steps[i].t - t))
    first = max(0, min(nearest - 2, len(steps) - 5))
    return jump_grid(steps[first : first + 5], decode)


def inversion_explorer(bundle: Bundle) -> VBox:
    """A held-out picture, the x_T that inversion finds for it, and what is sampled from that x_T,
    with the error.

    Controls: the picture (an index into ``bundle.examples``, with its own label), the number of
    steps S, the method (one of ``inversion.METHODS``; the coupled ones come back by their own
    sampler) and the guidance scale. Raises ValueError for a bundle without examples.
    """
    if bundle.examples is None:
        raise ValueError(f"bundle: {bundle.name} has no held-out examples to invert")

    def render(picture: int, S: int, method: str, scale: float) -> "matplotlib.figure.Figure":
        x_0, label = (part[picture : picture + 1].to(bundle.device) for part in bundle.examples)
        model, grid = (
            cfg(bundle.conditional(label), bundle.model, scale),
            times(bundle.schedule.T, S),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the caption says it
            found = METHODS[method](model, x_0, grid, bundle.schedule)
        back = resample(model, found, grid, bundle.schedule)
        rms = (back - x_0).square().mean().sqrt().item()
        solved = (
            ""
            if math.isnan(found.residual)
            else ", converged"
            if found.converged
            else ", NOT converged"
        )
        return image_grid(
            torch.cat([x_0, found.x_T / 3, back]),
            ["$x_0$", "$x_T / 3$", "sampled again"],
            columns=3,
            caption=(
                f"rms error {rms:.3g}; std of x_T {found.x_T.std():.2f}; "
                f"{found.evaluations} evaluations{solved}"
            ),
        )

    return explorer(
        render,
        picture=(0, len(bundle.examples.images) - 1),
        S=(2, 100),
        method=list(METHODS),
        scale=(0.0, 7.5, 0.5),
    )


def jump_explorer(
    steps: Sequence[Step], decode: Decode | None = None, *, start: int | None = None
) -> VBox:
    """A slider over the steps of a stored run (``list(trajectory(...))``): x_t, x0_hat and delta of
    the one nearest to t, drawn as in :func:`grids.jump_grid`. Nothing is sampled anew.

    start: the t shown at first, by default the run's first.
    """
    if not steps:
        raise ValueError("steps: got none, wanted those of a trajectory")
    first, last = min(step.t for step in steps), max(step.t for step in steps)
    if start is None:
        start = steps[0].t
    if not first <= start <= last:
        raise ValueError(f"start: got {start}, wanted a time of the run, {first}..{last}")

    def render(t: int = start) -> "matplotlib.figure.Figure":
        return jump_grid([min(steps, key=lambda step: abs(step.t - t))], decode)

    return explorer(render, t=(first, last))


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
