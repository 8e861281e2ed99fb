"""`make bench-bigearthnet` on a small folder that is laid out like BigEarthNet v2."""

import csv
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from raster_makers import write_image
from rasterio import Affine

from rsfed.errors import RasterRejected, UsageError
from rsfed.lab import bench_bigearthnet
from rsfed.lab.bigearthnet import SENTINEL_2, SPEC, patch_folder, read_metadata, read_part, read_patch, split_labels

DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
LABELS = {
    "Marine waters": 300,
    "Mixed forest": 1200,
    "Land principally occupied by agriculture, with significant areas of natural vegetation": 2400,
}
SIZES = {10: 120, 20: 60, 60: 20}
SPLITS = {"train": 8, "validation": 4, "test": 6}


def write_patch(folder, level, seed=0):
    """Write one file for each band; the number of the band is in its pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for place, (band, gsd) in enumerate(zip(SENTINEL_2.bands, SENTINEL_2.native_gsd, strict=True)):
        size = SIZES[int(gsd)]
        values = (level + 10 * place + rng.integers(0, 5, (1, size, size))).astype(np.uint16)
        where = {"crs": "EPSG:32633", "transform": Affine(gsd, 0, 500_000, 0, -gsd, 5_000_000)}
        write_image(folder / f"{folder.name}_{band}.tif", values, **where)


def write_metadata(root, rows, columns=("patch_id", "labels", "split")):
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def root(tmp_path):
    """Patches of one class, and of two, in three splits."""
    rows = []
    names = list(LABELS)
    for split, count in SPLITS.items():
        for number in range(count):
            name = f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{len(rows):02}_57"
            own = [names[number % 3], *([names[(number + 1) % 3]] if number % 2 else [])]
            write_patch(patch_folder(tmp_path, name), LABELS[own[0]], seed=len(rows))
            rows.append((name, ";".join(own), split))
    write_metadata(tmp_path, rows)
    return tmp_path


def bench(root, *options):
    return bench_bigearthnet.main(["--data", str(root), "--epochs", "1", "--width", "8", "--bits", "16", *options])


def test_the_last_line_has_the_figures_of_every_method(root, capsys):
    assert bench(root, "--k", "3") == 0
    out = capsys.readouterr().out
    told = json.loads(out.splitlines()[-1])
    assert told["bigearthnet"].keys() == {"chance", "float", "lsh", "centres"}
    assert told["bigearthnet"]["centres"].keys() == told["bigearthnet"]["lsh"].keys() == {"16"}
    for figures in (told["bigearthnet"]["chance"], told["bigearthnet"]["float"], told["bigearthnet"]["centres"]["16"]):
        assert figures.keys() == {"precision", "recall", "f1", "f2"}
        assert all(0 <= value <= 1 for value in figures.values())
    assert [told[name] for name in ("train", "queries", "gallery", "labels", "k")] == [8, 4, 6, 3, 3]
    # the level of the pixels tells the first label, so a search on statistics of the bands beats chance
    assert told["bigearthnet"]["float"]["f1"] > told["bigearthnet"]["chance"]["f1"] + 0.1


def test_no_more_patches_than_wanted_are_read_of_a_split(root, capsys):
    assert bench(root, "--limit", "5") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["train"], told["queries"], told["gallery"]) == (5, 4, 5)


def test_bands_are_read_at_their_size_in_the_order_of_the_branches(root):
    name = read_metadata(root)["train"][0].name
    patch = read_patch(patch_folder(root, name))
    assert [part.shape for part in patch] == [(4, 120, 120), (6, 60, 60), (2, 20, 20)]
    for group, part in zip(SPEC.groups, patch, strict=True):
        stored = part.astype(np.float32) * 1500 + 1500
        for band, pixels in zip(group.bands, stored, strict=True):
            first = LABELS["Marine waters"] + 10 * SENTINEL_2.bands.index(band)
            assert pixels.min() >= first - 1
            assert pixels.max() <= first + 5


def test_missing_and_damaged_patches_are_counted_and_replaced_by_others(root):
    records = read_metadata(root)["train"]
    folder = patch_folder(root, records[0].name)
    (folder / f"{folder.name}_B8A.tif").unlink()
    folder = patch_folder(root, records[1].name)
    folder.rename(folder.with_name("elsewhere"))
    part = read_part(root, records, limit=100)
    assert (len(part.patches), part.missing, part.damaged) == (6, 1, 1)
    assert {record.name for record in part.records} == {record.name for record in records[2:]}


def test_a_band_that_is_missing_refuses_the_patch(root):
    folder = patch_folder(root, read_metadata(root)["train"][0].name)
    (folder / f"{folder.name}_B01.tif").unlink()
    with pytest.raises(RasterRejected):
        read_patch(folder)


@pytest.mark.parametrize(
    "told",
    [
        "Mixed forest;Beaches, dunes, sands",
        "Mixed forest|Beaches, dunes, sands",
        "['Mixed forest', 'Beaches, dunes, sands']",
        "['Mixed forest' 'Beaches, dunes, sands']",
        ["Mixed forest", "Beaches, dunes, sands"],
    ],
)
def test_labels_are_told_in_several_ways(told):
    assert split_labels(told) == ("Mixed forest", "Beaches, dunes, sands")


def test_metadata_in_parquet_alone_need_pyarrow_or_a_csv_file(root, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (root / "metadata.csv").rename(root / "metadata.parquet")
    assert bench(root) == 6
    said = capsys.readouterr().err
    assert "metadata.csv" in said
    assert "patch_id, labels, split" in said
    assert "[EXTRA_MISSING]" in said


def test_no_folder_is_told_from_a_folder_without_metadata(tmp_path, capsys):
    assert bench(tmp_path / "nowhere") == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_make_without_data_says_how_to_give_them():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    rules = Path(__file__).parents[2] / "Makefile"
    ready = ["-o", ".venv/.ready"]  # nothing is installed for it
    done = subprocess.run(
        [make, "-f", rules, *ready, "bench-bigearthnet", "DATA="],
        cwd=rules.parent, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "DATA is missing: make bench-bigearthnet DATA=FOLDER" in done.stderr


def test_a_folder_without_metadata_or_patches_is_refused(tmp_path, capsys):
    assert bench(tmp_path) == 2
    assert "neither metadata.parquet nor metadata.csv" in capsys.readouterr().err
    write_metadata(tmp_path, [(f"S2A_T33UUP_{n}_1", "Beaches;Forest", split) for n, split in enumerate(SPLITS)])
    assert bench(tmp_path) == 2
    assert "unpack BigEarthNet-S2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a_1_2", "Beaches", "train")], "no labelled patch of the split validation"),
        ([("a_1_2", "Beaches", "val")], "use one of train, validation, test"),
        ([("../a_1_2", "Beaches", "train")], "no folder name"),
    ],
)
def test_metadata_that_will_not_do_are_refused(tmp_path, rows, words):
    write_metadata(tmp_path, rows)
    with pytest.raises(UsageError, match=words):
        read_metadata(tmp_path)


def test_codes_without_room_for_the_centres_are_told_before_anything_is_read(tmp_path, capsys):
    labels = ";".join(f"class {n}" for n in range(400))
    write_metadata(tmp_path, [(f"S2A_T33UUP_{n}_1", labels, split) for n, split in enumerate(SPLITS)])
    assert bench(tmp_path) == 1
    assert "[TOO_MANY_CLASSES]" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--limit", "0"), ("--k", "-1"), ("--epochs", "x"), ("--width", "12")])
def test_options_that_will_not_do_are_refused(tmp_path, option):
    with pytest.raises(SystemExit) as refused:
        bench(tmp_path, *option)
    assert refused.value.code == 2


def test_metadata_without_their_columns_are_refused(tmp_path):
    write_metadata(tmp_path, [("a", "b", "train")], columns=("patch", "labels", "split"))
    with pytest.raises(UsageError, match="patch_id, labels, split"):
        read_metadata(tmp_path)


def test_the_real_patches_go_through(tmp_path, capsys):
    archive = DATA / "s1s2_pairs.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    with zipfile.ZipFile(archive) as packed:
        told = packed.read("bigearthnet_v1_examples/labels_ben_v2.csv").decode().splitlines()
        labels = {row["s2v1_name"]: row["labels19"] for row in csv.DictReader(told)}
        for name in packed.namelist():
            if "/S2/" in name and name.endswith(".tif"):
                folder = patch_folder(tmp_path, Path(name).parent.name)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / Path(name).name).write_bytes(packed.read(name))
    found = sorted(folder.name for folder in (tmp_path / "BigEarthNet-S2").glob("*/*"))
    assert len(found) == 6
    write_metadata(tmp_path, [(name, labels[name], list(SPLITS)[n % 3]) for n, name in enumerate(found)])
    assert bench(tmp_path) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["train"], told["queries"], told["gallery"]) == (2, 2, 2)
