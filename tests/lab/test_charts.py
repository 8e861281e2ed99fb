"""Charts are well-formed, speak to screen readers, and never let a name become markup."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.lab.charts import WIDTH, Line, bar_chart, group_mark, line_chart, nice_ticks, scatter_chart

SVG = "{http://www.w3.org/2000/svg}"


def parsed(markup):
    return ET.fromstring(str(markup).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def curve(points, name="loss"):
    return line_chart([Line(name, "node-0", points)], title="t <b>", x_label="x & y", y_label="y")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_every_point_of_a_line_lies_inside_the_picture(values):
    svg = parsed(curve(list(enumerate(values, 1))))
    height = float(svg.get("viewBox").split()[3])
    for circle in svg.iter(f"{SVG}circle"):
        assert 0 <= float(circle.get("cx")) <= WIDTH
        assert 0 <= float(circle.get("cy")) <= height


def test_a_chart_has_a_title_and_a_description_with_its_numbers():
    svg = parsed(curve([(1, 2.5), (2, 0.5)]))
    assert svg.get("role") == "img"
    assert svg.find(f"{SVG}title").text == "t <b>"
    assert "from 2.5 to 0.5" in svg.find(f"{SVG}desc").text


def test_names_are_text_and_never_markup():
    bars = parsed(bar_chart({"<script>x</script>": (0.5,)}, series=("a",), title="t"))
    assert not list(bars.iter(f"{SVG}script"))
    assert "<script>x</script>" in [text.text for text in bars.iter(f"{SVG}text")]


def test_bars_are_as_long_as_their_values_and_say_them():
    bars = parsed(bar_chart({"half": (0.5, 1.0)}, series=("a", "b"), title="t"))
    half, whole = (float(rect.get("width")) for rect in bars.iter(f"{SVG}rect"))
    assert half * 2 == pytest.approx(whole, abs=0.2)
    assert {"0.500", "1.000"} <= {text.text for text in bars.iter(f"{SVG}text")}


@given(st.floats(0, 1e9))
def test_ticks_are_few_start_at_zero_and_reach_the_highest_value(highest):
    ticks = nice_ticks(highest)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-9)


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        curve([])


def test_groups_of_points_differ_in_colour_or_shape():
    assert len({str(group_mark(group)) for group in range(32)}) == 32


def test_every_point_of_a_cloud_lies_inside_the_picture_and_a_single_one_is_drawn():
    rng = np.random.default_rng(0)
    points = [tuple(point) for point in rng.normal(0, 1e3, (50, 2))]
    chart = str(scatter_chart(points, range(50), title="codes", spoken="50 codes"))
    places = [float(value) for value in re.findall(r'c[xy]="([^"]+)"', chart)]
    assert len(places) == 2 * sum(group // 8 % 4 == 0 for group in range(50))
    assert min(places) >= 0
    assert max(places) <= 480
    assert "circle" in scatter_chart([(1.0, 1.0)], [0], title="", spoken="")
    with pytest.raises(ValueError, match="at least one point"):
        scatter_chart([], [], title="", spoken="")
