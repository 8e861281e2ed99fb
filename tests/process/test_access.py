"""From a hit to the image that its archive's operator approved: real processes, homes and certificates."""

import json
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, wait_until, write_images
from PIL import Image

from rsfed.home import Home
from rsfed.trust.identity import load_identity
from rsfed.trust.names import MemberId

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

CLASSES = {"stripes-a": 4, "stripes-b": 4}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Coordinator, the node alps with 8 images, and the analysts ada, eve and kim."""
    made = Federation(tmp_path_factory.mktemp("federation"))
    try:
        made.create(classes=",".join(CLASSES))
        write_images(made.folder / "secret-images", CLASSES, seed=1)
        made.add_node("alps", made.folder / "secret-images")
        for name in ("ada", "eve", "kim"):
            made.add_analyst(name)
        write_images(made.folder / "queries", {"stripes-a": 1}, seed=99)
        made.wait_serving("alps")
        wait_until(lambda: {"ada", "eve", "kim"} <= members(made), what="the node has the sealing keys of all analysts")
        yield made
    finally:
        made.close()


def bundle(federation):
    """The trust bundle that the node alps believes."""
    return load_identity(Home(federation.home("alps")).identity).bundle


def members(federation):
    return {MemberId.parse(uri).name for uri in bundle(federation).members}


@pytest.fixture
def hits(federation):
    """Handles that ada's query found."""
    return found(federation, "ada")


def found(federation, analyst):
    image = next((federation.folder / "queries").rglob("*.png"))
    return [hit["handle"] for hit in federation.query(image, analyst=analyst)["queries"][0]["hits"]]


def access(federation, *arguments, analyst="ada", check=True):
    return federation.rsfed("access", *arguments, "--home", federation.home(analyst), check=check)


def ask(federation, handle, *options, analyst="ada"):
    given = ("--reason", "flood mapping", *options)
    return access(federation, "request", handle, *given, analyst=analyst).stdout.strip()


def operator(federation, *arguments, check=True):
    return federation.rsfed("node", "requests", *arguments, "--home", federation.home("alps"), check=check)


def listed(federation, request):
    found = json.loads(access(federation, "list", "--output", "json").stdout)["requests"]
    return next(each for each in found if each["request"] == request)


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def reason(done):
    return done.stderr.strip().rpartition("[")[2].rstrip("]")


@pytest.mark.parametrize("want", ["file", "crop", "quicklook"])
def test_an_approved_image_is_opened_by_who_asked(federation, hits, tmp_path, want):
    request = ask(federation, hits[0], "--want", want)
    waiting = json.loads(operator(federation, "list", "--output", "json").stdout)["requests"]
    assert request in [each["request"] for each in waiting]
    picture = tmp_path / "patch.png"
    shown = json.loads(operator(federation, "show", request[:8], "--picture", picture, "--output", "json").stdout)
    assert (shown["reason"], shown["requester"]) == ("flood mapping", "spiffe://testers/analyst/ada")
    assert pixels(picture).shape == (256, 256, 3)
    source = federation.resolve("alps", hits[:1])[0]["path"]
    assert shown["path"] == source
    assert listed(federation, request)["state"] == "open"

    operator(federation, "approve", request)
    assert listed(federation, request)["state"] == "approved"
    folder = tmp_path / "got"
    (file,) = access(federation, "collect", request, "--out", folder).stdout.split()
    assert file == str(folder / f"alps-{want}-{request[:12]}.png")
    if want == "file":
        assert Path(file).read_bytes() == Path(source).read_bytes()
    else:
        np.testing.assert_array_equal(pixels(file), pixels(source if want == "crop" else picture))
    assert listed(federation, request)["file"] == file


def test_a_denial_comes_with_its_note_and_without_an_image(federation, hits, tmp_path):
    request = ask(federation, hits[1])
    operator(federation, "deny", request, "--note", "ask the owner of the scene")
    done = access(federation, "collect", request, "--out", tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "denied at alps" in done.stderr
    assert listed(federation, request)["note"] == "ask the owner of the scene"
    assert reason(operator(federation, "approve", request, check=False)) == "ACCESS_DENIED"


def test_who_did_not_search_has_nothing_to_ask_for(federation, hits):
    done = access(federation, "request", hits[0], "--reason", "x", analyst="eve", check=False)
    assert (done.returncode, reason(done)) == (1, "UNKNOWN_HANDLE")


def test_both_logs_name_the_same_call_and_nothing_private(federation, hits, tmp_path):
    request = ask(federation, hits[2], "--want", "file")
    operator(federation, "approve", request)
    access(federation, "withdraw", request)
    done = access(federation, "collect", request, "--out", tmp_path, check=False)
    assert "withdrawn at alps" in done.stderr

    def noted():
        home = federation.home("coordinator")
        shown = json.loads(federation.rsfed("coordinator", "audit", "show", "--home", home, "--output", "json").stdout)
        return [each for each in shown["audit"] if each["kind"].startswith("access.")]

    relayed = wait_until(noted, what="the coordinator noted the calls")
    subjects = {each["subject"] for each in relayed}
    assert "spiffe://testers/analyst/ada" in subjects <= {f"spiffe://testers/analyst/{name}" for name in ("ada", "kim")}
    entries = json.loads(
        federation.rsfed("node", "audit", "show", "--home", federation.home("alps"), "--output", "json").stdout
    )["audit"]
    assert {"access.asked", "access.approved", "access.withdrawn"} <= {each["kind"] for each in entries}
    database = (federation.home("coordinator") / "state.sqlite").read_bytes()
    logs = b"".join(server.log.read_bytes() for server in federation.servers.values())
    log = (federation.home("alps") / "audit" / "log.jsonl").read_bytes()
    for private in ("flood mapping", "secret-images", request, hits[2]):
        assert private.encode() not in database + logs + log


def test_who_was_put_out_gets_nothing_that_was_approved(federation, tmp_path):
    hits = found(federation, "kim")
    request = ask(federation, hits[3], analyst="kim")
    operator(federation, "approve", request)
    asked = ask(federation, hits[4], analyst="kim")
    federation.rsfed("coordinator", "allow", "kim", "--until", "2020-01-01", "--home", federation.home("coordinator"))

    def too_late():
        done = access(federation, "request", hits[5], "--reason", "x", analyst="kim", check=False)
        return done.returncode and reason(done) == "SCOPE_ENDED"

    wait_until(too_late, what="the coordinator knows the scope")
    federation.rsfed("coordinator", "revoke", "kim", "--home", federation.home("coordinator"))
    wait_until(
        lambda: access(federation, "collect", request, "--out", tmp_path, analyst="kim", check=False).returncode == 4,
        what="the coordinator knows who was put out",
    )
    wait_until(lambda: bundle(federation).revoked_names, what="the node knows who was put out")
    assert reason(operator(federation, "approve", asked, check=False)) == "REVOKED"
    assert not list(tmp_path.iterdir())
