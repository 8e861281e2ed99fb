"""Canaries planted in pixels, file names, paths and labels are in no message, log or answer. Real processes."""

import gzip
import json
import os
import re
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, write_images
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


def found_in(data: bytes) -> list[str]:
    parts = unpacked(data)
    return [name for name, secret in canaries().items() if any(secret in part for part in parts)]


def test_no_canary_is_in_any_message_log_or_answer(tmp_path):
    wire = tmp_path / "wire"
    wire.mkdir()
    recorder = Path(__file__).resolve().parent / "wire_recorder"
    python_path = os.pathsep.join(filter(None, (str(recorder), os.environ.get("PYTHONPATH"))))
    federation = Federation(tmp_path)
    federation.environment |= {"RSFED_TEST_WIRE": str(wire), "PYTHONPATH": python_path}
    archive = tmp_path / FOLDER / "archive"
    plant(archive)
    query = tmp_path / FOLDER / f"{FILE}-query.png"
    os.link(next(archive.rglob("*.png")), query)
    try:
        federation.create(classes="first,second")
        federation.add_node("alps", archive, label_map={LABEL: "first", "other": "second"})
        federation.add_analyst("ada")
        federation.wait_serving("alps")
        federation.rsfed("coordinator", "train", "--rounds", "1", "--home", federation.home("coordinator"), timeout=300)
        federation.wait_serving("alps", release=2)
        listed = federation.rsfed(
            "coordinator", "releases", "--home", federation.home("coordinator"), "--output", "json"
        )
        answer = federation.rsfed("query", query, "--home", federation.home("ada"), "--output", "geojson")
        csv = federation.rsfed("query", query, "--home", federation.home("ada"), "--output", "csv")
    finally:
        federation.close()
    messages = {path.name: path.read_bytes() for path in wire.iterdir()}
    sent = b"".join(messages.values())
    for method in (b"ArchiveService/Search", b"QueryService/", b"TrainingService/PushResult", b"/Announce"):
        assert method in sent, "the recorder missed a call"
    assert {name: found_in(data) for name, data in messages.items() if found_in(data)} == {}
    logs = {path.name: path.read_bytes() for path in tmp_path.glob("*.log")}
    assert logs
    assert {name: found_in(data) for name, data in logs.items() if found_in(data)} == {}
    audit_log = (federation.home("alps") / "audit" / "log.jsonl").read_bytes()  # which others may be given
    assert b"query.answered" in audit_log
    assert found_in(audit_log) == []
    table = json.loads(listed.stdout)["releases"][0]["calibration"]["rgb:rgb"]
    assert (table["queries"], table["held_out_by"], table["nodes"]) == (6, "patch", 1)
    first = json.loads(answer.stdout)["features"][0]["properties"]
    assert first["rsfed:relevance"] == table["bands"][0]["relevance"]
    # the analyst's own output names the analyst's own query file, and nothing of the archive
    own = str(query).encode()
    for output in (answer.stdout, csv.stdout):
        assert "alps" in output
        assert found_in(output.encode().replace(own, b"").replace(query.name.encode(), b"")) == []


@pytest.mark.parametrize("secret", canaries().values(), ids=canaries())
@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress])
def test_a_planted_canary_would_be_found(secret, pack):
    assert found_in(b"\x0a\x30" + pack(b"before" + secret + b"after") + b"\x00") != []
