"""`rsfed pairs` on two folders of two sensors, and `rsfed evaluate` with the split files that it writes."""

import csv
import os
import resource
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from raster_makers import write_image
from rasterio import Affine

from rsfed.cli import run
from rsfed.errors import ExitCode
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.evaluate.division import Split, divide
from rsfed.lab.pairing import write
from rsfed.raster.pairs import Pair

DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SIDE = 40  # pixels of 10 m
PLACES = 12
RADAR, OPTICAL = "sentinel-1-grd", "sentinel-2-l2a"


def image(path, bands, east, day, **tags):
    """Write an image so many metres east of a corner, taken on that day of June."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(path.name))
    radar = bands == 2
    values = random.uniform(-25, -5, (bands, SIDE, SIDE)) if radar else random.integers(1, 4000, (bands, SIDE, SIDE))
    where = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000 + (east or 0), 0, -10, 5_000_000)}
    when = {"ACQUIRED": f"2024-06-{day:02}T10:00:00"} if day else {}
    form = where if east is not None else {}
    return write_image(path, values.astype(np.float32 if radar else np.uint16), tags=when | tags, **form)


@pytest.fixture
def folders(tmp_path):
    """Twelve pairs a kilometre apart, those of Sentinel-1 one pixel further east and up to two days later."""
    for number in range(PLACES):
        kind = ("forest", "lake")[number % 2]
        image(tmp_path / "s1" / kind / f"radar{number:02}.tif", 2, number * 1000 + 10, 3 + number % 3)
        image(tmp_path / "s2" / kind / f"{number:02}.tif", 12, number * 1000, 3)
    return tmp_path / "s1", tmp_path / "s2"


def pair(capsys, *arguments):
    """Run `rsfed pairs` and return its exit code, the two counts of each row of its table, and its other lines."""
    code = run(["pairs", *map(str, arguments)])
    told = capsys.readouterr()
    rows = [line.rsplit(maxsplit=2) for line in told.out.splitlines() if line[:1].strip() and line[-1:].isdigit()]
    counts = {what: (int(one), int(other)) for what, one, other in rows if one.isdigit()}
    return code, counts, told.err + told.out


def parts(folder, splits, kind):
    """Return what `rsfed evaluate` makes of a folder with a split file: its part by the name of each image."""
    images = read(find(folder, splits=splits / f"{kind}.csv"))
    division = divide(images, Split.OFFICIAL, 0)
    named = {"train": division.train, "query": division.queries}
    found = {images.entries[position].name: part for part, each in named.items() for position in each}
    return {entry.name: found.get(entry.name, "val") for entry in images.entries}


def test_both_images_of_a_pair_are_in_one_part_for_evaluate(folders, tmp_path, capsys):
    code, counts, said = pair(capsys, *folders, "--days", 2, "--splits", tmp_path / "out")
    assert code == ExitCode.DONE
    assert counts["images"] == counts["in a pair"] == (PLACES, PLACES)
    assert "8 train, 2 val, 2 query" in said
    radar, optical = parts(folders[0], tmp_path / "out", RADAR), parts(folders[1], tmp_path / "out", OPTICAL)
    assert {name.replace("radar", ""): part for name, part in radar.items()} == optical
    assert len(radar) == PLACES
    assert set(radar.values()) == {"train", "val", "query"}
    with (tmp_path / "out" / f"{RADAR}.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    row = rows["forest/radar02.tif"]
    assert pair(capsys, *folders, "--days", 2, "--splits", tmp_path / "again")[0] == ExitCode.DONE
    for kind in (RADAR, OPTICAL):
        first, second = (tmp_path / out / f"{kind}.csv" for out in ("out", "again"))
        assert first.read_bytes() == second.read_bytes()
    assert (row["partner"], row["days"]) == ("forest/02.tif", "2.0000")
    assert float(row["iou"]) == pytest.approx((SIDE - 1) / (SIDE + 1), abs=1e-3)


def test_the_table_says_of_every_image_what_became_of_it(folders, capsys):
    radar, optical = folders
    image(radar / "lake" / "nowhere.tif", 2, None, 3)
    image(radar / "lake" / "undated.tif", 2, 0, None)
    image(radar / "lake" / "elsewhere.tif", 2, -300, 3)
    image(radar / "lake" / "again.tif", 2, 1000, 30)
    image(radar / "lake" / "later.tif", 2, 1010, 5)
    cut = image(optical / "lake" / "cut.tif", 12, 0, 3)
    cut.write_bytes(cut.read_bytes()[:-2000])
    (optical / "notes.doc").write_text("")
    code, counts, said = pair(capsys, *folders, "--days", 2)
    assert code == ExitCode.DONE
    assert counts == {
        "images": (PLACES + 5, PLACES + 1),
        "in a pair": (PLACES, PLACES),
        "no footprint": (1, 0),
        "no time": (1, 0),
        "no dated partner on its ground": (1, 0),
        "partners at other times only": (1, 0),
        "partners in better pairs": (1, 0),
        "unreadable or other bands": (0, 1),
    }
    assert "lake/cut.tif: its pixels cannot be decoded" in said
    assert "notes.doc: it is not an image" in said


def test_what_lies_at_one_place_stays_in_one_part(folders, tmp_path, capsys):
    """Pairs that overlap by half, and pairs that share the tag of a place."""
    radar, optical = folders
    for number in range(PLACES):
        image(radar / "forest" / f"over{number:02}.tif", 2, number * 1000 + 210, 3)
        image(optical / "forest" / f"over{number:02}.tif", 12, number * 1000 + 200, 3)
        image(radar / "lake" / f"far{number:02}.tif", 2, number * 1000 + 100_000, 3)
        image(optical / "lake" / f"far{number:02}.tif", 12, number * 1000 + 100_000, 3, PLACE=f"pond {number // 3}")
    assert pair(capsys, *folders, "--days", 2, "--splits", tmp_path)[1]["in a pair"] == (PLACES * 3,) * 2
    found = parts(optical, tmp_path, OPTICAL)
    assert len(found) == PLACES * 3
    for number in range(PLACES):
        kind = ("forest", "lake")[number % 2]
        assert found[f"{kind}/{number:02}.tif"] == found[f"forest/over{number:02}.tif"]
        assert found[f"lake/far{number:02}.tif"] == found[f"lake/far{number // 3 * 3:02}.tif"]


def test_too_few_places_the_same_modality_and_an_old_split_file_are_refused_with_the_remedy(folders, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / f"{OPTICAL}.csv").write_text("")
    out = tmp_path / "out"
    for arguments, message in [
        ((folders[1], folders[1]), f"both folders hold images of {OPTICAL}; name two"),
        ((tmp_path / "empty", folders[1]), "the folder holds no images; name the folder"),
        ((*folders, "--splits", tmp_path / "old"), "such a split file already; move it away"),
        ((*folders, "--days", -1), "-1 is not in the range"),
    ]:
        code, _, said = pair(capsys, "--days", 2, *arguments)
        assert code == ExitCode.USAGE
        assert message in said
    for each in sorted(folders[0].glob("*/*.tif"))[2:]:
        each.unlink()
    code, counts, said = pair(capsys, *folders, "--days", 2, "--splits", out)
    assert code == ExitCode.USAGE
    assert counts["in a pair"] == (2, 2)
    assert "lie at 2 places and a split needs 3; see above why" in said
    assert not out.exists()


def test_split_files_are_written_whole_and_both_or_not_at_all(folders, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{OPTICAL}.csv").symlink_to("nowhere.csv")  # in the way, though there is no such file
    assert pair(capsys, *folders, "--days", 2, "--splits", out)[0] == ExitCode.FAILURE
    assert [each.name for each in out.iterdir()] == [f"{OPTICAL}.csv"]
    many = [Pair(f"{number}.tif", "other.tif", 1.0, timedelta()) for number in range(100)]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limit[1]))  # as if the disk were full
    try:
        with pytest.raises(OSError, match="File too large"):
            write({tmp_path / "one.csv": many}, ["train"] * len(many))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.glob("*.csv"))


def test_real_pairs_of_bigearthnet_are_found(tmp_path, capsys):
    packed = DATA / "s1s2_pairs.zip"
    if not packed.exists():
        pytest.skip(f"{packed.name} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if "v1_examples/S" in name])
    folders = [tmp_path / "bigearthnet_v1_examples" / side for side in ("S1", "S2")]
    code, counts, _ = pair(capsys, *folders, "--days", 1, "--splits", tmp_path)
    assert code == ExitCode.DONE
    assert counts["in a pair"] == counts["images"] == (6, 6)
    radar, optical = parts(folders[0], tmp_path, RADAR), parts(folders[1], tmp_path, OPTICAL)
    assert sorted(radar.values()) == sorted(optical.values()) == ["query", "train", "train", "train", "train", "val"]
    with (tmp_path / f"{RADAR}.csv").open() as file:
        for row in csv.DictReader(file):
            assert row["path"].split("_")[-2:] == row["partner"].split("_")[-2:]  # column and row of the tile's grid
            assert radar[row["path"]] == optical[row["partner"]]
    assert pair(capsys, *folders, "--days", 0)[1]["partners at other times only"] == (6, 6)
