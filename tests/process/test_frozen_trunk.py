"""A federation on a frozen trunk: it travels with the release, and after that only its head is solved for and sent.

The release that it trains has a codebook, by which a node answers at `guarded`, and one at `catalogue` publishes.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, wait_until
from onnx_maker import tiny_trunk
from PIL import Image

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

CLASSES = {"forest": (20, 90, 20), "sand": (235, 215, 160), "sea": (10, 20, 200)}  # their colours
EACH = 20  # 60 in a node: of 50 and more some are held out, by which the codebook's reach is measured
NAMES = ("alps", "coast")


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path)
    try:
        yield made
    finally:
        made.close()


def write_land(folder, *, seed):
    """Write patches whose colour tells their class: a tiny trunk of random weights sees little more."""
    rng = np.random.default_rng(seed)
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = np.clip(np.array(colour) + rng.normal(0, 12, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{seed}-{number}.png")


def current(federation, member, name):
    """A file of the current release of a member."""
    releases = federation.home(member) / "releases"
    return (releases / (releases / "current").read_text() / name).read_bytes()


def test_a_federation_is_founded_on_a_trunk_trained_and_searched_at_three_levels(federation):
    model = federation.folder / "model.onnx"
    model.write_bytes(tiny_trunk(size=32, features=24))
    federation.create("--trunk", model, classes=",".join(CLASSES))
    assert 'kind = "frozen-trunk"' in (federation.home("coordinator") / "coordinator.toml").read_text()
    for seed, name in enumerate(NAMES):
        write_land(federation.folder / f"images-{name}", seed=seed)
        federation.add_node(name, federation.folder / f"images-{name}", independent=True)
    federation.add_analyst("ada")
    write_land(federation.folder / "queries", seed=0)  # those of alps
    federation.wait_serving(*NAMES)
    assert current(federation, "alps", "trunk.onnx") == model.read_bytes()

    # From here on only what was kept of the images can be trained on and indexed.
    for name in NAMES:
        (federation.folder / f"images-{name}").rename(federation.folder / f"away-{name}")
    home = ["--home", federation.home("coordinator"), "--output", "json"]
    lines = federation.rsfed("coordinator", "train", *home, timeout=300).stdout.splitlines()
    (round_,) = [row for row in map(json.loads, lines) if row["event"] == "round"]
    assert (round_["counted"], round_["nodes"], round_["examples"]) == (True, list(NAMES), 108)
    federation.wait_serving(*NAMES, release=2)
    assert current(federation, "alps", "trunk.onnx") == model.read_bytes()

    image = next((federation.folder / "queries" / "sand").rglob("*.png"))
    answer = federation.query(image, "--k", "8")
    assert answer["release"]["version"] == 2
    manifest = json.loads(current(federation, "alps", "manifest.json"))
    assert (manifest["training"]["strategy"], manifest["training"]["nodes"]) == ("ClosedForm", 2)
    (query,) = answer["queries"]
    assert {outcome["status"] for outcome in query["outcomes"]} == {"COMPLETE"}
    assert [outcome["held"] for outcome in query["outcomes"]] == [60, 60]
    same = {hit["node"] for hit in query["hits"] if hit["distance"] == 0}
    assert "alps" in same, "the code of an image is the one that was made of its kept features"

    assert len(manifest["codebook"]) == len(CLASSES)
    at_level(federation, alps="guarded", coast="catalogue")
    images = {name: next((federation.folder / "queries" / name).rglob("*.png")) for name in CLASSES}
    answered_by_cells(federation, images)
    searched_privately(federation, images)


def at_level(federation, **levels):
    """Let nodes disclose something else, from their next start."""
    for name, level in levels.items():
        config = federation.home(name) / "node.toml"
        config.write_text(config.read_text().replace('level = "partner"', f'level = "{level}"'))
        federation.servers[name].stop()
        federation.servers[name].start()


def answered_by_cells(federation, images):
    """The node at `guarded` answers by cells of the trained codebook, the one at `catalogue` no query."""
    asked = [*images.values(), federation.folder / "queries" / "sand" / "0-7.png"]

    def answered():
        queries = federation.query(*asked, "--k", "8", check=False).get("queries", [{"outcomes": []}])
        found = {each["node"]: (each["level"], each["status"]) for each in queries[0]["outcomes"]}
        ready = found.get("alps", ("", ""))[0] == "guarded" and found.get("coast", ("", ""))[1] == "REFUSED"
        return queries if ready else None

    queries = wait_until(answered, what="alps answers by cells and coast refuses", seconds=90)
    for query in queries:
        alps, coast = query["outcomes"]
        assert (alps["withheld"], alps["held"], coast["reason"]) == ("POLICY", 64, "POLICY")
        assert [hit["node"] for hit in query["hits"]] == ["alps"] * 8
        assert {hit["bucket_size"] for hit in query["hits"]} == {16}, "20 patches, told as a power of two"
    listed = [files_of(federation, "alps", [hit["handle"] for hit in query["hits"]]) for query in queries]
    for name, files in zip(images, listed, strict=False):
        assert {Path(file).parent.name for file in files} == {name}
    assert listed[-1] == listed[list(images).index("sand")], "all queries of a cell get the same"
    (again,) = federation.query(images["sand"], "--k", "8", check=False)["queries"]
    handles = [{hit["handle"] for hit in query["hits"]} for query in (again, queries[list(images).index("sand")])]
    assert not set.intersection(*handles), "of every query anew"


def searched_privately(federation, images):
    """The analyst ranks what the node at `catalogue` published, and has it list patches of the nearest bucket."""

    def ranked():
        answer = federation.query(*images.values(), "--private", "--refine", "1", check=False)
        return answer if answer["exit"] == 0 else None

    answer = wait_until(ranked, what="coast has published a catalogue", seconds=90)
    told = {each["node"]: each for each in answer["catalogues"]}
    assert (told["alps"]["reason"], told["coast"]["reason"]) == ("NO_CATALOGUE", None)
    assert (told["coast"]["level"], told["coast"]["floor"]) == ("catalogue", 10)
    for name, query in zip(images, answer["queries"], strict=True):
        assert {bucket["node"] for bucket in query["buckets"]} == {"coast"}
        assert len(query["buckets"]) == told["coast"]["buckets"]
        (refined,) = query["refined"]
        (nearest,) = refined["buckets"]
        assert (refined["node"], refined["withheld"]) == ("coast", "NOTHING")
        assert nearest["bucket"] == query["buckets"][0]["bucket"]
        files = files_of(federation, "coast", nearest["handles"])
        assert len(set(files)) == 10
        assert {Path(file).parent.name for file in files} == {name}


def files_of(federation, name, handles):
    return [each["path"] for each in federation.resolve(name, handles)]
