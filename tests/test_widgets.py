"""Widgets are set by hand, without a browser: the picture follows the state, and only when it
must."""

import asyncio
import sys
import warnings
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from ipywidgets import FloatSlider, IntSlider
from PIL import Image

from ddim_tutorial import generators, grids, randn, sample, slerp, trajectory, widgets, zoo
from ddim_tutorial.classifier import Classifier
from ddim_tutorial.inversion import METHODS
from parts import png_of, tiny_pipeline


def by_name(box) -> dict:
    return {child.description: child for child in box.children if getattr(child, "description", "")}


def test_moving_a_slider_draws_its_value():
    drawn = []

    def render(k: int, name: str):
        drawn.append((k, name))
        return grids.image_grid(torch.full((1, 1, 4, 4), k / 10))

    box = widgets.explorer(render, k=(0, 10), name=["a", "b"])
    controls, picture = by_name(box), box.children[-1]
    assert drawn == [(5, "a")]
    first = png_of(picture)
    controls["k"].value = 9
    controls["name"].value = "b"
    assert drawn == [(5, "a"), (9, "a"), (9, "b")]
    assert png_of(picture) == grids.to_png(render(9, "b")) != first


def test_a_warning_is_shown_and_what_is_for_programmers_is_not():
    def render(k: int):
        warnings.warn("cut: 'a bear'", UserWarning, stacklevel=1)
        warnings.warn("use another name", DeprecationWarning, stacklevel=1)
        return grids.image_grid(torch.zeros(1, 1, 4, 4))

    _, message, _ = widgets.explorer(render, k=(0, 10)).children
    assert "a bear" in message.value and "another name" not in message.value


def test_a_control_starts_at_the_default_of_its_argument():
    blank = grids.image_grid(torch.zeros(1, 1, 4, 4))
    box = widgets.explorer(
        lambda a, b=2, c="z", d=0.5: blank, a=(0, 10), b=(0, 10), c=["y", "z"], d=FloatSlider(1.0)
    )
    assert {name: control.value for name, control in by_name(box).items()} == {
        "a": 5,
        "b": 2,
        "c": "z",
        "d": 1.0,
    }


def test_controls_are_widgets_or_abbreviations():
    box = widgets.explorer(
        lambda a, b: grids.image_grid(torch.zeros(1, 1, 4, 4)), a=FloatSlider(max=2), b=(1, 3)
    )
    a, b = by_name(box)["a"], by_name(box)["b"]
    assert (a.max, b.max) == (2, 3) and isinstance(b, IntSlider) and not a.continuous_update
    with pytest.raises(TypeError, match="c: got"):
        widgets.explorer(lambda c: None, c=object())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("k=9: too many <steps>"), "k=9: too many &lt;steps&gt;"),
        (RuntimeError("mat1 and mat2"), "RuntimeError: mat1 and mat2"),
        (torch.OutOfMemoryError("tried 9 GiB"), "memory of the device is too small"),
        (KeyError("fashion"), "KeyError: &#x27;fashion&#x27;"),
        (MemoryError("numpy"), "MemoryError: numpy"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_an_error_is_shown_without_the_old_picture(error, text, first):
    def render(k: int = 9 if first else 5):
        if k > 5:
            raise error
        return grids.image_grid(torch.full((1, 1, 4, 4), k / 10))

    slider, message, picture = widgets.explorer(render, k=(0, 10)).children
    slider.value = 9
    assert text in message.value
    assert picture.value == "" and picture.layout.display == "none"
    slider.value = 1
    assert message.value == "" and picture.layout.display is None
    Image.open(BytesIO(png_of(picture))).verify()


def test_a_picture_is_not_stretched():
    blank = grids.image_grid(torch.zeros(1, 1, 4, 4))
    picture = widgets.explorer(lambda k: blank, k=(0, 10)).children[-1]
    assert picture.layout.align_self == "flex-start" and picture.layout.max_width == "100%"


def test_a_setting_that_is_being_drawn_says_so():
    shown = []

    def render(k: int):
        shown.append(box.children[1].value if k == 9 else "")
        return grids.image_grid(torch.zeros(1, 1, 4, 4))

    box = widgets.explorer(render, k=(0, 10))
    box.children[0].value = 9
    assert "drawing" in shown[-1] and box.children[1].value == ""


def build(folder, classes: int | None) -> zoo.Bundle:
    torch.manual_seed(1)
    UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
        attention_head_dim=4,
    ).save_pretrained(folder / "unet")
    DDIMScheduler(1000).save_pretrained(folder / "scheduler")
    return zoo.load(folder, device="cpu")


