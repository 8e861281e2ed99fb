"""`make bench-hashing` from archives to its line of JSON, on few and small images."""

import json
import re

import numpy as np
import pytest
from bench_data import EUROSAT, LABELS, PER_CLASS, UCM, write_data

from rsfed.errors import UsageError
from rsfed.lab import bench_hashing, bench_holes, bench_images
from rsfed.lab.evaluate import methods
from rsfed.lab.evaluate.run import evaluate

METHODS = ("milan", "milan_batchall", "centres", "pairwise", "contrastive", "kslsh", "kulsh", "lsh")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run on two seeds: its object, its tables and every evaluation that it asked for."""
    folder = tmp_path_factory.mktemp("bench")
    write_data(folder / "data")
    calls, written = [], []

    def recording(images, settings, say, **options):
        calls.append((settings, found := evaluate(images, settings, say, **options)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSFED_TEST_DATA", str(folder / "data"))
        patch.setattr(bench_images, "CACHE", folder / "cache")
        for name, value in {"SEEDS": 2, "K": 3, "LEFT_OUT": 1, "UCM_EPOCHS": 2, "EUROSAT_EPOCHS": 1}.items():
            patch.setattr(bench_hashing, name, value)
        patch.setattr(methods, "MILAN_STEPS", 20)
        patch.setattr(bench_hashing, "evaluate", recording)
        patch.setattr("sys.stdout.write", written.append)
        bench_hashing.main()
    *tables, line = "".join(written).splitlines()
    return json.loads(line), "\n".join(tables), calls


def test_the_last_line_has_every_promised_figure(ran):
    told = ran[0]
    assert {"best", "float", *METHODS} == told["ucm"].keys() == told["eurosat"].keys() | {"milan"}
    for method in METHODS:
        assert {"16", "24", "32"} <= told["ucm"][method].keys()
        assert method == "milan" or told["eurosat"][method].keys() == {"32"}
        for figure in ("distinct_codes", "left_out_precision"):
            assert told[figure][method] >= 0
    assert told["within_class_overlap"] == dict.fromkeys(METHODS)  # the classes have too few images for it
    assert told["ucm"]["best"] == {bits: told["ucm"]["centres"][bits] for bits in ("16", "24", "32")}
    assert told["seeds"] == 2


def test_the_widest_codes_are_those_of_the_best_and_its_rivals(ran):
    told = ran[0]
    assert {name for name in METHODS if "64" in told["ucm"][name]} == {"lsh", "centres"}
    assert told["ucm_map_k"].keys() == told["ucm_deviation"].keys() == {"float", *METHODS}
    assert all(told["ucm_map_k"][name]["32"] <= told["ucm"][name]["32"] for name in METHODS)


def test_training_without_some_classes_is_for_the_widest_codes_only(ran):
    assert [(settings.bits, settings.left_out) for settings, _ in ran[2]][:3] == [((16, 24), 0), ((32,), 1), ((64,), 0)]


def test_differences_are_those_of_the_same_split(ran):
    told, _, calls = ran
    paired = told["ucm_paired"]["32"]
    runs = {row.method: [each["map_found"] for each in row.runs] for row in calls[1][1].rows}
    assert paired["above"].keys() == {"float", *METHODS} - {paired["best"]}
    differences = np.subtract(runs[paired["best"]], runs["kslsh"])
    assert paired["above"]["kslsh"]["mean"] == pytest.approx(differences.mean(), abs=1e-4)
    assert paired["above"]["kslsh"]["deviation"] == pytest.approx(differences.std(ddof=1), abs=1e-4)


def test_several_labels_are_measured_on_the_splits_of_the_single_classes(ran):
    told, _, calls = ran
    several, single = calls[3][1], calls[1][1]
    assert several.protocol.classes == tuple(LABELS)
    assert several.division.train.tolist() == single.division.train.tolist()
    assert several.division.queries.tolist() == single.division.queries.tolist()
    figures = told["ucm_multilabel"]
    assert figures["labels"] == len(LABELS)
    for name in ("ndcg", "weighted_map", "acg"):
        assert figures[name].keys() == figures["deviation"][name].keys() == {"lsh", "float", "centres"}
        assert figures[name]["centres"].keys() == {"32", "64"}


def test_labels_reach_the_image_that_the_table_names(ran):
    found = ran[2][3][1]
    grass = found.relevant_labels[:, found.protocol.classes.index("grass")].reshape(len(UCM), PER_CLASS)
    assert (grass == (np.arange(PER_CLASS) % 4 == 0)).all()
    assert found.relevant_labels[:, found.protocol.classes.index("ship")].sum() == PER_CLASS


def test_no_figure_is_cut_off_in_the_tables(ran):
    tables = ran[1]
    assert "…" not in tables
    for heading in ("mAP@3/k", "NDCG@3", "wMAP@3", "ACG@3", "P@3 left out"):
        assert heading in tables
    assert max(map(len, tables.splitlines())) <= 100
    assert re.search(r"centres +64 ", tables)
    assert tables.count(" ± ") > 50
    assert "eurosat_rgb" in tables
    assert EUROSAT[0] in tables


def test_a_label_table_takes_names_with_and_without_an_ending():
    table = ["IMAGE\tsea\tsand", "a1.tif\t1\t0", "b2\t1\t1", ""]
    assert bench_images.label_rows(table, ["a/a1.jpg", "b/b2.jpg"]) == [("a/a1.jpg", "sea"), ("b/b2.jpg", "sea;sand")]


def test_a_label_table_of_other_images_is_refused():
    with pytest.raises(UsageError, match="names an image that is not there"):
        bench_images.label_rows(["IMAGE\tsea", "a1\t1"], ["a/a2.jpg"])


def test_without_the_data_the_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RSFED_TEST_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="RSFED_TEST_DATA"):
        bench_images.data_folder()


def test_codes_are_compared_with_those_of_copies_with_holes_of_every_shape(ran):
    found = ran[0]["holes"]
    assert found["images"] == 2 * len(EUROSAT)
    for shape in bench_holes.SHAPES:
        assert found[shape].keys() == {"5", "10"}
        for figures in found[shape].values():
            assert 0 <= figures["mean"] <= found["bits"]
            assert 0 <= figures["unchanged"] <= 1
    assert "scattered, 10 %" in ran[1]


@pytest.mark.parametrize("shape", bench_holes.SHAPES)
def test_holes_have_at_most_the_share_that_they_are_named_by(shape):
    for seed in range(4):
        found = bench_holes.SHAPES[shape](64, 409, np.random.default_rng(seed))
        assert found.shape == (64, 64)
        assert 400 <= found.sum() <= 409
    rows, cols = np.nonzero(found)
    across, down = np.ptp(cols) + 1, np.ptp(rows) + 1
    assert {"edge": min(across, down) == 7, "block": across == down == 20, "scattered": min(across, down) > 50}[shape]
