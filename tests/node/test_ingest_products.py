"""Products in an archive: one patch each, with the labels, places and acquisitions of their data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from node_archives import configure, make_node, run
from raster_makers import PATCH, RADAR_PATCH, optical_patch, radar_patch, write_band

import node.looking
from node.catalogue import Catalogue
from node.recognition import Sample
from rsfed import cli
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read

KIND = "sentinel-2-l2a"
OTHER = PATCH.replace("26_57", "27_57")


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Two patches and a pair of one of them, laid out as version 2."""
    root = tmp_path_factory.mktemp("patches")
    for number, name in enumerate((PATCH, OTHER)):
        optical_patch(root / "BigEarthNet-S2" / name[:-6], name, seed=number, west=600_000.0 + 1200 * number)
    radar_patch(root / "BigEarthNet-S1" / RADAR_PATCH[:-6])
    (root / "metadata.csv").write_text(
        f"patch_id,labels,contains_cloud_or_shadow\n{PATCH},Arable land;Pastures,False\n{OTHER},Pastures,False\n"
    )
    return root


@pytest.fixture
def archive_of(tmp_path, patches):
    home, archive = make_node(tmp_path, kind=KIND)
    shutil.copytree(patches, archive, dirs_exist_ok=True)
    return home, archive


def items(home, state="present"):
    with Catalogue(home) as catalogue:
        return {item.path.name: item for item in catalogue.items(KIND, state)}


def folder(archive: Path, name: str) -> Path:
    return archive / "BigEarthNet-S2" / name[:-6] / name


def test_every_product_is_one_patch_with_all_its_bands(archive_of, monkeypatch):
    home, _ = archive_of
    report, skipped = run(home)
    assert (report.files, report.read) == (2, 2)
    (reason,) = skipped.values()
    assert reason.startswith(f"it has no band of modality {KIND}; ")
    found = items(home)
    assert found.keys() == {PATCH, OTHER}
    item = found[PATCH]
    assert (item.acquisition, item.place) == ("S2A:20170613T101031", "33UUP_26_57")
    assert read(item, default_spec(modality(KIND), 120))["all"].shape == (12, 120, 120)
    with Catalogue(home) as catalogue:
        assert catalogue.labels(item.id) == ("Arable land", "Pastures")
        assert catalogue.reference_systems() == {"EPSG:32633": 2}
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: pytest.fail("a product was read again"))
    assert run(home)[0].read == 0


def test_covered_patches_are_recorded_and_come_back_when_no_list_names_them(archive_of):
    home, archive = archive_of
    run(home)
    before = items(home)
    cloudy = archive / "patches_with_cloud_and_shadow.csv"
    cloudy.write_text(OTHER)
    assert run(home)[0].read == 1
    assert (items(home).keys(), items(home, "recorded").keys()) == ({PATCH}, {OTHER})
    cloudy.unlink()
    run(home)
    assert items(home) == before


def test_one_changed_band_makes_a_new_patch_and_a_bad_product_leaves_the_others(archive_of):
    home, archive = archive_of
    run(home)
    before = items(home)
    write_band(folder(archive, PATCH) / f"{PATCH}_B09.tif", np.ones((20, 20), np.uint16), gsd=60)
    (folder(archive, OTHER) / f"{OTHER}_B05.tif").unlink()
    report, skipped = run(home)
    assert report.withdrawn == 1
    assert "band B05 is missing; copy it again" in skipped[f"BigEarthNet-S2/{OTHER[:-6]}/{OTHER}"]
    assert items(home).keys() == {PATCH}
    assert items(home)[PATCH].id > max(item.id for item in before.values())


