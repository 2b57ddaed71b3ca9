"""Local blend (Hertz et al. 2022, arXiv:2208.01626, sec. 3.2, "Local Editing"): outside of where
the pictures look at chosen words, the target keeps the state of the source."""

from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Real

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from ..predict import EpsModel, Images
from ..require import require_int
from ..sampling import Past, Step, ddim_step, start, walk
from ..schedule import Schedule
from .attention import Attention, attention_maps

SIDE = 16  # of the maps that make a mask at most: larger ones are noisy


def blend_mask(
    run: Attention, words: Sequence[str], size: tuple[int, int], threshold: float = 0.3
) -> Bool[Tensor, "1 1 h w"]:
    """Where a map exceeds ``threshold`` times its maximum, grown by one position, in any picture.

    run: an :class:`Attention`, perhaps still running: the maps are the mean of those seen so far.
    words: one for each of its prompts. size: (h, w) of the latents. threshold: in 0..1.
    """
    if isinstance(words, str) or len(words) != len(run.prompts):
        raise ValueError(f"words={words!r}: pass one word for each of {run.prompts!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r}: pass a number in 0..1")
    maps = [attention_maps(run, word, row=row, side=SIDE) for row, word in enumerate(words)]
    grown = F.max_pool2d(torch.stack(maps)[:, None], 3, stride=1, padding=1)
    large = F.interpolate(grown, size=size)
    return (large > threshold * large.amax((2, 3), keepdim=True)).any(0, keepdim=True)


def blended(
    model: EpsModel,
    z_T: Images,
    times: Sequence[int],
    schedule: Schedule,
    run: Attention,
    words: Sequence[str],
    *,
    threshold: float = 0.3,
    since: int = 800,
) -> Iterator[Step]:
    """:func:`~ddim_tutorial.sampling.trajectory` of a source (row 0) and a target (row 1), where
    after each step the target's x_s is the source's outside of :func:`blend_mask`.

    run: the :class:`Attention` that is running, ``with prompt_to_prompt(..) as run:``. words: one
    word of the source and one of the target. since: steps from t <= since are blended, so 800 of
    1000 leaves out the first 20 % of an even grid, whose maps say little. Everything else as
    there, eta = 0. Step.x0_hat is the model's own.
    """
    grid, state = start(z_T, times, schedule)
    require_int("since", since, 0, schedule.T)
    if len(state) != len(run.prompts):
        raise ValueError(f"z_T has {len(state)} rows, wanted one for each of {run.prompts!r}")
    mask = partial(blend_mask, run, words, threshold=threshold)

    def rule(t: int, s: int, x_t: Tensor, eps: Tensor, past: Past | None) -> tuple[Tensor, Tensor]:
        x_s, x0_hat = ddim_step(x_t, eps, schedule.level(t), schedule.level(s))
        if t <= since:
            inside = mask(size=(x_s.shape[-2], x_s.shape[-1])).to(x_s.device)
            x_s = torch.where(inside, x_s, x_s[:1])
        return x_s, x0_hat

    return walk(model, state, grid, rule)
