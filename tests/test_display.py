"""What a cell shows: tables of numbers."""

import pytest
import torch

from ddim_tutorial.display import table


def test_a_table_is_aligned_text_and_html():
    columns = {"S": [5, 10], "lost & found": torch.tensor([0.25, 0.125]), "who": ["a<b", None]}
    shown = table(columns, formats={"lost & found": ".1%"})
    lines = ["S   lost & found  who", "5          25.0%  a<b", "10         12.5%"]
    assert repr(shown).split("\n") == lines
    assert shown._repr_html_() == (
        "<table><thead><tr><th>S</th><th>lost &amp; found</th><th>who</th></tr></thead><tbody>"
        "<tr><td>5</td><td>25.0%</td><td>a&lt;b</td></tr>"
        "<tr><td>10</td><td>12.5%</td><td></td></tr></tbody></table>"
    )


def test_numbers_without_a_format_have_three_digits():
    rows = repr(table({"x": [0.012345, 12345.678, True, 7]})).split("\n")
    assert [row.strip() for row in rows] == ["x", "0.0123", "1.23e+04", "True", "7"]


@pytest.mark.parametrize(
    ("columns", "formats", "message"),
    [
        ({"a": [1], "b": [1, 2]}, None, r"lengths \{'a': 1, 'b': 2\}"),
        ({}, None, "wanted one or more"),
        ({"a": [1]}, {"b": ".1f"}, r"formats: got \['b'\]"),
    ],
)
def test_a_table_that_cannot_be_is_refused(columns, formats, message):
    with pytest.raises(ValueError, match=message):
        table(columns, formats)
