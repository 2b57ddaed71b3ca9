"""``zoo.load(.., fast=True)``: the learned jump in place of the network, or why not. diffusers
reads the same LoRA."""

import json

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from ddim_tutorial import generators, randn, sample, times, zoo
from ddim_tutorial.predict import eps_from
from ddim_tutorial.training.jump import new_network
from ddim_tutorial.training.lora import save_jump
from ddim_tutorial.zoo.jump import LORA, WHOLE
from parts import relative, tiny_pipeline, tiny_unet


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders") / "sd"
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def px(tmp_path):
    """A pixel model with a learned jump: (folder, what the jump's network answers)."""
    folder, unet = tmp_path / "px", tiny_unet()
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    with torch.no_grad():
        for p in unet.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_jump(unet, folder, 1.0)
    zoo.write_card(folder, {"name": "px"})
    return folder, unet


def test_a_pixel_models_jump(px):
    folder, unet = px
    plain, fast = zoo.load(folder, "cpu"), zoo.load(folder, "cpu", fast=True)
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([1000, 5])
    assert relative(fast.model(x, t), unet(x, t - 1).sample) < 2e-3
    assert relative(fast.model(x, t), plain.model(x, t)) > 0.1
    assert (plain.scale, fast.scale) == (None, 1.0) and plain.sha256 != fast.sha256
    assert not fast.unet.training and not any(p.requires_grad for p in fast.unet.parameters())
    half = zoo.load(folder, "cpu", torch.bfloat16, fast=True)
    assert half.unet.dtype == torch.bfloat16 and relative(half.model(x, t), fast.model(x, t)) < 0.05
    x_0 = sample(fast.model, x, [1000, 500, 0], fast.schedule, eta=float("inf"))
    assert x_0.shape == x.shape


def test_the_bundled_jump_is_nearer_to_the_end_in_one_evaluation_than_ddim_in_four():
    plain, fast = (zoo.load("fashion", "cpu", fast=yes) for yes in (False, True))
    labels = torch.arange(20) % 10
    x_T = randn((20, *fast.shape), generators(range(20)))
    end, four = (
        sample(plain.conditional(labels), x_T, times(1000, S), plain.schedule) for S in (30, 4)
    )
    one = sample(fast.conditional(labels), x_T, times(1000, 1), fast.schedule)
    assert relative(one, end) < 0.9 * relative(four, end)
    assert (fast.classifier(one).argmax(1) == labels).sum() >= 16
    assert fast.scale == 1.0 and fast.sha256 != plain.sha256


def test_the_bundled_emoji_jump_is_nearer_to_the_guided_end_in_one_evaluation_than_ddim_in_four():
    plain, fast = (zoo.load("emoji", "cpu", fast=yes) for yes in (False, True))
    prompts = [f"noto emoji of {name}" for name in ("red apple", "octopus", "rocket", "dog face")]
    z_T = randn((4, *fast.shape), generators(range(4)))
    teacher, student = plain.space(prompts, scale=fast.scale), fast.space(prompts)
    end, two, one = (
        sample(space.model, z_T, times(1000, S), space.schedule)
        for space, S in ((teacher, 15), (teacher, 2), (student, 1))
    )
    assert relative(one, end) < 0.8 * relative(two, end)  # the teacher's own jump: 0.94
    assert fast.scale == 4.0 and fast.sha256 != plain.sha256


def test_a_lora_is_read_as_diffusers_and_peft_read_it(sd, tmp_path):
    pytest.importorskip("peft")
    folder = tmp_path / "sd"
    folder.symlink_to(sd)
    teacher = zoo.load(sd, "cpu")
    network = new_network(zoo.load(sd, "cpu").pipe.unet, 3)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.copy_(0.2 * torch.randn_like(p))
    path = save_jump(network.unet, sd, 4.0)
    try:
        fast = zoo.load(sd, "cpu", fast=True)
        x, t = torch.randn(2, 4, 8, 8), torch.tensor([1000, 5])
        prompts = ["a red apple on a table", "two blue fish"]
        before = teacher.space(prompts, scale=1.0).model(x, t)
        teacher.pipe.load_lora_weights(str(path.parent))
        theirs = teacher.space(prompts, scale=1.0).model(x, t)
        assert relative(before, theirs) > 0.1
        assert relative(fast.space(prompts).model(x, t), theirs) < 1e-4
        assert relative(fast.model(x, t), teacher.space("", scale=1.0).model(x, t)) < 1e-4
    finally:
        path.unlink()


