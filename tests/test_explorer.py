"""What an explorer says beside its picture: alt text, a sign of work, drafts, what was stopped."""

import base64
import re
import sys
from html import unescape

import pytest
import torch
from ipywidgets import HTML
from matplotlib.figure import Figure

from ddim_tutorial import grids, widgets, zoo
from parts import png_of, tiny_pipeline


def flat(value: float, **how) -> Figure:
    return grids.image_grid(torch.full((1, 1, 4, 4), value), **how)


def seen_in(box) -> list[tuple[str, str]]:
    """What a reader sees from now on, message by message: (message, picture)."""
    message, picture = box.children[-2:]
    states = []
    for part in (message, picture):
        part.observe(lambda _: states.append((message.value, picture.value)), "value")
    return states


def test_a_picture_has_its_words_as_alt_text():
    box = widgets.explorer(
        lambda k: flat(0.0, titles=[f'{k} < "5"'], caption=r"at $\hat{x}_0$ & more"), k=(0, 10)
    )
    picture = box.children[-1]
    assert picture.value.startswith("<img ") and picture.value.count("alt=") == 1
    box.children[0].value = 3
    alt = re.search('alt="([^"]*)"', picture.value)[1]
    assert unescape(alt) == '3 < "5"; at hat x_0 & more'


def test_the_words_of_a_figure_are_in_reading_order_without_tex():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.set(title="t = 9", ylabel=r"$D(\hat z_0)$", xlabel="rms 0.1")
    right.set(title="t = 5", ylabel=r"$\bar\alpha_t$", xlabel="rms 0.1")
    right.plot([0, 1], label="ours")
    right.legend()
    figure.supxlabel("two lines\nof a caption")
    assert grids.description(figure) == (
        "t = 9; D(hat z_0); rms 0.1; t = 5; bar alpha_t; ours; two lines of a caption"
    )
    assert grids.description(Figure()) == "a picture without words"


def test_a_page_without_a_kernel_shows_the_picture_or_a_sentence(monkeypatch):
    def render(k=0, name="a"):
        if k > 5:
            raise ValueError("too large")
        return flat(0.5, caption='5 "inches"')

    box = widgets.explorer(render, k=(0, 10), name=["a", "b"])
    data, metadata = box._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == grids.to_png(render())
    assert metadata == {"image/png": {"alt": '5 "inches"'}}
    assert "k, name" in data["text/plain"] and "VBox(" not in data["text/plain"]
    module = sys.modules["ddim_tutorial.widgets.explorer"]
    monkeypatch.setattr(module, "AT_REST", len(box.children[-1].value))
    data, metadata = box._repr_mimebundle_()
    assert "image/png" not in data and metadata == {}
    monkeypatch.undo()
    box.children[0].value = 9
    data, metadata = box._repr_mimebundle_()
    assert "image/png" not in data and metadata == {}
    assert "application/vnd.jupyter.widget-view+json" in data


def test_drafts_are_shown_as_drafts_until_the_picture_is_there():
    def render(k: int = 0):
        if k == 9:
            yield flat(0.1)
            yield flat(0.2)
        return flat(0.3)

    box = widgets.explorer(render, k=(0, 10))
    box.children[0].value = 1
    states = seen_in(box)
    box.children[0].value = 9
    shown = list(dict.fromkeys(png_of(HTML(picture)) for _, picture in states))
    assert shown == [grids.to_png(flat(value)) for value in (0.3, 0.1, 0.2)]
    assert [("drawing" in message, "draft" in message) for message, _ in states] == [
        (True, False),
        (True, False),
        (True, True),
        (True, True),
        (True, True),
        (False, False),
    ]
    assert png_of(box.children[-1]) == grids.to_png(flat(0.3)) and states[-1][0] == ""


def test_an_error_after_a_draft_leaves_no_draft():
    def render(k: int = 0):
        yield flat(0.1)
        if k == 9:
            raise ValueError("too far")
        return flat(0.3)

    box = widgets.explorer(render, k=(0, 10))
    box.children[0].value = 9
    message, picture = box.children[-2:]
    assert "too far" in message.value and 'role="alert"' in message.value
    assert picture.value == "" and picture.layout.display == "none"


def test_what_is_stopped_says_so_and_can_be_drawn_again():
    def render(k: int = 0):
        if k == 9:
            raise KeyboardInterrupt
        return flat(0.3)

    box = widgets.explorer(render, k=(0, 10))
    message, picture = box.children[-2:]
    with pytest.raises(KeyboardInterrupt):
        box.children[0].value = 9
    assert "stopped" in message.value and picture.value == ""
    box.children[0].value = 3
    assert message.value == "" and png_of(picture) == grids.to_png(flat(0.3))


def test_a_slow_one_says_how_long_the_slowest_took(monkeypatch):
    clock = iter([0.0, 0.4, 10.0, 13.2, 20.0, 20.1])
    module = sys.modules["ddim_tutorial.widgets.explorer"]  # the function has its name
    monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    box = widgets.explorer(lambda k=0: flat(k / 10), k=(0, 10))
    states = seen_in(box)
    box.children[0].value = 1
    assert states[0][0] == '<i role="status">drawing ...</i>'  # 0.4 s: not worth a word
    states.clear()
    box.children[0].value = 2
    assert states[0][0] == '<i role="status">drawing ... (up to 3 s so far)</i>'


def test_a_new_prompt_is_answered_by_a_draft_and_what_was_seen_is_not(tmp_path, monkeypatch):
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path, safe_serialization=True)
    bundle, asked = zoo.load(tmp_path, device="cpu"), []
    bundle.pipe.unet.register_forward_hook(lambda *_: asked.append(1))
    monkeypatch.setattr("ddim_tutorial.widgets.sampling.DRAFT", 2)
    box = widgets.latent_explorer(bundle, "a red apple on a table", S=5, scale=2.0)
    assert len(asked) == 5  # nobody sees a draft of the first
    t, prompt, steps = box.children[:3]
    states = seen_in(box)
    for control, value, evaluations, drafts in (
        (prompt, "two blue fish", 2 + 5, 1),
        (t, 1, 0, 0),
        (steps, 4, 4, 0),  # a draft would cost half as much as the run
        (prompt, "a red apple on a table", 4, 0),
    ):
        asked.clear(), states.clear()
        control.value = value
        assert len(asked) == evaluations, value
        assert any("draft" in message for message, _ in states) == bool(drafts), value
    asked.clear()
    prompt.value, steps.value = "two blue fish", 5
    assert not asked
