"""How many bits flip when the same patches are hashed otherwise: `make bench-precision`.

A code must be the same on every machine of a federation: a flipped bit on one node is a silent error of all. So a
network is trained for a moment on synthetic patches and 10,000 of them are hashed as the encoder does it (float32,
batches of 8), and again with other batch sizes, more threads, and in bfloat16.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsfed.config import DEFAULT_OBJECTIVE
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import make_objective
from rsfed.hashing.training import train_steps
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.synth import generate
from rsfed.trust.manifest import CompactResnet

PATCHES, TRAINED_ON, STEPS, BITS = 10_000, 2_000, 150, 64


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to hash: type of the numbers, patches at a time, threads."""

    name: str
    dtype: torch.dtype = torch.float32
    batch: int = 8
    threads: int = 1


_AS_THE_ENCODER = _Way("float32, batches of 8, 1 thread")
_OTHERS = (
    _Way("float32, batches of 1", batch=1),
    _Way("float32, batches of 64", batch=64),
    _Way("float32, 2 threads", threads=2),
    _Way("bfloat16, batches of 8", torch.bfloat16),
)


def main() -> None:
    """Train, hash in every way and print how many bits differ."""
    torch.set_num_threads(2)
    with TemporaryDirectory(prefix="rsfed-bench-") as name:
        generate(Path(name) / "images", patches=PATCHES)
        images = read(find(Path(name) / "images"))
    data = images.subset(np.arange(len(images)))
    model = build_network(CompactResnet(), images.spec, BITS)
    objective = make_objective(DEFAULT_OBJECTIVE, range(len(images.classes)), BITS, seed=0)
    drawn = images.subset(np.random.default_rng(0).permutation(len(images))[:TRAINED_ON])
    train_steps(model, drawn, objective, steps=STEPS, batch=64, learning_rate=1e-3, seed=0)
    model.eval()
    reference = _bits(model, data, _AS_THE_ENCODER)
    sys.stdout.write(f"{len(data):,} patches, {BITS} bits, against {_AS_THE_ENCODER.name}\n\n")
    sys.stdout.write(f"{'':28}{'bits flipped':>16}{'patches changed':>18}\n")
    for way in _OTHERS:
        flipped = _bits(model, data, way) != reference
        changed = int(flipped.any(axis=1).sum())
        sys.stdout.write(f"{way.name:28}{flipped.mean():>15.4%} {changed:>8} ({changed / len(data):.2%})\n")


def _bits(trained: nn.Module, data: PatchSet, way: _Way) -> NDArray[np.bool_]:
    """Return the bits of all patches, shape (n, bits)."""
    torch.set_num_threads(way.threads)
    model = copy.deepcopy(trained).to(way.dtype)
    found = []
    with torch.inference_mode():
        for start in range(0, len(data), way.batch):
            inputs = data.batch(np.arange(start, min(start + way.batch, len(data))))
            found.append((model(*(torch.from_numpy(each).to(way.dtype) for each in inputs)) > 0.5).numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    main()
