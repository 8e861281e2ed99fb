"""`rsfed query` as a user types it: outputs, exit codes, contact sheet. The session behind it is scripted."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from members import World
from PIL import Image

from coordinator.fanout import _failure
from rsfed.analyst.catalogues import Read, nearest
from rsfed.analyst.encoding import EncodedImages
from rsfed.analyst.refining import Refined
from rsfed.analyst.results import Outcome
from rsfed.cli import run
from rsfed.errors import ExitCode, NoNodeReachable, NotAdmitted, RasterRejected, Unreachable, error_classes
from rsfed.trust.catalogue import Opened, Part
from rsfed.v1.outcome_pb2 import NodeStatus


class ScriptedSession:
    """Stands in for the session; `result` answers every code, `error` is raised on opening."""

    result = None
    error = None
    tiles = 1
    bad: frozenset[str] = frozenset()  # images that are refused
    asked: list = []  # noqa: RUF012 - one script for the test
    remembered: list = []  # noqa: RUF012 - as above
    encoder, bits = "rgb", 32

    def __init__(self, home, *, sealed=False):
        manifest = World().release().manifest
        self.release = SimpleNamespace(manifest=manifest, digest=bytes(32))

    async def __aenter__(self):
        if self.error:
            raise self.error
        return self

    async def __aexit__(self, *_):
        pass

    def encode(self, images, *, on_refused):
        good = [position for position, image in enumerate(images) if str(image) not in self.bad]
        for image in images:
            if str(image) in self.bad:
                on_refused(image, RasterRejected("it is empty; copy it again", detail=str(image)))
        origins = tuple(position for position in good for _ in range(self.tiles))
        return EncodedImages(np.zeros((len(origins), 4), np.uint8), origins)

    filters = None
    distrusted = frozenset()

    def remember(self, results):
        self.remembered.extend(results)

    async def search(self, codes, *, k, radius, filters, on_outcome):
        self.asked.append(("search", k, radius))
        type(self).filters = filters
        for outcome in self.result.outcomes:
            on_outcome(outcome)
        return [self.result] * len(codes)

    catalogue_reads: list = []  # noqa: RUF012 - what archives publish

    async def catalogues(self):
        return self.catalogue_reads

    async def refine(self, code, reads, *, count):
        refined = []
        for read in reads:
            if read.level == "catalogue":
                buckets = tuple(nearest(code, "rgb", [read], k=count, radius=None))
                refined.append(Refined(read.node, b"q" * 16, buckets, **self.told[read.node]))
        return refined

    async def search_radius(self, codes, *, radius, limit, filters, on_outcome):
        self.asked.append(("radius", radius, limit))
        return [self.result] * len(codes)


@pytest.fixture
def session(monkeypatch, result):
    monkeypatch.setattr("rsfed.analyst.session.AnalystSession", ScriptedSession)
    monkeypatch.setattr(ScriptedSession, "result", result)
    monkeypatch.setattr(ScriptedSession, "asked", [])
    monkeypatch.setattr(ScriptedSession, "remembered", [])
    monkeypatch.setenv("COLUMNS", "80")
    return ScriptedSession


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "query.png"
    Image.new("RGB", (40, 30), "#336699").save(path)
    return str(path)


def complete(result):
    return replace(
        result, outcomes=tuple(Outcome(name, "COMPLETE", 1.0, 1.0, 9) for name in ("alps", "danube", "elbe"))
    )


def published(node, level, *, middles=0, classes=()):
    codes = np.arange(middles * 4, dtype=np.uint8).reshape(-1, 4)
    sizes = np.arange(len(codes) + len(classes), dtype=np.uint32) * 5
    known = (b"r" * 32, 2, datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC), 10, 303)
    return Read(node, level, Opened(node, level, *known, {"rgb": Part(codes, classes, sizes)}))


def test_a_private_query_lists_buckets_and_counts_and_searches_nothing(session, image, capsys, monkeypatch):
    reads = [
        published("alps", "catalogue", middles=40),
        published("danube", "counts", classes=(3,)),
        Read("elbe", "partner", None, "NO_CATALOGUE"),
    ]
    monkeypatch.setattr(session, "catalogue_reads", reads)
    assert run(["query", image, "--private", "--output", "json", "--k", "3"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["private"] is True
    assert found["queries"][0]["buckets"][0] == {"rank": 1, "node": "alps", "bucket": 0, "distance": 4, "size": 0}
    assert [row["rank"] for row in found["queries"][0]["buckets"]] == [1, 2, 3]
    assert [row["buckets"] for row in found["catalogues"]] == [40, 0, None]
    assert [row["counts"] for row in found["catalogues"]] == [None, {"3": 0}, None]
    assert found["catalogues"][0]["made"] == "2026-06-01T00:00:00Z"
    assert session.asked == []
    assert run(["query", image, "--private", "--require-all"]) == ExitCode.PARTIAL
    printed = capsys.readouterr()
    assert "alps/0" in printed.out
    assert "NO_CATALOGUE" in printed.err


def test_refine_lists_items_of_buckets_and_says_what_is_withheld(session, image, capsys, monkeypatch):
    reads = [published(name, "catalogue", middles=40) for name in ("alps", "danube")]
    reads.append(published("elbe", "sealed", middles=40))
    told = {
        "alps": {"handles": (("ab" * 16, "cd" * 16), ()), "withheld": "POLICY"},
        "danube": {"reason": "CATALOGUE_CHANGED"},
    }
    monkeypatch.setattr(session, "catalogue_reads", reads)
    monkeypatch.setattr(session, "told", told, raising=False)
    arguments = ["query", image, "--private", "--refine", "2"]
    assert run([*arguments, "--output", "json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)["queries"][0]["refined"]
    first, second = found[0]["buckets"]
    assert [row["node"] for row in found] == ["alps", "danube"]
    assert (first["bucket"], first["distance"], first["handles"]) == (0, 4, ["ab" * 16, "cd" * 16])
    assert second["handles"] == []
    assert (found[0]["withheld"], found[0]["reason"]) == ("POLICY", None)
    assert (found[1]["withheld"], found[1]["reason"]) == (None, "CATALOGUE_CHANGED")
    assert [len(each.found()) for each in session.remembered] == [2, 0]
    assert run([*arguments, "--require-all"]) == ExitCode.PARTIAL
    printed = capsys.readouterr()
    assert "ab" * 16 in printed.out
    assert f"no items of alps/{second['bucket']} [POLICY]" in printed.err
    assert "danube listed no items [CATALOGUE_CHANGED]" in printed.err


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"handles": ((), ()), "withheld": "POLICY"}, "name more buckets by a larger --refine"),
        ({"reason": "CATALOGUE_CHANGED"}, "it published a new catalogue meanwhile; ask again"),
        ({"reason": "SCOPE_NODE"}, "you may not ask this archive"),
        ({"reason": "UNREACHABLE"}, "search again later"),
        ({"reason": "AUDIT_FORK"}, "tell its operator the reason"),
    ],
)
def test_where_refine_lists_nothing_there_is_no_empty_table_but_what_to_do(
    session, image, capsys, monkeypatch, told, says
):
    monkeypatch.setattr(session, "catalogue_reads", [published("alps", "catalogue", middles=40)])
    monkeypatch.setattr(session, "told", {"alps": told}, raising=False)
    assert run(["query", image, "--private", "--refine", "2"]) == ExitCode.DONE
    printed = capsys.readouterr()
    assert "handle" not in printed.out
    assert says in printed.err


def test_refine_says_where_no_archive_lists_items(session, image, capsys, monkeypatch):
    monkeypatch.setattr(session, "catalogue_reads", [published("elbe", "sealed", middles=40)])
    assert run(["query", image, "--private", "--refine", "2"]) == ExitCode.DONE
    printed = capsys.readouterr()
    assert "handle" not in printed.out
    assert "no archive lists items: only those at the level catalogue do" in printed.err


def test_without_refine_nothing_is_asked_and_without_private_there_is_nothing_to_refine(
    session, image, capsys, monkeypatch
):
    monkeypatch.setattr(session, "catalogue_reads", [published("alps", "catalogue", middles=40)])
    assert run(["query", image, "--private", "--output", "json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["queries"][0]["refined"] is None
    assert session.remembered == []
    assert run(["query", image, "--refine", "2"]) == ExitCode.USAGE


@pytest.mark.parametrize(
    "more", [["--sheet", "x.png"], ["--output", "csv"], ["--after", "2024-01-01"], ["--merge", "local"]]
)
def test_what_a_private_query_cannot_give_is_a_wrong_call(session, image, more):
    assert run(["query", image, "--private", *more]) == ExitCode.USAGE


def test_a_private_query_without_any_catalogue_says_so(session, image, monkeypatch):
    monkeypatch.setattr(session, "catalogue_reads", [Read("elbe", "guarded", None, "NO_CATALOGUE")])
    assert run(["query", image, "--private"]) == ExitCode.NO_NODE_REACHABLE


def test_the_table_goes_to_stdout_and_the_outcomes_to_stderr(session, image, capsys):
    assert run(["query", image]) == ExitCode.DONE
    printed = capsys.readouterr()
    assert "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a" in printed.out
    assert "UNREACHABLE" not in printed.out
    assert "UNREACHABLE" in printed.err


@pytest.mark.parametrize("columns", ["20", "60", "80", "200"])
def test_handles_can_be_copied_from_a_terminal_of_any_width(session, image, result, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["query", image]) == ExitCode.DONE
    assert {hit.handle for hit in result.hits} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("output", ["json", "geojson"])
def test_stdout_is_one_json_document_and_outcomes_are_on_stderr_too(session, image, capsys, output):
    assert run(["query", image, image, "--output", output]) == ExitCode.DONE
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert len(document["queries"]) == 2 if output == "json" else document["numberReturned"] == 6
    assert "UNREACHABLE" in printed.err


def test_a_stac_collection_says_how_many_hits_it_leaves_out(session, image, capsys):
    assert run(["query", image, "--output", "stac"]) == ExitCode.DONE
    printed = capsys.readouterr()
    assert json.loads(printed.out)["numberReturned"] == 2
    assert "1 hits say no time" in printed.err


def test_csv_has_one_line_for_each_hit(session, image, capsys):
    assert run(["query", image, "--output", "csv"]) == ExitCode.DONE
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], ("search", 20, None)),
        (["--k", "2"], ("search", 2, None)),
        (["--radius", "0"], ("radius", 0, 10_000)),
        (["--radius", "3", "--k", "2"], ("search", 2, 3)),
    ],
)
def test_k_and_radius_say_what_is_asked(session, image, capsys, options, asked):
    assert run(["query", image, *options, "--output", "csv"]) == ExitCode.DONE
    assert session.asked == [asked]
    if "--k" in options:
        assert len(capsys.readouterr().out.splitlines()) == 3


def test_without_every_archive_require_all_exits_with_3_after_printing(session, image, capsys):
    assert run(["query", image, "--require-all"]) == ExitCode.PARTIAL
    assert "0a0a" in capsys.readouterr().out


def test_with_every_archive_require_all_exits_with_0(session, image, result, monkeypatch):
    monkeypatch.setattr(session, "result", complete(result))
    assert run(["query", image, "--require-all"]) == ExitCode.DONE


def test_an_empty_result_of_archives_that_answered_is_a_success(session, image, result, monkeypatch, capsys):
    monkeypatch.setattr(session, "result", replace(complete(result), hits=(), buckets=()))
    assert run(["query", image]) == ExitCode.DONE


def test_when_no_node_answers_the_outcomes_are_printed_and_the_exit_code_is_5(
    session, image, result, monkeypatch, capsys
):
    down = replace(result, hits=(), buckets=(), outcomes=(Outcome("alps", "TIMED_OUT", 1.0),))
    monkeypatch.setattr(session, "result", down)
    assert run(["query", image, "--output", "json"]) == ExitCode.NO_NODE_REACHABLE
    printed = capsys.readouterr()
    assert json.loads(printed.out)["queries"][0]["outcomes"][0]["status"] == "TIMED_OUT"
    assert "no archive answered, because none was reached (alps: TIMED_OUT)" in printed.err


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        ({"alps": ("REFUSED", "SCOPE_NODE"), "elbe": ("REFUSED", "UNFILTERABLE_LABEL")}, ExitCode.NOT_ADMITTED),
        ({"alps": ("REFUSED", "SCOPE_NODE"), "elbe": ("UNREACHABLE", "UNREACHABLE")}, ExitCode.NOT_ADMITTED),
        ({"alps": ("BUSY", "BUSY"), "elbe": ("STALE_RELEASE", "STALE_RELEASE")}, ExitCode.FAILURE),
        ({"alps": ("EJECTED", "EJECTED"), "elbe": ("TIMED_OUT", "DEADLINE")}, ExitCode.NO_NODE_REACHABLE),
    ],
)
def test_a_search_that_no_archive_answered_says_why_and_is_no_success(
    session, image, result, monkeypatch, capsys, reasons, code
):
    outcomes = tuple(Outcome(node, status, 1.0, reason=reason) for node, (status, reason) in reasons.items())
    monkeypatch.setattr(session, "result", replace(result, hits=(), buckets=(), outcomes=outcomes))
    assert run(["query", image]) == code
    printed = capsys.readouterr()
    assert "no archive answered" in printed.out
    assert "nothing found" not in printed.out
    assert ", ".join(f"{node}: {reason}" for node, (_, reason) in reasons.items()) in printed.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unreachable("the coordinator cannot be reached"), ExitCode.NO_NODE_REACHABLE),
        (NotAdmitted("revoked", reason="REVOKED"), ExitCode.NOT_ADMITTED),
    ],
)
def test_a_session_that_cannot_be_opened_says_why_by_its_exit_code(session, image, monkeypatch, error, code):
    monkeypatch.setattr(session, "error", error)
    assert run(["query", image]) == code


def test_a_federation_without_nodes_is_not_said_to_be_a_coordinator_that_is_away(session, image, monkeypatch, capsys):
    monkeypatch.setattr(session, "error", NoNodeReachable("the coordinator: the federation has no node yet"))
    assert run(["query", image]) == ExitCode.NO_NODE_REACHABLE
    said = capsys.readouterr().err
    assert "the federation has no node yet" in said
    assert "cannot be reached" not in said


def test_an_image_that_is_not_there_is_a_usage_error(session, tmp_path):
    assert run(["query", str(tmp_path / "none.tif")]) == ExitCode.USAGE


def test_an_image_that_will_not_do_is_skipped_and_the_others_are_printed(session, image, tmp_path, monkeypatch, capsys):
    bad, other = tmp_path / "bad.png", tmp_path / "other.png"
    bad.touch()
    other.write_bytes((tmp_path / "query.png").read_bytes())
    monkeypatch.setattr(session, "bad", {str(bad)})
    arguments = ["query", image, str(bad), str(other), "--output", "json", "--require-all"]
    assert run(arguments) == ExitCode.FAILURE
    printed = capsys.readouterr()
    assert [query["query"] for query in json.loads(printed.out)["queries"]] == [image, str(other)]
    assert printed.err.splitlines()[0] == f"skipped {bad}: it is empty; copy it again"


def test_when_every_image_is_skipped_nothing_is_asked(session, image, monkeypatch, capsys):
    monkeypatch.setattr(session, "bad", {image})
    assert run(["query", image, image]) == ExitCode.FAILURE
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count(f"skipped {image}: it is empty") == 2
    assert "nothing was sent" in printed.err
    assert not session.asked


def test_a_home_that_was_never_made_is_a_configuration_error(image, tmp_path, capsys):
    assert run(["query", image, "--home", str(tmp_path)]) == ExitCode.CONFIGURATION
    assert "rsfed analyst init" in capsys.readouterr().err


def test_tiles_of_one_image_are_told_apart(session, image, monkeypatch, capsys):
    monkeypatch.setattr(session, "tiles", 2)
    run(["query", image, "--output", "json"])
    names = [query["query"] for query in json.loads(capsys.readouterr().out)["queries"]]
    assert names == [f"{image} [tile 1]", f"{image} [tile 2]"]


def test_the_contact_sheet_is_a_png_file(session, image, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert run(["query", image, "--sheet", str(path)]) == ExitCode.DONE
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
    assert str(path) in capsys.readouterr().err


def test_a_sheet_for_a_folder_that_is_not_there_is_refused_before_anything_is_asked(session, image, tmp_path):
    assert run(["query", image, "--sheet", str(tmp_path / "none" / "sheet.png")]) == ExitCode.USAGE
    assert not session.asked


def test_filters_are_asked_for_and_printed(session, image, capsys):
    options = ["--after", "2024-05-01", "--bbox", "-10,35,5,45", "--label", "forest", "--label", "water"]
    assert run(["query", image, *options, "--modality", "rgb", "--output", "json"]) == ExitCode.DONE
    assert session.filters.fields == ("time", "bbox", "modality", "label")
    assert json.loads(capsys.readouterr().out)["filter"] == {
        "after": "2024-05-01T00:00:00Z",
        "before": None,
        "bbox": [-10.0, 35.0, 5.0, 45.0],
        "modality": "rgb",
        "labels": ["forest", "water"],
    }


def test_what_a_filter_leaves_open_is_said_with_the_way_out(session, image, result, monkeypatch, capsys):
    outcomes = (
        Outcome("alps", "REFUSED", 1.0, reason="UNFILTERABLE_LABEL"),
        Outcome("danube", "COMPLETE", 1.0, 1.0, 9, filtered=("time", "label"), unknown=7),
    )
    monkeypatch.setattr(session, "result", replace(result, outcomes=outcomes))
    run(["query", image, "--label", "forest"])
    said = capsys.readouterr().err
    assert "alps: it lets no query be filtered so; search again without --label\n" in said
    assert "danube: 7 items do not say enough to pass the filter (time, label)" in said


def met():
    """Every reason that a node's outcome may have, with the status that it comes with."""
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text().splitlines()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:3]] for line in page if line.startswith("| `")]
    classes = {cls.__name__: cls for cls in error_classes() if cls.__module__ == error_classes.__module__}
    for reason, cls in rows:
        if cls in classes:
            yield NodeStatus.Name(_failure("alps", classes[cls]("", reason=reason)).status), reason
    yield from (("EJECTED", "EJECTED"), ("PARTIAL", ""), ("PARTIAL", "BUCKET_CHANGED"), ("PARTIAL", "DEADLINE"))


