"""Sliders over runs from noise to a picture."""

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from ipywidgets import VBox

from ..grids import image_grid, jump_grid
from ..guidance import cfg
from ..latent import decode, warn_of_cut
from ..noise import generators, randn, slerp
from ..sampling import Step, sample, trajectory
from ..spacing import times
from ..zoo import Bundle, LatentBundle

if TYPE_CHECKING:
    import matplotlib.figure
from .explorer import explorer

DRAFT = 4  # steps, within a second on two cores: a first answer to a prompt
Decode = Callable[[torch.Tensor], torch.Tensor]


def sampling_explorer(bundle: Bundle, label: int = 0) -> VBox:
    """x_t, x0_hat and delta of a run on a class-conditional model, around the time t.

    Sliders for t, the number of steps S, eta, guidance scale, label (named by the card's "classes")
    and seed, at first a plain run of ``label`` (S = 50, eta = 0, scale = 1, seed 0); moving t alone
    samples nothing anew. Raises ValueError for a model without classes.
    """
    classes = getattr(bundle.unet.config, "num_class_embeds", None)
    if not classes:
        raise ValueError(
            f"bundle: {bundle.name} has no classes, wanted a class-conditional model such as"
            " fashion"
        )
    labels = bundle.card.get("classes", range(classes - 1))

    @lru_cache(maxsize=8)
    def run(S: int, eta: float, scale: float, label: int, seed: int) -> list[Step]:
        generator = torch.Generator().manual_seed(seed)
        x_T = torch.randn(1, *bundle.shape, generator=generator).to(bundle.device)
        model = cfg(bundle.conditional(label), bundle.model, scale)
        grid = times(bundle.schedule.T, S)
        return list(trajectory(model, x_T, grid, bundle.schedule, eta=eta, generator=generator))

    def render(
        t: int, S: int = 50, eta: float = 0.0, scale: float = 1.0, label: int = label, seed: int = 0
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


def latent_explorer(
    bundle: LatentBundle, prompt: str, *, S: int = 25, scale: float = 7.5, seed: int = 0
) -> VBox:
    """z_t, z0_hat (both decoded) and delta of a run on a latent model, around the time t.

    Controls: t, the prompt, the number of steps S, guidance scale and seed, at first those given
    here; moving t alone samples nothing anew. A new run of many steps is preceded by a draft of
    ``DRAFT``.
    """
    seen = {(prompt, S, scale, seed)}  # at first there is nobody to see a draft

    @lru_cache(maxsize=16)
    def run(prompt: str, S: int, scale: float, seed: int) -> list[Step]:
        space = bundle.space(prompt, scale=scale)
        z_T = randn((1, *bundle.shape), generators([seed]), device=bundle.device)
        return list(trajectory(space.model, z_T, space.times(S), space.schedule))

    def render(
        t: int, prompt: str, S: int = S, scale: float = scale, seed: int = seed
    ) -> Generator["matplotlib.figure.Figure", None, "matplotlib.figure.Figure"]:
        warn_of_cut(bundle.pipe, prompt)  # a run that is kept does not say it again
        show = partial(decode, bundle.pipe.vae)
        if S > 2 * DRAFT and (prompt, S, scale, seed) not in seen:
            yield _around(run(prompt, DRAFT, scale, seed), t, show)
        seen.add((prompt, S, scale, seed))
        return _around(run(prompt, S, scale, seed), t, show)

    return explorer(
        render,
        t=(1, bundle.schedule.T),
        prompt=prompt,
        S=(1, 50),
        scale=(0.0, 10.0, 0.5),
        seed=(0, 99),
    )


def interpolation_explorer(bundle: Bundle, seeds: tuple[int, int], steps: int = 20) -> VBox:
    """The unconditional model's picture from a noise between those of two seeds a (weight 0) and b
    (weight 1), which start at ``seeds``: by slerp and by lerp, with the norm of each x_T."""
    grid = times(bundle.schedule.T, steps)

    def render(
        a: int = seeds[0], b: int = seeds[1], weight: float = 0.5
    ) -> "matplotlib.figure.Figure":
        noise = randn((2, *bundle.shape), generators([a, b]), device=bundle.device)
        ends = noise[:1], noise[1:]
        x_T = torch.cat([slerp(*ends, weight), torch.lerp(*ends, weight)])
        x_0 = sample(bundle.model, x_T, grid, bundle.schedule)
        titles = [f"{k}: norm {x.norm():.1f}" for k, x in zip(("slerp", "lerp"), x_T, strict=True)]
        return image_grid(x_0, titles, columns=2, size=2.0)

    return explorer(render, a=(0, 99), b=(0, 99), weight=(0.0, 1.0, 0.05))


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


def _around(steps: list[Step], t: int, decode: Decode | None = None) -> "matplotlib.figure.Figure":
    """Five neighbouring steps with the one nearest to t in the middle, if there are two on either
    side of it."""
    nearest = min(range(len(steps)), key=lambda i: abs(steps[i].t - t))
    first = max(0, min(nearest - 2, len(steps) - 5))
    return jump_grid(steps[first : first + 5], decode)
