"""A small archive for tests: striped photographs of a few classes, ingested under a signed release."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from training_fakes import CLASSES, Members, small_plan

from node.ingest import Listener, ingest
from node.training.patches import read_patches, training_items
from rsfed.clock import utc_now
from rsfed.hashing.weights import init_weights
from rsfed.home import Home
from rsfed.trust.manifest import EncoderEntry, FileEntry, Manifest
from rsfed.trust.release_rules import key_id, sign_manifest
from rsfed.trust.release_store import ReleaseStore
from rsfed.v1.federation_pb2 import ReleaseHeader

TOML = """
[archive]
path = "{archive}"
modality = "rgb"
{more}
[policy]
level = "partner"
[training]
memory_mib = 16
{training}
"""


def write_photographs(folder, counts: dict[str, int], *, seed: int, size: int = 16) -> None:
    """PNG photographs whose stripes, not names, tell their class."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        angle = sorted((*CLASSES, *counts)).index(name) * np.pi / 4
        for number in range(count):
            wave = np.cos((rows * np.sin(angle) + columns * np.cos(angle)) * 1.2 + rng.uniform(0, 6))
            pixels = 128 + 80 * wave[..., None] + rng.normal(0, 10, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def make_release(folder, members: Members, key: Ed25519PrivateKey, *, version: int = 1, plan=None, trunk=None):
    """Admit a release of a plan, the small one where none is given, to a store; with the file of its trunk."""
    plan, now = plan or small_plan(), utc_now()
    weights = init_weights(plan.architecture, plan.input, plan.bits, plan.seed)
    entry = FileEntry(name="weights.safetensors", size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    manifest = Manifest(
        federation=members.bundle.federation,
        version=version,
        created=now,
        expires=now + timedelta(days=1),
        bits=plan.bits,
        encoders={"rgb": EncoderEntry(modality="rgb", input=plan.input, architecture=plan.architecture, weights=entry)},
        objective=plan.objective.model_dump(),
        nomenclature=plan.nomenclature,
    ).to_bytes()
    header = ReleaseHeader(manifest=manifest, signature=sign_manifest(manifest, key), key_id=key_id(key.public_key()))
    store = ReleaseStore(folder)
    files = [weights] if trunk is None else [weights, trunk.read_bytes()]
    return store.admit(header, files, members.bundle, federation=members.bundle.federation, now=now)


def load_patches(home: Home, plan, memory_mib: int, **more):
    """Read the patches that a node trains on."""
    return read_patches(*training_items(home, plan, memory_mib, **more), plan.class_ids)


def make_archive(
    path, counts: dict[str, int], *, members=None, key=None, seed: int = 1, training="", archive="", **release
) -> Home:
    """A node's home with photographs ingested; with members and their release key, under the federation's classes."""
    home = Home(path)
    images = path / "archive"
    images.mkdir(parents=True)
    write_photographs(images, counts, seed=seed)
    (path / "node.toml").write_text(TOML.format(archive=images, more=archive, training=training))
    if members is not None:
        make_release(home.releases, members, key, **release)
    ingest(home, Listener(lambda _done, _all: None, lambda _skipped: None), accept_empty=True)
    return home
