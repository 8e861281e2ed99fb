"""Walking an archive: every image once, in order, with its owner's labels; whatever else is told or known."""

from __future__ import annotations

import os

import pytest

from rsfed.errors import ArchiveError
from rsfed.raster.layout import Candidate, Skipped, walk


def _archive(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def _listed(root, labels="folders"):
    entries = list(walk(root, labels))
    images = {entry.name: entry.own_labels for entry in entries if isinstance(entry, Candidate)}
    skipped = {entry.name: entry.reason for entry in entries if isinstance(entry, Skipped)}
    assert len(images) + len(skipped) == len(entries)
    return images, skipped


def test_images_come_in_the_order_of_their_names_with_the_folder_as_label(tmp_path):
    _archive(tmp_path, "b/2.tif", "b/1.JPG", "a/z.png", "set/Forest/1.jpeg", "top.jp2", "a/x.TIFF")
    images, skipped = _listed(tmp_path)
    assert list(images.items()) == [
        ("a/x.TIFF", ("a",)),
        ("a/z.png", ("a",)),
        ("b/1.JPG", ("b",)),
        ("b/2.tif", ("b",)),
        ("set/Forest/1.jpeg", ("Forest",)),
        ("top.jp2", ()),
    ]
    assert not skipped
    assert all(entry.path.is_absolute() and entry.path.is_file() for entry in walk(tmp_path))


def test_labels_can_be_left_out(tmp_path):
    _archive(tmp_path, "a/1.tif")
    assert _listed(tmp_path, "none")[0] == {"a/1.tif": ()}


def test_hidden_files_and_side_cars_are_passed_over(tmp_path):
    _archive(tmp_path, ".hidden/1.tif", ".a.tif", "a.tif", "a.tif.aux.xml", "a.json", "notes.TXT", "a.tfw", "a.tif.ovr")
    assert _listed(tmp_path) == ({"a.tif": ()}, {})


def test_other_files_are_told_with_a_remedy(tmp_path):
    _archive(tmp_path, "a.tif", "b.exe", "c.vrt", "d.zip", "noname")
    images, skipped = _listed(tmp_path)
    assert list(images) == ["a.tif"]
    assert set(skipped) == {"b.exe", "c.vrt", "d.zip", "noname"}
    assert "give the images themselves" in skipped["c.vrt"]
    assert all(";" in reason and "\n" not in reason for reason in skipped.values())


def test_csv_labels_may_come_by_semicolon_and_in_several_rows(tmp_path):
    _archive(tmp_path, "x/1.tif", "x/2.tif", "x/3.tif")
    (tmp_path / "labels.csv").write_text(
        "path,label,split\nx/1.tif,a; b,train\n./x/2.tif,c,val\nx/1.tif,d,train\n", "utf-8-sig"
    )
    assert _listed(tmp_path, "labels.csv") == ({"x/1.tif": ("a", "b", "d"), "x/2.tif": ("c",), "x/3.tif": ()}, {})


def test_rows_of_the_label_file_that_will_not_do_are_told(tmp_path):
    _archive(tmp_path, "1.tif", "2.tif")
    rows = "1.tif,a\n1.tif,a\ngone.tif,b\n../out.tif,c\n/etc/x.tif,d\n,e\n2.tif\n"
    (tmp_path / "l.csv").write_text("path,label\n" + rows)
    images, skipped = _listed(tmp_path, "l.csv")
    assert images == {"1.tif": ("a",), "2.tif": ()}
    assert "same label twice" in skipped["1.tif"]
    assert "not there" in skipped["gone.tif"]
    assert all("outside of the archive" in skipped[name] for name in ("../out.tif", "/etc/x.tif", ""))


@pytest.mark.parametrize("content", [b"file,class\n1.tif,a\n", b"", b"path,label\n\xff\xfe\n", None])
def test_label_file_that_cannot_be_read_stops_the_walk(tmp_path, content):
    _archive(tmp_path, "1.tif")
    if content is not None:
        (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(ArchiveError, match="label file"):
        list(walk(tmp_path, "l.csv"))


def test_missing_archive_is_told(tmp_path):
    with pytest.raises(ArchiveError, match="no archive folder"):
        list(walk(tmp_path / "gone"))


def test_names_that_differ_only_in_case_are_told(tmp_path):
    _archive(tmp_path, "a/X.tif", "a/x.tif", "b/x.tif")
    images, skipped = _listed(tmp_path)
    assert list(images) == ["a/X.tif", "b/x.tif"]
    assert "differs from X.tif only in upper and lower case; rename" in skipped["a/x.tif"]


def test_names_that_cannot_be_printed_are_told_in_one_line(tmp_path):
    _archive(tmp_path, "a\nb.tif")
    (tmp_path / os.fsdecode(b"c\xff.tif")).write_bytes(b"")
    images, skipped = _listed(tmp_path)
    assert not images
    assert len(skipped) == 2
    assert all(name.isprintable() and "rename it" in reason for name, reason in skipped.items())


def test_links_out_of_the_archive_and_loops_are_told_and_never_followed(tmp_path):
    root = _archive(tmp_path / "archive", "a/1.tif")
    _archive(tmp_path, "secret/2.tif")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "out.tif").symlink_to(tmp_path / "secret" / "2.tif")
    (root / "a" / "up").symlink_to(root)
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling.tif").symlink_to(root / "nothing.tif")
    (root / "same.tif").symlink_to(root / "a" / "1.tif")
    images, skipped = _listed(root)
    assert list(images) == ["a/1.tif", "same.tif"]
    assert set(skipped) == {"a/up", "out", "out.tif", "loop", "dangling.tif"}
    assert all("link" in reason for reason in skipped.values())


def test_folders_too_deep_are_told(tmp_path):
    _archive(tmp_path, "/".join("d" * 40) + "/1.tif", "1.tif")
    images, skipped = _listed(tmp_path)
    assert list(images) == ["1.tif"]
    assert "too many folders deep" in next(iter(skipped.values()))


def test_folder_that_cannot_be_listed_does_not_stop_the_walk(tmp_path, monkeypatch):
    _archive(tmp_path, "a/1.tif", "b/1.tif")
    real = os.scandir

    def guarded(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    images, skipped = _listed(tmp_path)
    assert list(images) == ["b/1.tif"]
    assert "let this user read it" in skipped["a"]
