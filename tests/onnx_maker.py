"""Tiny ONNX models for tests, written byte by byte: one convolution, ReLU, and the mean of every channel."""

from __future__ import annotations

import numpy as np

FLOAT, DOUBLE = 1, 11


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, values: np.ndarray, *, external: str | None = None) -> bytes:
    data = b"".join(number(1, size) for size in values.shape) + number(2, FLOAT) + text(8, name)
    if external is None:
        return data + text(9, values.astype("<f4").tobytes())
    return data + text(13, text(1, "location") + text(2, external)) + number(14, 1)


def value(name: str, shape: tuple[int | str, ...], kind: int = FLOAT) -> bytes:
    sides = b"".join(text(1, text(2, side) if isinstance(side, str) else number(1, side)) for side in shape)
    return text(1, name) + text(2, text(1, number(1, kind) + text(2, sides)))


def operation(kind: str, inputs: tuple[str, ...], output: str, **attributes: tuple[int, ...]) -> bytes:
    """A node; all its attributes are lists of whole numbers."""
    named = [
        text(5, text(1, name) + b"".join(number(8, each) for each in given) + number(20, 7))
        for name, given in attributes.items()
    ]
    return b"".join(text(1, name) for name in inputs) + text(2, output) + text(4, kind) + b"".join(named)


def model(nodes: list[bytes], tensors: list[bytes], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    graph = [
        *(text(1, each) for each in nodes),
        text(2, "tiny"),
        *(text(5, each) for each in tensors),
        *(text(11, each) for each in inputs),
        *(text(12, each) for each in outputs),
    ]
    return number(1, 8) + text(7, b"".join(graph)) + text(8, text(1, "") + number(2, 13))


def tiny_trunk(  # what a test may want to be otherwise
    *,
    bands: int = 3,
    size: int | str = 32,
    features: int = 12,
    batch: int | str = "n",
    kind: int = FLOAT,
    external: str | None = None,
    scale: float = 1.0,
    pooled: bool = True,
    seed: int = 0,
) -> bytes:
    """A trunk float32 (n, bands, size, size) -> (n, features) whose features tell textures apart."""
    weights = np.random.default_rng(seed).normal(0, scale, (features, bands, 5, 5))
    nodes = [
        operation("Conv", ("image", "weights"), "maps", kernel_shape=(5, 5)),
        operation("Relu", ("maps",), "rectified"),
        operation("GlobalAveragePool", ("rectified",), "mean"),
        operation("Flatten", ("mean",), "features"),
    ]
    output = value("features", (batch, features)) if pooled else value("maps", (batch, features, "h", "w"))
    taken = value("image", (batch, bands, size, size), kind)
    return model(nodes if pooled else nodes[:1], [tensor("weights", weights, external=external)], [taken], [output])