def test_sampling_explorer_follows_every_slider_and_samples_only_when_it_must(tmp_path):
    bundle, calls = build(tmp_path, classes=4), []
    bundle.unet.register_forward_hook(lambda *_: calls.append(1))
    bundle.card["classes"] = ["Trouser", "Dress", "Bag"]
    box = widgets.sampling_explorer(bundle)
    controls, picture = by_name(box), box.children[-1]
    assert list(controls) == ["t", "S", "eta", "scale", "label", "seed"] and controls[
        "label"
    ].options[2] == ("Bag", 2)
    start = {name: control.value for name, control in controls.items() if name != "t"}
    assert start == {"S": 50, "eta": 0.0, "scale": 1.0, "label": 0, "seed": 0}
    Image.open(BytesIO(png_of(picture))).verify()
    for name, value in (
        ("S", 4),
        ("scale", 4.0),
        ("eta", 1.0),
        ("label", 2),
        ("seed", 5),
        ("scale", 1.0),
    ):
        before, picture_before = len(calls), picture.value
        controls[name].value = value
        assert len(calls) > before and picture.value != picture_before, name
    assert len(calls) - before == 4  # S = 4 at scale 1: one call a step
    controls["S"].value = 8
    before, picture_before = len(calls), picture.value
    controls["t"].value = 1
    assert len(calls) == before and picture.value != picture_before


def test_sampling_explorer_starts_at_the_label_it_is_given(tmp_path):
    controls = by_name(widgets.sampling_explorer(build(tmp_path, classes=4), label=2))
    assert (controls["label"].value, controls["seed"].value) == (2, 0)


def test_sampling_explorer_wants_classes(tmp_path):
    with pytest.raises(ValueError, match="no classes"):
        widgets.sampling_explorer(build(tmp_path, classes=None))


def test_inversion_explorer_follows_every_control(tmp_path):
    bundle = build(tmp_path, classes=4)
    with pytest.raises(ValueError, match="no held-out examples"):
        widgets.inversion_explorer(bundle)
    pictures = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked = []
    bundle.unet.register_forward_hook(lambda _, given, out: asked.append(given[2].tolist()))
    box = widgets.inversion_explorer(
        replace(bundle, examples=zoo.Examples(pictures, torch.tensor([2, 0, 3])))
    )
    controls, picture = by_name(box), box.children[-1]
    assert list(controls) == ["picture", "S", "method", "scale"] and controls["picture"].max == 2
    assert controls["method"].options == tuple(METHODS)
    start = {name: control.value for name, control in controls.items()}
    assert start == {"picture": 0, "S": 20, "method": "naive, target time", "scale": 1.0}
    assert asked == [[2]] * 40  # its own label, without guidance; twenty steps up and twenty down
    for name, value in (
        ("S", 4),
        ("scale", 3.0),
        ("scale", 1.0),
        ("picture", 2),
        ("method", "naive, source time"),
        *(("method", method) for method in ("BDIA", "fixed point")),
    ):
        before, picture_before = len(asked), picture.value
        controls[name].value = value
        assert len(asked) > before and picture.value != picture_before, name
        if name == "picture":
            assert asked[before:] == [[3]] * 8  # its own label; four steps up and four down
    assert len(asked) - before > 8  # the fixed point asks more often


def test_inversion_explorer_ends_at_1_and_stops_what_takes_long(tmp_path, monkeypatch):
    bundle = build(tmp_path, classes=4)
    pictures = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    bundle = replace(bundle, examples=zoo.Examples(pictures, torch.tensor([2])))
    monkeypatch.setattr("ddim_tutorial.widgets.inversion.MOST_EVALUATIONS", 21)
    grids_seen = []

    def slow(model, x_0, grid, schedule):
        grids_seen.append(grid)
        for _ in range(len(grid)):
            model(x_0, torch.tensor([1]))
        return METHODS["naive, target time"](bundle.model, x_0, grid, schedule)

    monkeypatch.setitem(METHODS, "slow", slow)
    box = widgets.inversion_explorer(bundle, ["slow"])
    controls, message, picture = by_name(box), *box.children[-2:]
    assert controls["method"].options == ("slow",)
    assert message.value == "" and picture.value  # 21 times are asked 21 times
    controls["S"].value = 21
    assert "stopped after 21 evaluations" in message.value and not picture.value
    controls["S"].value = 50
    assert [len(grid) for grid in grids_seen] == [21, 22, 50]  # at S = 50 one time is 1 already
    assert all(grid[0] == 1000 and grid[-1] == 1 for grid in grids_seen)


