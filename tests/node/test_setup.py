"""What a new operator relies on when a node is made."""

from __future__ import annotations

import stat

import pytest

from node.keys import handle_key, tie_key
from node.setup import Choices, init_node
from rsfed.config import NodeConfig, load_config
from rsfed.errors import ConfigError, NotAdmitted, UsageError
from rsfed.home import Home
from rsfed.trust.identity import create_keys, load_identity

CHOICES = Choices(None, "rgb", "0.0.0.0:7443", "node.example.org:7443")


def test_a_new_node_has_a_configuration_that_loads_and_is_guarded(tmp_path):
    home = Home(tmp_path / "home")
    path = init_node(home, CHOICES)
    config = load_config(NodeConfig, home.path)
    assert config.policy.level == "guarded"
    assert (config.serve.bind, config.serve.advertise) == ("0.0.0.0:7443", "node.example.org:7443")
    assert config.archive.modality == "rgb"
    text = path.read_text()
    assert text.count("[policy]") == 1
    assert '# level = "partner"' in text
    assert (home.path / "archive").is_dir()


def test_the_level_is_chosen_by_taking_away_one_sign(tmp_path):
    home = Home(tmp_path / "home")
    path = init_node(home, CHOICES)
    path.write_text(path.read_text().replace('# level = "partner"', 'level = "partner"'))
    assert load_config(NodeConfig, home.path).policy.level == "partner"


@pytest.mark.parametrize("name", ['Bilder "2024" \\ Zürich', "\U0001f6f0 scenes", "tab\there"])
def test_any_archive_path_survives_the_configuration(tmp_path, name):
    archive = tmp_path / name
    archive.mkdir()
    home = Home(tmp_path / "home")
    init_node(home, Choices(archive, "uint16-7", "127.0.0.1:1", "127.0.0.1:1"))
    assert load_config(NodeConfig, home.path).archive.path == str(archive)


def test_keys_are_made_once_and_belong_to_the_owner_alone(tmp_path):
    home = Home(tmp_path / "home")
    init_node(home, CHOICES)
    secrets = {path: path.read_bytes() for path in home.path.rglob("*") if path.parent.name in {"identity", "secrets"}}
    assert {"handle.key", "tie.key", "sealing-key.pem"} <= {path.name for path in secrets}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)
    assert all(stat.S_IMODE(path.parent.stat().st_mode) == 0o700 for path in secrets)
    assert len({handle_key(home), tie_key(home)}) == 2
    create_keys(home.identity)
    assert {path: path.read_bytes() for path in secrets} == secrets
    with pytest.raises(NotAdmitted, match="join"):
        load_identity(home.identity)


def test_two_nodes_share_no_secret(tmp_path):
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    init_node(one, CHOICES)
    init_node(two, CHOICES)
    assert not {handle_key(one), tie_key(one)} & {handle_key(two), tie_key(two)}


def test_a_node_is_never_made_twice(tmp_path):
    home = Home(tmp_path / "home")
    path = init_node(home, CHOICES)
    path.write_text("# mine\n")
    with pytest.raises(ConfigError) as refused:
        init_node(home, CHOICES)
    assert refused.value.reason == "ALREADY_INITIALISED"
    assert path.read_text() == "# mine\n"


def test_an_init_that_was_interrupted_is_finished_with_the_same_keys(tmp_path):
    home = Home(tmp_path / "home")
    path = init_node(home, CHOICES)
    key = handle_key(home)
    path.unlink()
    init_node(home, CHOICES)
    assert handle_key(home) == key


@pytest.mark.parametrize(
    ("choices", "word"),
    [
        (Choices(None, "infrared", "0.0.0.0:1", "a:1"), "infrared"),
        (Choices(None, "rgb", "no port", "a:1"), "--bind"),
        (Choices(None, "rgb", "0.0.0.0:1", "http://a:1"), "--advertise"),
    ],
)
def test_a_choice_that_will_not_do_is_named_and_nothing_is_made(tmp_path, choices, word):
    with pytest.raises(UsageError, match=word):
        init_node(Home(tmp_path / "home"), choices)
    assert not (tmp_path / "home").exists()


def test_an_archive_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--archive"):
        init_node(Home(tmp_path / "home"), Choices(tmp_path / "none", "rgb", "0.0.0.0:1", "a:1"))
