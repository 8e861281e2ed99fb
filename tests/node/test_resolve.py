"""`rsfed node resolve`: the operator, and only the operator, learns which own file a handle means."""

import json
from contextlib import closing
from datetime import timedelta

import numpy as np
import pytest
from members import World
from serving import Asker, add_patches, make_home, make_searcher, publish, serve_codes, withdraw
from typer.testing import CliRunner

from node.auditing import handle_digest
from node.resolve import resolve
from node.state import open_state
from rsfed.clock import Deadline
from rsfed.errors import UnknownHandle, UsageError
from rsfed.home import transaction
from rsfed.v1 import archive_pb2 as pb


class Scene:
    """A node that answered one query."""

    def __init__(self, folder, first=0):
        self.world = World()
        self.home = make_home(folder)
        if first:
            add_patches(self.home, first)
        release = publish(self.home, self.world)
        self.ids = add_patches(self.home, 5, labels=("forest", "park"))
        searcher = make_searcher(
            self.home, self.world, serve_codes(self.home, release, self.ids, np.zeros((5, 4), np.uint8))
        )
        signed = Asker(self.world).ask(release, np.zeros((1, 4), np.uint8), k=5)
        request = pb.ArchiveServiceSearchRequest(query=signed)
        self.response = searcher.search(request, Deadline.after(20))
        (answer,) = self.response.answers
        self.handles = [answer.item_handles[i : i + 16].hex() for i in range(0, 80, 16)]
        self.bucket = answer.bucket_handles.hex()

    def resolve(self, *handles):
        return resolve(self.home, handles, operator="olga", now=self.world.clock())

    def log(self):
        with closing(open_state(self.home)) as connection:
            return connection.execute("SELECT operator, handle, requester, item FROM resolved ORDER BY id").fetchall()


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path / "node")


def test_handles_mean_the_patches_that_were_listed_and_whose_query_it_was(scene):
    found = scene.resolve(*scene.handles)
    assert sorted(each.item.id for each in found) == scene.ids
    assert {each.query.requester for each in found} == {"spiffe://alps/analyst/ada"}
    assert {each.query.query_id for each in found} == {scene.response.query_id}
    assert found[0].item.path == scene.home.path / "archive" / f"secret-{found[0].item.id}.png"
    assert found[0].labels == ("forest", "park")


def test_every_look_up_is_noted(scene):
    found = scene.resolve(scene.handles[2], scene.handles[0])
    expected = [("olga", each.handle, "spiffe://alps/analyst/ada", each.item.id) for each in found]
    assert scene.log() == expected


def test_a_handle_of_another_node_means_nothing_here(scene, tmp_path):
    other = Scene(tmp_path / "other")
    with pytest.raises(UnknownHandle):
        scene.resolve(other.handles[0])


@pytest.mark.parametrize("handle", ["", "zz", "ab" * 15, "ab" * 17, "a b" * 10 + "ab"])
def test_what_is_no_handle_is_a_wrong_call(scene, handle):
    with pytest.raises(UsageError, match="32 hexadecimal"):
        scene.resolve(handle)


def test_a_handle_that_was_looked_up_before_goes_by_its_first_digits_or_those_of_its_digest(scene):
    (found,) = scene.resolve(scene.handles[0])
    for short in (scene.handles[0][:8].upper(), handle_digest(found.handle)[:8]):
        assert scene.resolve(short) == [found]


def test_first_digits_of_several_or_of_no_known_handle_are_refused_plainly(scene):
    with pytest.raises(UsageError, match="no handle that was looked up or asked for"):
        scene.resolve(scene.handles[0][:8])
    with closing(open_state(scene.home)) as connection, transaction(connection):
        for last in (1, 2):
            handle = bytes.fromhex(scene.handles[0])[:15] + bytes([last])
            connection.execute("INSERT INTO resolved VALUES (?, '', '', ?, '', x'', 1)", (last, handle))
    with pytest.raises(UsageError, match="2 handles begin so; give more digits"):
        scene.resolve(scene.handles[0][:8])


def test_a_made_up_handle_is_refused_with_where_to_ask(scene):
    with pytest.raises(UnknownHandle, match="resolve it at the node that the hit names"):
        scene.resolve("ab" * 16)


def test_one_unknown_handle_resolves_and_notes_nothing(scene):
    with pytest.raises(UnknownHandle):
        scene.resolve(scene.handles[0], "ab" * 16)
    assert scene.log() == []


def test_the_handle_of_a_bucket_names_no_patch(scene):
    with pytest.raises(UnknownHandle, match="bucket"):
        scene.resolve(scene.bucket)


def test_a_handle_means_nothing_after_90_days(scene):
    scene.world.clock.moment += timedelta(days=91)
    with pytest.raises(UnknownHandle):
        scene.resolve(scene.handles[0])


def test_a_patch_that_was_withdrawn_since_is_still_named_and_said_to_be_gone(scene):
    withdraw(scene.home, scene.ids)
    assert {each.state for each in scene.resolve(*scene.handles)} == {"withdrawn"}


def test_the_command_prints_json_and_a_table(scene):
    from node.cli import app

    run = CliRunner().invoke(app, ["resolve", *scene.handles[:2], "--home", str(scene.home.path), "--output", "json"])
    found = json.loads(run.stdout)
    assert [each["handle"] for each in found] == scene.handles[:2]
    assert found[0]["window"] == {"col": 0, "row": 0, "width": 32, "height": 32}
    assert found[0]["labels"] == ["forest", "park"]
    assert found[0]["query"] == scene.response.query_id.hex()
    table = CliRunner().invoke(app, ["resolve", scene.handles[0], "--home", str(scene.home.path)]).stdout
    assert "spiffe://alps/analyst/ada" in table
    assert len(scene.log()) == 3
