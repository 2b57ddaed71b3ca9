r"""Prompt-to-prompt (Hertz et al. 2022, arXiv:2208.01626): two prompts sampled together, the
target's picture looking where the source's does.

With S and M the cross-attention maps of source and target, column by column (sec. 3.2):

- word swap, :func:`replace`: M_j becomes S_j;
- a longer or shorter prompt, :func:`refine`: M_j becomes S_A(j) for a token j that repeats the
  token A(j) of the source, and stays for a new one;
- a weight for a word: M_j, whichever it is, times c_j.
"""

import math
import warnings
from collections.abc import Mapping
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..require import require_int
from .attention import Attention
from .tokens import align, places, token_ids

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Weights = Mapping[Any, float]
LARGEST = 16**2  # positions of a map of the self-attention that is replaced, as in the paper's code


class Edit(NamedTuple):
    """What becomes of the target's map of each token j: weight_j times the source's map of the
    token origin_j where taken_j is 1, times the target's own where it is 0.

    prompts: source and target. origin, taken, weight: (tokens,), start, end and padding included.
    """

    prompts: tuple[str, str]
    origin: Int[Tensor, " tokens"]
    taken: Float[Tensor, " tokens"]
    weight: Float[Tensor, " tokens"]

    def __call__(
        self, maps: Float[Tensor, "B heads positions tokens"]
    ) -> Float[Tensor, "B heads positions tokens"]:
        """The maps of a batch whose last two rows are source and target: the last row changes."""
        source, target = maps[-2], maps[-1]
        taken, weight, origin = (x.to(maps.device) for x in (self.taken, self.weight, self.origin))
        target = weight * (taken * source[..., origin] + (1 - taken) * target)
        return torch.cat([maps[:-1], target[None].to(maps.dtype)])


def replace(
    pipe: "StableDiffusionPipeline", source: str, target: str, weights: Weights | None = None
) -> Edit:
    """Word swap: all of the target's maps are the source's.

    source, target: prompts of equally many tokens. weights: factors for words, or indices of
    tokens, of the target; any finite number, 1 changes nothing, 0 takes the word away, a negative
    one its opposite.

    Raises ValueError for prompts of unequal length, for a word that is not in the target, and for a
    weight that is no finite number.
    """
    counts = [len(token_ids(pipe, prompt)) - 2 for prompt in (source, target)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source!r} has {counts[0]} tokens and {target!r} has {counts[1]}: replace takes the"
            " maps one by one and wants equally many; use refine"
        )
    length = pipe.tokenizer.model_max_length
    weight = _weights(pipe, target, weights)
    return Edit((source, target), torch.arange(length), torch.ones(length), weight)


def refine(
    pipe: "StableDiffusionPipeline", source: str, target: str, weights: Weights | None = None
) -> Edit:
    """The target's maps of the tokens that it shares with the source are the source's; new words
    keep their own.

    The prompts may have any length; see :func:`~ddim_tutorial.editing.tokens.align`. The columns of
    a position no longer add up to 1, as in the paper. weights and refusals as for :func:`replace`.
    """
    length = pipe.tokenizer.model_max_length
    origin = align(token_ids(pipe, source), token_ids(pipe, target), length)
    return Edit(
        (source, target),
        torch.tensor([0 if i is None else i for i in origin]),
        torch.tensor([0.0 if i is None else 1.0 for i in origin]),
        _weights(pipe, target, weights),
    )


def reweight(pipe: "StableDiffusionPipeline", prompt: str, weights: Weights) -> Edit:
    """The same prompt, with factors for its words: :func:`replace` by itself."""
    return replace(pipe, prompt, prompt, weights)


def _weights(pipe: Any, prompt: str, weights: Weights | None) -> Tensor:
    found = torch.ones(pipe.tokenizer.model_max_length)
    for word, factor in (weights or {}).items():
        if isinstance(factor, bool) or not isinstance(factor, Real) or not math.isfinite(factor):
            raise ValueError(f"weights: got {factor!r} for {word!r}, wanted a finite number")
        found[places(pipe, prompt, word)] = float(factor)
    return found


def prompt_to_prompt(
    pipe: "StableDiffusionPipeline",
    edit: Edit,
    *,
    cross_until: int = 200,
    self_until: int | None = None,
) -> Attention:
    """``with prompt_to_prompt(pipe, edit) as run:`` the pipeline's maps are edited while source and
    target are sampled together, with or without guidance, of which the unconditional half is left
    alone.

    The batch is (source, target), as ``from_pipeline(pipe, [source, target], scale=..)`` takes it,
    from one x_T for both. The source is sampled as if it were alone.

    cross_until: the cross-attention is edited at the times t > cross_until, so 200 of 1000 is the
    first 80 % of an even grid. self_until: the target's self-attention is the source's at the times
    t > self_until, on maps of at most 16 x 16; None leaves it alone.

    Raises ValueError for a time out of 0..T, and as :class:`Attention` does. Warns where the text
    also enters by the time embedding: what the target's does there no map shows.
    """
    T = len(pipe.scheduler.alphas_cumprod)
    cross_until = require_int("cross_until", cross_until, 0, T)
    itself = None
    if self_until is not None:
        itself = partial(_after, require_int("self_until", self_until, 0, T), _take_over)
    if getattr(pipe.unet.config, "addition_embed_type", None) == "text":
        warnings.warn(
            "this network also reads the prompt through its time embedding"
            " (addition_embed_type='text'), where maps have no say: edits may show little",
            stacklevel=2,
        )
    return Attention(pipe, edit.prompts, partial(_after, cross_until, edit), itself)


def _after(until: int, change: Any, maps: Tensor, t: int) -> Tensor:
    return change(maps) if t > until else maps


def _take_over(maps: Tensor) -> Tensor:
    """The target's self-attention is the source's."""
    return torch.cat([maps[:-1], maps[-2:-1]]) if maps.shape[2] <= LARGEST else maps
