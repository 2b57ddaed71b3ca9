"""What is said of a picture, and its tokens."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPTokenizer

from ddim_tutorial import zoo
from ddim_tutorial.training.emoji import captions as recipe
from ddim_tutorial.training.emoji.data import STYLES
from ddim_tutorial.training.emoji.objects import ALIASES


def test_captions():
    texts = recipe.captions("fluent", "videocassette", ["tape", "vhs"])
    assert texts[0] == "fluent emoji of videocassette"
    for text in (
        "image of videocassette",
        "cassette",
        "image of cassette player",
        "fluent emoji of cassette",
        "videocassette, tape",
    ):
        assert text in texts
    assert len(set(texts)) == len(texts)
    known = ["videocassette", *ALIASES["videocassette"]]
    assert all(any(name in text for name in known) for text in texts)


def test_captions_have_no_word_but_of_style_name_and_template():
    """So no caption can say which member of the family a picture is."""
    with safe_open(zoo.ZOO / "emoji" / "examples.safetensors", "pt") as file:
        names = json.loads(file.metadata()["names"])
    template = set("image picture style emoji of in a".split()) | set(STYLES)
    for name in names:
        known = set(" ".join([name, *ALIASES.get(name, []), "round fruit"]).split())
        for text in recipe.captions("blob", name, ["round", "fruit"]):
            assert set(text.replace(",", "").split()) <= template | {
                word.replace(",", "") for word in known
            }


def test_the_caption_of_the_evaluation_has_its_share():
    counts = torch.tensor([2, 5]).repeat(20_000)
    chosen = recipe.choose_captions(counts)
    assert (chosen < counts).all()
    shares = torch.bincount(chosen[1::2], minlength=5) / 20_000
    wanted = torch.tensor([0.8, 0.05, 0.05, 0.05, 0.05])
    torch.testing.assert_close(shares, wanted, atol=0.015, rtol=0)


def test_caption_table(small_data):
    rows = torch.tensor([0, 17])
    tokens, counts = recipe.caption_table(
        small_data, rows, lambda texts: torch.tensor([[len(t), ord(t[0])] for t in texts])
    )
    for row, table, count in zip(rows, tokens, counts, strict=True):
        texts = recipe.captions(STYLES[row % 4], small_data.names[row // 4], ["fruit"])
        assert count == len(texts)
        wanted = torch.tensor([[len(text), ord(text[0])] for text in texts])
        torch.testing.assert_close(table[:count], wanted)


def test_tokenizer_round_trip(small_data, tmp_path):
    made = recipe.train_tokenizer(recipe.vocabulary_texts(small_data), tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    squeeze = str.maketrans("", "", " ")
    for text in [*small_data.captions(), "image of red apple", "Ein Über-東 🍎 zebra!"]:
        ids = tokenizer(text).input_ids
        assert ids == made(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids[1:-1]  # every byte has a token: nothing is unknown
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.translate(squeeze) == text.lower().translate(squeeze)
    for name in ("red apple", "blue book", "piñata"):
        assert len(tokenizer(name).input_ids) == 2 + len(name.split())  # one token a word
    tokens = recipe.tokenise(tokenizer, ["noto emoji of red apple", ""])
    assert tokens.shape == (2, recipe.TOKENS) and (tokens[1, 1:] == tokenizer.eos_token_id).all()


def test_words_of_names_and_aliases_come_first_in_the_vocabulary(small_data, tmp_path):
    """64 merges: enough for the twelve of a rare alias, not for the tags, which have letter pairs
    in common."""
    tags = [
        [f"{a}{b}{c}" for a in ("lor", "mip", "dol")]
        for b in ("ab", "ec", "id", "of", "ug")
        for c in ("zor", "ent", "ilk")
    ]
    names = ["t-rex", *(f"thing{i}" for i in range(len(tags) - 1))]
    data = small_data._replace(names=names, tags=tags)
    tokenizer = recipe.train_tokenizer(recipe.vocabulary_texts(data), tmp_path, 320)
    assert len(tokenizer("tyrannosaurus").input_ids) == 3
    assert len(tokenizer("loridzor").input_ids) > 3


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_in_the_vocabulary(small_data, tmp_path, style):
    tokenizer = recipe.train_tokenizer(recipe.vocabulary_texts(small_data), tmp_path)
    assert len(tokenizer(style).input_ids) == 3
