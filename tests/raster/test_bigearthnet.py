"""BigEarthNet as it is published: which folders are patches, where and when they were taken, what they show."""

from __future__ import annotations

import csv
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
from raster_makers import PATCH, RADAR_PATCH, look, optical_patch, radar_patch, spec

from rsfed.errors import ArchiveError, ConfigError, RasterRejected
from rsfed.raster.bigearthnet import product
from rsfed.raster.bigearthnet_records import CLASS_OF, CLASSES_19, LISTS, WITHOUT_CLASS
from rsfed.raster.layout import Candidate, Skipped, walk
from rsfed.raster.modality import modality

DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
KINDS = {"S2": "sentinel-2-l2a", "S1": "sentinel-1-grd"}
V1 = "S2B_MSIL2A_20180204T94161_57_38"
ARABLE = "Non-irrigated arable land"


def touched(root, name, *, files=("B02.tif",), told=None):
    """Make the folder of a patch whose bands are empty files."""
    folder = root / name
    folder.mkdir(parents=True)
    for each in files:
        (folder / f"{folder.name}_{each}").write_bytes(b"")
    if told is not None:
        (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(told))
    return folder


def tags(folder):
    return product(folder, {each.name for each in folder.iterdir()}).tags()


def listed(root, labels="folders", known=()):
    entries = list(walk(root, labels, known))
    found = {entry.path.name: entry for entry in entries if isinstance(entry, Candidate)}
    return found, {entry.name: entry.reason for entry in entries if isinstance(entry, Skipped)}


