"""How many bits flip when the same patches are hashed otherwise: `make bench-precision`.

A code must be the same on every machine of a federation: a flipped bit on one node is a silent error of all. So two
networks are trained for a moment on synthetic patches: the compact one, and the head for a frozen trunk, which takes
the descriptions of the compact one in place of a trunk's features. Each hashes 10,000 patches as the encoder does it
(torch, float32, batches of 8), and again with other batch sizes, more threads, by ONNX Runtime, and in bfloat16.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

from rsfed.config_objectives import DEFAULT_OBJECTIVE
from rsfed.hashing.dataset import Batch, PatchSet
from rsfed.hashing.head import HashNetwork, TrunkHead
from rsfed.hashing.network import build_network
from rsfed.hashing.objectives import make_objective
from rsfed.hashing.training import train_steps
from rsfed.lab.bench_command import exit_code
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.synth import generate
from rsfed.trust.manifest import CompactResnet

PATCHES, TRAINED_ON, STEPS, BITS = 10_000, 2_000, 150, 64
_AT_ONCE = 64  # patches that are described together

Run = Callable[[Batch], NDArray[np.float32]]
"""Returns the outputs of a network for a batch, shape (n, bits)."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to hash: what computes, type of the numbers, patches at a time, threads."""

    name: str
    dtype: torch.dtype = torch.float32
    batch: int = 8
    threads: int = 1
    onnx: bool = False


_AS_THE_ENCODER = Way("torch, float32, batches of 8, 1 thread")
_OTHERS = (
    Way("batches of 1", batch=1),
    Way("batches of 64", batch=64),
    Way("2 threads", threads=2),
    Way("ONNX Runtime, batches of 8", onnx=True),
    Way("ONNX Runtime, batches of 1", onnx=True, batch=1),
    Way("bfloat16", torch.bfloat16),
)


def main() -> None:
    """Train, hash in every way and print how many bits differ."""
    torch.set_num_threads(2)
    with TemporaryDirectory(prefix="rsfed-bench-") as name:
        generate(Path(name) / "images", patches=PATCHES)
        images = read(find(Path(name) / "images"))
    data = images.subset(np.arange(len(images)))
    compact = build_network(CompactResnet(), images.spec, BITS)
    _train(compact, data)
    described = describe(compact, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = TrunkHead(described.patches[0][0].size, BITS)
    _train(head, described)
    sys.stdout.write(f"{len(data):,} patches, {BITS} bits, against {_AS_THE_ENCODER.name}\n")
    for title, network, patches in (("compact network", compact, data), ("head on a trunk", head, described)):
        _compare(title, network, patches)


def _train(network: HashNetwork, data: PatchSet) -> None:
    objective = make_objective(DEFAULT_OBJECTIVE, range(data.labels.shape[1]), BITS, seed=0)
    chosen = np.random.default_rng(0).permutation(len(data))[:TRAINED_ON]
    drawn = replace(data, patches=tuple(data.patches[each] for each in chosen), labels=data.labels[chosen])
    train_steps(network, drawn, objective, steps=STEPS, batch=64, learning_rate=1e-3, seed=0)
    network.eval()


def describe(network: HashNetwork, data: PatchSet) -> PatchSet:
    """Return patches as a network describes them, in float16 as the features of a frozen trunk are kept."""
    with torch.inference_mode():
        parts = [network.describe(*map(torch.from_numpy, inputs)).numpy() for inputs in _batches(data, _AT_ONCE)]
    rows = np.concatenate(parts).astype(np.float16)
    return replace(data, patches=tuple((row,) for row in rows), augmentable=False)


def _compare(title: str, network: HashNetwork, data: PatchSet) -> None:
    reference = bits(network, data, _AS_THE_ENCODER)
    sys.stdout.write(f"\n{title:28}{'bits flipped':>24}{'codes changed':>18}\n")
    for way in _OTHERS:
        flipped = bits(network, data, way) != reference
        changed = int(flipped.any(axis=1).sum())
        sys.stdout.write(
            f"{way.name:28}{int(flipped.sum()):>12,} ({flipped.mean():8.4%}){changed:>8,} ({changed / len(data):.2%})\n"
        )


def bits(network: HashNetwork, data: PatchSet, way: Way) -> NDArray[np.bool_]:
    """Return the bits of all patches as one way makes them, shape (n, bits)."""
    torch.set_num_threads(way.threads)
    run = _by_onnx(network, data, way.threads) if way.onnx else _by_torch(network, way.dtype)
    with torch.inference_mode():
        return np.concatenate([run(inputs) > 0.5 for inputs in _batches(data, way.batch)])


def _batches(data: PatchSet, size: int) -> Iterator[Batch]:
    for start in range(0, len(data), size):
        yield data.batch(np.arange(start, min(start + size, len(data))))


def _by_torch(network: HashNetwork, dtype: torch.dtype) -> Run:
    model = copy.deepcopy(network).to(dtype)
    return lambda inputs: model(*(torch.from_numpy(each).to(dtype) for each in inputs)).float().numpy()


def _by_onnx(network: HashNetwork, data: PatchSet, threads: int) -> Run:
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = to_onnx(network, data.batch(np.arange(1)))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: Batch) -> NDArray[np.float32]:
        outputs: list[NDArray[np.float32]] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs[0]

    return run


def to_onnx(network: torch.nn.Module, inputs: Batch) -> bytes:
    """Return a network as an ONNX model that takes any number of patches, traced on some inputs.

    The exporter of TorchScript is the one that does without further packages: it wants onnx only to look for functions
    of onnxscript, of which these networks have none. Its warnings, that it is an older one and that checks of sizes are
    not traced, are known.
    """
    names = [f"input {number}" for number in range(len(inputs))]
    with TemporaryDirectory(prefix="rsfed-bench-") as folder:
        file = Path(folder) / "network.onnx"
        with (
            warnings.catch_warnings(),
            mock.patch.object(onnx_proto_utils, "_add_onnxscript_fn", lambda model, _: model),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(map(torch.from_numpy, inputs)),
                file,
                dynamo=False,
                input_names=names,
                dynamic_axes={name: {0: "n"} for name in names},
            )
        return file.read_bytes()


def random_trunk(bands: int, size: int, features: int) -> bytes:
    """Return an ONNX model that can be a trunk: random filters, and how strongly each answers over a patch."""
    torch.manual_seed(0)
    filters = torch.nn.Conv2d(bands, features, 5)
    layers = torch.nn.Sequential(filters, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return to_onnx(layers.eval(), (np.zeros((1, bands, size, size), np.float32),))


if __name__ == "__main__":
    sys.exit(exit_code("bench_precision", main))