def test_latent_explorer_follows_every_control_and_samples_only_when_it_must(tmp_path):
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path, safe_serialization=True)
    bundle, calls = zoo.load(tmp_path, device="cpu"), []
    bundle.pipe.unet.register_forward_hook(lambda _, given, out: calls.append(len(given[0])))
    box = widgets.latent_explorer(bundle, "a red apple on a table", S=2, scale=1.0, seed=3)
    controls, picture = by_name(box), box.children[-1]
    assert list(controls) == ["t", "prompt", "S", "scale", "seed"]
    assert [controls[name].value for name in ("S", "scale", "seed")] == [2, 1.0, 3]
    assert calls == [1] * 2  # at scale 1 no batch is doubled
    for name, value in (("S", 3), ("scale", 2.0), ("prompt", "two blue fish"), ("seed", 5)):
        before, picture_before = len(calls), picture.value
        controls[name].value = value
        assert len(calls) > before and picture.value != picture_before, name
    assert calls[before:] == [2] * 3  # three steps, each on a doubled batch
    controls["S"].value = 8
    before, picture_before = len(calls), picture.value
    controls["t"].value = 1
    assert len(calls) == before and picture.value != picture_before
    message = box.children[-2]
    assert message.value == ""
    controls["prompt"].value = "two blue fish " * 8
    for t in (1, 900):  # the second samples nothing anew, and says it all the same
        controls["t"].value = t
        assert message.value.count("cut: ") == 1, t
    controls["prompt"].value = "two blue fish"
    assert message.value == ""


def test_jump_explorer_shows_the_stored_step_nearest_to_t(tmp_path):
    bundle = build(tmp_path, classes=None)
    x_T = torch.randn(1, *bundle.shape, generator=torch.Generator().manual_seed(0))
    steps = list(trajectory(bundle.model, x_T, [1000, 600, 200, 0], bundle.schedule))
    box = widgets.jump_explorer(steps)
    slider, picture = by_name(box)["t"], box.children[-1]
    assert (slider.min, slider.value, slider.max) == (200, 1000, 1000)
    for t, i in ((1000, 0), (790, 1), (210, 2)):
        slider.value = t
        assert png_of(picture) == grids.to_png(grids.jump_grid([steps[i]])), t
    box = widgets.jump_explorer(steps, start=600)
    assert by_name(box)["t"].value == 600
    assert png_of(box.children[-1]) == grids.to_png(grids.jump_grid([steps[1]]))
    with pytest.raises(ValueError, match="start: got 1001"):
        widgets.jump_explorer(steps, start=1001)
    with pytest.raises(ValueError, match="steps"):
        widgets.jump_explorer([])


def test_interpolation_explorer_joins_the_noises_of_two_seeds(tmp_path):
    bundle = build(tmp_path, classes=None)
    box = widgets.interpolation_explorer(bundle, (3, 5), steps=2)
    controls, picture = by_name(box), box.children[-1]
    assert {name: control.value for name, control in controls.items()} == {
        "a": 3,
        "b": 5,
        "weight": 0.5,
    }
    ends = [torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (3, 5, 9)]
    for a, b, weight, x_T in ((3, 5, 0.0, ends[0]), (3, 5, 1.0, ends[1]), (9, 5, 0.0, ends[2])):
        controls["a"].value, controls["b"].value, controls["weight"].value = a, b, weight
        x_0 = sample(bundle.model, x_T, [1000, 500, 0], bundle.schedule)
        titles = [f"{way}: norm {x_T.norm():.1f}" for way in ("slerp", "lerp")]
        both = grids.image_grid(x_0.expand(2, -1, -1, -1), titles, columns=2, size=2.0)
        assert png_of(picture) == grids.to_png(both), (a, b, weight)
    controls["a"].value, controls["weight"].value = 3, 0.5
    middle = torch.cat([slerp(ends[0], ends[1], 0.5), (ends[0] + ends[1]) / 2])
    x_0 = sample(bundle.model, middle, [1000, 500, 0], bundle.schedule)
    titles = [
        f"{way}: norm {x.norm():.1f}" for way, x in zip(("slerp", "lerp"), middle, strict=True)
    ]
    assert png_of(picture) == grids.to_png(grids.image_grid(x_0, titles, columns=2, size=2.0))


