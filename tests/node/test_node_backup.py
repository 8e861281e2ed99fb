"""What operators rely on when a node is lost and restored."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from node_archives import give_release, make_node, png, run

from node.backup import back_up, restore
from node.catalogue import Catalogue
from node.ingest import reading_of
from node.keys import handle_key, tie_key
from node.state import RESTORE_JUMP, open_state, restored_at
from rsfed.backup import BackupPlan, write_backup
from rsfed.config import NodeConfig, load_config
from rsfed.errors import StateError
from rsfed.home import Home
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
    assert ids(new) == {"a.png": 1, "after.png": 2 + RESTORE_JUMP}


def test_restoring_a_restored_node_jumps_again(lost, tmp_path):
    _, _, file = lost
    restore(file, Home(tmp_path / "one"), now=RESTORED)
    back_up(Home(tmp_path / "one"), tmp_path / "second.tar", now=RESTORED)
    restore(tmp_path / "second.tar", Home(tmp_path / "two"), now=RESTORED)
    run(Home(tmp_path / "two"))
    assert ids(Home(tmp_path / "two"))["after.png"] == 2 + 2 * RESTORE_JUMP


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
