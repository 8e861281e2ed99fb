"""What operators rely on when a node is lost and restored."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from node_archives import give_release, make_node, png, run

from node.auditing import open_log
from node.backup import back_up, restore
from node.catalogue import Catalogue
from node.keys import handle_key, tie_key
from node.presence import Presence
from node.recipe import reading_of
from node.state import mark_audited, open_state, restored_at
from rsfed.backup import BackupPlan, write_backup
from rsfed.config import NodeConfig, load_config
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.trust.audit_log import read_entries
from rsfed.trust.identity import create_keys

MADE, RESTORED = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 2, tzinfo=UTC)


@pytest.fixture
def lost(tmp_path):
    """A node that was backed up with one patch, then went on, and its archive and backup."""
    home, archive = make_node(tmp_path)
    give_release(home, "Forest")
    png(archive / "a.png", 1)
    run(home)
    back_up(home, tmp_path / "backup.tar", now=MADE)
    png(archive / "after.png", 2)
    run(home)
    return home, archive, tmp_path / "backup.tar"


def ids(home):
    with Catalogue(home) as catalogue:
        return {item.path.name: item.id for item in catalogue.items("rgb")}


def test_a_restored_node_has_its_configuration_keys_release_and_catalogue(lost, tmp_path):
    home, _, file = lost
    new = Home(tmp_path / "new")
    assert restore(file, new, now=RESTORED) == MADE
    config = load_config(NodeConfig, new.path)
    assert config == load_config(NodeConfig, home.path)
    assert (handle_key(new), tie_key(new)) == (handle_key(home), tie_key(home))
    assert create_keys(new.identity).sealing_public == create_keys(home.identity).sealing_public
    assert reading_of(new, config).release == 1
    assert set(ids(new)) == {"a.png"}


def test_a_restored_node_never_repeats_an_item_id(lost, tmp_path):
    home, _, file = lost
    new = Home(tmp_path / "new")
    restore(file, new, now=RESTORED)
    run(new)
    assert ids(home) == {"a.png": 1, "after.png": 2}
    assert ids(new)["a.png"] == 1
    assert 1 << 40 < ids(new)["after.png"] < 1 << 62


def new_id(home):
    """The id that a patch gets in a restored home."""
    run(home)
    return ids(home)["after.png"]


@pytest.mark.parametrize("later", [timedelta(seconds=1), timedelta(hours=1), timedelta(days=3650)])
def test_one_backup_restored_at_two_moments_gives_different_ids(lost, tmp_path, later):
    _, _, file = lost
    restore(file, Home(tmp_path / "one"), now=RESTORED)
    restore(file, Home(tmp_path / "two"), now=RESTORED + later)
    first, second = new_id(Home(tmp_path / "one")), new_id(Home(tmp_path / "two"))
    assert first + (1 << 20) * later.total_seconds() <= second < 1 << 62


@pytest.mark.parametrize("behind", [timedelta(), timedelta(days=1), timedelta(days=3650)])
def test_restoring_a_restored_node_gives_higher_ids_even_when_the_clock_is_behind(lost, tmp_path, behind):
    _, _, file = lost
    restore(file, Home(tmp_path / "one"), now=RESTORED)
    back_up(Home(tmp_path / "one"), tmp_path / "second.tar", now=RESTORED)
    restore(tmp_path / "second.tar", Home(tmp_path / "two"), now=RESTORED - behind)
    assert new_id(Home(tmp_path / "two")) >= new_id(Home(tmp_path / "one")) + (1 << 20)


def test_patches_with_the_highest_ids_come_and_go_as_any_others(lost):
    home, archive, _ = lost
    with closing(open_state(home)) as connection:
        connection.execute("UPDATE meta SET value = (1 << 62) - 9 WHERE key = 'next_item'")
    for number in range(4):
        png(archive / f"high{number}.png", 10 + number)
    run(home)
    with closing(open_state(home)) as connection:
        presence = Presence(connection)
        assert presence.changed()
        assert presence.ids("rgb").tolist() == [1, 2, *range((1 << 62) - 9, (1 << 62) - 5)]
        (archive / "high3.png").unlink()
        png(archive / "high4.png", 14)
        run(home)
        assert presence.changed()
        assert presence.ids("rgb").tolist()[-2:] == [(1 << 62) - 7, (1 << 62) - 5]


def test_a_restored_node_knows_from_when_on_queries_may_be_answered(lost, tmp_path):
    home, _, file = lost
    restore(file, Home(tmp_path / "new"), now=RESTORED)
    with closing(open_state(home)) as before, closing(open_state(Home(tmp_path / "new"))) as after:
        assert restored_at(before) is None
        assert restored_at(after) == RESTORED + timedelta(seconds=60)  # clocks may differ by that much


def test_no_image_is_in_a_backup(tmp_path):
    home = Home(tmp_path / "home")
    archive = home.path / "archive"
    from node.setup import Choices, init_node

    init_node(home, Choices(None, "rgb", "127.0.0.1:1", "127.0.0.1:1"))
    image = png(archive / "secret-place.png", 1)
    run(home)
    back_up(home, tmp_path / "b.tar", now=MADE)
    assert image.read_bytes()[60:200] not in (tmp_path / "b.tar").read_bytes()


def test_a_home_without_state_cannot_be_backed_up(tmp_path):
    with pytest.raises(StateError):
        back_up(Home(tmp_path), tmp_path / "b.tar", now=MADE)


def test_the_backup_of_a_coordinator_is_no_node(lost, tmp_path):
    home, _, _ = lost
    write_backup(home, tmp_path / "coordinator.tar", BackupPlan("coordinator", ()), now=MADE)
    with pytest.raises(StateError) as refused:
        restore(tmp_path / "coordinator.tar", Home(tmp_path / "new"), now=RESTORED)
    assert refused.value.reason == "BACKUP_FOREIGN"


def test_a_restored_node_begins_a_new_audit_log_which_names_the_one_in_the_backup(lost, tmp_path):
    home, _, _ = lost
    with closing(open_state(home)) as connection, closing(open_log(home, connection, now=MADE)) as log:
        log.sync(log.append({"at": 0, "kind": "test"}))
        mark_audited(connection, log.durable())
        back_up(home, tmp_path / "audited.tar", now=MADE)
        before = log.durable()
        log.sync(log.append({"at": 0, "kind": "test"}))  # which the backup does not know
    new = Home(tmp_path / "new")
    restore(tmp_path / "audited.tar", new, now=RESTORED)
    first = json.loads(next(read_entries(new.audit)))
    assert first["previous"] == {"log": before.log, "size": 2, "root": before.root.hex()}
    assert len((new.audit / f"{before.log}.jsonl").read_bytes().splitlines()) == 2
    with closing(open_state(new)) as connection, closing(open_log(new, connection, now=RESTORED)) as log:
        assert (log.durable().log, log.durable().size) == (first["log"], 1)
