"""Controls over a held-out picture and what another prompt makes of it."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from ipywidgets import VBox

from ..editing import METHODS, Scene, structure_distance
from ..grids import image_grid
from ..latent import decode
from ..metrics import psnr
from ..prompts import warn_of_cut
from ..zoo import LatentBundle
from .explorer import explorer

if TYPE_CHECKING:
    import matplotlib.figure

QUICK = [name for name in METHODS if not name.startswith("null text")]  # a few seconds at most


def editing_explorer(
    bundle: LatentBundle,
    source: str,
    target: str,
    *,
    method: str = "naive inversion",
    enter: int | None = None,
    scale: float = 2.0,
    S: int = 20,
) -> VBox:
    """A held-out picture and its edit, with what is kept of it: the PSNR in dB and the structure
    distance to the picture as the autoencoder gives it back.

    Controls, at first as given here: the picture, by its prompt ``source``, one of
    ``bundle.captions``; the target prompt; the method, one of ``editing.METHODS`` but for null
    text; ``enter``, the time where the path is entered, T for all of it; and the guidance scale. S:
    steps. Raises ValueError for a picture that is not there.
    """
    T = bundle.schedule.T

    @lru_cache(maxsize=32)
    def scene(source: str) -> Scene:
        z_0 = bundle.space(source).encode(_picture(bundle, source))
        return Scene(bundle, z_0, [source], bundle.captions.index(source), S)

    def render(
        source: str = source,
        target: str = target,
        method: str = method,
        enter: int = T if enter is None else enter,
        scale: float = scale,
    ) -> "matplotlib.figure.Figure":
        warn_of_cut(bundle.pipe, target)
        what = scene(source)
        z = METHODS[method](what, [target], scale, enter)
        shown = decode(bundle.pipe.vae, torch.cat([what.z_0, z])).clamp(-1, 1)
        before, after = shown.split(1)
        caption = (
            f"PSNR {psnr(after, before).item():.1f} dB, structure distance"
            f" {structure_distance(bundle.pipe.vae, after, before).item():.2f}"
        )
        return image_grid(shown, [source, target], columns=2, size=2.2, caption=caption)

    _picture(bundle, source)
    return explorer(
        render,
        source=bundle.captions,
        target=target,
        method=QUICK,
        enter=(50, T, 50),
        scale=(0.0, 7.5, 0.5),
    )


def _picture(bundle: LatentBundle, source: str) -> torch.Tensor:
    captions = bundle.captions
    if bundle.examples is None or source not in captions:
        known = ", ".join(map(repr, captions[:3])) or "none"
        raise ValueError(
            f"source={source!r}: {bundle.name} has no such picture; pass one of its"
            f" {len(captions)} captions ({known}, ...)"
        )
    place = captions.index(source)
    return bundle.examples.images[place : place + 1].to(bundle.device)
