"""What operators rely on when an archive is ingested, changed, broken and ingested again."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from members import World
from node_archives import bad_files, configure, give_release, make_node, png, run, scene
from safe_makers import scene as safe_scene
from safe_makers import write_s2

import node.ingest
import node.looking
from node.audit import lines
from node.catalogue import Catalogue
from node.ingest import Listener, ingest
from node.state import MIGRATIONS, open_state
from rsfed import cli
from rsfed.errors import ArchiveError, ConfigError, ExitCode, StateError
from rsfed.home import open_database
from rsfed.raster.input_spec import default_spec
from rsfed.raster.layout import Candidate
from rsfed.raster.modality import modality
from rsfed.raster.reader import read


@pytest.fixture
def node_and_archive(tmp_path):
    return make_node(tmp_path)


def items(home, state="present", kind="rgb"):
    with Catalogue(home) as catalogue:
        return {
            item.path.relative_to(catalogue.root.resolve()).as_posix(): item for item in catalogue.items(kind, state)
        }


def all_ids(home):
    with closing(sqlite3.connect(home.database)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM item ORDER BY id")]


def test_every_image_becomes_a_patch_that_can_be_read(node_and_archive):
    home, archive = node_and_archive
    png(archive / "forest" / "a.png", 1)
    png(archive / "river" / "b.jpg", 2)
    report, skipped = run(home)
    found = items(home)
    assert set(found) == {"forest/a.png", "river/b.jpg"}
    assert (report.files, report.read, report.withdrawn, skipped) == (2, 2, 0, {})
    content = read(found["forest/a.png"], default_spec(modality("rgb"), 16))
    assert content["all"].shape == (3, 16, 16)


def test_a_second_run_reads_nothing_and_changes_nothing(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    for number in range(5):
        png(archive / f"{number}.png", number)
    run(home)
    before = items(home)
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: pytest.fail("a file was read again"))
    monkeypatch.setattr("rsfed.raster.inspect.source_digest", lambda *a: pytest.fail("a file was read again"))
    report, _ = run(home)
    assert (report.files, report.read, report.withdrawn) == (5, 0, 0)
    assert items(home) == before


def test_a_changed_file_gets_a_new_id_and_withdraws_the_old_patch(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    run(home)
    before = items(home)
    png(archive / "a.png", 3)
    report, _ = run(home)
    after = items(home)
    assert report.read == 1
    assert after["a.png"].id > max(item.id for item in before.values())
    assert after["b.png"] == before["b.png"]
    assert items(home, "withdrawn") == {"a.png": before["a.png"]}


def test_a_touched_file_of_the_same_content_keeps_its_patch(node_and_archive):
    home, archive = node_and_archive
    path = png(archive / "a.png", 1)
    run(home)
    before = items(home)
    os.utime(path, ns=(1, 1))
    report, _ = run(home)
    assert report.read == 1
    assert items(home) == before
    assert run(home)[0].read == 0


def test_a_vanished_file_withdraws_its_patch_and_returning_content_gets_a_new_id(node_and_archive):
    home, archive = node_and_archive
    path = png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    run(home)
    before = items(home)
    away = path.rename(archive.parent / "a.png")
    assert run(home)[0].withdrawn == 1
    assert set(items(home)) == {"b.png"}
    away.rename(path)
    run(home)
    after = items(home)
    assert after["a.png"].id > before["b.png"].id
    assert after["a.png"].digest == before["a.png"].digest


def test_what_is_gone_is_withdrawn_and_noted_before_anything_new_is_read(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    path = png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    run(home)
    path.unlink()
    png(archive / "c.png", 3)
    present = []
    look = node.looking.inspect
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: present.append(set(items(home))) or look(*a, **k))
    assert run(home)[0].withdrawn == 1
    assert present == [{"b.png"}]
    with closing(open_state(home)) as connection:
        (noted,) = [line.data for line in lines(home, connection, last=9) if line.kind == "archive.withdrawn"]
    assert noted == {"sources": 1, "patches": 1}
    next(home.audit.glob("*")).unlink()
    home.audit.rmdir()
    home.audit.write_text("no folder")
    (archive / "b.png").unlink()
    with pytest.raises((StateError, OSError)):
        run(home)
    assert set(items(home)) == {"c.png"}, "a log that cannot be written keeps nothing in"


def test_an_archive_that_is_taken_away_while_it_is_read_loses_nothing(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    for number, name in enumerate(("a", "b")):
        png(archive / f"{name}.png", number)
    run(home)
    before = items(home)
    for number, name in enumerate(("a", "b")):
        png(archive / f"{name}.png", 10 + number)
    look = node.looking.inspect
    away = archive.parent / "away"
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: (look(*a, **k), archive.rename(away))[0])
    with pytest.raises(ArchiveError, match="taken away while it was read"):
        run(home)
    monkeypatch.undo()
    away.rename(archive)
    assert items(home)["b.png"] == before["b.png"]
    assert run(home)[0].withdrawn == 0


def test_a_renamed_file_is_a_new_patch_of_the_same_content(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)
    before = items(home)["a.png"]
    (archive / "a.png").rename(archive / "c.png")
    run(home)
    after = items(home)
    assert set(after) == {"c.png"}
    assert after["c.png"].id != before.id
    assert after["c.png"].digest == before.digest


def test_what_is_in_the_archive_is_never_held_as_a_whole(node_and_archive):
    home, archive = node_and_archive
    for number in range(30):
        png(archive / f"{number}.png", number)
    held = []

    def progressed(done, total):
        mine = [each for each in gc.get_objects() if type(each) is Candidate and archive in each.path.parents]
        held.append((len(mine), done, total))

    ingest(home, Listener(progressed, lambda problem: None))
    assert max(count for count, *_ in held) < 10
    assert [(done, total) for _, done, total in held] == [(done, 30) for done in range(31)]


def test_ids_rise_and_are_never_used_again(node_and_archive):
    home, archive = node_and_archive
    for round_ in range(4):
        for number in range(3):
            png(archive / f"{number}.png", 10 * round_ + number)
        run(home)
    assert all_ids(home) == list(range(1, 13))
    assert sorted(item.id for item in items(home).values()) == [10, 11, 12]


def test_codes_of_withdrawn_patches_are_gone(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    run(home)
    ids = {name: item.id for name, item in items(home).items()}
    with Catalogue(home) as catalogue:
        catalogue.put_codes(b"r" * 32, "rgb", list(ids.values()), np.ones((2, 4), np.uint8))
    (archive / "a.png").unlink()
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.codes(b"r" * 32, "rgb")[0].tolist() == [ids["b.png"]]


def test_bad_files_of_every_kind_are_skipped_with_reason_and_the_good_ones_stay(node_and_archive):
    home, archive = node_and_archive
    png(archive / "before.png", 1)
    run(home)
    words = bad_files(archive)
    png(archive / "zz-last.png", 2)
    report, skipped = run(home)
    assert set(items(home)) == {"before.png", "Twin.png", "zz-last.png"}
    assert set(skipped) == set(words)
    for name, word in words.items():
        assert word in skipped[name], (name, skipped[name])
        assert "\n" not in skipped[name]
        assert ";" in skipped[name] or "give the images themselves" in skipped[name], "no remedy"
    assert sum(report.skipped.values()) == len(words)
    assert items(home)["before.png"].id == 1


def test_a_newcomer_that_differs_in_case_only_does_not_drive_out_what_is_already_in(node_and_archive):
    home, archive = node_and_archive
    png(archive / "river" / "b.png", 1)
    run(home)
    before = items(home)
    png(archive / "river" / "B.png", 2)
    report, skipped = run(home)
    assert items(home) == before
    assert report.withdrawn == 0
    assert "differs from b.png only in upper and lower case" in skipped["river/B.png"]


def test_a_good_file_that_was_replaced_by_a_bad_one_is_withdrawn(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    run(home)
    (archive / "a.png").write_bytes(b"")
    report, skipped = run(home)
    assert set(skipped) == {"a.png"}
    assert report.withdrawn == 1
    assert set(items(home)) == {"b.png"}


@pytest.fixture
def failing_disk(monkeypatch):
    """Make calls on files of some names fail, as `failing_disk("stat", errno.EIO, "a.png")`."""
    failures = {}

    def fail(call, code, name):
        if call not in failures:
            real = getattr(Path, call)

            def replaced(path, *args, **options):
                if (call, path.name) in codes:
                    raise OSError(codes[call, path.name], os.strerror(codes[call, path.name]), str(path))
                return real(path, *args, **options)

            codes = failures[call] = {}
            monkeypatch.setattr(Path, call, replaced)
        failures[call][call, name] = code

    return fail


@pytest.mark.parametrize("call", ["stat", "open"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_that_cannot_be_read_just_now_keeps_its_patch(node_and_archive, failing_disk, call, code):
    home, archive = node_and_archive
    for name in ("a", "b", "gone"):
        png(archive / f"{name}.png", ord(name[0]))
    run(home)
    before = items(home)
    os.utime(archive / "a.png", ns=(1, 1))  # so that it is read again
    (archive / "gone.png").unlink()
    failing_disk(call, code, "a.png")
    report, skipped = run(home)
    assert set(skipped) == {"a.png"}
    assert ";" in skipped["a.png"]
    assert (report.read, report.withdrawn, sum(report.skipped.values())) == (0, 1, 1)
    assert items(home) == {name: before[name] for name in ("a.png", "b.png")}


def test_a_file_that_fails_while_it_is_decoded_is_not_taken_for_damaged(node_and_archive, monkeypatch):
    from rasterio.errors import RasterioIOError

    home, archive = node_and_archive
    path = png(archive / "a.png", 1)
    run(home)
    before = items(home)
    os.utime(path, ns=(1, 1))

    def fail(*_, **__):
        raise RasterioIOError("read failed")

    opens = Path.open

    def fail_later(path, *args, **options):
        file = opens(path, *args, **options)
        if path.name == "a.png" and path.exists():
            monkeypatch.setattr(Path, "open", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        return file

    monkeypatch.setattr("rasterio.open", fail)
    monkeypatch.setattr(Path, "open", fail_later)
    _, skipped = run(home)
    monkeypatch.undo()
    assert "i/o error" in skipped["a.png"]
    assert items(home) == before


def test_a_file_that_vanishes_during_the_run_is_withdrawn(node_and_archive, failing_disk):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    png(archive / "b.png", 2)
    run(home)
    failing_disk("stat", errno.ENOENT, "a.png")
    assert run(home)[0].withdrawn == 1
    assert set(items(home)) == {"b.png"}


def test_patches_with_too_much_nodata_are_recorded_but_not_searched(tmp_path):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    scene(archive / "full.tif", 1)
    scene(archive / "edge.tif", 2, empty=0.09)
    scene(archive / "holes.tif", 3, empty=0.12)
    scene(archive / "nothing.tif", 4, empty=1.0)
    report, skipped = run(home)
    assert not skipped
    assert report.read == 4
    assert set(items(home, kind="rgbn-reflectance")) == {"full.tif", "edge.tif"}
    assert set(items(home, "recorded", "rgbn-reflectance")) == {"holes.tif", "nothing.tif"}


def test_place_time_and_acquisition_come_from_the_file(tmp_path):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    scene(
        archive / "a.tif", ACQUISITION="S2A:20240501T101031", ACQUIRED="2024-05-01T12:10:31+02:00/2024-05-01T10:11:00Z"
    )
    run(home)
    item = items(home, kind="rgbn-reflectance")["a.tif"]
    assert item.acquisition == "S2A:20240501T101031"
    assert item.acquired == (datetime(2024, 5, 1, 10, 10, 31, tzinfo=UTC), datetime(2024, 5, 1, 10, 11, tzinfo=UTC))
    west, south, east, north = item.footprint
    assert 10 < west < east < 11
    assert 46 < south < north < 48


def as_of_schema(home, version):
    """Write the node's database again as a version of the schema held it."""
    now = home.database.rename(home.database.with_suffix(".now"))
    with closing(open_database(home.database, MIGRATIONS[:version])) as old:
        old.execute("PRAGMA foreign_keys = OFF")
        old.execute("ATTACH ? AS now", (str(now),))
        for (table,) in old.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(f"INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")


