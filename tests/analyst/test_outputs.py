"""The outputs that programs read are compared with golden files: a change of them is a change of the contract."""

import io
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pystac
import pytest
from rich.console import Console

from rsfed.analyst import outputs
from rsfed.analyst.results import Outcome, rate, when, worst_outcomes
from rsfed.trust.manifest import Calibration, CalibrationBand

GOLDEN = Path(__file__).parent / "golden"


def printed(renderable, width=80):
    text = io.StringIO()
    Console(file=text, width=width).print(renderable)
    return text.getvalue()


def test_json_is_as_documented(asked, answer):
    assert outputs.to_json(asked, [answer]) == (GOLDEN / "answer.json").read_text()


def test_geojson_is_as_documented(asked, answer):
    assert outputs.to_geojson(asked, [answer]) == (GOLDEN / "answer.geojson").read_text()


def test_stac_is_a_valid_collection_of_the_hits_that_say_when(asked, answer):
    told = json.loads(outputs.to_stac(asked, [answer]))
    collection = pystac.ItemCollection.from_dict(told)
    for item in collection:
        item.validate()  # against the schema that pystac brings along
    assert {item["stac_version"] for item in told["features"]} == {pystac.get_stac_version()}
    assert [item.id for item in collection] == ["0a" * 16, "0c" * 16]
    assert collection[0].common_metadata.start_datetime.isoformat() == "2024-05-01T10:30:00+00:00"
    assert collection[1].datetime.isoformat() == "2024-05-01T10:30:00+00:00"
    assert told["numberReturned"] == 2


def test_csv_is_as_documented(answer):
    assert outputs.to_csv([answer]) == (GOLDEN / "answer.csv").read_text()


def test_geojson_never_has_an_asset_or_a_link(asked, answer):
    for feature in json.loads(outputs.to_geojson(asked, [answer]))["features"]:
        assert not feature.get("assets")
        assert not feature.get("links")
        assert "href" not in json.dumps(feature)


def test_geometry_is_null_where_the_place_is_undisclosed(asked, answer):
    features = json.loads(outputs.to_geojson(asked, [answer]))["features"]
    assert [feature["geometry"] and feature["geometry"]["type"] for feature in features] == [
        "Polygon", None, "MultiPolygon",
    ]  # fmt: skip


def test_a_box_across_180_degrees_becomes_two_polygons_that_do_not_cross_it(asked, answer):
    geometry = json.loads(outputs.to_geojson(asked, [answer]))["features"][2]["geometry"]
    spans = [{x for x, _ in ring} for (ring,) in geometry["coordinates"]]
    assert spans == [{179.5, 180.0}, {-180.0, -179.5}]


@pytest.mark.parametrize(
    ("box", "spans"),
    [
        ((175.0, -17.0, -180.0, -16.0), [{175.0, 180.0}]),
        ((180.0, -17.0, -175.0, -16.0), [{-180.0, -175.0}]),
        ((-180.0, -90.0, 180.0, 90.0), [{-180.0, 180.0}]),
        ((7.0, 46.0, 7.0, 46.0), [{7.0}]),
        ((180.0, 46.0, -180.0, 46.0), [{180.0}]),
    ],
)
def test_a_box_that_ends_at_180_degrees_has_no_part_without_width_beyond(asked, answer, box, spans):
    hit = replace(answer.result.hits[0], footprint=box)
    result = replace(answer.result, hits=(hit,))
    [feature] = json.loads(outputs.to_geojson(asked, [replace(answer, result=result)]))["features"]
    assert feature["geometry"]["type"] == "Polygon"
    assert [{x for x, _ in ring} for ring in feature["geometry"]["coordinates"]] == spans
    assert feature["bbox"] == list(box)


def test_tables_fit_80_columns_and_show_whole_handles(asked, answer):
    long_name = "an-archive-with-a-name-of-sixty-three-letters-which-is-the-most"
    result = replace(
        answer.result,
        hits=tuple(
            replace(hit, node=long_name, distance=256, rank=10_000, bucket_size=10**7) for hit in answer.result.hits
        ),
        outcomes=(*answer.result.outcomes, Outcome(long_name, "STALE_RELEASE", 12345.6, reason="UNKNOWN_HANDLE")),
    )
    text = printed(outputs.hit_table(asked, replace(answer, result=result))) + printed(
        outputs.outcome_table(result.outcomes)
    )
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert all(hit.handle in text for hit in result.hits)
    assert "STALE_RELEASE" in text
    assert "UNKNOWN_HANDLE" in text


