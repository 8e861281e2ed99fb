"""Archives of products as agencies ship them: what goes in, what the operator has to say, and what that changes."""

from __future__ import annotations

import os

import pytest
from node_archives import configure, make_node, run
from safe_makers import GRD, amplitudes, offset_list, product_xml, scene, write_s1, write_s2

from node.catalogue import Catalogue
from node.recipe import reading_of
from node.recognition import Grid, recognise
from rsfed.config import NodeConfig, load_config
from rsfed.errors import ConfigError
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read

KIND = "sentinel-2-l2a"


def present(home, kind=KIND):
    with Catalogue(home) as catalogue:
        return {item.path.name: item for item in catalogue.items(kind)}


def taken_up(home, kind=KIND):
    """Those too in whose place another one of their overpass is searched."""
    with Catalogue(home) as catalogue:
        return present(home, kind) | {item.path.name: item for item in catalogue.items(kind, "recorded")}


def test_products_go_in_and_one_that_says_nothing_waits_for_the_operators_word(tmp_path):
    home, archive = make_node(tmp_path, kind=KIND)
    values = scene()
    raised = {name: band + 1000 for name, band in values.items()}
    write_s2(archive / "old.SAFE", values)
    write_s2(archive / "new.SAFE", raised, xml=product_xml(offsets=offset_list("L2A", -1000)))
    write_s2(archive / "unsaid.SAFE", raised, xml=product_xml(baseline="99.99"))
    report, skipped = run(home)
    first = taken_up(home)
    assert set(first) == {"old.SAFE", "new.SAFE"}
    assert set(present(home)) == {"new.SAFE"}, "both are of one datatake and place"
    assert "archive.radiometry" in skipped["unsaid.SAFE"]
    assert {item.acquisition for item in first.values()} == {"S2A:20240531T103021"}

    configure(home, "[archive]", "[archive]\nradiometry = -1000")
    report, skipped = run(home)
    after = taken_up(home)
    assert (report.read, skipped) == (3, {})
    assert {name: after[name].id for name in first} == {name: item.id for name, item in first.items()}, "their XML says"
    spec = default_spec(modality(KIND), 64)
    old, new, unsaid = (read(after[f"{name}.SAFE"], spec)["all"] for name in ("old", "new", "unsaid"))
    assert (old == new).all()
    assert (old == unsaid).all()
    assert run(home)[0].read == 0
    configure(home, "radiometry = -1000", "radiometry = 0")
    run(home)
    last = taken_up(home)
    assert {name for name in last if last[name].id != after[name].id} == {"unsaid.SAFE"}, "its codes are made anew"


def test_an_archive_of_radar_scenes_is_of_one_pass(tmp_path):
    home, archive = make_node(tmp_path, kind="sentinel-1-grd-db")
    write_s1(archive / "b.SAFE", amplitudes())
    run(home)
    write_s1(archive / "a.SAFE", amplitudes(1), direction=dict.fromkeys(("VV", "VH"), "Ascending"))
    write_s1(archive / "c.SAFE", amplitudes(2))
    _, skipped = run(home)
    assert list(skipped) == ["a.SAFE"]
    assert (
        "ascending pass and the archive holds the descending one; search it by a node of its own" in skipped["a.SAFE"]
    )
    assert set(taken_up(home, "sentinel-1-grd-db")) == {"b.SAFE", "c.SAFE"}


def test_radar_scenes_become_tiles_with_their_overpass(tmp_path):
    home, archive = make_node(tmp_path, kind="sentinel-1-grd-db")
    write_s1(archive / GRD, amplitudes())
    write_s1(archive / "half.SAFE", {"VV": amplitudes()["VV"]})
    _, skipped = run(home)
    assert set(skipped) == {"half.SAFE"}
    (item,) = present(home, "sentinel-1-grd-db").values()
    assert item.acquisition == "S1A:054117:069480"
    assert item.footprint is not None


def test_of_a_product_that_is_there_twice_one_is_searched_and_one_that_was_renamed_is_a_new_patch(tmp_path):
    home, archive = make_node(tmp_path, kind=KIND)
    write_s2(archive / "a.SAFE", scene())
    write_s2(archive / "copy" / "a.SAFE", scene())
    _, skipped = run(home)
    assert "a copy of" in skipped["copy/a.SAFE"]
    (first,) = present(home).values()
    assert first.path.parent.name == archive.name
    (archive / "a.SAFE").rename(archive / "mine")
    report, skipped = run(home)
    assert (report.read, report.withdrawn, skipped) == (2, 1, {})
    (second,) = present(home).values()
    assert second.path.parent.name == "copy"
    assert set(taken_up(home)) == {"a.SAFE", "mine"}
    assert {item.digest for item in taken_up(home).values()} == {first.digest}


@pytest.mark.parametrize(
    ("kind", "locked"),
    [
        (KIND, "GRANULE"),
        (KIND, "IMG_DATA"),
        (KIND, "R20m"),
        ("sentinel-1-grd-db", "measurement"),
        ("sentinel-1-grd-db", "annotation"),
        ("sentinel-1-grd-db", "calibration"),
    ],
)
def test_a_product_of_which_a_folder_cannot_be_listed_just_now_is_not_withdrawn(tmp_path, monkeypatch, kind, locked):
    home, archive = make_node(tmp_path, kind=kind)
    for seed, name in enumerate(("a.SAFE", "b.SAFE")):
        if kind == KIND:
            write_s2(archive / name, scene(seed))
        else:
            write_s1(archive / name, amplitudes(seed))
    run(home)
    before, listing = present(home, kind), os.scandir

    def refuse(folder):
        if os.fspath(folder).endswith(f"/{locked}") and "a.SAFE" in os.fspath(folder):
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    report, skipped = run(home)
    assert "let this user read it" in skipped["a.SAFE"]
    assert report.withdrawn == 0
    assert present(home, kind) == before


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        ('modality = "sentinel-2-l2a"\nradiometry = "none"', "a whole number"),
        ('modality = "sentinel-2-l2a"\nradiometry = true', "a valid integer"),
        ('modality = "sentinel-2-l2a"\nradiometry = 1000', "-10000 to 0"),
        ('modality = "rgb"\nradiometry = 0', "says nothing of modality rgb"),
        ('modality = "sentinel-1-grd-db"\nradiometry = "linear"', "where the modality is sentinel-1-rtc-db"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(tmp_path, archive, problem):
    home, _ = make_node(tmp_path)
    configure(home, 'modality = "rgb"', archive)
    with pytest.raises(ConfigError, match=problem):
        run(home)


def test_a_dry_run_recognises_products_and_tells_what_will_not_do(tmp_path):
    home, archive = make_node(tmp_path, kind=KIND)
    write_s2(archive / "a.SAFE", scene())
    write_s2(archive / "b" / "a.SAFE", scene())
    write_s2(archive / "top.SAFE", scene(1), level="L1C")
    broken = write_s2(archive / "broken.SAFE", scene(2))
    (broken / "MTD_MSIL2A.xml").unlink()
    config = load_config(NodeConfig, home.path)
    found = recognise(reading_of(home, config), config)
    layout = found.layouts["sentinel-2"]
    assert (layout.sources, layout.bands[:2]) == (2, ("B01", "B02"))
    assert list(layout.grids) == [Grid(96, 96, 10, "EPSG:32633")]
    assert len(found.problems) == 3
    assert all(any(words in each for each in found.problems) for words in ("level 1C", "XML is missing", "a copy of"))
