"""Frozen trunks: what a federation may bring, and that features depend on the patch alone."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_maker import DOUBLE, tiny_trunk

from rsfed.config_objectives import BatchAllSection
from rsfed.errors import ConfigError, TrainingError
from rsfed.hashing.augment import positions
from rsfed.hashing.dataset import PatchSet, patch_bytes
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives.milan_batchall import MilanBatchAll
from rsfed.hashing.training import train_steps
from rsfed.hashing.trunk import FEATURES, MAX_TRUNK_BYTES, Trunk, inspect_trunk
from rsfed.hashing.weights import from_bytes, get_state, init_weights
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read_image

SPEC = default_spec(modality("rgb"), 32)
DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def patches(count, *, seed=0, size=32):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, size, size)).astype(np.float32)


@pytest.fixture
def bring(tmp_path):
    """Write a tiny trunk and return its path."""

    def write(**changes):
        path = tmp_path / "model.onnx"
        path.write_bytes(tiny_trunk(**changes))
        return path

    return write


def trunk(path, size=32):
    return Trunk(path, inspect_trunk(path, size))


def refusal(path, size=32):
    with pytest.raises(TrainingError) as caught:
        inspect_trunk(path, size)
    assert caught.value.reason == "TRUNK_UNFIT"
    return caught.value.public


def test_a_trunk_says_itself_what_it_takes_and_gives(bring):
    known = inspect_trunk(bring(bands=4, size=24, features=7), 99)
    assert (known.bands, known.size, known.features) == (4, 24, 7)
    assert known.trunk.name == "trunk.onnx"
    assert inspect_trunk(bring(size="side"), 48).size == 48, "the operator chooses what the model leaves open"


def test_features_are_those_of_the_model(bring):
    path, images = bring(features=5), patches(3)
    weights = np.random.default_rng(0).normal(0, 1, (5, 3, 5, 5)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(images, (5, 5), axis=(2, 3))
    expected = np.maximum(np.einsum("nchwij,fcij->nfhw", windows, weights), 0).mean(axis=(2, 3))
    found = np.stack(trunk(path).features(images))
    assert found.dtype == np.float16
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_features_do_not_depend_on_the_other_patches_or_their_number(bring, batch):
    made, images = trunk(bring(batch=batch)), patches(9)
    together = np.stack(made.features(images))
    assert (np.stack([made.features([image])[0] for image in images]) == together).all()
    assert (np.stack(made.features(images[::-1])) == together[::-1]).all()
    assert made.features([]) == []


def test_features_averaged_over_turns_are_the_same_for_every_position_of_a_patch(bring):
    path, (image,) = bring(), patches(1)
    turned = np.ascontiguousarray(np.rot90(image, axes=(1, 2))[..., ::-1])
    as_it_lies, averaged = (Trunk(path, inspect_trunk(path, 32, turns=turns)) for turns in (False, True))
    one, other = as_it_lies.features([image, turned])
    assert not np.allclose(one, other, atol=1e-3)
    one, other = averaged.features([image, turned])
    assert np.allclose(one, other, atol=1e-3)
    eight = as_it_lies.features([np.ascontiguousarray(each) for each in positions(image)])
    assert np.allclose(one, np.mean(eight, axis=0, dtype=np.float32), atol=1e-3)


def test_features_beyond_float16_stay_finite(bring):
    path = bring(scale=1e4)
    found = np.stack(trunk(path).features(patches(2) * 1e4))
    assert np.isfinite(found).all()
    assert found.max() > 6e4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": DOUBLE}, "cannot|can open|float32"),
        ({"pooled": False}, "float32 output"),
        ({"size": 4}, "8 to 1024|cannot be run"),
        ({"batch": 65}, "65 patches at a time"),
        ({"bands": 17}, "how many bands"),
        ({"external": "weights.bin"}, "other files"),
        ({"external": "/etc/hostname"}, "other files"),
        ({"scale": float("inf")}, "not finite"),
    ],
)
def test_what_is_no_trunk_is_refused_with_its_reason(bring, changes, said):
    import re

    assert re.search(said, refusal(bring(**changes)))


@pytest.mark.parametrize("data", [b"", b"\x08", b"PK\x03\x04" * 50, b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_file_that_is_no_model_is_refused(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    refusal(path)


def test_a_trunk_cut_short_anywhere_is_refused(tmp_path, bring):
    whole = bring(features=2).read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(whole), 37):
        path.write_bytes(whole[:length])
        refusal(path)


def test_a_trunk_that_is_not_there_or_too_large_is_refused(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "none.onnx")
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(MAX_TRUNK_BYTES + 1)
    assert f"at most {MAX_TRUNK_BYTES}" in refusal(large)


def test_a_trunk_that_is_not_what_the_release_says_is_refused(bring):
    said = inspect_trunk(bring(features=7), 32)
    other = Trunk(bring(features=8), said)
    with pytest.raises(TrainingError) as caught:
        other.features(patches(1))
    assert caught.value.reason == "TRUNK_UNFIT"


def test_without_the_extra_the_error_names_it(bring, monkeypatch):
    path = bring()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"rsfed\[onnx\]") as caught:
        inspect_trunk(path, 32)
    assert caught.value.reason == "EXTRA_MISSING"


@pytest.fixture
def encoder(bring):
    path = bring()
    known = inspect_trunk(path, 32)
    state = from_bytes(init_weights(known, SPEC, 64, 3))
    return Encoder.from_state(state, known, SPEC, 64, Trunk(path, known))


def test_codes_of_kept_features_are_those_of_the_image(encoder, bring):
    images = [{"all": image} for image in patches(19)]
    kept = [{FEATURES: vector} for vector in trunk(bring()).features(image["all"] for image in images)]
    fresh = encoder.encode(images)
    assert len(np.unique(fresh, axis=0)) > 10
    assert (encoder.encode(kept) == fresh).all()
    mixed = [kept[n] if n % 3 else images[n] for n in range(19)]
    assert (encoder.encode(mixed) == fresh).all()
    data = PatchSet.from_items([(each, ()) for each in kept], SPEC, [1], features=12)
    assert (encoder.encode_set(data) == fresh).all()


def test_features_are_held_as_they_are_and_not_augmented(encoder, bring):
    known = inspect_trunk(bring(), 32)
    made = trunk(bring()).features(patches(20))
    data = PatchSet.from_items([({FEATURES: v}, (n % 2,)) for n, v in enumerate(made)], SPEC, [0, 1], features=12)
    assert not data.augmentable
    assert patch_bytes(SPEC, 12) == 24
    assert (data.batch(np.array([4]))[0] == made[4].astype(np.float32)).all()
    network = build_network(known, SPEC, 32)
    before = get_state(network)
    report = train_steps(network, data, MilanBatchAll(BatchAllSection()), steps=3, batch=8, learning_rate=1e-3, seed=0)
    assert report.steps == 3
    assert all((get_state(network)[name] != array).any() for name, array in before.items() if "weight" in name)


def test_the_head_has_no_state_of_a_batch_and_the_shape_of_milan(bring):
    network = build_network(inspect_trunk(bring(), 32), SPEC, 32)
    assert not list(network.buffers())
    state = get_state(network)
    assert [a.shape for a in state.values() if a.ndim == 2] == [(1024, 12), (512, 1024), (32, 512)]


def test_a_patch_of_another_size_is_refused(encoder):
    with pytest.raises(TrainingError) as caught:
        encoder.encode([{"all": patches(1, size=16)[0]}])
    assert caught.value.reason == "ENCODER_INPUT"


def test_an_input_that_is_not_the_trunks_is_refused(bring):
    with pytest.raises(TrainingError) as caught:
        build_network(inspect_trunk(bring(), 32), default_spec(modality("rgb"), 64), 32)
    assert caught.value.reason == "ENCODER_INPUT"


def test_the_trunk_of_the_test_data_gives_equal_codes_for_cached_and_fresh_features(tmp_path):
    import zipfile

    path, archive = DATA / "mobilenet_v2_imagenet_features.onnx", DATA / "ucmerced_jpeg.zip"
    if not path.exists() or not archive.exists():
        pytest.skip(f"the trunk or UC Merced is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    known = inspect_trunk(path, 64)
    assert (known.bands, known.size, known.features) == (3, 224, 1280)
    spec = default_spec(modality("rgb"), 224)
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))[::300]
        images = [Path(packed.extract(name, tmp_path)) for name in names]
    contents = [next(read_image(image, modality("rgb"), spec)[1]) for image in images]
    made = Trunk(path, known)
    state = from_bytes(init_weights(known, spec, 64, 0))
    encoder = Encoder.from_state(state, known, spec, 64, made)
    kept = [{FEATURES: vector} for vector in made.features(content["all"] for content in reversed(contents))]
    codes = encoder.encode(contents)
    assert (encoder.encode(reversed(kept)) == codes).all()
    assert len(np.unique(codes, axis=0)) == len(codes)
