"""Training on a frozen trunk: only the head, and only what was kept of the images."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx_maker import tiny_trunk
from training_archive import load_patches, make_archive, make_release
from training_fakes import CLASSES, make_members, small_plan

from node.training.local import train_locally
from node.training.trainer import train_round
from rsfed.config import NodeConfig, load_config
from rsfed.hashing.payload import Payload, encode
from rsfed.hashing.plan import parse_plan
from rsfed.hashing.trunk import inspect_trunk
from rsfed.hashing.weights import from_bytes, init_weights

COUNTS = dict.fromkeys(CLASSES, 6)


@pytest.fixture
def frozen(tmp_path):
    """A node with photographs under a release on a trunk, and the plan of a run on it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_trunk(size=16, features=24))
    plan = small_plan(architecture=inspect_trunk(path, 16))
    key = Ed25519PrivateKey.generate()
    members = make_members("a", release_key=key)
    home = make_archive(tmp_path / "home", COUNTS, members=members, key=key)
    make_release(home.releases, members, key, version=2, plan=plan, trunk=path)
    return home, plan


def test_a_plan_with_a_trunk_survives_the_wire(frozen):
    _, plan = frozen
    assert parse_plan(plan.model_dump_json()) == plan


def test_a_node_trains_the_head_on_features_that_it_makes_once(frozen):
    home, plan = frozen
    first = load_patches(home, plan, 16)
    assert not first.augmentable
    for image in (home.path / "archive").rglob("*.png"):
        image.unlink()
    again = load_patches(home, plan, 16)
    assert len(again) == sum(COUNTS.values())
    assert all((one[0] == other[0]).all() for one, other in zip(first.patches, again.patches, strict=True))
    start = from_bytes(init_weights(plan.architecture, plan.input, plan.bits, plan.seed))
    result = train_round(plan, 1, start, again, threads=1)
    assert result.arrays.keys() == start.keys()
    assert all(np.isfinite(array).all() for array in result.arrays.values())
    sent = encode(Payload(1, 1, "train", {"arrays": result.arrays}))
    assert len(sent) < 1.1 * sum(array.nbytes for array in start.values()), "the trunk stays"


def test_a_node_trains_locally_on_the_trunk_of_its_release(frozen):
    home, _ = frozen
    report = train_locally(home, load_config(NodeConfig, home.path), 2, lambda *_: None)
    assert report.patches + report.held_out == sum(COUNTS.values())
    assert 0 < report.trained.mean_average_precision <= 1