def table(path, rows, columns=("patch_id", "labels", "s1_name", "contains_seasonal_snow", "contains_cloud_or_shadow")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def test_the_published_nomenclature_of_19_classes():
    """As published with BigEarthNet-S2: 32 of the 43 CORINE classes make the 19, 11 were taken out."""
    expected = {
        "Continuous urban fabric": "Urban fabric",
        "Discontinuous urban fabric": "Urban fabric",
        "Industrial or commercial units": "Industrial or commercial units",
        "Non-irrigated arable land": "Arable land",
        "Permanently irrigated land": "Arable land",
        "Rice fields": "Arable land",
        "Vineyards": "Permanent crops",
        "Fruit trees and berry plantations": "Permanent crops",
        "Olive groves": "Permanent crops",
        "Annual crops associated with permanent crops": "Permanent crops",
        "Pastures": "Pastures",
        "Complex cultivation patterns": "Complex cultivation patterns",
        "Land principally occupied by agriculture, with significant areas of natural vegetation": (
            "Land principally occupied by agriculture, with significant areas of natural vegetation"
        ),
        "Agro-forestry areas": "Agro-forestry areas",
        "Broad-leaved forest": "Broad-leaved forest",
        "Coniferous forest": "Coniferous forest",
        "Mixed forest": "Mixed forest",
        "Natural grassland": "Natural grassland and sparsely vegetated areas",
        "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
        "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
        "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
        "Transitional woodland/shrub": "Transitional woodland, shrub",
        "Beaches, dunes, sands": "Beaches, dunes, sands",
        "Inland marshes": "Inland wetlands",
        "Peatbogs": "Inland wetlands",
        "Salt marshes": "Coastal wetlands",
        "Salines": "Coastal wetlands",
        "Water courses": "Inland waters",
        "Water bodies": "Inland waters",
        "Coastal lagoons": "Marine waters",
        "Estuaries": "Marine waters",
        "Sea and ocean": "Marine waters",
    }
    assert dict(CLASS_OF) == expected
    assert tuple(dict.fromkeys(expected.values())) == CLASSES_19
    assert len(CLASSES_19) == 19
    assert len({*CLASS_OF, *WITHOUT_CLASS}) == len(CLASS_OF) + len(WITHOUT_CLASS) == 43


@pytest.mark.parametrize(
    ("name", "told", "acquisition", "acquired", "place"),
    [
        (PATCH, None, "S2A:20170613T101031", "20170613T101031", "33UUP_26_57"),
        (PATCH.replace("_26_57", "_06_57"), None, "S2A:20170613T101031", "20170613T101031", "33UUP_6_57"),
        # version 1 leaves a leading zero out, and this datatake has a second 61 in its official name
        (V1, None, "S2B:20180204T094161", "20180204T094161", None),
        (
            V1,
            {"tile_source": "S2B_MSIL1C_20180204T94161_N0206_R036_T35VPK_20180204T115809.SAFE",
             "acquisition_date": "2018-02-04 09:41:56"},
            "S2B:20180204T094161", "2018-02-04 09:41:56", "35VPK_57_38",
        ),
        (
            "S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38",
            {"scene_source": "S1A_IW_GRDH_1SDV_20180204T043253_20180204T043318_020452_022F7E_8893",
             "acquisition_time": "2018-02-04T04:32:53"},
            "S1A:020452", "2018-02-04T04:32:53", "35VPK_57_38",
        ),
        # orbits that the label files of these products tell
        ("S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38", None, "S1A:020452", "20180204T043253", "35VPK_57_38"),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_1_2", None, "S1A:017018", "20170613T165043", "33UUP_1_2"),
        ("S1A_IW_GRDH_1SDV_20170617T064724_29UPU_4_5", None, "S1A:017070", "20170617T064724", "29UPU_4_5"),
        ("S1A_IW_GRDH_1SDV_20170925T043256_35VPK_4_5", None, "S1A:018527", "20170925T043256", "35VPK_4_5"),
        ("S1A_IW_GRDH_1SDV_20171221T064238_29SND_4_5", None, "S1A:019797", "20171221T064238", "29SND_4_5"),
        (RADAR_PATCH, None, "S1B:006020", "20170612T165809", "33UUP_26_57"),
    ],
)  # fmt: skip
def test_acquisition_time_and_place_of_a_patch(tmp_path, name, told, acquisition, acquired, place):
    files = ("VV.tif", "VH.tif") if name.startswith("S1") else ("B02.tif",)
    expected = {"ACQUISITION": acquisition, "ACQUIRED": acquired} | ({"PLACE": place} if place else {})
    assert tags(touched(tmp_path, name, files=files, told=told)) == expected


def test_a_pair_shares_its_place_and_not_its_acquisition(tmp_path):
    optical_patch(tmp_path / "S2" / PATCH[:-6])
    radar_patch(tmp_path / "S1" / RADAR_PATCH[:-6])
    found, skipped = listed(tmp_path)
    assert not skipped
    one = look(found[PATCH].path, KINDS["S2"], spec("B02 B03", size=120, gsd=10.0, fit="crop"))
    other = look(found[RADAR_PATCH].path, KINDS["S1"], spec("VV VH", size=120, gsd=10.0, fit="crop"))
    assert one.place == other.place == "33UUP_26_57"
    assert (one.acquisition, other.acquisition) == ("S2A:20170613T101031", "S1B:006020")


def test_labels_of_version_1_in_both_nomenclatures(tmp_path):
    touched(tmp_path, V1, told={"labels": [ARABLE, "Rice fields", "Airports", "Peatbogs"]})
    own = {labels: listed(tmp_path, labels)[0][V1].own_labels for labels in ("folders", "bigearthnet-43", "none")}
    assert own["folders"] == own["bigearthnet-43"] == (ARABLE, "Rice fields", "Airports", "Peatbogs")
    assert own["none"] == ()
    assert listed(tmp_path, "bigearthnet-19")[0][V1].own_labels == ("Arable land", "Inland wetlands")


def test_labels_and_covered_patches_of_version_2(tmp_path):
    other, clouded = PATCH.replace("26_57", "27_57"), PATCH.replace("26_57", "28_57")
    for name in (PATCH, other, clouded):
        touched(tmp_path, f"BigEarthNet-S2/{name[:-6]}/{name}")
        touched(tmp_path, f"Reference_Maps/{name[:-6]}/{name}", files=("reference_map.tif",))
    touched(tmp_path, f"BigEarthNet-S1/{RADAR_PATCH[:-6]}/{RADAR_PATCH}", files=("VV.tif",))
    rows = [(PATCH, "Arable land;Mixed forest", RADAR_PATCH, "False", "False"), (other, "['Pastures']", "", "True", "")]
    table(tmp_path / "metadata.csv", rows)
    table(
        tmp_path / "metadata_for_patches_with_snow_cloud_or_shadow.csv", [(clouded, "Pastures")], ("patch_id", "labels")
    )
    found, skipped = listed(tmp_path)
    assert not skipped
    assert {name: (entry.own_labels, entry.covered) for name, entry in found.items()} == {
        PATCH: (("Arable land", "Mixed forest"), False),
        RADAR_PATCH: (("Arable land", "Mixed forest"), False),
        other: (("Pastures",), True),
        clouded: (("Pastures",), True),
    }
    with pytest.raises(ArchiveError, match='labels = "bigearthnet-19"'):
        listed(tmp_path, "bigearthnet-43")


@pytest.mark.parametrize("name", LISTS)
def test_published_lists_name_covered_patches_of_version_1(tmp_path, name):
    touched(tmp_path, V1, told={})
    touched(tmp_path, V1.replace("57_38", "57_39"), told={})
    (tmp_path / name).write_text(f"{V1}\nS2A_MSIL2A_20170613T101031_1_1\n")
    found, skipped = listed(tmp_path)
    assert not skipped
    assert {entry.path.name for entry in found.values() if entry.covered} == {V1}
    assert found[V1].stamp() != next(product for product in walk(tmp_path)).product.stamp()


def test_metadata_in_parquet_need_pyarrow_only_where_they_are_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    touched(tmp_path, V1, told={"labels": [ARABLE]})
    assert listed(tmp_path)[0][V1].own_labels == (ARABLE,)
    touched(tmp_path, PATCH)
    with pytest.raises(ConfigError, match=r"write the columns patch_id, labels.* to metadata.csv") as error:
        listed(tmp_path)
    assert error.value.reason == "EXTRA_MISSING"


def test_metadata_in_parquet_say_what_they_say_as_csv(tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet
    from pyarrow import table as made

    other = PATCH.replace("26_57", "27_57")
    for name in (PATCH, other, RADAR_PATCH):
        touched(tmp_path, name, files=("VV.tif",) if name == RADAR_PATCH else ("B02.tif",))
    columns = {
        "patch_id": [PATCH, other],
        "labels": [["Arable land", "Mixed forest"], ["Pastures"]],
        "s1_name": [RADAR_PATCH, None],
        "contains_seasonal_snow": [False, True],
        "contains_cloud_or_shadow": [False, None],
    }
    parquet.write_table(made(columns), tmp_path / "metadata.parquet")
    found, skipped = listed(tmp_path)
    assert not skipped
    assert {name: (entry.own_labels, entry.covered) for name, entry in found.items()} == {
        PATCH: (("Arable land", "Mixed forest"), False),
        RADAR_PATCH: (("Arable land", "Mixed forest"), False),
        other: (("Pastures",), True),
    }
    whole = (tmp_path / "metadata.parquet").read_bytes()
    for damaged in (whole[:40], whole[:100] + bytes(60) + whole[160:], b"PAR1" + bytes(99) + b"PAR1"):
        (tmp_path / "metadata.parquet").write_bytes(damaged)
        with pytest.raises(ArchiveError, match="download them again"):
            listed(tmp_path)


def test_a_renamed_product_and_a_second_copy_are_told(tmp_path):
    folder = touched(tmp_path, f"a/{PATCH}", files=("B02.tif", "B03.tif"))
    touched(tmp_path, f"b/{PATCH}")
    found, skipped = listed(tmp_path)
    assert found[PATCH].name == f"a/{PATCH}"
    assert skipped == {f"b/{PATCH}": f"it is a copy of a/{PATCH}; take one of them out"}
    found, skipped = listed(tmp_path, known=[f"b/{PATCH}"])
    assert found[PATCH].name == f"b/{PATCH}"
    assert f"a/{PATCH}" in skipped
    found, _ = listed(tmp_path, known=[f"gone/{PATCH}"])
    assert found[PATCH].name == f"a/{PATCH}"
    folder.rename(tmp_path / "a" / "mine")
    found, skipped = listed(tmp_path)
    assert found[PATCH].name == f"b/{PATCH}"
    assert skipped == {"a/mine": "its folder has another name than its files; give it theirs again"}


def test_files_of_many_patches_in_one_folder_are_plain_files(tmp_path):
    for number in range(3):
        (tmp_path / f"{PATCH}{number}_B02.tif").write_bytes(b"")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / f"{PATCH}_B02.tif").write_bytes(b"")
    found, skipped = listed(tmp_path)
    assert (len(found), skipped) == (4, {})
    assert all(entry.product is None for entry in found.values())


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"{" + b" " * (1 << 17) + b"}"])
def test_a_damaged_label_file_refuses_the_patch_and_not_the_walk(tmp_path, content):
    optical_patch(tmp_path)
    path = tmp_path / PATCH / f"{PATCH}_labels_metadata.json"
    path.write_bytes(content)
    (found,) = walk(tmp_path)
    assert found.own_labels == ()
    with pytest.raises(RasterRejected, match=r"its label file is .*; copy it again"):
        look(found.path, KINDS["S2"], spec("B02", size=120, gsd=10.0, fit="crop"))
    path.unlink()
    path.symlink_to(tmp_path.parent / "elsewhere.json")
    with pytest.raises(RasterRejected, match="its label file is a link"):
        tags(found.path)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    archive = DATA / "s1s2_pairs.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    root = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(root, [each for each in packed.namelist() if each.startswith("bigearthnet_v1_examples/S")])
    return root / "bigearthnet_v1_examples"


def test_every_real_patch_is_read_and_pairs_lie_together(real):
    found, skipped = listed(real, "bigearthnet-19")
    assert not skipped
    assert len(found) == 12
    infos = {}
    for name, entry in found.items():
        kind = modality(KINDS[name[:2]])
        infos[name] = look(entry.path, kind.name, spec(" ".join(kind.bands), size=120, gsd=10.0, fit="crop"))
        told = json.loads(entry.product.companions[0].read_text())
        moment = told.get("acquisition_date", told.get("acquisition_time"))
        assert infos[name].acquired[0].strftime("%Y-%m-%d %H:%M:%S") == moment.replace("T", " ")
        if other := told.get("corresponding_s2_patch"):
            assert infos[name].place
            assert found[other].own_labels == entry.own_labels
    for name, info in infos.items():
        assert (info.width, info.height, info.gsd, len(info.windows)) == (120, 120, 10, 1)
        (twin,) = (each for each in infos if each != name and infos[each].place == info.place)
        assert {name[:2], twin[:2]} == {"S1", "S2"}
        assert infos[twin].footprint == pytest.approx(info.footprint)
    assert len({info.acquisition for info in infos.values()}) == 10
