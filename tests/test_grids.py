"""Pictures carry their numbers: pixel range, shared scales, captions, alt texts."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from ddim_tutorial import grids
from ddim_tutorial.sampling import Step


def steps(count: int, channels: int = 1, delta: float = 0.5) -> list[Step]:
    """States at 0.25 and jumps at 0.25 + delta * (k + 1) / count: each column's rms is known."""
    x_t = torch.full((2, channels, 4, 4), 0.25)
    return [
        Step(count - k, count - k - 1, x_t, x_t, x_t + delta * (k + 1) / count, x_t)
        for k in range(count)
    ]


def arrays(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_every_byte_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.int64).to(torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(torch.from_numpy(grids.to_uint8(grids.from_uint8(pixels))), pixels[:, 0])


def test_the_range_is_minus_one_to_one_and_clamped():
    x = torch.tensor([-5.0, -1.0, 0.002, 1.0, 5.0]).view(1, 1, 1, 5)
    assert grids.to_uint8(x).tolist() == [[[0, 0, 128, 255, 255]]]
    assert grids.to_uint8(x.double()).dtype == np.uint8 and grids.to_uint8(x.bfloat16()).shape == (
        1,
        1,
        5,
    )


def test_colour_goes_last():
    x = torch.stack([torch.full((2, 3), v) for v in (-1.0, 0.0, 1.0)])[None]
    assert grids.to_uint8(x).shape == (1, 2, 3, 3) and grids.to_uint8(x)[0, 0, 0].tolist() == [
        0,
        128,
        255,
    ]


@pytest.mark.parametrize(
    ("x", "error", "said"),
    [
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), TypeError, "uint8"),
        (torch.full((1, 1, 2, 2), float("nan")), ValueError, "4 of 4"),
        (torch.zeros(1, 4, 2, 2), ValueError, "decode"),
        (torch.zeros(2, 1, 2), ValueError, r"\(2, 1, 2\)"),
    ],
)
def test_what_is_no_picture_is_refused(x, error, said):
    with pytest.raises(error, match=said):
        grids.to_uint8(x)


def test_from_uint8_takes_bytes_only():
    with pytest.raises(TypeError, match="float32"):
        grids.from_uint8(torch.zeros(2))


def test_jump_grid_shares_one_scale_and_prints_the_rms():
    figure = grids.jump_grid(steps(4), columns=4)
    pictures = arrays(figure)
    assert len(pictures) == 12
    for k, panel in enumerate(pictures[8:]):  # the deltas, in units of the largest, 0.5
        np.testing.assert_allclose(panel, (k + 1) / 4, rtol=1e-6)
    assert all(ax.images[0].get_clim() == (-1, 1) for ax in figure.axes[8:])
    assert [ax.get_xlabel() for ax in figure.axes[8:]] == [
        "rms 0.125",
        "rms 0.250",
        "rms 0.375",
        "rms 0.500",
    ]
    assert [ax.get_title() for ax in figure.axes[:4]] == ["t = 4", "t = 3", "t = 2", "t = 1"]
    assert "±0.5" in figure.get_supxlabel()
    np.testing.assert_array_equal(pictures[0], grids.to_uint8(torch.full((1, 1, 4, 4), 0.25))[0])


def test_the_sign_of_delta_is_shown():
    assert min(panel.min() for panel in arrays(grids.jump_grid(steps(2, delta=-0.5)))[4:]) == -1


def test_columns_are_spread_from_the_first_step_to_the_last():
    titles = [ax.get_title() for ax in grids.jump_grid(steps(50), columns=8).axes[:8]]
    assert titles == [f"t = {t}" for t in (50, 43, 36, 29, 22, 15, 8, 1)]
    assert len(grids.jump_grid(steps(3), columns=8).axes) == 9


def test_the_panels_of_a_jump_grid_grow_with_their_size():
    """In inches: two columns of 1.15 or of 2, and 0.4 for the margins."""
    small, large = grids.jump_grid(steps(2)), grids.jump_grid(steps(2), size=2.0)
    assert small.get_size_inches().tolist() == pytest.approx([2.7, 4.15])
    assert large.get_size_inches().tolist() == pytest.approx([4.4, 6.7])


