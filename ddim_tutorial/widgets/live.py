"""A picture that follows the typing of its prompt."""

import math
from typing import TYPE_CHECKING

from ipywidgets import VBox

from ..grids import image_grid
from ..noise import generators, randn
from ..prompts import warn_of_cut
from ..sampling import sample
from ..zoo import LatentBundle
from .explorer import explorer

if TYPE_CHECKING:
    import matplotlib.figure


def live_prompt(bundle: LatentBundle, prompt: str = "", *, steps: int = 2, seed: int = 0) -> VBox:
    """The picture of a learned jump while its prompt is typed: jump, and for more than one step
    noise anew and jump again.

    bundle: ``zoo.load(.., fast=True)``; ValueError for a noise model, which needs many steps.
    Controls, at first as given here: the prompt, drawn at each pause in the typing; the steps, 1 to
    4; and the seed.
    """
    if bundle.scale is None:
        raise ValueError(
            f"bundle: {bundle.name} is a noise model, too slow to follow the typing; pass"
            " zoo.load(.., fast=True), its learned jump"
        )

    def render(
        prompt: str = prompt, steps: int = steps, seed: int = seed
    ) -> "matplotlib.figure.Figure":
        warn_of_cut(bundle.pipe, prompt)
        space = bundle.space(prompt)
        start, later = generators([seed, seed + 1_000_000])
        z_T = randn((1, *bundle.shape), start, device=bundle.device)
        z = sample(
            space.model, z_T, space.times(steps), space.schedule, eta=math.inf, generator=later
        )
        return image_grid(space.decode(z), columns=1, size=2.5, caption=prompt or "no prompt")

    return explorer(render, live="prompt", prompt=prompt, steps=(1, 4), seed=(0, 99))