def test_a_radar_patch_is_of_one_overpass_with_and_without_its_label_file_and_its_facts_follow_it(tmp_path):
    home, archive = make_node(tmp_path, kind="sentinel-1-grd")
    names = ["S1A_IW_GRDH_1SDV_20170613T165043_33UUP_1_2", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_1_3"]
    for seed, name in enumerate(names):
        radar_patch(archive, name, seed)
    told = {
        "scene_source": "S1A_IW_GRDH_1SDV_20170613T165043_20170613T165108_017018_01C579_7EEC",
        "acquisition_time": "2017-06-13T16:50:44",
    }

    def tell(**facts):
        (archive / names[0] / f"{names[0]}_labels_metadata.json").write_text(json.dumps(facts))
        run(home)
        with Catalogue(home) as catalogue:
            return {item.path.name: item for item in catalogue.items("sentinel-1-grd")}

    found = tell(**told)
    assert {item.acquisition for item in found.values()} == {"S1A:017018"}
    other = told["scene_source"].replace("017018", "017019")
    after = tell(**told | {"scene_source": other, "acquisition_time": "2017-06-13T16:50:45"})[names[0]]
    assert after.id == found[names[0]].id, "its pixels are the same"
    assert (after.acquisition, after.acquired[0].second) == ("S1A:017019", 45)


def test_a_product_that_is_changed_while_it_is_read_is_taken_up_by_the_next_run(archive_of, monkeypatch):
    home, _ = archive_of
    look = node.looking.inspect

    def changing(path, **options):
        info = look(path, **options)
        if path.name == PATCH:
            write_band(path / f"{PATCH}_B09.tif", np.ones((20, 20), np.uint16), gsd=60)
        return info

    monkeypatch.setattr(node.looking, "inspect", changing)
    _, skipped = run(home)
    assert skipped[f"BigEarthNet-S2/{PATCH[:-6]}/{PATCH}"] == "it was changed while it was read; run the ingest again"
    assert items(home).keys() == {OTHER}
    monkeypatch.setattr(node.looking, "inspect", look)
    run(home)
    assert items(home).keys() == {PATCH, OTHER}


def test_a_dry_run_tells_what_is_there_and_writes_nothing(archive_of, capsys):
    home, archive = archive_of
    (folder(archive, OTHER) / f"{OTHER}_B05.tif").unlink()
    (archive / "notes.pdf").write_bytes(b"")
    database = home.database.read_bytes() if home.database.exists() else None
    assert cli.run(["node", "ingest", "--dry-run", "--home", str(home.path), "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (layout,) = told["layouts"]
    assert (layout["layout"], layout["sources"], layout["headers"], len(layout["bands"])) == ("bigearthnet", 2, 2, 12)
    assert layout["bytes"] > 300_000
    assert layout["grids"] == [{"width": 120, "height": 120, "gsd": 10.0, "crs": "EPSG:32633", "sources": 1}]
    assert told["labels"][0] == {"label": "Pastures", "sources": 2, "mapped": False}
    assert (told["modality"], told["unlabelled"], told["covered"]) == (KIND, 0, 0)
    reasons = [each["reason"] for each in told["problems"]]
    assert len(reasons) == 3
    assert any("band B05 is missing" in reason for reason in reasons)
    assert any("not an image" in reason for reason in reasons)
    assert cli.run(["node", "ingest", "--dry-run", "--home", str(home.path)]) == 0
    table = capsys.readouterr().out
    assert "bigearthnet: 2 sources" in table
    assert "120 x 120 pixels at 10 m, EPSG:32633 (1 of 2)" in table
    assert (home.database.read_bytes() if home.database.exists() else None) == database
    assert not items(home)


def test_headers_of_many_products_are_evenly_spread_without_keeping_all():
    sample = Sample()
    for number in range(1000):
        sample.add(number)
    assert sample.taken == list(range(0, 1000, 16))


def test_labels_in_the_chosen_nomenclature(archive_of):
    home, archive = archive_of
    configure(home, 'labels = "folders"', 'labels = "bigearthnet-19"')
    told = folder(archive, OTHER) / f"{OTHER}_labels_metadata.json"
    told.write_text(json.dumps({"labels": ["Peatbogs", "Airports"]}))
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.labels(items(home)[OTHER].id) == ("Inland wetlands",)
        assert catalogue.labels(items(home)[PATCH].id) == ("Arable land", "Pastures")
