"""What `make bench-precision` compares: the same network on another runtime, and bits that are counted right."""

import numpy as np
import onnxruntime
import pytest
import torch

from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.head import TrunkHead
from rsfed.hashing.network import build_network
from rsfed.lab.bench_precision import Way, bits, describe, to_onnx
from rsfed.raster.input_spec import default_spec
from rsfed.raster.modality import modality
from rsfed.trust.manifest import CompactResnet

AS_THE_ENCODER = Way("float32")


def patches(*shape):
    rows = np.random.default_rng(0).normal(size=(19, *shape)).astype(np.float16)
    return PatchSet(tuple((row,) for row in rows), np.ones((19, 1), bool), 19)


@pytest.fixture(params=["compact network", "head on a trunk"])
def network(request):
    """A network with what it takes."""
    if request.param == "compact network":
        return build_network(CompactResnet(width=8), default_spec(modality("rgb"), 32), 16).eval(), patches(3, 32, 32)
    torch.manual_seed(0)
    return TrunkHead(24, 16).eval(), patches(24)


def test_the_exported_network_is_the_same_one_for_any_number_of_patches(network):
    model, data = network
    session = onnxruntime.InferenceSession(to_onnx(model, data.batch(np.arange(1))))
    for count in (1, 7):
        (inputs,) = data.batch(np.arange(count))
        (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})
        np.testing.assert_allclose(outputs, model(torch.from_numpy(inputs)).detach().numpy(), atol=1e-5)


def test_the_other_ways_of_full_precision_hash_all_patches_nearly_alike(network):
    model, data = network
    expected = bits(model, data, AS_THE_ENCODER)
    assert expected.shape == (19, 16)
    for way in (Way("one", batch=1), Way("onnx", onnx=True), Way("onnx one", onnx=True, batch=1)):
        assert (bits(model, data, way) != expected).mean() < 0.01, way.name


def test_patches_are_described_as_the_features_of_a_trunk_are_kept():
    model = build_network(CompactResnet(width=8), default_spec(modality("rgb"), 32), 16).eval()
    data = patches(3, 32, 32)
    described = describe(model, data)
    assert (len(described), described.augmentable) == (19, False)
    assert described.patches[0][0].shape == (model.features.normalized_shape[0],)
    assert described.patches[0][0].dtype == np.float16
