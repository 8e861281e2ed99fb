"""`rsfed evaluate` from a folder to its figures and page, on small synthetic images."""

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from rsfed.cli import run
from rsfed.lab.evaluate import data, methods, timing
from rsfed.lab.evaluate.methods import HASHES
from rsfed.lab.evaluate.pictures import line_style
from rsfed.lab.synth import generate

METHODS = "lsh,kulsh,kslsh,float,milan_batchall"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "images"
    generate(folder, patches=160, size=16, classes=8, seed=3)
    return folder


@pytest.fixture(scope="module")
def told(archive, tmp_path_factory):
    """One evaluation with everything: its object and its page."""
    out = tmp_path_factory.mktemp("report")
    done = subprocess.run(
        [sys.executable, "-m", "rsfed", "evaluate", archive, "--methods", METHODS, "--bits", "32,16", "--seeds", "2",
         "--k", "10", "--epochs", "1", "--left-out", "2", "--report", out, "--output", "json"],
        capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), (out / "evaluation.html").read_text()


def test_every_method_at_every_width_is_one_row_under_the_same_protocol(told):
    rows = [(each["method"], each["bits"]) for each in told[0]["methods"]]
    hashes = [name for name in METHODS.split(",") if name != "float"]
    assert sorted(rows, key=str) == sorted([("float", None), *((m, b) for m in hashes for b in (16, 32))], key=str)
    protocol = told[0]["protocol"]
    assert (protocol["split"], protocol["k"], protocol["seeds"], protocol["images"]) == ("by-place", 10, [0, 1], 160)
    assert protocol["train"] + protocol["gallery"] + protocol["queries"] == 160


def test_figures_are_shares_with_a_deviation_over_the_seeds(told):
    for row in [*told[0]["methods"], {"figures": told[0]["chance"]}]:
        for name in ("map_found", "map_possible", "map_k", "precision", "recall"):
            figure = row["figures"][name]
            assert 0 <= figure["mean"] <= 1
            assert figure["deviation"] >= 0
    chance = told[0]["chance"]["precision"]["mean"]
    assert chance == pytest.approx(1 / 8, abs=0.05)


def test_codes_have_bit_statistics_and_float_features_have_none(told):
    for row in told[0]["methods"]:
        names = {"distinct", "distinct_share", "top_buckets", "bit_entropy", "bit_correlation", "overlap", "left_out"}
        assert names <= row["figures"].keys() if row["bits"] else not names & row["figures"].keys()


def test_the_leak_is_none_where_places_are_kept_apart(told):
    assert told[0]["leak"]["place"] == {"share": 0, "known": told[0]["protocol"]["queries"]}


def test_each_draw_of_left_out_classes_is_named(told):
    assert [len(names) for names in told[0]["left_out"]] == [2, 2]


def test_classes_that_are_left_out_are_not_learnt_from(archive, monkeypatch, capsys):
    tasks = []
    real = HASHES["lsh"]
    monkeypatch.setitem(HASHES, "lsh", lambda task: tasks.append(task) or real(task))
    assert evaluate(archive, "--methods", "lsh", "--bits", "16", "--left-out", "3", "--output", "json") == 0
    result = json.loads(capsys.readouterr().out)
    whole, partial = tasks
    learnt = [name in result["left_out"][0] for name in whole.images.classes]
    assert whole.images.labels[whole.train][:, learnt].any()
    assert not whole.images.labels[partial.train][:, learnt].any()
    assert set(partial.train) == {each for each in whole.train if not whole.images.labels[each, learnt].any()}


