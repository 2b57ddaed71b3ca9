"""The judge: what it learns from, what its figures mean, and its file."""

import pytest
import torch
from safetensors.torch import save_file

from ddim_tutorial.training.emoji import __main__ as command
from ddim_tutorial.training.emoji import judge as recipe
from ddim_tutorial.training.emoji import networks
from ddim_tutorial.training.emoji.autoencoder import decode, encode
from ddim_tutorial.training.emoji.family import content
from training.emoji.planted import Known


def examples(data, indices) -> recipe.Labelled:
    images = data.images[indices]
    contents = [content(image) for image in images]
    return recipe.Labelled(images, contents, data.objects[indices], data.styles[indices])


def test_members_are_new_each_time_and_show_what_was_asked_for(small_data):
    part = examples(small_data, torch.arange(31))
    rows, generator = torch.tensor([3, 3, 17]), torch.Generator().manual_seed(0)
    images = recipe.draw_members(part.images, part.contents, rows, generator)
    assert not torch.equal(images[0], images[1])
    objects, styles = recipe.judged(Known(8), images)
    assert objects.tolist() == [0, 0, 4] and styles.tolist() == [3, 3, 1]


def test_the_loss_of_a_judge_that_knows_and_of_one_that_does_not(small_data):
    part = examples(small_data, torch.arange(31))
    loss, figures = recipe.judge_loss(Known(8), part, 64)
    assert loss < 1e-3 and figures["object wrong"] == figures["style wrong"] == 0
    loss, figures = recipe.judge_loss(Known(8, blind=True), part, 400)
    wrong = {"object wrong": 27 / 31, "style wrong": 23 / 31}  # a share is wrong by 20 nats each
    for name, share in wrong.items():
        assert figures[name].item() == pytest.approx(share, abs=0.08)
    total = 20 * (figures["object wrong"] + figures["style wrong"])
    torch.testing.assert_close(loss, total, rtol=1e-3, atol=1e-3)


def test_accuracy_counts_objects_and_styles():
    """Of four planted pictures object 0, 0, 1, 1 in style 0, 1, 0, 1."""
    images = torch.full((4, 3, 64, 64), 255, dtype=torch.uint8)
    for i, level in enumerate((0, 5, 20, 25)):
        images[i, :, 20:50, 20:50] = level
    objects, styles = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0])
    found = recipe.accuracy(Known(8), images, objects, styles)
    assert found == {"object": 0.75, "style": 0.5}


def test_the_ceiling_sees_the_pictures_in_new_poses_through_the_autoencoder(
    small_data, tiny_vae, monkeypatch
):
    """An untrained autoencoder gives nothing back: its ceiling is chance, the other is whole."""
    rows = torch.arange(0, 31, 2)
    found = recipe.ceiling(Known(8), small_data, tiny_vae, rows)
    assert found["pictures in new poses"] == {"object": 1, "style": 1}
    assert found["the same, encoded and decoded"]["object"] < 0.5
    seen = []
    monkeypatch.setattr(
        recipe, "judged", lambda judge, images: (seen.append(images), (rows, rows))[1]
    )
    recipe.ceiling(Known(8), small_data, tiny_vae, rows)
    assert torch.equal(seen[1], decode(tiny_vae, encode(tiny_vae, seen[0])[0]))
    assert not torch.equal(seen[0], small_data.images[rows])


def test_the_judge_learns_all_pictures_also_as_the_autoencoder_gives_them_back(
    small_data, tiny_vae
):
    part = recipe.labelled(small_data, tiny_vae)
    given = decode(tiny_vae, encode(tiny_vae, small_data.images)[0])
    assert torch.equal(part.images, torch.cat([small_data.images, given]))
    assert torch.equal(part.objects, small_data.objects.repeat(2))
    assert torch.equal(part.styles, small_data.styles.repeat(2))
    assert len(part.contents) == 62 and torch.equal(part.contents[0], part.contents[31])


@pytest.fixture
def small_judge(monkeypatch):
    monkeypatch.setattr(recipe.new_judge, "__defaults__", ((8, 8, 16),))


def test_a_judge_is_trained_and_stored(exported, small_judge, monkeypatch):
    """Black and grey are learnt in a few updates, in poses it has not seen."""
    run, _, data = exported
    rows = torch.tensor([0, 1, 2, 3, 24, 25, 26, 27])
    monkeypatch.setattr(recipe, "labelled", lambda data, vae: examples(data, rows))
    settings = "judge --steps 40 --batch 8 --precision no"
    command.main(["--run", str(run), *settings.split()])
    judge = recipe.read_judge(run / "judge.safetensors", data.names)
    (vae,) = networks.components(run, "vae")
    found = recipe.ceiling(judge, data, vae, rows.repeat(4))["pictures in new poses"]
    assert found["object"] > 0.8  # one in eight by chance


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_precision_is_passed_on(exported, small_judge, monkeypatch, precision):
    run, _, _ = exported
    seen = []

    def fit(model, loss_fn, folder, settings, *, precision, matrices):
        seen.append((precision, settings.steps, folder))
        assert all(model.get_parameter(name).ndim == 4 for name in matrices)
        return model.eval()

    monkeypatch.setattr(recipe, "fit", fit)
    settings = f"judge --steps 7 --batch 4 --precision {precision}"
    command.main(["--run", str(run), *settings.split()])
    assert seen == [(precision, 7, run / "judge")]


def test_a_judge_comes_back_from_its_file_for_its_own_data_alone(tmp_path):
    judge, path = recipe.new_judge(3, (8, 8, 16)).eval(), tmp_path / "judge.safetensors"
    recipe.save_judge(judge, ["a", "b", "c"], path)
    x = torch.randn(2, 3, 64, 64)
    back = recipe.read_judge(path, ["a", "b", "c"])
    torch.testing.assert_close(back(x), judge(x))
    assert back(x).shape == (2, 3 + 4)
    with pytest.raises(ValueError, match="trained on 3 objects, not on the 2 of this data"):
        recipe.read_judge(path, ["a", "b"])
    with pytest.raises(FileNotFoundError, match=r"train the judge by .*emoji judge"):
        recipe.read_judge(tmp_path / "none.safetensors", ["a"])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        recipe.read_judge(path, ["a", "b", "c"])


def test_a_file_that_is_no_judge_is_refused(tmp_path):
    path = tmp_path / "judge.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a judge"):
        recipe.read_judge(path, ["a"])