def test_solver_explorer_follows_every_control_and_keeps_what_it_saw(tmp_path):
    bundle, calls = build(tmp_path, classes=4), []
    bundle.unet.register_forward_hook(lambda *_: calls.append(1))
    x_T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    box = widgets.solver_explorer(bundle.model, x_T, bundle.schedule, solver="dpmpp_2m", S=4)
    controls, picture = by_name(box), box.children[-1]
    start = {name: control.value for name, control in controls.items()}
    assert start == {"S": 4, "solver": "dpmpp_2m", "spacing": "trailing"} and len(calls) == 104
    for name, value in (("S", 7), ("solver", "ddim"), ("spacing", "ays")):
        before, picture_before = len(calls), picture.value
        controls[name].value = value
        assert len(calls) - before == 7 and picture.value != picture_before, name
    before, picture_before = len(calls), picture.value
    controls["spacing"].value = "trailing"
    assert len(calls) == before and picture.value != picture_before


def test_solver_explorer_decodes_and_says_the_error(tmp_path, monkeypatch):
    bundle, captions = build(tmp_path, classes=4), []
    monkeypatch.setattr(
        widgets.solvers, "image_grid", lambda *_, **how: captions.append(how["caption"])
        or grids.image_grid(torch.zeros(1, 1, 4, 4))
    )  # fmt: skip
    shown, x_T = [], torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    box = widgets.solver_explorer(
        bundle.model, x_T, bundle.schedule, lambda x: shown.append(x) or x, S=3
    )
    x_0 = sample(bundle.model, x_T, [1000, 667, 333, 0], bundle.schedule)
    assert torch.equal(shown[0], x_0)
    error = (x_0 - shown[1]).norm() / shown[1].norm()
    assert captions[-1] == f"3 evaluations, error {error:.3f}"
    by_name(box)["S"].value = 50
    assert float(captions[-1].split()[-1]) < error / 4


def test_purification_explorer_follows_every_control(tmp_path, monkeypatch):
    bundle, shown = build(tmp_path, classes=4), []
    with pytest.raises(ValueError, match="no held-out examples"):
        widgets.purification_explorer(bundle)
    pictures = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    bundle = replace(bundle, examples=zoo.Examples(pictures, torch.tensor([2, 0, 1])))
    bundle.card["classes"] = ["Trouser", "Dress", "Bag"]
    torch.manual_seed(2)
    bundle.__dict__["classifier"] = Classifier(3, widths=(8, 8)).requires_grad_(False)
    calls = []
    bundle.unet.register_forward_hook(lambda _, given, out: calls.append(given[1].tolist()))
    monkeypatch.setattr(
        widgets.purification, "image_grid", lambda x, titles, **how: shown.append((x, titles))
        or grids.image_grid(x, titles, **how)
    )  # fmt: skip
    box = widgets.purification_explorer(bundle, eps=51.0, t=100)
    controls, picture = by_name(box), box.children[-1]
    start = {name: control.value for name, control in controls.items()}
    assert start == {"picture": 0, "eps": 32.0, "t": 100, "S": 5, "seed": 0}  # eps: at most 32
    assert calls == [[99], [79], [59], [39], [19]]  # without a label, five steps from t* to 0
    (x_0, attacked, pure), titles = shown[-1]
    assert torch.equal(x_0, pictures[0]) and not torch.equal(attacked, pure)
    change = (attacked - x_0).abs()
    assert change.max().item() == pytest.approx(64 / 255, abs=1e-6)
    chances = bundle.classifier(shown[-1][0]).softmax(1)
    assert chances[1, 2] < chances[0, 2]  # its own class has become less likely
    for chance, title in zip(chances, titles, strict=True):
        best = chance.argmax().item()
        assert title.startswith(f"{bundle.card['classes'][best]} {chance[best]:.0%}\n")
    for name, value in (("picture", 2), ("eps", 8.0), ("t", 300), ("S", 2), ("seed", 3)):
        before, picture_before = len(calls), picture.value
        controls[name].value = value
        assert len(calls) > before and picture.value != picture_before, name
    before = len(calls)
    controls["t"].value = 0
    assert len(calls) == before and torch.equal(shown[-1][0][1], shown[-1][0][2])
    controls["eps"].value = 0.0
    assert torch.equal(shown[-1][0][0], shown[-1][0][1])


