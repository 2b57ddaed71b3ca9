"""The table of notebook 10: its measures where the answer is known, its methods where they must
agree."""

import json
import math

import pytest
import torch

from ddim_tutorial import zoo
from ddim_tutorial.editing.methods import METHODS, PATHS, Scene
from ddim_tutorial.editing.structure import structure_distance
from ddim_tutorial.grids import from_uint8, quantise
from ddim_tutorial.noise import generators, randn
from ddim_tutorial.peers import from_scheduler
from ddim_tutorial.sampling import sample
from ddim_tutorial.training.emoji.family import members
from ddim_tutorial.training.evaluate import editing as command
from ddim_tutorial.training.evaluate import pairs, tables
from ddim_tutorial.training.evaluate.pairs import PAIRS, Pair
from parts import tiny_pipeline

SAME = Pair(("noto", "red apple"), ("noto", "green apple"), "apple")
STYLE = Pair(("noto", "red apple"), ("blob", "red apple"), "apple")
SOURCES = ["noto emoji of red apple", "noto emoji of blue book"]
TARGETS = ["noto emoji of green apple", "noto emoji of red book"]
ALL = 1000


class Judge(torch.nn.Module):
    """Sees the object 0 in dark pictures, 1 in others; the style 0 in all."""

    def forward(self, x):
        bright = (x.mean((1, 2, 3)) > 0).long()
        return torch.cat([torch.eye(2)[bright], torch.tensor([[1.0, 0.0]]).expand(len(x), 2)], 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    pipe = tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))
    images = torch.ones(len(PAIRS), 3, 16, 16)
    images[:, :, 4:12, 6:11] = torch.linspace(-1, 0, len(PAIRS)).view(-1, 1, 1, 1)  # told apart
    card = {"data": {"styles": ["noto", "blob"]}}
    made = zoo.LatentBundle(
        "tiny", tables.TABLES, pipe, from_scheduler(pipe.scheduler), (4, 8, 8), card,
        zoo.Examples(images, torch.zeros(len(PAIRS))), torch.device("cpu"), torch.float32, "a",
    )  # fmt: skip
    captions = [pairs.prompt(pair.source) for pair in PAIRS]
    made.__dict__.update(
        classifier=Judge(), names=["red apple", "green apple"], captions=captions[::-1]
    )
    return made


@pytest.fixture(scope="module")
def scene(bundle):
    z_0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Scene(bundle, z_0, SOURCES, 0, 10)


def close(z, wanted, by=1e-4):
    assert ((z - wanted).norm() / wanted.norm()).item() < by


@pytest.mark.parametrize(
    ("method", "scale", "by"),
    [
        ("exact inversion", 1.0, 1e-3),
        ("EDICT, alternating inversion", 1.0, 1e-3),
        ("BDIA inversion", 1.0, 1e-3),
        ("edit-friendly", 1.0, 1e-4),
    ],
)
def test_the_own_prompt_brings_the_picture_back(scene, method, scale, by):
    close(METHODS[method](scene, SOURCES, scale, ALL), scene.z_0, by)


def test_methods_agree_where_they_are_one(scene):
    """Guidance away from the prompt itself is none; an edit into the same prompt is none; with no
    map replaced prompt-to-prompt is inversion and another prompt."""
    naive = METHODS["naive inversion"](scene, SOURCES, 1.0, ALL)
    close(METHODS["negative prompt"](scene, SOURCES, 4.0, ALL), naive)
    plain = METHODS["exact inversion"](scene, TARGETS, 2.0, ALL)
    close(METHODS["prompt-to-prompt, 0%"](scene, TARGETS, 2.0, ALL), plain)
    swapped = METHODS["prompt-to-prompt, 100%"](scene, TARGETS, 2.0, ALL)
    assert (swapped - plain).abs().max() > 1e-3
    own = METHODS["exact inversion"](scene, SOURCES, 2.0, ALL)
    close(METHODS["prompt-to-prompt, 80%, self"](scene, SOURCES, 2.0, ALL), own)


def test_null_text_comes_nearer_than_naive_inversion(scene):
    found = {name: METHODS[name](scene, SOURCES, 4.0, ALL) for name in METHODS if "null" in name}
    naive = METHODS["naive inversion"](scene, SOURCES, 4.0, ALL)
    errors = [(z - scene.z_0).norm() for z in (*found.values(), naive)]
    assert errors[0] < errors[2] and errors[1] < errors[2]


def test_a_fresh_sample_knows_nothing_of_the_picture(scene):
    z = METHODS["fresh sample"](scene, TARGETS, 2.0, ALL)
    space = scene.bundle.space(TARGETS, scale=2.0)
    x_T = randn(scene.z_0.shape, generators([1_000_000, 1_000_001]))
    close(z, sample(space.model, x_T, space.times(10), space.schedule))


