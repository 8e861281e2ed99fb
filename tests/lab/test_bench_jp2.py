"""`make bench-jp2` on few and small images."""

import json

from bench_data import PER_CLASS, UCM, write_data

from rsfed.lab import bench_images, bench_jp2
from rsfed.raster.modality import modality
from rsfed.raster.source import opened


def test_every_way_from_a_file_to_a_code_is_measured(tmp_path, monkeypatch, capsys):
    write_data(tmp_path / "data")
    monkeypatch.setenv("RSFED_TEST_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(bench_images, "CACHE", tmp_path / "cache")
    for name, value in (("SIZE", 64), ("LEVELS", 4), ("TIMED", 4), ("ROUNDS", 1)):
        monkeypatch.setattr(bench_jp2, name, value)
    bench_jp2.main(["--epochs", "1"])
    *table, line = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert list(told["jp2"]) == ["1", "2", "4", "8"]
    assert list(told["upsampled"]) == ["2", "4", "8"]
    assert told["jp2"]["1"]["faster"] == 1
    for each in (*told["jp2"].values(), *told["upsampled"].values()):
        assert 0 <= each["map20"] <= 1
        assert min(each["patches_per_s"], each["read_ms"], each["encode_ms"]) > 0
    assert (told["epochs"], told["seeds"]) == (1, 1)
    assert any(row.startswith("1/4, upsampled") for row in table)
    files = sorted((tmp_path / "cache").rglob("*.jp2"))
    assert len(files) == len(UCM) * PER_CLASS
    for reduction in (2, 4, 8):
        with opened(files[0], modality("rgb"), reduction=reduction) as source:
            assert source.overview == reduction, "the images have the levels that are compared"
