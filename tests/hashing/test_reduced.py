"""The network of reduced images: it is trained and released like the others, and reads a file's own coarse level."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch

from rsfed.config_objectives import BatchAllSection
from rsfed.errors import TrainingError, UsageError
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation import evaluate
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives.milan_batchall import MilanBatchAll
from rsfed.hashing.training import train_steps
from rsfed.hashing.weights import get_state, to_bytes
from rsfed.raster.input_spec import reduced_spec
from rsfed.raster.modality import modality
from rsfed.raster.reader import read_image
from rsfed.trust.manifest import CompactResnet, ReducedResnet

from .conftest import spec_of

BITS = 32
RGB = modality("rgb")
SPEC = reduced_spec(RGB, 64, 4)
ARCHITECTURE = ReducedResnet(width=8)


@pytest.mark.parametrize("size", [8, 17, 64])
@pytest.mark.parametrize("doublings", [1, 2, 3])
def test_any_size_gives_one_output_per_bit_and_every_weight_learns(size, doublings):
    torch.manual_seed(0)
    network = build_network(ReducedResnet(width=8, doublings=doublings, detail=4), spec_of(3, size), BITS)
    outputs = network(torch.randn(4, 3, size, size))
    assert outputs.shape == (4, BITS)
    outputs.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    assert network.trunk[0].weight.grad.abs().sum() > 0
    assert not list(network.buffers())


def test_the_residual_maps_are_those_of_the_plain_network_at_the_reduced_size():
    patch = torch.zeros(1, 3, 64, 64)
    plain = build_network(CompactResnet(), spec_of(3, 64), BITS).trunk(patch)
    for doublings in (1, 2):
        assert build_network(ReducedResnet(doublings=doublings), spec_of(3, 64), BITS).trunk(patch).shape == plain.shape


def test_maps_beyond_the_largest_input_are_refused():
    build_network(ReducedResnet(doublings=1), spec_of(3, 512), BITS)
    with pytest.raises(TrainingError) as refusal:
        build_network(ReducedResnet(doublings=2), spec_of(3, 512), BITS)
    assert refusal.value.reason == "ENCODER_INPUT"


def test_the_input_covers_the_ground_that_it_does_at_full_resolution():
    (group,) = reduced_spec(modality("sentinel-2-l2a"), 240, 4).groups
    assert (group.size, group.gsd) == (60, 40.0)
    for size, reduction in ((250, 4), (32, 8)):
        with pytest.raises(UsageError, match=f"a multiple of it, at least {8 * reduction}"):
            reduced_spec(RGB, size, reduction)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_trained_on_jpeg_2000_its_release_gives_the_same_codes_and_better_ones_than_before(tmp_path):
    rng = np.random.default_rng(0)

    def patch(label):
        """Stripes whose period says the class; that of the last class is seen at the reduced resolution only."""
        wave = np.sin(np.arange(64) * (0.1 + 0.15 * label) + rng.uniform(0, 6))
        image = np.broadcast_to(wave if rng.integers(2) else wave[:, None], (64, 64)) * rng.uniform(40, 90, (3, 1, 1))
        path = tmp_path / "a.jp2"
        form = {"driver": "JP2OpenJPEG", "count": 3, "height": 64, "width": 64, "dtype": "uint8"}
        with rasterio.open(path, "w", **form, QUALITY="25", RESOLUTIONS="4") as dataset:
            dataset.write((128 + image + rng.normal(0, 10, (3, 64, 64))).clip(0, 255).astype(np.uint8))
        return next(read_image(path, RGB, SPEC)[1]), (label,)

    train, held_out = ([patch(label) for label in range(4) for _ in range(12)] for _ in range(2))
    network = build_network(ARCHITECTURE, SPEC, BITS, seed=1)
    queries = PatchSet.from_items(held_out, SPEC, range(4))

    def precision():
        codes = Encoder(network, SPEC).encode_set(queries)
        return evaluate(
            codes, queries.labels, codes, queries.labels, own=np.arange(len(queries))
        ).mean_average_precision

    before = precision()
    data = PatchSet.from_items(train, SPEC, range(4))
    train_steps(network, data, MilanBatchAll(BatchAllSection()), steps=40, batch=24, learning_rate=2e-3, seed=0)
    assert precision() > before + 0.2
    (tmp_path / "weights").write_bytes(to_bytes(get_state(network)))
    entry = SimpleNamespace(architecture=ARCHITECTURE, input=SPEC)
    manifest = SimpleNamespace(bits=BITS, encoders={"rgb": entry})
    released = Encoder.load(SimpleNamespace(manifest=manifest, weights=lambda _: tmp_path / "weights"))
    contents = [content for content, _ in held_out]
    assert (released.encode(contents) == Encoder(network, SPEC).encode(contents)).all()