@pytest.mark.parametrize("method", ["SDEdit", "exact inversion", "edit-friendly", "FlowEdit"])
def test_who_enters_late_keeps_more(scene, method):
    errors = [
        (METHODS[method](scene, TARGETS, 4.0, enter) - scene.z_0).norm() for enter in (200, 900)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_a_path_is_found_once(scene):
    assert scene.path("naive", 500) is scene.path("naive", 500)
    assert scene.path("naive", 500).x_T is not scene.path("naive", ALL).x_T
    assert (
        scene.grid(500)[0] <= 500 < scene.grid(ALL)[scene.grid(ALL).index(scene.grid(500)[0]) - 1]
    )


def test_a_doubled_batch_is_two_evaluations_a_picture(scene):
    with command.evaluations(scene.bundle.pipe.unet) as count:
        METHODS["fresh sample"](scene, TARGETS, 2.0, ALL)
    assert count == [10 * 2 * 2]
    with command.evaluations(scene.bundle.pipe.unet) as count:
        METHODS["fresh sample"](scene, TARGETS, 1.0, ALL)
    assert count == [10 * 2]


def test_an_edit_of_the_style_must_have_both(bundle):
    seen = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]]).bool()
    assert command.right([SAME] * 4, seen).tolist() == [True, True, False, False]
    assert command.right([STYLE] * 4, seen).tolist() == [True, False, False, False]
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    asked = [("noto", "green apple"), ("blob", "green apple")]
    assert command.shows(bundle, x, asked).tolist() == [[True, False], [False, True]]


def test_what_is_kept(bundle):
    what = pairs.pictures(bundle, 1, "real", 4.0)
    half = torch.zeros_like(what.outside)
    half[..., :4] = True
    same = command.kept(what.x_0, what._replace(outside=half))
    assert same["PSNR"] == same["PSNR outside"] == math.inf
    assert same["structure distance"] == same["pose distance"] == 0
    # a difference outside of the word alone, and one inside: the PSNR of their own parts
    for where, outside in ((half, 20.0), (~half, math.inf)):
        moved = torch.where(where, what.x_0 + 0.2, what.x_0)
        found = command.kept(moved, what._replace(outside=half))
        assert found["PSNR outside"] == pytest.approx(outside, abs=1e-3)
        share = where.double().mean().item()
        assert found["PSNR"] == pytest.approx(20 - 10 * math.log10(share), abs=1e-3)
    assert math.isnan(command.kept(what.x_0, what._replace(outside=half & ~half))["PSNR outside"])
    bigger = command.kept(what.x_0.flip(3).roll(1, 0), what)
    wanted = structure_distance(bundle.pipe.vae, what.x_0.flip(3).roll(1, 0), what.x_0).median()
    assert bigger["structure distance"] == pytest.approx(wanted.item())


def test_a_pose_is_measured_in_what_it_varies_by(bundle):
    x = torch.ones(2, 3, 16, 16)
    x[:, :, 4:9, 4:9] = -1
    spread = torch.tensor([[2.0, 4, 1, 1, 1]]).expand(2, 5)
    what = pairs.Pictures(None, x, [], None, spread)
    right, down = x.roll(1, 3), x.roll(1, 2)
    found = command.pose_distance(torch.stack([right[0], down[1]]), what)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.25]).double() / 5**0.5)


def test_the_pictures_are_held_out_ones_in_poses_or_drawn(bundle):
    real, drawn = (pairs.pictures(bundle, 2, kind, 4.0) for kind in ("real", "drawn"))
    assert len(real.x_0) == 16 and real.scene.z_T is None
    assert real.pairs[0] is real.pairs[1] is PAIRS[0] and real.pairs[15] is PAIRS[7]
    assert not torch.equal(real.x_0[0], real.x_0[1]) and real.outside.shape == (16, 1, 16, 16)
    for i, pair in enumerate(PAIRS):
        place = bundle.captions.index(pairs.prompt(pair.source))
        family, _ = members(quantise(bundle.examples.images[place][None])[0], 2, seed=i)
        wanted = real.scene.space([""], 1.0).encode(from_uint8(family))
        close(real.scene.z_0[2 * i : 2 * i + 2], wanted)
    space = bundle.space(real.scene.sources, scale=4.0)
    again = sample(space.model, drawn.scene.z_T, space.times(pairs.STEPS), space.schedule)
    close(drawn.scene.z_0, again)
    assert real.targets[-1] == "blob emoji of soccer ball"


def test_a_row_of_an_edit_and_one_of_a_reconstruction(bundle, monkeypatch):
    monkeypatch.setattr(pairs, "STEPS", 6)
    measure = command.measurer(bundle, 1)
    usual = {"method": "exact inversion", "kind": "real", "scale": 1.0, "enter": ALL}
    back = measure(**usual, to="source")
    assert back["latent PSNR"] > 40 and "target" not in back and back["evaluations"] >= 12
    again = measure(**usual, to="source")
    assert again["evaluations"] == back["evaluations"]  # it does not ride on the row before
    edit = measure(**usual | {"scale": 4.0}, to="target")
    assert edit["PSNR"] < back["PSNR"] and edit["target"] == 0
    fresh = measure("fresh sample", "real", "target", 4.0, ALL)
    assert fresh["dB above a fresh sample"] == 0
    assert fresh["pose nearer than a fresh sample's"] == 0


def test_the_plan_names_methods_and_repeats_no_row():
    rows = command.plan()
    assert {row["method"] for row in rows} == set(METHODS) and len(PATHS) == 4
    texts = [json.dumps(row, sort_keys=True) for row in rows]
    assert len(set(texts)) == len(texts)
    assert {row["kind"] for row in rows} == {"real", "drawn"}


def test_the_stored_table_has_every_row_and_belongs_to_the_bundled_weights():
    table = json.loads((tables.TABLES / "emoji_editing.json").read_text(encoding="utf-8"))
    assert table["sha256"] == zoo.load(table["model"]).sha256
    rows = table["rows"]
    for planned in command.plan():
        assert any(planned.items() <= row.items() for row in rows), planned
