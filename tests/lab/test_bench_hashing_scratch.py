"""`make bench-hashing-scratch` on few and small tiles."""

import json

from bench_data import EUROSAT, PER_CLASS, write_data

from rsfed.lab import bench_hashing_scratch, bench_images


def test_networks_learn_from_pixels_by_the_split_file(tmp_path, monkeypatch, capsys):
    write_data(tmp_path / "data")
    monkeypatch.setenv("RSFED_TEST_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(bench_images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(bench_hashing_scratch, "EPOCHS", 1)
    bench_hashing_scratch.main()
    *tables, line = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["eurosat_scratch"].keys() == {"centres", "milan_batchall"}
    assert all(0 <= figures["32"] <= 1 for figures in told["eurosat_scratch"].values())
    assert (told["epochs"], told["seeds"]) == (1, 1)
    text = " ".join(" ".join(tables).split())  # lines end where the width does
    train = len(EUROSAT) * PER_CLASS * 3 // 5
    assert f"{train // 3} queries against {train} images (seed 0), {train} to learn from" in text
    assert "networks take 3 bands of 32 x 32 pixels" in text
    assert not list((tmp_path / "cache").glob("features*"))


def test_a_broken_unpacking_is_begun_again(tmp_path, monkeypatch):
    write_data(tmp_path / "data")
    monkeypatch.setattr(bench_images, "CACHE", tmp_path / "cache")
    left = tmp_path / "cache" / "eurosat_rgb.part" / "eurosat_rgb" / "Forest" / "old.jpg"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"")
    folder = bench_images.unpacked(tmp_path / "data", "eurosat_rgb")
    assert len(list(folder.rglob("*.jpg"))) == len(EUROSAT) * PER_CLASS
    assert not list((tmp_path / "cache").glob("*.part"))