def test_decode_is_applied_to_both_and_delta_is_between_pictures():
    figure = grids.jump_grid(steps(2, channels=3), decode=lambda z: 2 * z[:, :1] - 1)
    assert [ax.get_xlabel() for ax in figure.axes[4:]] == ["rms 0.500", "rms 1.000"]
    names = [ax.get_ylabel() for ax in figure.axes[::2]]
    assert (
        names == ["$D(z_t)$", r"$D(\hat z_0)$", "difference"] and "D(z_t)" in figure.get_supxlabel()
    )
    plain = grids.jump_grid(steps(2))
    assert [ax.get_ylabel() for ax in plain.axes[::2]] == [
        "$x_t$",
        r"$\hat{x}_0$",
        r"$\hat x_0 - x_t$",
    ]


def test_a_colour_delta_is_the_mean_over_channels_and_rms_is_over_all():
    step = steps(1, channels=3)[0]
    step = step._replace(x0_hat=step.x_t + torch.tensor([1.0, -1.0, 0.3]).view(1, 3, 1, 1))
    figure = grids.jump_grid([step])
    assert "±0.1, mean over channels" in " ".join(figure.get_supxlabel().split())
    assert figure.axes[2].get_xlabel() == f"rms {(2.09 / 3) ** 0.5:.3f}"


def test_index_picks_the_picture():
    step = steps(1)[0]
    step = step._replace(x_t=torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]))
    assert arrays(grids.jump_grid([step], index=1))[0].tolist() == [[255] * 4] * 4
    with pytest.raises(ValueError, match=r"index: .*2"):
        grids.jump_grid([step], index=2)
    with pytest.raises(ValueError, match="0 steps"):
        grids.jump_grid([])


@pytest.mark.parametrize("row", [0, 1])
def test_titles_of_one_row_leave_no_strip_above_the_others(row):
    """The rows without titles stand as close to the one above as in a grid without any."""

    def gaps(titles):  # in inches, between three rows
        figure = grids.image_grid(torch.zeros(6, 1, 4, 4), titles, columns=2, size=2.0)
        figure.draw_without_rendering()
        inches = figure.dpi_scale_trans.inverted()
        boxes = [ax.get_window_extent().transformed(inches) for ax in figure.axes]
        assert all(box.width > 1.9 for box in boxes)
        return [boxes[0].y0 - boxes[2].y1, boxes[2].y0 - boxes[4].y1]

    titles = [""] * 6
    titles[2 * row : 2 * row + 2] = "ab"
    plain, found = gaps(None), gaps(titles)
    assert found[1] == pytest.approx(plain[1], abs=0.01)
    if row == 0:
        assert found[0] == pytest.approx(plain[0], abs=0.01)
    else:
        assert found[0] > plain[0] + 0.1


def test_a_title_of_two_lines_is_not_cut():
    titles = ["one", "two\nlines"]
    figure = grids.image_grid(torch.zeros(2, 1, 4, 4), titles, 2, caption="below", size=1.6)
    figure.draw_without_rendering()
    assert max(ax.title.get_window_extent().y1 for ax in figure.axes) <= figure.bbox.y1


def test_image_grid_keeps_order_titles_and_range():
    images = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    figure = grids.image_grid(images, list("abcde"), columns=3, caption="five")
    assert [panel[0, 0] for panel in arrays(figure)] == [0, 64, 128, 191, 255]
    assert [ax.get_title() for ax in figure.axes] == [
        "a",
        "b",
        "c",
        "d",
        "e",
        "",
    ] and figure.get_supxlabel() == "five"
    assert all(ax.images[0].get_clim() == (0, 255) for ax in figure.axes[:5])
    with pytest.raises(ValueError, match=r"titles: got 2"):
        grids.image_grid(images, ["a", "b"])