def test_editing_explorer_follows_every_control(tmp_path, monkeypatch):
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path, safe_serialization=True)
    bundle, shown = zoo.load(tmp_path, device="cpu"), []
    with pytest.raises(ValueError, match=r"source='a cat': .* has no such picture"):
        widgets.editing_explorer(bundle, "a cat", "a dog")
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    bundle = replace(bundle, examples=zoo.Examples(pictures, torch.tensor([0, 1])))
    texts = ["a red apple on a table", "two blue fish"]
    bundle.__dict__["captions"] = texts
    monkeypatch.setattr(
        widgets.editing, "image_grid", lambda x, titles, **how: shown.append((x, titles, how))
        or grids.image_grid(x, titles, **how)
    )  # fmt: skip
    options = {"method": "exact inversion", "scale": 1.0, "S": 10}
    box = widgets.editing_explorer(bundle, texts[0], texts[0], **options)
    controls, picture = by_name(box), box.children[-1]
    assert list(controls) == ["source", "target", "method", "enter", "scale"]
    (before, after), titles, how = shown[-1]
    space = bundle.space("", scale=1.0)
    rebuilt = space.decode(space.encode(pictures[:1])).clamp(-1, 1)[0]
    torch.testing.assert_close(before, rebuilt)
    torch.testing.assert_close(after, before, atol=1e-2, rtol=0)  # exactly inverted, one prompt
    assert titles == [texts[0], texts[0]]
    for name, value in (
        ("target", texts[1]),
        ("scale", 3.0),
        ("method", "SDEdit"),
        ("enter", 500),
        ("source", texts[1]),
    ):
        earlier = picture.value
        controls[name].value = value
        assert picture.value != earlier, name
    (before, after), titles, how = shown[-1]
    x = torch.stack([before, after])
    error = (x[0] - x[1]).square().mean()
    assert how["caption"].startswith(f"PSNR {10 * (4 / error).log10():.1f} dB")
    assert titles == [texts[1], texts[1]]
    assert not any("null text" in name for name in controls["method"].options)


def fast_bundle(folder):
    """A random pipeline that is taken for a learned jump."""
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder, safe_serialization=True)
    return replace(zoo.load(folder, device="cpu"), scale=4.0)


def test_live_prompt_jumps_as_often_as_asked(tmp_path):
    bundle, calls = fast_bundle(tmp_path), []
    bundle.pipe.unet.register_forward_hook(lambda _, given, out: calls.append(len(given[0])))
    with pytest.raises(ValueError, match=r"a noise model, .* pass zoo.load\(.., fast=True\)"):
        widgets.live_prompt(replace(bundle, scale=None))
    box = widgets.live_prompt(bundle, "two blue fish", seed=3)
    controls, picture = by_name(box), box.children[-1]
    assert list(controls) == ["prompt", "steps", "seed"] and calls == [1, 1]
    assert controls["prompt"].continuous_update and not controls["steps"].continuous_update
    for name, value in (("prompt", "a red apple on a table"), ("seed", 5), ("steps", 4)):
        before, earlier = len(calls), picture.value
        controls[name].value = value
        assert picture.value != earlier and len(calls) == before + controls["steps"].value, name
    space = bundle.space("a red apple on a table")
    z_T = randn((1, *bundle.shape), generators([5]))
    for steps in (1, 3):
        controls["steps"].value = steps
        again = {"eta": float("inf"), "generator": generators([1_000_005])}
        z = sample(space.model, z_T, space.times(steps), bundle.schedule, **again)
        x = space.decode(z)
        wanted = grids.image_grid(x, columns=1, size=2.5, caption="a red apple on a table")
        assert png_of(picture) == grids.to_png(wanted)


def test_a_text_that_is_followed_is_drawn_once_when_the_typing_pauses(monkeypatch):
    """In a running event loop, which a kernel has."""
    monkeypatch.setattr(sys.modules["ddim_tutorial.widgets.explorer"], "PAUSE", 0.05)
    drawn = []

    def render(text: str = ""):
        drawn.append(text)
        return grids.image_grid(torch.zeros(1, 1, 4, 4))

    box = widgets.explorer(render, live="text", text="")

    async def typing():
        for text in ("a", "ap", "app"):
            by_name(box)["text"].value = text
            await asyncio.sleep(0)
        seen = list(drawn)
        await asyncio.sleep(0.5)
        return seen

    assert asyncio.run(typing()) == [""] and drawn == ["", "app"]
