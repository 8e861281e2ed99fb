"""Canaries planted in pixels, file names, paths and labels are in no message, log or answer. Real processes."""

import gzip
import json
import os
import re
import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, write_images
from onnx_maker import tiny_trunk
from PIL import Image

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

FOLDER = "canary-folder-4f1d"
FILE = "canary-file-a93c"
LABEL = "canary-label-77b0"
_PIECE = 256  # bytes that are unpacked at a time
PIXELS = bytes(np.random.default_rng(5).integers(0, 256, 48, np.uint8))  # 16 RGB pixels


def plant(folder: Path) -> None:
    """Write images whose every row begins with the canary pixels."""
    write_images(folder, {LABEL: 30, "other": 30}, seed=3)  # enough to contribute to the calibration
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        pixels = np.array(Image.open(path))
        pixels[:, :16] = np.frombuffer(PIXELS, np.uint8).reshape(16, 3)
        Image.fromarray(pixels).save(path.with_name(f"{FILE}-{number}.png"))
        path.unlink()


def canaries() -> dict[str, bytes]:
    """The secrets in every form in which they could travel: as stored, by band, normalised as the network sees them."""
    rgb = np.frombuffer(PIXELS, np.uint8).reshape(16, 3)
    normalised = ((rgb.astype(np.float32) - 127.5) / 127.5).T
    return {
        "folder": FOLDER.encode(),
        "file": FILE.encode(),
        "label": LABEL.encode(),
        "pixels": PIXELS,
        "band": rgb.T[0].tobytes(),
        "float32": normalised[0].tobytes(),
        "float16": normalised[0].astype(np.float16).tobytes(),
    }


def unpacked(data: bytes) -> list[bytes]:
    """The data, and what comes out of every zlib or gzip stream that begins somewhere in it, up to where it breaks."""
    parts = [data]
    for begin in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", data):
        stream, part = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), b""
        with suppress(zlib.error):
            for start in range(begin.start(), len(data), _PIECE):
                part += stream.decompress(data[start : start + _PIECE])
                if stream.eof:
                    break
        parts.append(part)
    return parts


def found_in(data: bytes, more: dict[str, bytes] | None = None) -> list[str]:
    """The canaries that are in the data, and what else is looked for."""
    parts = unpacked(data)
    return [name for name, secret in (canaries() | (more or {})).items() if any(secret in part for part in parts)]


@pytest.fixture
def federation(tmp_path):
    """A federation each of whose processes writes what it sends and gets to the folder "wire"."""
    (tmp_path / "wire").mkdir()
    recorder = Path(__file__).resolve().parent / "wire_recorder"
    python_path = os.pathsep.join(filter(None, (str(recorder), os.environ.get("PYTHONPATH"))))
    made = Federation(tmp_path)
    made.environment |= {"RSFED_TEST_WIRE": str(tmp_path / "wire"), "PYTHONPATH": python_path}
    plant(tmp_path / FOLDER / "archive")
    try:
        yield made
    finally:
        made.close()


def join_alps(federation, **options):
    archive = federation.folder / FOLDER / "archive"
    federation.add_node("alps", archive, label_map={LABEL: "first", "other": "second"}, **options)


def told_by(federation):
    """What was sent over the wire, by process, and every log, once all processes have ended."""
    federation.close()
    messages = {path.name: path.read_bytes() for path in (federation.folder / "wire").iterdir()}
    logs = {path.name: path.read_bytes() for path in federation.folder.glob("*.log")}
    assert logs
    audit_log = (federation.home("alps") / "audit" / "log.jsonl").read_bytes()  # which others may be given
    return messages, logs | {"audit log": audit_log}


