"""Tables show every figure whole, whatever the width of the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rsfed.lab.wide_table import WideTable, parts


def drawn(table, width):
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_every_figure_is_whole_and_no_line_is_wider_than_the_terminal(width):
    figures = [f"0.{n}72 ± 0.0{n}1" for n in range(10, 19)]
    table = WideTable(
        ("method", "bits", *(f"mAP@{n}" for n in range(9))), [("milan_batchall", "32", *figures)], names=2
    )
    told = drawn(table, width)
    assert all(figure in told for figure in figures)
    assert all(f"mAP@{n}" in told for n in range(9))
    assert max(map(len, told.splitlines())) <= width
    assert told.count("milan_batchall") == told.count("method")


def test_a_name_that_is_wider_than_the_terminal_is_wrapped_and_its_figure_whole():
    told = drawn(WideTable(("class", "lsh"), [("very " * 30, "0.572 ± 0.011")]), 60)
    assert "0.572 ± 0.011" in told
    assert told.count("very") == 30


def test_names_are_text_and_never_markup():
    assert "[red]lake" in drawn(WideTable(("class", "lsh"), [("[red]lake", "1.000")]), 60)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 120))
def test_parts_hold_every_column_once_and_fit_the_room_where_one_does(widths, room):
    found = parts(widths, room)
    assert [column for part in found for column in part] == list(range(len(widths)))
    for part in found:
        assert len(part) == 1 or sum(2 + widths[column] for column in part) <= room
