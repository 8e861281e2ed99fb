"""Encoders: the code of a patch depends on the patch alone."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rsfed.errors import ReleaseRefused, TrainingError
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.weights import from_bytes, init_weights

from .conftest import ARCHITECTURE, BITS, SIZE, spec_of


def contents(count, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    return [{"all": rng.normal(0, 1, (bands, SIZE, SIZE)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def encoder():
    spec = spec_of(3)
    return Encoder.from_state(from_bytes(init_weights(ARCHITECTURE, spec, BITS, 3)), ARCHITECTURE, spec, BITS)


def outputs(encoder, patches):
    """What the bits are cut from: equal outputs, not only equal bits, show that no order plays a part."""
    found = []
    network = encoder._network
    hook = network.register_forward_hook(lambda _module, _inputs, output: found.append(output.clone()))
    encoder.encode(patches)
    hook.remove()
    return torch.cat(found)[: len(patches)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 37])
def test_codes_do_not_depend_on_how_many_patches_are_hashed_together(encoder, count):
    patches = contents(37)
    alone = torch.cat([outputs(encoder, [patch]) for patch in patches[:count]])
    assert torch.equal(outputs(encoder, patches[:count]), alone)


def test_codes_do_not_depend_on_the_order_or_the_neighbours(encoder):
    patches = contents(37)
    order = np.random.default_rng(1).permutation(37)
    straight, shuffled = outputs(encoder, patches), outputs(encoder, [patches[i] for i in order])
    assert torch.equal(straight[torch.from_numpy(order)], shuffled)


def test_codes_are_the_outputs_above_one_half(encoder):
    patches = contents(10)
    expected = np.packbits((outputs(encoder, patches) > 0.5).numpy(), axis=1)
    codes = encoder.encode(patches)
    assert codes.dtype == np.uint8
    assert (codes == expected).all()
    assert len(np.unique(codes, axis=0)) > 1


def test_no_patches_give_no_codes(encoder):
    assert encoder.encode([]).shape == (0, BITS // 8)


def test_patches_are_taken_as_they_are_hashed_and_few_are_held_at_once(encoder):
    taken, alive = [], []

    def read():
        for patch in range(200):
            content = contents(1, seed=patch)[0]
            taken.append(weakref.ref(content["all"]))
            yield content
            del content
            alive.append(sum(each() is not None for each in taken))

    codes = encoder.encode(read())
    assert (codes == encoder.encode([contents(1, seed=patch)[0] for patch in range(200)])).all()
    assert max(alive) <= 16, "the batch in hand and the one before"


@pytest.mark.parametrize(
    "content", [{}, {"other": np.zeros((3, SIZE, SIZE), np.float32)}, {"all": np.zeros((2, SIZE, SIZE), np.float32)}]
)
def test_a_patch_that_does_not_fit_is_refused(encoder, content):
    with pytest.raises(TrainingError) as refusal:
        encoder.encode([*contents(2), content])
    assert refusal.value.reason == "ENCODER_INPUT"


def release(folder, *encoder_ids):
    """What an encoder needs of a release; stores and signatures are tested elsewhere."""
    for number, name in enumerate(encoder_ids):
        (folder / name).write_bytes(init_weights(ARCHITECTURE, spec_of(3), BITS, number))
    entry = SimpleNamespace(architecture=ARCHITECTURE, input=spec_of(3))
    manifest = SimpleNamespace(bits=BITS, encoders=dict.fromkeys(encoder_ids, entry))
    return SimpleNamespace(manifest=manifest, weights=lambda name: folder / name)


def test_the_only_encoder_of_a_release_needs_no_name(tmp_path):
    patches, only = contents(4), release(tmp_path, "rgb")
    assert (Encoder.load(only).encode(patches) == Encoder.load(only, "rgb").encode(patches)).all()


def test_one_of_several_encoders_is_named(tmp_path):
    patches, several = contents(4), release(tmp_path, "rgb", "sar")
    assert (Encoder.load(several, "rgb").encode(patches) != Encoder.load(several, "sar").encode(patches)).any()
    for encoder_id in (None, "text"):
        with pytest.raises(ReleaseRefused) as refusal:
            Encoder.load(several, encoder_id)
        assert refusal.value.reason == "ENCODER_UNKNOWN"


def test_damaged_weights_are_refused(tmp_path):
    damaged = release(tmp_path, "rgb")
    (tmp_path / "rgb").write_bytes(init_weights(ARCHITECTURE, spec_of(4), BITS, 0))
    with pytest.raises(TrainingError):
        Encoder.load(damaged)