@pytest.mark.parametrize(("status", "reason"), sorted(set(met())))
def test_every_reason_of_a_node_comes_with_a_way_out(session, image, result, monkeypatch, capsys, status, reason):
    status = status.removeprefix("NODE_STATUS_")
    outcomes = (Outcome("elbe", "COMPLETE", 1.0, 1.0, 9), Outcome("alps", status, 1.0, reason=reason))
    monkeypatch.setattr(session, "result", replace(result, outcomes=outcomes))
    run(["query", image])
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alps: ")]
    assert re.search(r"search again|tell its operator|ask the coordinator's operator|ask for|wait", note)


def test_all_filters_that_a_node_does_not_let_are_said_at_once(session, image, result, monkeypatch, capsys):
    outcome = Outcome("alps", "REFUSED", 1.0, reason="UNFILTERABLE_TIME", unfilterable=("time", "label"))
    monkeypatch.setattr(session, "result", replace(result, outcomes=(outcome,)))
    run(["query", image, "--label", "forest"])
    assert "search again without --after, --before, --label\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "reason", "says"),
    [
        ("REFUSED", "SCOPE_NODE", "you may not ask this archive; ask the coordinator's operator, who may allow it"),
        ("REFUSED", "SCOPE_ENDED", "the time in which you may ask is over; ask the coordinator's operator for more"),
        (
            "STALE_RELEASE",
            "STALE_RELEASE",
            "until it has hashed its images for the newest; search again in some minutes",
        ),
        ("BUSY", "STARTING", "it is starting: it loads its index, or hashes its images for the first time"),
        ("UNREACHABLE", "UNREACHABLE", "the coordinator cannot reach it; search again later"),
        ("PARTIAL", "DEADLINE", "not all that it found could be listed"),
        ("PARTIAL", "", "it is hashing images just now"),
    ],
)
def test_the_way_out_is_that_of_the_reason(session, image, result, monkeypatch, capsys, status, reason, says):
    monkeypatch.setattr(session, "result", replace(result, outcomes=(Outcome("alps", status, 1.0, reason=reason),)))
    run(["query", image])
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("level", "says"),
    [
        ("catalogue", "it answers only private queries: `rsfed query --private` searches"),
        ("sealed", "it answers only private queries: `rsfed query --private` searches"),
        ("counts", "it answers no query: it publishes noisy counts of its classes"),
        ("guarded", "it may have published nothing yet"),
        ("", "it may have published nothing yet"),
    ],
)
def test_who_is_refused_for_a_policy_level_is_told_what_that_level_has_for_them(
    session, image, result, monkeypatch, capsys, level, says
):
    outcome = Outcome("alps", "REFUSED", 1.0, reason="POLICY", level=level)
    monkeypatch.setattr(session, "result", replace(result, outcomes=(outcome,)))
    run(["query", image])
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alps: ")]
    assert says in note
    assert "without --" not in note, "no filter was given"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--label", "sea"], "search again without --label;"),
        (["--label", "sea", "--after", "2024-01-01"], "search again without --label;"),
        (["--after", "2024-01-01", "--bbox", "1,2,3,4"], "search again without --after, --before, --bbox;"),
    ],
)
def test_the_advice_for_a_query_that_a_level_refuses_is_of_the_filters_that_were_given(
    session, image, result, monkeypatch, capsys, given, named
):
    outcome = Outcome("alps", "REFUSED", 1.0, reason="POLICY", level="guarded")
    monkeypatch.setattr(session, "result", replace(result, outcomes=(outcome,)))
    run(["query", image, *given])
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alps: ")]
    assert named in note


def test_what_was_refused_is_named_as_audit_logs_name_it(session, image, result, monkeypatch, capsys):
    monkeypatch.setattr(session, "result", replace(result, outcomes=(Outcome("alps", "REFUSED", 1.0),)))
    run(["query", image])
    names = f"query {'5e' * 8} (nodes) or 0001020304050607 (coordinator)"
    assert f"what was refused is in audit logs as {names}\n" in capsys.readouterr().err
    monkeypatch.setattr(session, "result", complete(result))
    run(["query", image])
    assert "audit" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--k", "0"], ["--radius", "-1"], ["--radius", "257"], ["--after", "then"], ["--bbox", "1,2,3"]],
)
def test_a_wrong_call_asks_nobody(session, image, options):
    assert run(["query", image, *options]) == ExitCode.USAGE
    assert not session.asked
