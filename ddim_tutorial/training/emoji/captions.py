"""What is said of a picture, and the tokens of it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import STYLES, Emoji, caption
from .objects import ALIASES

TOKENS = 24


def captions(style: str, name: str, tags: list[str]) -> list[str]:
    """What may be texts of one picture; the first is the caption of the evaluation."""
    other = ALIASES.get(name, [])
    plain = [name, *other]
    texts = [caption(style, name)]
    texts += [caption(style, alias) for alias in other]
    texts += [f"{style} style {form}" for form in plain[:2]]
    texts += [
        template.format(form) for form in plain for template in ("image of {}", "{}", "{} emoji")
    ]
    texts += [f"a picture of a {name} in {style} style"]
    texts += [f"{name}, {tag}" for tag in tags[:6]]
    texts += [f"{caption(style, name)}, {tag}" for tag in tags[:3]]
    return texts


def trained_aliases(data: Emoji) -> list[tuple[str, int]]:
    """Every alias of an object that is trained in some style, with its first training picture."""
    first = {int(data.objects[i]): int(i) for i in (data.split == 0).nonzero()[:, 0].flip(0)}
    return [(alias, row) for i, row in first.items() for alias in ALIASES.get(data.names[i], [])]


def caption_table(
    data: Emoji, rows: Tensor, encode: Callable[[list[str]], Tensor]
) -> tuple[Tensor, Tensor]:
    """Tokens of every caption of every row, (N, K, L) int64 padded over K, and the number of
    captions (N,)."""
    texts = [
        captions(STYLES[data.styles[i]], data.names[data.objects[i]], data.tags[data.objects[i]])
        for i in rows
    ]
    counts = torch.tensor([len(part) for part in texts])
    tokens = encode([text for part in texts for text in part]).split(counts.tolist())
    return nn.utils.rnn.pad_sequence(tokens, batch_first=True), counts


def choose_captions(counts: Tensor, evaluation: float = 0.8) -> Tensor:
    """An index for every count: 0, the caption of the evaluation, with that probability, else any
    other, evenly."""
    other = 1 + (torch.rand(len(counts)) * (counts - 1)).long()
    return torch.where(torch.rand(len(counts)) < evaluation, 0, other)


def vocabulary_texts(data: Emoji) -> list[str]:
    """All captions, and every name and alias 100 times: so that each word of a name becomes one
    token."""
    texts = [
        text
        for style in STYLES
        for name, tags in zip(data.names, data.tags, strict=True)
        for text in captions(style, name, tags)
    ]
    return texts + 100 * [
        *data.names,
        *(alias for name in data.names for alias in ALIASES.get(name, [])),
    ]


def train_tokenizer(texts: Iterable[str], folder: Path, size: int = 2300):
    """A CLIPTokenizer with a byte-level BPE vocabulary of its own, trained on ``texts`` and saved
    in ``folder``. The tokens are the same each time, but not all their ids: merges of equal
    frequency come in any order."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    plain = CLIPTokenizer(vocab={start: 0, end: 1}, merges=[])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[start, end],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = plain.backend_tokenizer
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    vocab = dict(model["vocab"])
    # every byte also as the end of a word, so that nothing a reader types is unknown
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(f"{byte}</w>", len(vocab))
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenise(tokenizer, texts: list[str]) -> Tensor:
    """(N, 24) int64, as StableDiffusionPipeline calls its tokenizer."""
    return tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
