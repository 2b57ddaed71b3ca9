"""A slider over an attack and what washes it off."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from ipywidgets import VBox
from torch.nn import functional as F

from ..attacks import pgd
from ..grids import image_grid
from ..noise import generators, randn
from ..predict import add_noise
from ..sampling import sample
from ..zoo import Bundle
from .explorer import explorer

if TYPE_CHECKING:
    import matplotlib.figure


def purification_explorer(bundle: Bundle, eps: float = 16.0, t: int = 150) -> VBox:
    """A held-out picture, the same attacked (:func:`attacks.pgd` against the bundle's classifier,
    20 steps), and that noised to t* and walked back; above each the two classes that the
    classifier finds likeliest, with their probabilities.

    Controls: the picture (an index into ``bundle.examples``), the attack's strength eps (of 255, of
    pictures in [0, 1]), t* in 0..500 (0: nothing is done), the steps S of the way back and the seed
    of the noise. Raises ValueError for a bundle without examples.
    """
    examples = bundle.examples
    if examples is None:
        raise ValueError(f"bundle: {bundle.name} has no held-out examples to attack")

    @lru_cache(maxsize=64)
    def attacked(picture: int, eps: float) -> torch.Tensor:
        x_0, label = (part[picture : picture + 1].to(bundle.device) for part in examples)

        def loss(x: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(bundle.classifier(x), label, reduction="none")

        return pgd(loss, x_0, 2 * eps / 255, generator=generators([picture]))

    def render(
        picture: int = 0, eps: float = eps, t: int = t, S: int = 5, seed: int = 0
    ) -> "matplotlib.figure.Figure":
        x_0 = examples.images[picture : picture + 1].to(bundle.device)
        x = attacked(picture, eps)
        pure = x
        if t:
            noise = randn(x.shape, generators([seed]), device=x.device)
            x_t = add_noise(x, noise, bundle.schedule.level(t))
            grid = sorted({round(t * i / S) for i in range(S + 1)}, reverse=True)
            pure = sample(bundle.model, x_t, grid, bundle.schedule)
        shown = torch.cat([x_0, x, pure])
        with torch.no_grad():
            chances = bundle.classifier(shown).softmax(1)
        titles = [_likeliest(row, bundle.card.get("classes")) for row in chances]
        return image_grid(shown, titles, columns=3, size=1.9,
                          caption="the picture; attacked; noised and walked back")  # fmt: skip

    return explorer(
        render,
        picture=(0, len(examples.images) - 1),
        eps=(0.0, 32.0, 0.5),
        t=(0, min(500, bundle.schedule.T), 10),
        S=(1, 20),
        seed=(0, 20),
    )


def _likeliest(chances: torch.Tensor, names: list[str] | None) -> str:
    """The two likeliest classes of (classes,) probabilities, a line each."""
    top = chances.topk(2)
    lines = [
        f"{names[i] if names else i} {chance:.0%}"
        for chance, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]
    return "\n".join(lines)
