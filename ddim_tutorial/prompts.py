"""Prompts on their way to a text encoder: one for each picture, and a warning for what is cut."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

CUT_SHOWN = 24  # tokens of what is cut


def as_prompts(prompt: Any, negative_prompt: Any) -> tuple[list[str], list[str]]:
    """Both as lists of one length; ValueError for what is not text or does not fit."""
    lists = [
        [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Sequence) else []
        for texts in (prompt, negative_prompt)
    ]
    if not all(texts and all(isinstance(text, str) for text in texts) for texts in lists):
        raise ValueError(
            f"prompt, negative_prompt: got {prompt!r} and {negative_prompt!r}, wanted text"
        )
    longest = max(map(len, lists))
    prompts, negative_prompts = (texts * longest if len(texts) == 1 else texts for texts in lists)
    if len(prompts) != len(negative_prompts):
        raise ValueError(
            f"negative_prompt: got {len(negative_prompts)} for {len(prompts)} prompts, wanted one"
            " for all or one for each"
        )
    return prompts, negative_prompts


def warn_of_cut(pipe: "StableDiffusionPipeline", text: str, name: str = "prompt") -> None:
    """Warn, with what is cut, where ``text`` is longer than the text encoder of ``pipe`` takes. A
    token of textual inversion counts as its vectors."""
    tokenizer, limit = pipe.tokenizer, pipe.tokenizer.model_max_length
    with without_remarks():  # the conversion tokenizes too
        converted = pipe.maybe_convert_prompt(text, tokenizer)
        tokens = tokenizer(converted, truncation=False).input_ids
    if len(tokens) > limit:
        # the start is decoded alone: some thousand tokens would fill the screen
        cut = tokenizer.decode(tokens[limit - 1 : min(len(tokens) - 1, limit - 1 + CUT_SHOWN)])
        more = "..." if len(tokens) - limit > CUT_SHOWN else ""
        warnings.warn(
            f"{name}: {len(tokens)} tokens, the text encoder takes {limit}; cut:"
            f" {_shorten(cut + more, 160)!r}",
            stacklevel=3,
        )


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


@contextmanager
def without_remarks() -> Iterator[None]:
    """Without the remarks of transformers and diffusers on a prompt that is cut."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = [(log, log.get_verbosity()) for log in (diffusers_logging, transformers_logging)]
    for log, _ in levels:
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, level in levels:
            log.set_verbosity(level)
