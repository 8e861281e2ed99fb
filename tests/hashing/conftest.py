"""A small encoder, and patches whose texture says their class."""

import numpy as np
import pytest
import torch

from rsfed.hashing.dataset import PatchSet
from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.trust.manifest import CompactResnet

BITS, SIZE = 32, 16
ARCHITECTURE = CompactResnet(width=8, blocks=1)


def spec_of(bands, size=SIZE):
    names = tuple(f"b{i}" for i in range(bands))
    return InputSpec(groups=(BandGroup(bands=names, size=size, offset=(0.0,) * bands, scale=(1.0,) * bands),))


def patches_of(classes, per_class, *, seed, bands=2):
    """Stripes whose period says the class; colour says nothing."""
    rng = np.random.default_rng(seed)
    for label in classes:
        for _ in range(per_class):
            phase, angle = rng.uniform(0, 6), rng.integers(2)
            wave = np.sin(np.arange(SIZE) * (0.5 + 0.45 * label) + phase)
            image = np.broadcast_to(wave if angle else wave[:, None], (SIZE, SIZE))
            image = image * rng.uniform(0.5, 1, (bands, 1, 1)) + rng.normal(0, 0.2, (bands, SIZE, SIZE))
            yield {"all": image.astype(np.float32)}, (label,)


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests of several workers share the cores; threads that wait for each other would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def patch_set():
    """Four classes of twelve patches; class ids 0 to 3."""
    return PatchSet.from_items(patches_of(range(4), 12, seed=0), spec_of(2), range(4))