def test_what_it_answers_is_in_its_file(px, sd):
    folder, unet = px
    save_jump(unet, folder, 1.0, "v_prediction")
    (folder / "card.json").unlink()
    fast = zoo.load(folder, "cpu", fast=True)
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([1000, 5])
    wanted = eps_from("v_prediction", x, unet(x, t - 1).sample, t, fast.schedule)
    assert relative(fast.model(x, t), wanted) < 2e-3 < relative(fast.model(x, t), unet(x, t - 1)[0])
    path = save_jump(zoo.load(sd, "cpu").pipe.unet, sd, 4.0, "v_prediction")
    try:
        with pytest.raises(ValueError, match="its prediction is 'v_prediction', wanted 'epsilon'"):
            zoo.load(sd, "cpu", fast=True)
    finally:
        path.unlink()


def test_guidance_is_folded_in_and_not_asked_again(sd):
    path = save_jump(zoo.load(sd, "cpu").pipe.unet, sd, 4.0)
    try:
        fast = zoo.load(sd, "cpu", fast=True)
        calls = []
        fast.pipe.unet.register_forward_pre_hook(lambda net, given: calls.append(len(given[0])))
        fast.space("two blue fish").model(torch.randn(3, 4, 8, 8), torch.full((3,), 7))
        assert calls == [3]  # not a doubled batch
        fast.space(["two blue fish"], scale=4.0)
        for options, seen in (
            ({"scale": 7.5}, r"scale=7\.5"),
            ({"scale": 1.0}, r"scale=1\.0"),
            ({"negative_prompt": "blurry"}, "negative_prompt='blurry'"),
            ({"negative_prompt": ["", "blurry"]}, "negative_prompt="),
        ):
            with pytest.raises(ValueError, match=f"{seen}.*has guidance 4 without a negative"):
                fast.space("two blue fish", **options)
    finally:
        path.unlink()


def test_where_there_is_none_it_says_how_to_make_one(sd):
    for name in (sd, "fashion"):
        if name == sd or not (zoo.ZOO / name / "jump").exists():
            with pytest.raises(ValueError, match=r"fast=True, and .*jump has neither .*train one"):
                zoo.load(name, fast=True)


def changed(path, edit, metadata=None):
    tensors = edit(load_file(path))
    save_file(tensors, path, metadata={"scale": "4.0"} if metadata is None else metadata)


def without_first(tensors):
    return dict(list(tensors.items())[1:])


@pytest.mark.parametrize(
    ("edit", "metadata", "message"),
    [
        (dict, {"format": "pt"}, "does not say which guidance"),
        (
            dict,
            {"scale": "1.0", "prediction": "flow"},
            "its prediction is 'flow', wanted 'epsilon' or 'v_prediction' or 'sample'",
        ),
        (without_first, None, r"it lacks .* \(1 such\)"),
        (
            lambda t: t | {"new.weight": torch.ones(2)},
            None,
            "new.weight has shape .*no such weight",
        ),
        (lambda t: {k: v[:1] for k, v in t.items()}, None, r"has shape \(1,.*going by the network"),
        (lambda t: {k: v * float("nan") for k, v in t.items()}, None, "holds NaN or infinity"),
    ],
)
def test_a_damaged_jump_is_named(px, edit, metadata, message):
    folder, _ = px
    path = folder / "jump" / WHOLE
    with pytest.raises(ValueError, match="changed, its sha256 is"):
        changed(path, lambda t: {k: v + 1 for k, v in t.items()})
        zoo.load(folder, fast=True)
    changed(path, edit, metadata)
    (folder / "card.json").unlink()
    with pytest.raises(ValueError, match=message) as refusal:
        zoo.load(folder, "cpu", fast=True)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"unet.conv_in.lora_A.weight": (2, 2, 3, 3)},
            "conv_in.lora_B.weight is no part of a pair",
        ),
        ({}, "it is no part of a pair"),
        (
            {"unet.nothing.lora_A.weight": (2, 4), "unet.nothing.lora_B.weight": (4, 2)},
            "nothing is no layer of the network",
        ),
        (
            {"unet.conv_in.lora_A.weight": (2, 9), "unet.conv_in.lora_B.weight": (4, 2)},
            "conv_in is no layer of the network in this shape",
        ),
    ],
)
def test_a_lora_of_another_network_is_refused(px, keys, message):
    folder, _ = px
    (folder / "jump" / WHOLE).unlink()
    (folder / "card.json").unlink()
    tensors = {key: torch.ones(shape) for key, shape in keys.items()}
    save_file(tensors, folder / "jump" / LORA, metadata={"scale": "4.0"})
    with pytest.raises(ValueError, match=message):
        zoo.load(folder, "cpu", fast=True)


def test_the_card_lists_the_jump(px):
    folder, _ = px
    files = json.loads((folder / "card.json").read_text())["files"]
    assert f"jump/{WHOLE}" in files
