"""A federation on a frozen trunk: it travels with the release, and after that only its head is solved for and sent."""

import json

import pytest
from federation import Federation, write_images
from onnx_maker import tiny_trunk

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

CLASSES = {"stripes-a": 8, "stripes-b": 8, "stripes-c": 8}
NAMES = ("alps", "coast")


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


def current(federation, member, name):
    """A file of the current release of a member."""
    releases = federation.home(member) / "releases"
    return (releases / (releases / "current").read_text() / name).read_bytes()


def test_a_federation_is_founded_on_a_trunk_trained_and_searched(federation):
    model = federation.folder / "model.onnx"
    model.write_bytes(tiny_trunk(size=32, features=24))
    federation.create("--trunk", model, classes=",".join(CLASSES))
    assert 'kind = "frozen-trunk"' in (federation.home("coordinator") / "coordinator.toml").read_text()
    for seed, name in enumerate(NAMES):
        write_images(federation.folder / f"images-{name}", CLASSES, seed=seed)
        federation.add_node(name, federation.folder / f"images-{name}", independent=True)
    federation.add_analyst("ada")
    write_images(federation.folder / "queries", CLASSES, seed=0)  # those of alps
    federation.wait_serving(*NAMES)
    assert current(federation, "alps", "trunk.onnx") == model.read_bytes()

    # From here on only what was kept of the images can be trained on and indexed.
    for name in NAMES:
        (federation.folder / f"images-{name}").rename(federation.folder / f"away-{name}")
    home = ["--home", federation.home("coordinator"), "--output", "json"]
    lines = federation.rsfed("coordinator", "train", *home, timeout=300).stdout.splitlines()
    (round_,) = [row for row in map(json.loads, lines) if row["event"] == "round"]
    assert (round_["counted"], round_["nodes"], round_["examples"]) == (True, list(NAMES), 48)
    federation.wait_serving(*NAMES, release=2)
    assert current(federation, "alps", "trunk.onnx") == model.read_bytes()

    image = next((federation.folder / "queries" / "stripes-b").rglob("*.png"))
    answer = federation.query(image, "--k", "8")
    assert answer["release"]["version"] == 2
    manifest = json.loads(current(federation, "alps", "manifest.json"))
    assert (manifest["training"]["strategy"], manifest["training"]["nodes"]) == ("ClosedForm", 2)
    (query,) = answer["queries"]
    assert {outcome["status"] for outcome in query["outcomes"]} == {"COMPLETE"}
    assert [outcome["held"] for outcome in query["outcomes"]] == [24, 24]
    same = {hit["node"] for hit in query["hits"] if hit["distance"] == 0}
    assert "alps" in same, "the code of an image is the one that was made of its kept features"