def test_reference_systems_are_kept_also_of_files_that_an_older_version_took_up(tmp_path):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    scene(archive / "a.tif", 1)
    scene(archive / "b.tif", 2)
    run(home)
    before = items(home, kind="rgbn-reflectance")
    as_of_schema(home, 2)
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.reference_systems() == {"EPSG:32632": 2}
    assert items(home, kind="rgbn-reflectance") == before


def test_files_without_a_reference_system_are_counted_as_such(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.reference_systems() == {None: 1}


def test_files_that_name_no_acquisition_count_as_one(node_and_archive):
    home, archive = node_and_archive
    for number in range(3):
        png(archive / f"{number}.png", number)
    run(home)
    assert {item.acquisition.split(":")[0] for item in items(home).values()} == {"unknown"}
    with Catalogue(home) as catalogue:
        assert catalogue.acquisitions() == 1


def test_independent_files_are_acquisitions_of_their_own_and_equal_content_counts_once(node_and_archive):
    home, archive = node_and_archive
    for number in range(3):
        png(archive / f"{number}.png", number)
    (archive / "copy.png").write_bytes((archive / "0.png").read_bytes())
    run(home)
    configure(home, "independent_files = false", "independent_files = true")
    report, _ = run(home)
    assert report.read == 0
    with Catalogue(home) as catalogue:
        assert catalogue.acquisitions() == 3
    assert items(home)["copy.png"].acquisition == items(home)["0.png"].acquisition
    configure(home, "independent_files = true", "independent_files = false")
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.acquisitions() == 1


def statements(monkeypatch):
    """Collect the SQL that the next ingests run."""
    seen, opening = [], node.ingest.open_state

    def traced(home, **how):
        connection = opening(home, **how)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(node.ingest, "open_state", traced)
    return seen


def test_a_run_without_news_updates_no_patch(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    for number in range(3):
        png(archive / f"{number}.png", number)
    run(home)
    seen = statements(monkeypatch)
    run(home)
    assert seen
    assert not [each for each in seen if each.lstrip().startswith("UPDATE item")]


def test_acquisitions_follow_the_configuration_also_after_a_run_that_was_broken_off(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)
    configure(home, "independent_files = false", "independent_files = true")
    png(archive / "b.png", 2)

    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(home, Listener(stop, lambda problem: None))
    configure(home, "independent_files = true", "independent_files = false")
    run(home)
    with Catalogue(home) as catalogue:
        assert catalogue.acquisitions() == 1


def test_labels_map_by_name_and_unmapped_patches_stay(node_and_archive):
    home, archive = node_and_archive
    give_release(home, "Forest", "Sea Lake")
    png(archive / "forest" / "a.png", 1)
    png(archive / "sea-lake" / "b.png", 2)
    png(archive / "clouds" / "c.png", 3)
    report, _ = run(home)
    labels = {name: item.labels for name, item in items(home).items()}
    assert labels == {"forest/a.png": (1,), "sea-lake/b.png": (2,), "clouds/c.png": ()}
    assert report.labels.unmapped == ("clouds",)
    with Catalogue(home) as catalogue:
        assert [item.labels for item in catalogue.training_items()] == [(1,), (2,)]
        assert catalogue.class_counts() == {1: 1, 2: 1}
        assert (catalogue.count(), catalogue.count_labelled()) == (3, 2)


def test_a_new_map_or_nomenclature_maps_again_without_reading_a_pixel(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    png(archive / "wood" / "a.png", 1)
    run(home)
    assert items(home)["wood/a.png"].labels == ()
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: pytest.fail("a file was read again"))
    world = World()
    give_release(home, "Forest", "Heath", world=world)
    configure(home, "[labels.map]", '[labels.map]\nwood = ["forest", "heath"]')
    run(home)
    assert items(home)["wood/a.png"].labels == (1, 2)
    give_release(home, "Wood", world=world, version=2)
    configure(home, 'wood = ["forest", "heath"]', "")
    run(home)
    assert items(home)["wood/a.png"].labels == (1,)


def test_labels_from_a_csv_follow_its_changes_without_reading_a_pixel(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    give_release(home, "Forest", "River")
    configure(home, 'labels = "folders"', 'labels = "labels.csv"')
    png(archive / "a.png", 1)
    (archive / "labels.csv").write_text("path,label\na.png,forest;river\n")
    run(home)
    assert items(home)["a.png"].labels == (1, 2)
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: pytest.fail("a file was read again"))
    (archive / "labels.csv").write_text("path,label\na.png,river\n")
    run(home)
    assert items(home)["a.png"].labels == (2,)


def test_a_wrong_label_map_is_said_before_anything_is_read(node_and_archive):
    home, archive = node_and_archive
    give_release(home, "Forest")
    configure(home, "[labels.map]", '[labels.map]\nwood = "Marsh"')
    png(archive / "a.png", 1)
    with pytest.raises(ConfigError) as refused:
        run(home)
    assert refused.value.reason == "UNKNOWN_CLASS"
    assert not all_ids(home)


def test_a_release_damaged_on_disk_changes_neither_labels_nor_patches(node_and_archive):
    home, archive = node_and_archive
    give_release(home, "Forest")
    png(archive / "forest" / "a.png", 1)
    run(home)
    before = items(home)
    (weights,) = home.releases.rglob("weights.safetensors")
    weights.write_bytes(b"x")
    with pytest.raises(StateError, match="release"):
        run(home)
    assert items(home) == before
    assert before["forest/a.png"].labels == (1,)


def test_another_input_spec_cuts_again_and_keeps_patches_of_the_same_window(tmp_path):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    scene(archive / "a.tif", side=128)
    run(home)
    whole = items(home, kind="rgbn-reflectance")["a.tif"]
    world, kind = World(), modality("rgbn-reflectance")

    def release(version, size, fit):
        spec = default_spec(kind, size, fit)
        give_release(home, "Forest", world=world, version=version, encoder=(kind.name, spec))

    release(1, 96, "crop")
    assert run(home)[0].read == 1
    assert items(home, kind="rgbn-reflectance") == {"a.tif": whole}
    release(2, 64, "tile")
    run(home)
    with Catalogue(home) as catalogue:
        tiles = [item.window for item in catalogue.items(kind.name)]
        assert sorted((w.col, w.row, w.width, w.height) for w in tiles) == [
            (0, 0, 64, 64), (0, 64, 64, 64), (64, 0, 64, 64), (64, 64, 64, 64),
        ]  # fmt: skip
        assert catalogue.state(whole.id) == "withdrawn"


def test_a_release_that_tolerates_less_nodata_takes_patches_out_of_the_search_and_the_next_back_in(tmp_path):
    home, archive = make_node(tmp_path, kind="rgbn-reflectance")
    scene(archive / "edge.tif", empty=0.05)
    world, kind = World(), modality("rgbn-reflectance")

    def release(version, max_nodata):
        spec = default_spec(kind, 64).model_copy(update={"max_nodata": max_nodata})
        give_release(home, "Forest", world=world, version=version, encoder=(kind.name, spec))
        run(home)

    release(1, 0.1)
    before = items(home, kind=kind.name)
    with Catalogue(home) as catalogue:
        catalogue.put_codes(b"r" * 32, "one", [1], np.ones((1, 4), np.uint8))
        release(2, 0.01)
        assert items(home, "recorded", kind.name) == before
        assert catalogue.codes(b"r" * 32, "one")[0].size == 0
    release(3, 0.1)
    assert items(home, kind=kind.name) == before


def test_a_release_that_only_normalises_otherwise_reads_nothing_again(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)
    monkeypatch.setattr(node.looking, "inspect", lambda *a, **k: pytest.fail("a file was read again"))
    spec = default_spec(modality("rgb"), 64)
    group = spec.groups[0].model_copy(update={"scale": (1.0, 2.0, 3.0)})
    changed = spec.model_copy(update={"groups": (group,), "fill": 1.0, "resampling": "nearest"})
    give_release(home, "Forest", encoder=("rgb", changed))
    assert run(home)[0].read == 0


def test_an_archive_that_is_suddenly_empty_loses_nothing_unless_the_operator_says_so(node_and_archive):
    home, archive = node_and_archive
    path = png(archive / "a.png", 1)
    run(home)
    path.unlink()
    with pytest.raises(ArchiveError) as refused:
        run(home)
    assert refused.value.reason == "ARCHIVE_EMPTY"
    assert set(items(home)) == {"a.png"}
    assert run(home, accept_empty=True)[0].withdrawn == 1
    assert not items(home)


def test_a_missing_archive_folder_loses_nothing(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)
    away = archive.rename(archive.parent / "away")
    with pytest.raises(ArchiveError):
        run(home)
    away.rename(archive)
    assert set(items(home)) == {"a.png"}
    assert run(home)[0].read == 0


def test_a_folder_that_cannot_be_listed_just_now_loses_nothing(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    png(archive / "a" / "1.png", 1)
    png(archive / "ab" / "2.png", 2)
    png(archive / "b" / "3.png", 3)
    run(home)
    (archive / "ab" / "2.png").unlink()
    listing = os.scandir

    def refuse(folder):
        if os.fspath(folder).endswith("/a"):
            raise PermissionError
        return listing(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    report, skipped = run(home)
    assert set(skipped) == {"a"}
    assert report.withdrawn == 1
    assert set(items(home)) == {"a/1.png", "b/3.png"}
    (archive / "b" / "3.png").unlink()
    with pytest.raises(ArchiveError, match="nothing of the archive is seen just now; a: it or a folder") as caught:
        run(home)
    assert caught.value.reason == "ARCHIVE", "it is not called empty"


def test_an_archive_folder_that_cannot_be_listed_loses_nothing_and_says_so(node_and_archive, monkeypatch):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)

    def refuse(folder):
        raise PermissionError

    monkeypatch.setattr(os, "scandir", refuse)
    for accept_empty in (False, True):
        with pytest.raises(ArchiveError, match="let this user read it") as refused:
            run(home, accept_empty=accept_empty)
        assert "mount" not in refused.value.public
    assert set(items(home)) == {"a.png"}


def test_an_empty_archive_is_no_error(node_and_archive):
    home, _ = node_and_archive
    report, skipped = run(home)
    assert (report.files, report.read, skipped) == (0, 0, {})


def test_two_ingests_at_once_are_refused(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    inner = []

    def second(done, total):
        if not inner:
            inner.append(True)
            with pytest.raises(StateError, match="another ingest"):
                run(home)

    ingest(home, Listener(second, lambda problem: None))
    assert inner


def test_the_archive_may_move_as_a_whole(node_and_archive):
    home, archive = node_and_archive
    png(archive / "a.png", 1)
    run(home)
    before = items(home)["a.png"]
    moved = archive.rename(archive.parent / "moved")
    configure(home, str(archive), str(moved))
    assert run(home)[0].read == 0
    after = items(home)["a.png"]
    assert after.id == before.id
    assert after.path == moved / "a.png"


# Loads everything once, then forks a process for each line on standard input: one ingest, which says its pid, then how
# many files it is past. The next line asks how it ended.
_INGESTS = """
import os, sys
from pathlib import Path
import node.ingest
from node.ingest import Listener, ingest
from rsfed.home import Home
node.ingest._BATCH_FILES = 8
def say(word, number):
    os.write(1, f"{word} {number}\\n".encode())
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        say("pid", os.getpid())
        ingest(Home(Path(sys.argv[1])), Listener(lambda done, total: say("past", done), lambda problem: None))
        os._exit(0)
    sys.stdin.readline()
    say("ended", os.waitpid(child, 0)[1])
"""


@pytest.mark.process
def test_an_ingest_killed_many_times_loses_nothing_that_was_acknowledged(node_and_archive):
    home, archive = node_and_archive
    files, rng = 300, np.random.default_rng(5)
    for number in range(files):
        png(archive / f"{number % 7}" / f"{number}.png", number, size=(16, 16))
    seen: dict[int, str] = {}
    interrupted = 0
    command = [sys.executable, "-c", _INGESTS, str(home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as ingests:

        def wait_for(word: str, number: int = 0) -> int:
            for line in iter(ingests.stdout.readline, ""):
                said, value = line.split()
                if said == word and int(value) >= number:
                    return int(value)
            pytest.fail("the process that ingests ended by itself")

        while len(seen) < files:
            ingests.stdin.write("ingest\n")
            process = wait_for("pid")
            wait_for("past", min(files, len(seen) + int(rng.integers(0, 30))))
            time.sleep(rng.uniform(0, 0.005))
            os.kill(process, signal.SIGKILL)
            ingests.stdin.write("ended?\n")
            interrupted += wait_for("ended") == signal.SIGKILL
            with closing(sqlite3.connect(home.database)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                found = dict(connection.execute("SELECT id, digest FROM item WHERE state = 'present'"))
                (next_id,) = connection.execute("SELECT value FROM meta WHERE key = 'next_item'").fetchone()
                sources = connection.execute("SELECT count(*) FROM source").fetchone()[0]
            assert seen.items() <= found.items(), "an acknowledged patch was lost or changed"
            assert len(found) == sources, "half a batch was kept"
            assert max(found, default=0) < next_id
            seen = found
    assert interrupted >= 15
    report, _ = run(home)
    assert report.read == 0
    assert {item.id: item.digest for item in items(home).values()} == seen
    assert all_ids(home) == list(range(1, files + 1))


def test_a_full_disk_ends_the_ingest_with_a_word_and_loses_nothing_that_was_acknowledged(
    node_and_archive, monkeypatch, capsys
):
    home, archive = node_and_archive
    for number in range(60):
        png(archive / f"{number:02}.png", number, size=(16, 16))
    monkeypatch.setattr(node.ingest, "_BATCH_FILES", 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (home.database.stat().st_size + (100 << 10), hard))
    try:
        assert cli.run(["node", "ingest", "--home", str(home.path)]) == ExitCode.FAILURE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("rsfed: ")]
    assert "disk" in line
    assert "check the disk and its free space" in line
    before = items(home)
    assert 0 < len(before) < 60
    report, skipped = run(home)
    assert (report.read, skipped) == (60 - len(before), {})
    assert before.items() <= items(home).items()
    assert all_ids(home) == list(range(1, 61))


def test_a_missing_configuration_says_what_to_run(tmp_path):
    from rsfed.home import Home

    with pytest.raises(ConfigError, match="rsfed node init") as refused:
        run(Home(tmp_path))
    assert refused.value.exit_code == ExitCode.CONFIGURATION


def test_patches_under_clouds_are_recorded_and_come_back_with_a_higher_threshold(tmp_path):
    home, archive = make_node(tmp_path, kind="sentinel-2-l2a")
    configure(home, "[archive]", "[archive]\nstride = 160.0")
    classes = np.full((48, 48), 4, np.uint8)
    classes[:24, :24] = 9
    write_s2(archive / "product.SAFE", safe_scene(1, size=96), classes=classes)
    run(home)
    present, hidden = (len(items_of(home, state)) for state in ("present", "recorded"))
    assert present > 0
    assert hidden > 0
    with Catalogue(home) as catalogue:
        assert catalogue.count_covered(0.1) + catalogue.count_behind() == hidden
    configure(home, "[archive]", "[archive]\nmax_cloud = 1.0")
    assert run(home)[0].read == 1, "the rules are others, so it is read again"
    with Catalogue(home) as catalogue:
        assert catalogue.count_covered(0.1) == 0
        assert len(items_of(home, "present")) + catalogue.count_behind() == present + hidden
    assert run(home)[0].read == 0


def items_of(home, state):
    with Catalogue(home) as catalogue:
        return list(catalogue.items("sentinel-2-l2a", state))
