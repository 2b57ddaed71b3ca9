"""Which tokens of a prompt are which word: the columns of its cross-attention maps."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from ..require import require_int

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def token_ids(pipe: "StableDiffusionPipeline", prompt: str) -> list[int]:
    """The ids of ``prompt`` with its start and its end, before padding, cut to what the text
    encoder takes. A token of textual inversion is as many ids as it has vectors."""
    tokenizer = pipe.tokenizer
    return tokenizer(
        pipe.maybe_convert_prompt(prompt, tokenizer),
        max_length=tokenizer.model_max_length,
        truncation=True,
    ).input_ids


def places(pipe: "StableDiffusionPipeline", prompt: str, word: Any) -> list[int]:
    """The indices of the tokens of ``word``, wherever it stands in ``prompt``; 0 is the start.

    word: one word or several, as the prompt has them; or the index of one token, in
    0..model_max_length - 1, which also reaches the start, the end and the padding.

    Raises ValueError for a word that is not in the prompt, and TypeError for what is neither text
    nor a whole number.
    """
    if not isinstance(word, str):
        return [require_int("token", word, 0, pipe.tokenizer.model_max_length - 1)]
    ids, wanted = token_ids(pipe, prompt), token_ids(pipe, word)[1:-1]
    starts = [i for i in range(len(ids)) if wanted and ids[i : i + len(wanted)] == wanted]
    if not starts:
        pieces = pipe.tokenizer.convert_ids_to_tokens(ids)[1:-1]
        known = ", ".join(f"{i} {_shown(piece)}" for i, piece in enumerate(pieces, 1))
        raise ValueError(
            f"{word!r} is no word of {prompt!r}: pass one of its words, or the index of a token:"
            f" {known}"
        )
    return [i + k for i in starts for k in range(len(wanted))]


def _shown(piece: str) -> str:
    return repr(piece.removesuffix("</w>"))


def align(source: Sequence[int], target: Sequence[int], length: int) -> list[int | None]:
    """For each of the ``length`` tokens of the padded target, the token of the source that it
    repeats, in the same order; None where it is new.

    source, target: ids with start and end, before padding. End and padding repeat those of the
    source, counted from the end of each prompt.
    """
    found: list[int | None] = [None] * (len(target) - 1)
    matcher = SequenceMatcher(None, source[:-1], target[:-1], autojunk=False)
    for i, j, size in matcher.get_matching_blocks():
        found[j : j + size] = range(i, i + size)
    ends = range(len(target) - 1, length)
    return [*found, *(min(j - len(target) + len(source), length - 1) for j in ends)]
