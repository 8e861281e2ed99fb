"""What a manifest may say of encoders."""

import json

import pytest
from members import World

from rsfed.errors import ReleaseRefused
from rsfed.trust.manifest import CompactResnet, FrozenTrunk, KBranch, ReducedResnet, parse_manifest

DIGEST = "ab" * 32
TRUNK = {"name": "trunk.onnx", "size": 9, "sha256": DIGEST}
FROZEN = {"kind": "frozen-trunk", "trunk": TRUNK, "bands": 3, "size": 32, "features": 7}


@pytest.fixture
def manifest():
    """The manifest of a release with another architecture, and with a second encoder beside the first."""
    raw = json.loads(World().release().header.manifest)

    def with_(architecture, second=None):
        raw["encoders"]["rgb"]["architecture"] = architecture
        if second is not None:
            raw["encoders"]["sar"] = {**raw["encoders"]["rgb"], "architecture": second}
        return parse_manifest(json.dumps(raw).encode())

    return with_


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"kind": "compact-resnet", "width": 24, "blocks": 2}, CompactResnet(width=24, blocks=2)),
        ({"kind": "reduced-resnet", "width": 8, "doublings": 2}, ReducedResnet(width=8, doublings=2)),
        ({"kind": "k-branch", "width": 8, "blocks": 1}, KBranch(width=8, blocks=1)),
        (FROZEN, FrozenTrunk.model_validate(FROZEN)),
    ],
)
def test_every_kind_of_network_is_read_and_written_alike(manifest, raw, expected):
    read = manifest(raw)
    assert read.encoders["rgb"].architecture == expected
    assert parse_manifest(read.to_bytes()) == read


@pytest.mark.parametrize(
    "raw",
    [
        {**FROZEN, "trunk": None},
        {**FROZEN, "features": 1 << 20},
        {**FROZEN, "trunk": {**TRUNK, "name": "../trunk.onnx"}},
        {**FROZEN, "trunk": {**TRUNK, "name": "manifest.json"}},
        {**FROZEN, "trunk": {**TRUNK, "name": "weights.safetensors"}},
    ],
)
def test_what_cannot_be_built_or_laid_down_is_malformed(manifest, raw):
    with pytest.raises(ReleaseRefused) as caught:
        manifest(raw)
    assert caught.value.reason == "RELEASE_MALFORMED"


@pytest.mark.parametrize("raw", [{"kind": "transformer"}, {**FROZEN, "head": "kernel"}])
def test_a_network_of_a_later_version_asks_for_an_update(manifest, raw):
    with pytest.raises(ReleaseRefused, match=r"encoders/rgb/architecture.*update rsfed") as caught:
        manifest(raw)
    assert caught.value.reason == "RELEASE_SCHEMA"


def test_the_trunk_is_a_file_of_the_release_and_sent_once(manifest):
    assert [entry.name for entry in manifest(FROZEN).files()] == ["weights.safetensors", "trunk.onnx"]
    assert [entry.name for entry in manifest(FROZEN, FROZEN).files()] == ["weights.safetensors", "trunk.onnx"]
    with pytest.raises(ReleaseRefused):
        manifest(FROZEN, {**FROZEN, "trunk": {**TRUNK, "sha256": "cd" * 32}})