@pytest.mark.parametrize("method", ["lsh", "kulsh"])
def test_leaving_out_a_label_of_every_image_is_refused_before_any_work(tmp_path, capsys, method):
    photographs(tmp_path / "images", {"field": 10, "lake": 10})
    rows = [f"{name}/{n}.png,{name};earth;visible;lit" for name in ("field", "lake") for n in range(10)]
    (tmp_path / "images" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    options = ("--labels", "labels.csv", "--methods", method, "--bits", "16", "--left-out", "2", "--seeds", "2")
    assert evaluate(tmp_path / "images", *options) == 2
    told = capsys.readouterr().err
    assert "--left-out 2 leaves images of fewer than two classes to train on with seed 0" in told
    assert method not in told


def test_the_page_is_whole_and_loads_nothing(told):
    text = told[1]
    HTMLParser().feed(text)
    spoken = re.sub(r"base64,[\w+/=]+", "base64,", text)  # pictures hold any four letters by chance
    assert "http" not in spoken.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert text.count("data:image/png;base64,") == 3
    assert text.count('class="card map"') == 2
    for words in ("by-place", "Precision over recall", "entropy of a bit", "kslsh 32", "image of their place"):
        assert words in text


def test_tables_of_the_page_are_narrow_enough_to_be_seen_whole(told):
    heads = re.findall(r"<thead>.*?</thead>", told[1])
    assert max(head.count("<th ") for head in heads) <= 8
    for method in METHODS.split(","):
        assert f'<th scope="row" class="name">{method}</th>' in told[1]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_lines_of_all_methods_are_told_apart(theme):
    sheet = resources.files("rsfed.lab").joinpath("report.css").read_text()
    found = re.findall(r"--(node-\d): #(\w{6})", sheet)
    colours = {name: np.array(list(bytes.fromhex(colour)), float) for name, colour in found[8 * theme : 8 * theme + 8]}
    styles = [line_style(number).partition(" ") for number in range(len(methods.METHODS))]
    for (one, _, dashes), (other, _, others) in itertools.combinations(styles, 2):
        assert dashes != others or np.linalg.norm(colours[one] - colours[other]) > 52


def test_a_class_with_the_name_of_a_figure_is_shown_as_any_class(tmp_path):
    photographs(tmp_path / "images", {"distinct": 6, "lake": 6})
    assert evaluate(tmp_path / "images", "--methods", "lsh", "--bits", "16", "--report", tmp_path / "out") == 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert re.search(r'<th scope="row">distinct</th><td class="number">\d\.\d{3}</td>', page)


def test_class_names_do_not_become_markup(tmp_path, capsys):
    photographs(tmp_path / "images", {"<b>x": 6, "lake": 6})
    assert evaluate(tmp_path / "images", "--methods", "lsh", "--bits", "16", "--report", tmp_path / "out") == 0
    assert "<b>x" not in (tmp_path / "out" / "evaluation.html").read_text()


def test_photographs_are_split_at_random_and_the_page_says_what_is_not_known(tmp_path, capsys):
    photographs(tmp_path / "images", {"field": 10, "lake": 10})
    assert evaluate(tmp_path / "images", "--methods", "lsh,float", "--bits", "16", "--output", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"]["split"] == "random"
    assert (result["protocol"]["train"], result["protocol"]["gallery"], result["protocol"]["queries"]) == (12, 8, 8)
    assert result["leak"] == {what: {"share": None, "known": 0} for what in ("place", "acquisition")}


def test_a_query_never_finds_itself(tmp_path, capsys):
    """Images of pure noise are like no other one; only a query that finds itself would beat chance."""
    photographs(tmp_path / "images", {"field": 5, "lake": 5})
    assert evaluate(tmp_path / "images", "--methods", "float", "--k", "1", "--output", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["chance"]["precision"]["mean"] == pytest.approx(1 / 3)
    assert result["methods"][0]["figures"]["precision"]["mean"] < 1


def test_several_labels_bring_the_figures_of_multi_label_archives(tmp_path, capsys):
    photographs(tmp_path / "images", {"field": 10, "lake": 10})
    rows = [f"field/{n}.png,green{';dry' * (n % 2)}" for n in range(10)] + [f"lake/{n}.png,wet;dry" for n in range(10)]
    (tmp_path / "images" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    options = ("--labels", "labels.csv", "--methods", "lsh", "--bits", "16", "--output", "json")
    assert evaluate(tmp_path / "images", *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"]["multi_label"]
    assert {"ndcg", "acg", "weighted_map"} <= result["methods"][0]["figures"].keys()
    assert evaluate(tmp_path / "images", *options[:-2]) == 0
    told = unwrapped(capsys.readouterr().out)
    assert "60 % of all images, drawn by the seed" in told
    assert "of each class" not in told


@pytest.mark.parametrize(
    ("chosen", "epochs", "on_trunk", "told"),
    [
        (("milan",), 20, False, "milan 20 epochs with 90 patches a step, the learning rate falling from 0.0001"),
        (("centres",), 1, False, "1 epoch with Adam, 64 patches a step, the learning rate falling from 0.001"),
        (("milan",), 20, True, "milan with the losses, sampling and 10,000 steps of 90 patches at 0.0001"),
        (("lsh",), 20, False, "no method trains a network"),
    ],
)
def test_training_is_told_as_the_chosen_methods_have_it(chosen, epochs, on_trunk, told):
    assert methods.training_in_words(chosen, epochs, on_trunk=on_trunk).startswith(told)


@pytest.mark.parametrize("columns", ["80", "100"])
def test_no_figure_is_cut_off_on_a_terminal_and_no_line_is_too_long(archive, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    options = ("--methods", "lsh,float", "--bits", "16", "--seeds", "2", "--left-out", "1")
    assert evaluate(archive, *options) == 0
    told = capsys.readouterr().out
    assert "…" not in told
    assert max(map(len, told.splitlines())) <= int(columns)
    for heading in ("full mAP@20", "mAP@20/k", "P@20 left out", "float overlap", "correlation"):
        assert heading in told
    rows = [line for line in told.splitlines() if line.startswith("lsh ")]
    assert sum(line.count(" ± ") for line in rows) == 9  # its classes are too small for an overlap
    assert len(rows) == (3 if columns == "100" else 4)


def test_timing_tells_what_a_query_costs_by_each_method_hashing_included(archive, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "SIZES", (100, 2000))
    options = ("--methods", "float,kulsh,kslsh,centres", "--bits", "16,32", "--epochs", "1", "--timing")
    assert evaluate(archive, *options, "--report", tmp_path / "out", "--output", "json") == 0
    rows = json.loads(capsys.readouterr().out)["timing"]
    coded = [(method, bits) for method in ("kulsh", "kslsh", "centres") for bits in (16, 32)]
    assert [(row["method"], row["bits"], row["images"]) for row in rows] == [
        (*way, size) for size in (100, 2000) for way in [("float", None), *coded]
    ]
    for row in rows:
        assert row["ms"] == row["hash_ms"] + row["search_ms"]
        assert (row["hash_ms"] > 0) == (row["bits"] is not None)
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert all(words in page for words in ("What a query costs", "hashing it", "of 2,000 images"))
    assert evaluate(archive, *options[:2], "--bits", "16", "--epochs", "1", "--timing") == 0
    told = capsys.readouterr().out
    assert all(words in told for words in ("ms of one query", "of 100 images", "centres 16"))


def test_the_same_command_gives_the_same_figures(archive, capsys):
    results = []
    for _ in range(2):
        assert evaluate(archive, "--methods", "kslsh,centres", "--bits", "16", "--epochs", "1", "--output", "json") == 0
        results.append(json.loads(capsys.readouterr().out))
        for row in results[-1]["methods"]:
            del row["learn_seconds"], row["hash_ms"]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "lsh,magic"), "unknown method 'magic'; choose from lsh, kulsh"),
        (("--methods", ","), "names no method"),
        (("--bits", "12"), "a multiple of 8; got 12"),
        (("--bits", "many"), "whole numbers separated by commas"),
        (("--split", "official"), "needs --splits"),
        (("--left-out", "7"), "leaves fewer than two of 8 classes"),
    ],
)
def test_wrong_calls_say_what_to_do_and_leave_nothing_behind(archive, tmp_path, capsys, options, message):
    assert evaluate(archive, *options, "--report", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--report", "--cache"])
@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_folder_that_cannot_be_written_is_refused_before_images_are_read(archive, capsys, option, below):
    """/proc takes no files, not even root's."""
    assert evaluate(archive, "--methods", "lsh", "--bits", "16", option, f"/proc/{below}") == 2
    told = capsys.readouterr().err
    assert "nothing can be written into this folder" in told
    assert f"/proc/{below}".rstrip("/") in told
    assert "[USAGE]" in told
    assert "read the images" not in told


def test_figures_are_told_even_where_the_report_cannot_be_written(archive, tmp_path, capsys):
    (tmp_path / "out" / "evaluation.html").mkdir(parents=True)
    options = ("--methods", "lsh", "--bits", "16", "--report", tmp_path / "out")
    assert evaluate(archive, *options, "--output", "json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["methods"][0]["figures"]["map_found"]["mean"] > 0
    assert json.loads(told.out)["report"] is None
    assert "evaluation.html" in told.err


def test_a_folder_for_the_report_is_made_where_it_can_be(archive, tmp_path):
    out = tmp_path / "deeper" / "still"
    assert evaluate(archive, "--methods", "lsh", "--bits", "16", "--report", out) == 0
    assert [each.name for each in out.iterdir()] == ["evaluation.html"]


def test_one_class_and_a_class_with_one_image_are_wrong_calls(tmp_path, capsys):
    photographs(tmp_path / "one", {"lake": 4})
    assert evaluate(tmp_path / "one") == 2
    assert "there is one class" in capsys.readouterr().err
    photographs(tmp_path / "two", {"lake": 4, "field": 1})
    assert evaluate(tmp_path / "two") == 2
    assert "class field has one image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"lake": 4, "field": 1}, (), "class field has one image"),
        ({"lake": 4, "field": 4, "wood": 4}, ("--left-out", "2"), "leaves fewer than two of 3 classes"),
    ],
)
def test_what_the_listing_tells_is_refused_before_images_are_read(
    tmp_path, capsys, monkeypatch, counts, options, message
):
    photographs(tmp_path / "images", counts)
    monkeypatch.setattr(data, "read_image", lambda *_given: pytest.fail("an image was read"))
    assert evaluate(tmp_path / "images", *options) == 2
    assert message in capsys.readouterr().err


def test_damaged_and_unlabelled_images_are_told_on_standard_error(tmp_path, capsys):
    photographs(tmp_path / "images", {"field": 6, "lake": 6})
    (tmp_path / "images" / "lake" / "2.png").write_bytes(b"no pixels")
    rows = [f"{name}/{number}.png,{name}" for name in ("field", "lake") for number in range(5)]
    (tmp_path / "images" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    assert evaluate(tmp_path / "images", "--labels", "labels.csv", "--methods", "lsh", "--bits", "16") == 0
    told = capsys.readouterr().err
    assert "lake/2.png is damaged and left out" in told
    assert "2 images have no label and are left out" in told


def test_a_cut_off_beyond_what_can_be_found_is_told(tmp_path, capsys):
    photographs(tmp_path / "images", {"field": 10, "lake": 10})
    assert evaluate(tmp_path / "images", "--methods", "lsh", "--bits", "16", "--k", "12") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "k is 12, but a query has at most 3 relevant images in its gallery" in told
    assert "at most 0.250" in told
    assert evaluate(tmp_path / "images", "--methods", "lsh", "--bits", "16", "--k", "3") == 0
    assert "a query has at most" not in capsys.readouterr().err


def test_more_classes_than_centres_are_refused_before_any_work(tmp_path, capsys):
    photographs(tmp_path / "images", {f"class {number}": 2 for number in range(200)})
    options = ("--methods", "lsh,centres", "--bits", "16", "--report", tmp_path / "out")
    assert evaluate(tmp_path / "images", *options) == 1
    told = capsys.readouterr().err
    assert "centres cannot tell 200 classes apart by 16 bits; give --bits larger widths" in told
    assert "leave centres out of --methods" in told
    assert "TOO_MANY_CLASSES" in told
    assert "lsh" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["milan", "milan_batchall", "centres", "pairwise", "contrastive"])
def test_a_training_that_diverges_stops_the_evaluation(tmp_path, capsys, monkeypatch, method):
    photographs(tmp_path / "images", {"field": 6, "lake": 6})
    real = methods.train_steps
    monkeypatch.setattr(methods, "train_steps", lambda *given, **more: real(*given, **more | {"learning_rate": 1e30}))
    options = ("--methods", method, "--bits", "16", "--epochs", "8", "--report", tmp_path / "out")
    assert evaluate(tmp_path / "images", *options) == 1
    assert "DIVERGED" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_without_a_label_are_left_out_and_that_is_told(tmp_path, capsys):
    photographs(tmp_path / "images", {"field": 8, "lake": 8})
    rows = [f"{name}/{number}.png,{name}" for name in ("field", "lake") for number in range(5)]
    (tmp_path / "images" / "labels.csv").write_text("\n".join(["path,label", *rows, "lake/5.png,"]))
    options = ("--labels", "labels.csv", "--methods", "lsh", "--bits", "16")
    assert evaluate(tmp_path / "images", *options, "--output", "json") == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert (protocol["images"], protocol["unlabelled"]) == (10, 6)
    assert evaluate(tmp_path / "images", *options) == 0
    assert "6 without a label or not in the split file left out" in unwrapped(capsys.readouterr().out)


def test_a_class_that_only_queries_have_is_never_found_and_that_is_told(tmp_path, capsys):
    photographs(tmp_path / "images", {"field": 6, "lake": 6, "marsh": 1})
    rows = [f"{name}/{number}.png,,train" for name in ("field", "lake") for number in range(4)]
    rows += ["field/5.png,,query", "lake/5.png,,query", "marsh/0.png,,query"]
    (tmp_path / "splits.csv").write_text("\n".join(["path,label,split", *rows]))
    options = ("--splits", tmp_path / "splits.csv", "--methods", "lsh,kslsh,centres", "--bits", "16", "--epochs", "1")
    assert evaluate(tmp_path / "images", *options, "--output", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"]["queries_without_relevant"] == 1
    assert {row["per_class"]["marsh"]["mean"] for row in result["methods"]} == {0}
    assert evaluate(tmp_path / "images", *options) == 0
    told = unwrapped(capsys.readouterr().out)
    assert "1 queries have no relevant image in their gallery and count as 0" in told


def evaluate(folder, *options):
    return run(["evaluate", str(folder), *map(str, options)])


def unwrapped(text):
    """Return text without the ends of lines that the width of the terminal makes."""
    return " ".join(text.split())


def photographs(folder, counts):
    """Write images of pure noise into class folders."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / name / f"{number}.png")