def test_no_canary_is_in_any_message_log_or_answer(federation):
    query = federation.folder / FOLDER / f"{FILE}-query.png"
    os.link(next((federation.folder / FOLDER / "archive").rglob("*.png")), query)
    federation.create(classes="first,second")
    join_alps(federation)
    federation.add_analyst("ada")
    federation.wait_serving("alps")
    federation.rsfed("coordinator", "train", "--rounds", "1", "--home", federation.home("coordinator"), timeout=300)
    federation.wait_serving("alps", release=2)
    listed = federation.rsfed("coordinator", "releases", "--home", federation.home("coordinator"), "--output", "json")
    answer = federation.rsfed("query", query, "--home", federation.home("ada"), "--output", "geojson")
    csv = federation.rsfed("query", query, "--home", federation.home("ada"), "--output", "csv")
    messages, logs = told_by(federation)
    sent = b"".join(messages.values())
    for method in (b"ArchiveService/Search", b"QueryService/", b"TrainingService/PushResult", b"/Announce"):
        assert method in sent, "the recorder missed a call"
    assert {name: found for name, data in messages.items() if (found := found_in(data))} == {}
    assert {name: found for name, data in logs.items() if (found := found_in(data))} == {}
    assert b"query.answered" in logs["audit log"]
    table = json.loads(listed.stdout)["releases"][0]["calibration"]["rgb:rgb"]
    assert (table["queries"], table["held_out_by"], table["nodes"]) == (6, "patch", 1)
    first = json.loads(answer.stdout)["features"][0]["properties"]
    assert first["rsfed:relevance"] == table["bands"][0]["relevance"]
    # the analyst's own output names the analyst's own query file, and nothing of the archive
    own = str(query).encode()
    for output in (answer.stdout, csv.stdout):
        assert "alps" in output
        assert found_in(output.encode().replace(own, b"").replace(query.name.encode(), b"")) == []


def train(federation, *options):
    home = ["--home", federation.home("coordinator"), "--output", "json"]
    lines = federation.rsfed("coordinator", "train", *options, *home, timeout=300).stdout.splitlines()
    return [json.loads(line) for line in lines]


def kept_features(home):
    """The features of some patches of a node, as it keeps them and as its network takes them."""
    with closing(sqlite3.connect(home / "features.sqlite")) as connection:
        vectors = [np.frombuffer(row[0], "<f2") for row in connection.execute("SELECT vector FROM feature")][::6]
    assert len(vectors) == 10
    assert all(vector.any() for vector in vectors)
    kept = {f"features {number}": vector.tobytes() for number, vector in enumerate(vectors)}
    taken = {f"features {number} as float32": vector.astype("<f4").tobytes() for number, vector in enumerate(vectors)}
    return kept | taken


def test_no_canary_and_no_features_are_in_what_the_last_layer_is_solved_for_from(federation):
    """The closed form, which is the default on a trunk, and a round that begins and ends with a solved layer."""
    model = federation.folder / "model.onnx"
    model.write_bytes(tiny_trunk(size=32, features=24))
    federation.create("--trunk", model, classes="first,second")
    join_alps(federation, independent=True)
    federation.wait_serving("alps")
    (closed,) = [row for row in train(federation) if row["event"] == "round"]
    assert (closed["counted"], closed["nodes"], closed["failed"]) == (True, ["alps"], {})
    federation.wait_serving("alps", release=2)
    config = federation.home("coordinator") / "coordinator.toml"
    config.write_text(config.read_text().replace('name = "closed_form"', 'name = "centres"'))
    solved = [row for row in train(federation, "--rounds", "1") if row["event"] == "solved"]
    assert [(row["round"], row["solved"], row["nodes"]) for row in solved] == [(0, True, ["alps"]), (1, True, ["alps"])]

    messages, logs = told_by(federation)
    sent = b"".join(messages.values())
    assert sent.count(b"query.sums") == 2 * 3, "the recorder missed a task or its result"
    assert sent.count(b'"gram"') == 3, "the recorder missed sums"
    features = kept_features(federation.home("alps"))
    assert {name: found for name, data in messages.items() if (found := found_in(data, features))} == {}
    assert {name: found for name, data in logs.items() if (found := found_in(data, features))} == {}


@pytest.mark.parametrize("secret", canaries().values(), ids=canaries())
@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress])
def test_a_planted_canary_would_be_found(secret, pack):
    assert found_in(b"\x0a\x30" + pack(b"before" + secret + b"after") + b"\x00") != []