def test_without_a_measured_relevance_none_is_told(asked, answer):
    hits = tuple(replace(hit, relevance=None) for hit in answer.result.hits)
    plain = replace(answer, result=replace(answer.result, hits=hits))
    assert "relev" in printed(outputs.hit_table(asked, answer))
    assert "relev" not in printed(outputs.hit_table(asked, plain))
    assert {hit["relevance"] for hit in json.loads(outputs.to_json(asked, [plain]))["queries"][0]["hits"]} == {None}
    features = json.loads(outputs.to_geojson(asked, [plain]))["features"]
    assert {feature["properties"]["rsfed:relevance"] for feature in features} == {None}
    assert all(line.endswith(",") for line in outputs.to_csv([plain]).splitlines()[1:])


def test_relevance_is_that_of_the_distance_and_none_beyond_what_was_measured(answer):
    bands = tuple(CalibrationBand(distance=d, relevance=r, pairs=50) for d, r in ((0, 0.9), (1, 0.5)))
    table = Calibration(bands=bands, prior=0.1, k=20, queries=9, acquisitions=9, nodes=1, held_out_by="acquisition")
    assert [hit.relevance for hit in rate(answer.result.hits, table)] == [0.9, None, None]
    assert [hit.relevance for hit in rate(answer.result.hits, None)] == [None] * 3


def test_archives_whose_long_names_begin_alike_can_be_told_apart(asked, answer):
    names = [f"agency-of-the-northern-territories-{part}" for part in ("east", "west")]
    hits = [replace(hit, node=name) for hit, name in zip(answer.result.hits, names, strict=False)]
    outcomes = [Outcome(name, "COMPLETE", 1.0) for name in names]
    result = replace(answer.result, hits=tuple(hits))
    for table in (outputs.hit_table(asked, replace(answer, result=result)), outputs.outcome_table(outcomes)):
        text = printed(table)
        assert "…" not in text
        assert text.index("east") < text.index("west")


def test_a_file_name_cannot_style_the_terminal(asked, answer):
    assert "[red]x[/red].tif" in printed(outputs.hit_table(asked, replace(answer, query="[red]x[/red].tif")))


def test_an_empty_result_is_still_valid_in_every_format(asked, answer):
    empty = replace(answer, result=replace(answer.result, hits=(), buckets=()))
    assert json.loads(outputs.to_json(asked, [empty]))["queries"][0]["hits"] == []
    assert json.loads(outputs.to_geojson(asked, [empty]))["features"] == []
    assert outputs.to_csv([empty]).count("\n") == 1
    assert "nothing found" in printed(outputs.hit_table(asked, empty))


@pytest.mark.parametrize("later", ["COMPLETE", "TIMED_OUT"])
def test_over_several_queries_a_failure_is_not_hidden_by_a_success(result, later):
    first = replace(result, outcomes=(Outcome("alps", "BUSY", 1.0),))
    second = replace(result, outcomes=(Outcome("alps", later, 1.0),))
    assert worst_outcomes([first, second])[0].status == "BUSY"
    assert worst_outcomes([second, first])[0].status == ("BUSY" if later == "COMPLETE" else later)


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        ("2024-01-01T00:00:00", "2024-12-31T23:59:59.999", "2024"),
        ("2023-01-01T00:00:00", "2024-12-31T23:59:59", "2023/2024"),
        ("2024-02-01T00:00:00", "2024-02-29T23:59:59.999", "2024-02"),
        ("2024-02-01T00:00:00", "2024-03-31T23:59:59", "2024-02/2024-03"),
        ("2024-05-31T00:00:00", "2024-05-31T23:59:59", "2024-05-31"),
        ("2024-05-31T10:30:00", "2024-05-31T10:30:00", "2024-05-31"),
        ("2024-05-31T23:59:00", "2024-06-01T00:00:30", "2024-05-31/2024-06-01"),
        ("2024-05-01T00:00:00", "2024-05-01T00:00:00", "2024-05-01"),
        ("2024-05-01T00:00:00", "2024-05-31T23:59:00", "2024-05-01/2024-05-31"),
    ],
)
def test_a_time_is_written_as_finely_as_it_is_told(start, end, told):
    assert when((datetime.fromisoformat(start), datetime.fromisoformat(end))) == told
