"""The evaluation on samples whose answer is known: the pictures asked for themselves."""

import json
from functools import partial

import pytest
import torch

from ddim_tutorial import zoo
from ddim_tutorial.training.emoji import __main__ as emoji_command
from ddim_tutorial.training.emoji import captions
from ddim_tutorial.training.emoji import evaluate as recipe
from ddim_tutorial.training.emoji import subject as parts
from ddim_tutorial.training.emoji.subject import SAME, Subject
from ddim_tutorial.training.evaluate import __main__ as command
from training.emoji.planted import Known, Pooling

PERFECT = {"object": 1, "style": 1}
ALIASES = {"red apple": ["apple"], "blue book": ["book"]}


def row_of(data, prompt: str) -> int:
    """The picture that a prompt asks for, or the object's first training picture."""
    captions = data.captions()
    if prompt in captions:
        return captions.index(prompt)
    name = prompt.removeprefix("image of ")
    name = next((known for known, others in ALIASES.items() if name in others), name)
    rows = (i for i, text in enumerate(captions) if text.endswith(f" of {name}"))
    return next(i for i in rows if data.split[i] == 0)


class Planted(Subject):
    """Draws the very picture asked for, and writes down what it was asked."""

    asked = []

    def draw(self, prompts, steps=50, scale=4.0, seed=0):
        self.asked.append((len(prompts), steps, scale, seed))
        return self.encode(self.data.images[[row_of(self.data, prompt) for prompt in prompts]])


@pytest.fixture
def planted(exported, monkeypatch):
    """The tiny exported U-Net and text encoder with an autoencoder and a judge that are known."""
    run, out, data = exported
    pipe = recipe.read_pipeline(out)
    pipe.vae = Pooling()
    monkeypatch.setattr(parts, "read_judge", lambda path, names: Known(len(names)))
    monkeypatch.setattr(recipe, "read_pipeline", lambda folder: pipe)
    monkeypatch.setattr(parts, "Subject", Planted)
    monkeypatch.setattr(captions, "ALIASES", ALIASES)
    monkeypatch.setattr(recipe, "STEPS", 3)
    exact = partial(recipe.dependence.METHODS["exact"], max_iter=2)
    monkeypatch.setitem(recipe.dependence.METHODS, "exact", exact)
    monkeypatch.setattr(Planted, "asked", [])
    rows = (data.split == 0).nonzero()[:, 0]
    bank = torch.nn.functional.avg_pool2d(data.images[rows].float().mean(1, True) / 127.5 - 1, 4)
    latents = {"mean": 0.5 * bank.expand(-1, 4, -1, -1)}
    monkeypatch.setattr(parts, "load_file", lambda path: latents)
    return run, out, data


def test_the_figures_of_the_card(planted):
    run, out, _ = planted
    quality = recipe.emoji(out, run / "data.safetensors", count=12, table_count=6)
    card = zoo.verify(out)
    assert card["quality"] == quality and card["measured"]["precision"] == "float32"
    assert "first 12 of the 12 trained prompts, 3 steps, guidance 4" in card["samples"]
    for name in ("samples.png", "attention.png"):
        assert (out / name).stat().st_size > 10_000
    assert quality["the judge on all pictures"] == {SAME: PERFECT}
    trained = quality["12 trained prompts, 3 steps"]
    assert trained["guidance 4, prompts shuffled"]["object"] < 0.4
    for name in ("guidance 1", "guidance 4", "guidance 7.5", SAME):
        assert trained[name] == PERFECT
    at = "3 steps, guidance 4"
    assert quality[f"5 held-out (style, object) pairs, {at}"] == {"samples": PERFECT, SAME: PERFECT}
    never = quality[f"4 prompts for objects it never saw, {at}"]
    assert never == {"samples": PERFECT, SAME: PERFECT}
    # "book" is of an object that was held out
    assert quality[f"prompts without a style, {at}"] == {
        kind: {"object": 1, SAME: 1}
        for kind in ("12 of 'image of NAME'", "1 of 'image of ALIAS'", "1 of 'ALIAS'")
    }
    (table,) = (value for key, value in quality.items() if key.startswith("object / style of 6"))
    assert table[SAME] == table["S 100"]["7.5"] == "1.00 / 1.00" and len(table) == 6
    (far,) = (value for key, value in quality.items() if key.startswith("latent distance"))
    # the grey levels of neighbours differ by 5 of 255, or 0.04 in the ink
    assert far["samples, trained prompts"]["90 %"] < 1e-3
    assert far["samples, held-out pairs"]["median"] > 0.005
    assert far["training pictures, new poses"]["median"] > 0.05
    x_T = quality["dependence on x_T, 3 steps"]["guidance 4"]
    assert x_T["12 prompts"]["rms between two seeds"] == 0
    assert len(x_T["x_T read back from 12 samples"]) == 4
    spread = x_T["variance of the pose, 12 prompts x 8 seeds"]
    assert spread["right"]["samples"] == 0 < spread["right"]["members"]


