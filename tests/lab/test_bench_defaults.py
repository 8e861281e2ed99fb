"""`make bench-defaults` on few and small archives, and what its archives are made of."""

import csv
import json

import bench_data
import numpy as np
import pytest

from rsfed.errors import UsageError
from rsfed.lab import bench_defaults, bench_images
from rsfed.lab.coded_archives import bigearthnet_folder, of_countries, of_scenes, simulated
from rsfed.privacy.cells import Cells
from rsfed.privacy.policy import POLICIES

CLASSES = ("Arable land", "Marine waters", "Pastures", "Urban fabric")


def write_metadata(folder, products, *, patches=12):
    """A country with many overpasses, and one with few."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patch_id", "labels", "country"])
        for country, count in products.items():
            for product in range(count):
                name = f"S2A_MSIL2A_2017{product % 9 + 1:02}13T101031_N9999_R{product:03}_T33U{country[0].upper()}P"
                for patch in range(patches):
                    labels = rng.choice(CLASSES, rng.integers(1, 3), replace=False)
                    table.writerow([f"{name}_{patch}_5", ";".join(labels), country])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The last line of one run."""
    folder, written = tmp_path_factory.mktemp("bench"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_data, "PER_CLASS", 20)
        bench_data.write_data(folder / "data")
        write_metadata(folder / "cache" / "bigearthnet_meta", {"large": 20, "tiny": 3})
        patch.setenv("RSFED_TEST_DATA", str(folder / "data"))
        patch.setattr(bench_images, "CACHE", folder / "cache")
        patch.setattr(bench_defaults, "SETS", (bench_images.EUROSAT,))
        patch.setattr(bench_defaults, "TILES", ())
        patch.setattr(bench_defaults, "LOAD", 100)
        patch.setattr(bench_defaults, "ranking_figures", lambda: RANKING)
        patch.setattr("sys.stdout.write", written.append)
        bench_defaults.main()
    return json.loads("".join(written).splitlines()[-1])


RANKING = bench_defaults.ranking_figures(catalogues=2, buckets=50, rankings=5)


def test_the_last_line_has_every_archive_at_every_level(told):
    assert told["archives"].keys() == {"eurosat_rgb", "large", "tiny"}
    for archive in told["archives"].values():
        assert archive["levels"].keys() == POLICIES.keys()
        exact = archive["levels"]["partner"]
        assert (exact["starts"], exact["told"], exact["class"], exact["within"]) == (True, 1, 1, 1)
        assert exact["withheld"] == 0
        for level in archive["levels"].values():
            assert level["starts"] == (archive["acquisitions"] >= level["needs"])
            assert level["starts"] or level["told"] is level["class"] is level["withheld"] is None
    assert told["archives"]["eurosat_rgb"]["acquisitions"] == 36
    assert (told["archives"]["large"]["acquisitions"], told["archives"]["tiny"]["acquisitions"]) == (20, 3)
    assert told["archives"]["large"]["levels"]["guarded"]["starts"] is True
    assert told["archives"]["tiny"]["levels"]["guarded"]["starts"] is False


def test_the_worst_archive_decides_whether_the_limit_holds(told):
    shares = [each["levels"]["guarded"]["withheld"] for each in told["archives"].values()]
    assert told["withheld"]["worst"] == max(share for share in shares if share is not None)
    assert told["withheld"]["held"] == (told["withheld"]["worst"] <= 0.1)


def test_ranking_is_told_in_wall_clock_and_cpu(told):
    found = told["ranking"]
    assert (found["catalogues"], found["buckets"], found["rankings"]) == (2, 50, 5)
    assert 0 < found["wall_p50"] <= found["wall_p99"]
    assert 0 <= found["cpu_p50"] <= found["cpu_p99"]
    assert found["held"] == (found["wall_p99"] <= found["limit_ms"])


def test_simulated_codes_are_nearest_to_the_centres_of_their_classes_and_neighbours_look_alike():
    rng = np.random.default_rng(1)
    labels = np.eye(6, dtype=np.bool_)[rng.integers(0, 6, 900)]
    items = simulated(labels, np.arange(900) // 9, 3)
    archive = of_scenes(5, patches=600, classes=6)
    cells = Cells.of(*archive.codebook)
    assert (cells.nearest(archive.items.codes)[0] == archive.items.labels.argmax(axis=1)).mean() > 0.95
    assert len(np.unique(items.codes, axis=0)) > 100
    assert (items.codes == simulated(labels, np.arange(900) // 9, 3).codes).all()
    look = items.look / np.linalg.norm(items.look, axis=1, keepdims=True)
    like = look @ look.T
    same, scene = labels @ labels.T, np.equal.outer(np.arange(900) // 9, np.arange(900) // 9)
    assert like[same & scene].mean() > like[same & ~scene].mean() > like[~same & ~scene].mean()


@pytest.mark.parametrize("tiles", [1, 5, 50])
def test_scenes_have_as_many_tiles_as_they_are_named_after(tiles):
    archive = of_scenes(tiles, patches=600)
    counts = np.unique(archive.acquisitions, return_counts=True)[1]
    assert counts.max() <= tiles
    assert len(archive.items.codes) == 600
    assert counts.mean() > 0.4 * tiles


def test_countries_are_counted_in_products_of_an_overpass_and_tile(tmp_path):
    write_metadata(tmp_path / "meta", {"large": 8, "tiny": 2}, patches=30)
    large, tiny = of_countries(tmp_path / "meta")
    assert (large.name, tiny.name) == ("large", "tiny")
    assert (len(np.unique(large.acquisitions)), len(np.unique(tiny.acquisitions))) == (8, 2)
    assert len(set(large.times[0].tolist())) > 1
    assert len(set(large.times[1].tolist())) == 1
    assert len(large.items.codes) + len(large.queries.codes) == 8 * 30


def test_data_without_the_metadata_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_images, "CACHE", tmp_path / "cache")
    bench_data.write_data(tmp_path / "data")
    with pytest.raises(UsageError, match="no metadata of BigEarthNet"):
        bigearthnet_folder(tmp_path / "data")
