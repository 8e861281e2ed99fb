"""`rsfed node requests` as an operator types it: who asks for what, with the real picture, and one answer."""

import json
import shutil

import numpy as np
import pytest
from access_scene import Scene
from PIL import Image

from rsfed.cli import run
from rsfed.v1 import access_pb2 as pb


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def command(scene, capsys, *arguments, code=0):
    assert run(["node", "requests", *map(str, arguments), "--home", str(scene.home.path)]) == code
    return capsys.readouterr()


def listed(scene, capsys, *options):
    return json.loads(command(scene, capsys, "list", "--output", "json", *options).out)["requests"]


def test_the_operator_sees_who_asks_for_which_file_and_why(scene, capsys, tmp_path):
    request_id = scene.asked(want=pb.ACCESS_WANT_FILE).hex()
    picture = tmp_path / "patch.png"
    text = command(scene, capsys, "show", request_id[:6], "--picture", picture).out
    for told in ("spiffe://alps/analyst/ada", "flood mapping", "secret-", "24 x 24 pixels", "the file, about"):
        assert told in text
    with Image.open(picture) as drawn:
        shown = np.asarray(drawn.resize((24, 24), Image.Resampling.BOX), float)
    path = next(line.split()[1] for line in text.splitlines() if line.startswith("file"))
    with Image.open(path) as source:
        assert np.corrcoef(shown.ravel(), np.asarray(source, float).ravel())[0, 1] > 0.9
    as_json = json.loads(command(scene, capsys, "show", request_id, "--output", "json").out)
    assert (as_json["path"], as_json["bytes"]) == (path, next(f for f in scene.files if str(f) == path).stat().st_size)


def test_the_look_at_a_file_is_noted(scene, capsys):
    request_id = scene.asked().hex()
    command(scene, capsys, "show", request_id)
    run(["node", "audit", "show", "--home", str(scene.home.path), "--output", "json"])
    kinds = [each["kind"] for each in json.loads(capsys.readouterr().out)["audit"]]
    assert kinds[-1] == "handle.resolved"


def test_answers_and_their_end_are_listed(scene, capsys):
    first, second = scene.asked().hex(), scene.asked().hex()
    assert [each["request"] for each in listed(scene, capsys)] in ([first, second], [second, first])
    run(["node", "status", "--home", str(scene.home.path), "--output", "json"])
    assert json.loads(capsys.readouterr().out)["requests_waiting"] == 2
    assert "approved: quicklook" in command(scene, capsys, "approve", first).out
    assert command(scene, capsys, "deny", second, "--note", "no").out == "denied\n"
    (left,) = listed(scene, capsys)
    assert (left["request"], left["state"]) == (first, "approved")
    assert {each["state"] for each in listed(scene, capsys, "--all")} == {"approved", "denied"}
    assert command(scene, capsys, "deny", first).out == "withdrawn\n"
    assert command(scene, capsys, "list").out == "nobody waits for an answer\n"


def test_a_request_is_named_by_how_it_begins_if_no_other_begins_so(scene, capsys):
    scene.asked(request_id=b"\xab\x01" + bytes(14))
    scene.asked(request_id=b"\xab\x02" + bytes(14))
    assert "[UNKNOWN_REQUEST]" in command(scene, capsys, "show", "ab", code=1).err
    assert "[UNKNOWN_REQUEST]" in command(scene, capsys, "approve", "cd", code=1).err
    assert "[UNKNOWN_REQUEST]" in command(scene, capsys, "deny", "", code=1).err
    command(scene, capsys, "deny", "AB01")


def test_a_request_for_a_file_that_is_gone_is_shown_and_can_be_denied(scene, capsys):
    request_id = scene.asked(want=pb.ACCESS_WANT_FILE).hex()
    for file in scene.files:
        file.unlink()
    assert "cannot be read" in command(scene, capsys, "show", request_id).err
    assert "[RASTER_REJECTED]" in command(scene, capsys, "approve", request_id, code=1).err
    command(scene, capsys, "deny", request_id)


@pytest.mark.parametrize("note", ["x" * 501, "two\nlines"])
def test_a_note_that_nobody_could_read_is_a_wrong_call(scene, capsys, note):
    request_id = scene.asked().hex()
    assert "500 characters" in command(scene, capsys, "deny", request_id, "--note", note, code=2).err
    assert listed(scene, capsys)[0]["state"] == "open"


def test_where_there_is_no_node_it_says_what_to_do(scene, capsys):
    shutil.rmtree(scene.home.path)
    assert "node init" in command(scene, capsys, "list", code=6).err
