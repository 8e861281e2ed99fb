"""The K-branch network: bands of several ground sampling distances, each at its native size."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rsfed.config_objectives import BatchAllSection
from rsfed.errors import TrainingError, UsageError
from rsfed.hashing.augment import Augmentation
from rsfed.hashing.dataset import PatchSet, patch_bytes
from rsfed.hashing.encoder import Encoder
from rsfed.hashing.evaluation import evaluate
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives.milan_batchall import MilanBatchAll
from rsfed.hashing.training import train_steps
from rsfed.hashing.weights import get_state
from rsfed.raster.input_spec import branched_spec
from rsfed.raster.item import Window
from rsfed.raster.modality import modality
from rsfed.raster.reader import read_image
from rsfed.raster.writer import Grid, write_geotiff
from rsfed.trust.manifest import KBranch

SENTINEL_2 = modality("sentinel-2-l2a")
SPEC = branched_spec(SENTINEL_2, 48)
ARCHITECTURE = KBranch(width=8)
DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def patches_of(classes, per_class, *, seed):
    """Twelve bands; the class is the period of stripes, in the 20 m bands of odd classes and the 10 m bands of even."""
    rng = np.random.default_rng(seed)
    for label in classes:
        for _ in range(per_class):
            content = {}
            for group in SPEC.groups:
                wave = np.sin(np.arange(group.size) * (0.8 + 0.5 * (label // 2)) + rng.uniform(0, 6))
                seen = group.name == ("20m" if label % 2 else "10m")
                noise = rng.normal(0, 0.3, (len(group.bands), group.size, group.size))
                content[group.name] = (noise + (wave if seen else 0)).astype(np.float32)
            yield content, (label,)


def test_every_band_of_sentinel_2_is_in_the_group_of_its_distance():
    spec = branched_spec(SENTINEL_2, 120)
    assert [(group.name, group.gsd, group.size) for group in spec.groups] == [
        ("10m", 10, 120),
        ("20m", 20, 60),
        ("60m", 60, 20),
    ]
    assert [" ".join(group.bands) for group in spec.groups] == [
        "B02 B03 B04 B08",
        "B05 B06 B07 B8A B11 B12",
        "B01 B09",
    ]
    assert spec.fit == "crop"


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [("sentinel-2-l2a", 64, "multiple of 6, at least 48"), ("sentinel-2-l2a", 42, "at least 48"), ("rgb", 120, "rgb")],
)
def test_what_cannot_be_branched_is_said(kind, size, said):
    with pytest.raises(UsageError, match=said):
        branched_spec(modality(kind), size)


def test_a_stack_at_ten_metres_is_read_at_the_native_sizes(tmp_path):
    rng = np.random.default_rng(0)
    values = np.empty((12, 48, 48), np.uint16)
    native = {}
    for group in SPEC.groups:
        for band in group.bands:
            native[band] = rng.integers(1, 4000, (group.size, group.size)).astype(np.uint16)
            factor = 48 // group.size
            values[SENTINEL_2.bands.index(band)] = native[band].repeat(factor, 0).repeat(factor, 1)
    path = tmp_path / "stack.tif"
    write_geotiff(path, values, Grid(32633, 500_000, 5_000_000, 10), {})
    info, (content,) = read_image(path, SENTINEL_2, SPEC)
    assert info.windows[0].window == Window(0, 0, 48, 48)
    for group in SPEC.groups:
        assert content[group.name].shape == (len(group.bands), group.size, group.size)
        fine = [(native[band].astype(np.float32) - 1500) / 1500 for band in group.bands]
        assert content[group.name] == pytest.approx(np.stack(fine), abs=1e-5)


@pytest.mark.parametrize("size", [48, 120, 240])
@pytest.mark.parametrize("blocks", [1, 2])
def test_any_size_gives_one_output_per_bit_from_all_branches(size, blocks):
    spec = branched_spec(SENTINEL_2, size)
    network = build_network(KBranch(width=8, blocks=blocks), spec, 32)
    inputs = [torch.randn(2, len(group.bands), group.size, group.size) for group in spec.groups]
    outputs = network(*inputs)
    assert outputs.shape == (2, 32)
    outputs.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    assert not list(network.buffers())
    for place in range(3):
        changed = [each + (place == n) * torch.randn_like(each) for n, each in enumerate(inputs)]
        assert not torch.equal(network(*changed), outputs), "every branch has its say"


def test_training_tells_apart_what_only_one_branch_sees():
    gallery, queries = list(patches_of(range(4), 10, seed=0)), list(patches_of(range(4), 5, seed=9))
    data = PatchSet.from_items(gallery, SPEC, range(4))
    network = build_network(ARCHITECTURE, SPEC, 32, seed=1)

    def figures():
        encoder = Encoder.from_state(get_state(network), ARCHITECTURE, SPEC, 32)
        held_out = PatchSet.from_items(queries, SPEC, range(4))
        return evaluate(encoder.encode_set(held_out), held_out.labels, encoder.encode_set(data), data.labels)

    before = figures()
    train_steps(network, data, MilanBatchAll(BatchAllSection()), steps=25, batch=24, learning_rate=2e-3, seed=0)
    assert figures().mean_average_precision > before.mean_average_precision + 0.2


def test_codes_depend_on_the_patch_alone_and_equal_those_of_a_set():
    patches = [content for content, _ in patches_of(range(3), 6, seed=3)]
    encoder = Encoder(build_network(ARCHITECTURE, SPEC, 64, seed=2), SPEC)
    codes = encoder.encode(patches)
    assert (np.concatenate([encoder.encode([patch]) for patch in patches]) == codes).all()
    assert len(np.unique(codes, axis=0)) > 6
    rounded = [{name: part.astype(np.float16).astype(np.float32) for name, part in each.items()} for each in patches]
    held = PatchSet.from_items([(each, ()) for each in patches], SPEC, [0])
    assert (encoder.encode_set(held) == encoder.encode(rounded)).all()


@pytest.mark.parametrize("spoil", [lambda c: c.pop("60m"), lambda c: c.update({"20m": c["10m"]})], ids=["none", "size"])
def test_a_patch_that_lacks_a_group_is_refused(spoil):
    (content, _), *_ = patches_of([0], 1, seed=0)
    spoil(content)
    with pytest.raises(TrainingError) as refusal:
        Encoder(build_network(ARCHITECTURE, SPEC, 32), SPEC).encode([content])
    assert refusal.value.reason == "ENCODER_INPUT"


def test_a_patch_is_held_with_all_its_groups():
    content, _ = next(patches_of([0], 1, seed=0))
    data = PatchSet.from_items([(content, (0,))] * 3, SPEC, [0])
    assert patch_bytes(SPEC) == 2 * (4 * 48**2 + 6 * 24**2 + 2 * 8**2) == sum(part.nbytes for part in data.patches[0])
    assert [part.shape for part in data.batch(np.array([0, 1]))] == [(2, 4, 48, 48), (2, 6, 24, 24), (2, 2, 8, 8)]
    assert data.augmentable


def test_all_groups_of_a_patch_are_turned_alike():
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (50, 1, 4, 4)).astype(np.float32)
    view = Augmentation.draw(len(coarse), rng)
    fine, same = view.apply(coarse.repeat(2, 2).repeat(2, 3)), view.apply(coarse)
    assert (fine[:, :, ::2, ::2] == same).all()
    assert (same != coarse).any()


def test_a_real_patch_of_bigearthnet_is_hashed_band_by_band_at_its_size(tmp_path):
    archive = DATA / "s1s2_pairs.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    spec, contents = branched_spec(SENTINEL_2, 120), {}
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in packed.namelist() if "20170613T101031_87_48_B" in name and name.endswith(".tif")]
        for group in spec.groups:
            single = [group.model_copy(update={"bands": ("band1",), "offset": (1500.0,), "scale": (1500.0,)})]
            bands = []
            for band in group.bands:
                path = packed.extract(next(name for name in names if name.endswith(f"_{band}.tif")), tmp_path)
                read = read_image(Path(path), modality("uint16-1"), spec.model_copy(update={"groups": tuple(single)}))
                bands.append(next(read[1])[group.name])
            contents[group.name] = np.concatenate(bands)
    codes = Encoder(build_network(KBranch(width=8), spec, 64), spec).encode([contents])
    assert codes.shape == (1, 8)
