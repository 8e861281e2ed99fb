"""Files beside images that could stop, fill or leave the archive: read whole only if they are plain and small."""

import os

import pytest

from rsfed.errors import RasterRejected
from rsfed.raster.layout import Skipped, walk
from rsfed.raster.small_file import read_small

PATCH = "S2A_MSIL2A_20170613T101031_87_48"


def test_a_plain_small_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"told")
    assert read_small(tmp_path / "a", 4, "it") == b"told"


@pytest.mark.parametrize("kind", ["large", "link", "device", "pipe"])
def test_no_other_file_is(tmp_path, kind):
    file = tmp_path / "a"
    {
        "large": lambda: file.write_bytes(b"12345"),
        "link": lambda: file.symlink_to(tmp_path / "b"),
        "device": lambda: file.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(file),
    }[kind]()
    with pytest.raises(RasterRejected):
        read_small(file, 4, "it")


@pytest.mark.parametrize("kind", ["deep", "pipe"])
def test_a_file_that_describes_a_product_stops_no_walk(tmp_path, kind):
    for folder, name in (("item", "item.json"), (PATCH, f"{PATCH}_labels_metadata.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{PATCH}_B02.tif").write_bytes(b"")
        if kind == "deep":
            (tmp_path / folder / name).write_bytes(b"[" * 60_000)
        else:
            os.mkfifo(tmp_path / folder / name)
    assert list(walk(tmp_path))


def test_a_folder_that_cannot_be_read_just_now_is_told_as_passing(tmp_path, monkeypatch):
    (tmp_path / "item").mkdir()
    (tmp_path / "item" / "item.json").write_text("{}")

    def fails(_path, _most, _what):
        raise OSError(5, "input/output error")

    monkeypatch.setattr("rsfed.raster.stac_documents.read_small", fails)
    [problem] = walk(tmp_path)
    assert problem == Skipped("item", problem.reason, passing=True)