def test_rows_of_an_image_grid_are_named_at_their_left():
    figure = grids.image_grid(torch.zeros(3, 1, 4, 4), columns=2, rows=["above", "below"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["above", "", "below", ""]
    with pytest.raises(ValueError, match="rows: got 1, wanted one for each of the 2 rows"):
        grids.image_grid(torch.zeros(3, 1, 4, 4), columns=2, rows=["above"])


def test_curve_draws_the_numbers_given():
    figure = grids.curve(
        [10, 100], {"eta = 0": [4.0, 2.0], "eta = 1": [9.0, 3.0]}, "S", "FID", log="x"
    )
    lines = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == [[4, 2], [9, 3]]
    assert (
        len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 2
    )
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["10", "100"]
    assert figure.axes[0].get_xscale() == "log" and figure.axes[0].get_yscale() == "linear"


def test_lines_over_their_own_x():
    lines = {"a": [1.0, 2.0], "b": [3.0, 4.0, 5.0]}
    at = {"b": [10, 30, 100], "a": [10, 20]}
    ax = grids.curve(at, lines, "S", "FID", log="x").axes[0]
    drawn = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines
    }
    assert drawn == {name: (at[name], lines[name]) for name in lines}
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "20", "30", "100"]


def test_curve_draws_bars_at_the_lines_that_have_some():
    lines = {"a": [4.0, 2.0], "b": [9.0, 3.0]}
    ax = grids.curve([10, 100], lines, "S", "FID", errors={"b": [1.0, 0.5]}).axes[0]
    (bars,) = ax.collections
    assert [part.tolist() for part in bars.get_segments()] == [
        [[10, 8], [10, 10]],
        [[100, 2.5], [100, 3.5]],
    ]
    assert to_hex(bars.get_color()[0]) == to_hex(ax.lines[1].get_color())
    with pytest.raises(ValueError, match=r"got \['c'\], wanted names among \['a', 'b'\]"):
        grids.curve([10, 100], lines, "S", "FID", errors={"c": [1.0, 0.5]})


@pytest.mark.parametrize("count", [8, 12])
def test_the_legend_of_many_lines_hides_none(count):
    figure = grids.curve([5, 20], {f"solver {i}": [1, 2] for i in range(count)}, "S", "error")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend, drawn = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.x0 >= drawn.x1 and legend.x1 <= figure.bbox.x1


def shown(monkeypatch) -> list:
    seen: list = []
    monkeypatch.setattr("IPython.display.display", lambda *objects, **_: seen.extend(objects))
    return seen


def test_show_gives_a_png_with_its_alt_text_and_closes(monkeypatch):
    import matplotlib.pyplot as plt

    seen, figure = shown(monkeypatch), plt.figure(figsize=(2, 1))
    grids.show(figure, "a black square")
    data, metadata = seen[0]._repr_mimebundle_()
    png = (
        base64.b64decode(data["image/png"])
        if isinstance(data["image/png"], str)
        else data["image/png"]
    )
    assert (
        Image.open(BytesIO(png)).size == (160, 80)
        and metadata["image/png"]["alt"] == "a black square"
    )
    assert not plt.get_fignums()
    assert seen[1].data == "a black square"  # for everybody, below the picture
    with pytest.raises(ValueError, match="alt"):
        grids.show(figure, " ")


def test_pictures_larger_than_a_panel_are_averaged_down():
    small, large = (
        grids.image_grid(torch.zeros(1, 3, size, size)).axes[0].images[0] for size in (64, 512)
    )
    assert small.get_interpolation() == "nearest" and large.get_interpolation() in (
        "antialiased",
        "auto",
    )


def test_a_caption_stays_inside_its_figure():
    for columns in (1, 2, 8):
        figure = grids.jump_grid(steps(9), columns=columns)
        grids.to_png(figure)
        box = figure._supxlabel.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_the_same_figure_gives_the_same_bytes():
    assert grids.to_png(grids.jump_grid(steps(2))) == grids.to_png(grids.jump_grid(steps(2)))