def test_what_is_drawn(planted):
    run, out, _ = planted
    recipe.emoji(out, run / "data.safetensors", count=4, table_count=2)
    at_50 = [(4, 3, scale, 0) for scale in (1.0, 4.0, 7.5)] + [(5, 3, 4.0, 1), (4, 3, 4.0, 3)]
    plain = [(4, 3, 4.0, 2), (1, 3, 4.0, 2), (1, 3, 4.0, 2)]
    table = [(2, S, scale, 0) for S in (5, 10, 20, 50, 100) for scale in (1.0, 2.0, 4.0, 7.5)]
    x_T = [run for scale in (1.0, 4.0) for run in ((4, 3, scale, 4), (32, 3, scale, 5))]
    assert Planted.asked == at_50 + plain + table + x_T


def test_what_was_drawn_for_the_table_before_is_not_drawn_again(planted, monkeypatch):
    run, out, _ = planted
    monkeypatch.setattr(recipe, "STEPS", 50)
    what = recipe.subject(recipe.read_pipeline(out), run, "no")
    rows = torch.arange(4)
    drawn = {4.0: what.encode(what.data.images[:4])}
    wrong = {4.0: what.encode(what.data.images[4:8])}
    assert recipe.table(what, rows[:2], drawn)["S 50"]["4"] == "1.00 / 1.00"
    assert recipe.table(what, rows[:2], wrong)["S 50"]["4"] == "0.00 / 1.00"
    assert (2, 50, 4.0, 0) not in Planted.asked and (2, 20, 4.0, 0) in Planted.asked


def test_another_split_is_refused(planted, monkeypatch):
    run, out, data = planted
    monkeypatch.setattr(parts, "read_data", lambda path: data._replace(split=data.split.roll(3)))
    with pytest.raises(ValueError, match="its held-out pictures are not those of"):
        recipe.emoji(out, run / "data.safetensors")


def test_the_command_measures_this_model(monkeypatch, tmp_path):
    seen = []

    def emoji(folder, data, *, precision):
        seen.append((folder, data, precision))

    monkeypatch.setattr(recipe, "emoji", emoji)
    command.emoji(tmp_path, tmp_path / "data.safetensors", "bf16")
    assert seen == [(tmp_path, tmp_path / "data.safetensors", "bf16")]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_quick_look_takes_the_runs_last_checkpoint(planted, capsys, monkeypatch, precision):
    run, out, _ = planted
    seen = []
    monkeypatch.setattr(
        recipe, "trained", lambda folder: (seen.append(folder), recipe.read_pipeline(out))[1]
    )
    monkeypatch.setattr(emoji_command, "quick", partial(recipe.quick, count=6, steps=2))
    card = (out / "card.json").read_bytes()
    emoji_command.main(["--run", str(run), "quick", "--precision", precision])
    printed = json.loads(capsys.readouterr().out)
    assert seen == [run] and card == (out / "card.json").read_bytes()
    assert printed[f"6 trained prompts, 2 steps, guidance 4, {precision}"] == {
        "samples": PERFECT,
        SAME: PERFECT,
    }
    assert printed["seeds"]["rms between two seeds"] == 0
    assert -1 < printed["x_T read back with the empty prompt, naive"]["correlation"] < 1
    assert Planted.asked == [(6, 2, 4.0, 0), (6, 2, 4.0, 4)]


def test_what_lies_not_in_the_run_is_named(exported, tmp_path, monkeypatch):
    run, out, _ = exported
    (tmp_path / "data.safetensors").symlink_to(run / "data.safetensors")
    pipe = recipe.read_pipeline(out)
    with pytest.raises(
        FileNotFoundError, match=r"judge\.safetensors is not there: train the judge"
    ):
        parts.subject(pipe, tmp_path, "no")
    monkeypatch.setattr(parts, "read_judge", lambda path, names: Known(len(names)))
    with pytest.raises(FileNotFoundError, match=r"family\.safetensors is not there"):
        parts.subject(pipe, tmp_path, "no")


def test_the_bank_is_not_scaled(exported, monkeypatch):
    """So that it compares with samples and with what the autoencoder makes of a picture."""
    run, out, data = exported
    monkeypatch.setattr(parts, "read_judge", lambda path, names: Known(len(names)))
    what = parts.subject(recipe.read_pipeline(out), run, "no")
    first = int((data.split == 0).nonzero()[0, 0])
    images, _ = recipe.dependence.members(data.images[first], 2, seed=0)
    torch.testing.assert_close(what.bank[:2].float(), what.encode(images), atol=5e-3, rtol=5e-3)


def test_nearest():
    bank = torch.eye(6).view(6, 2, 3)
    torch.testing.assert_close(recipe.nearest(bank[:2], bank), torch.zeros(2), atol=1e-3, rtol=0)
    far = recipe.nearest(bank[:2], bank[2:])
    torch.testing.assert_close(far, torch.full((2,), (2 / 6) ** 0.5))
    many = torch.ones(5000, 2, 3)
    many[4999] = 0.5
    assert recipe.nearest(torch.zeros(1, 2, 3), many).item() == pytest.approx(0.5)


def test_derangement_and_quantiles():
    for count in (2, 3, 50):
        order = recipe.derangement(count, torch.Generator().manual_seed(count))
        assert sorted(order.tolist()) == list(range(count)) and (order != torch.arange(count)).all()
    found = recipe.quantiles(torch.arange(101.0))
    assert found == {"10 %": 10, "median": 50, "90 %": 90}
