"""What of an ONNX file has to be known before a runtime opens it: whether it keeps parts in other files.

An ONNX model may name other files that hold its tensors. A model that comes with a release must not make a node read
its files, so such a model is refused before anything opens it. The file is protobuf; here only the messages that lead
to tensors are walked, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator

from rsfed.errors import TrainingError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_DEEPEST = 32  # messages within each other; models nest graphs for branches and loops
_INSIDE: dict[str, dict[int, str]] = {  # of onnx.proto3: which fields of a message lead to tensors
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor


def names_other_files(data: bytes) -> bool:
    """Say whether any tensor of an ONNX model is kept in another file.

    Raises:
        TrainingError: TRUNK_UNFIT, the bytes are no ONNX model.
    """
    try:
        return _external(memoryview(data), "model", 0)
    except (IndexError, ValueError) as error:
        raise TrainingError("the trunk is not an ONNX model", reason="TRUNK_UNFIT") from error


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("too deep")
    for field, value in _fields(message):
        if kind == "tensor" and field in {_EXTERNAL_DATA, _DATA_LOCATION} and value != 0:
            return True
        inner = _INSIDE[kind].get(field)
        if inner and isinstance(value, memoryview) and _external(value, inner, depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field; numbers of fixed length are passed over."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
        elif wire == _BYTES:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("cut short")
            yield key >> 3, message[position : position + length]
            position += length
        elif wire in {_FIXED64, _FIXED32}:
            position += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("no protobuf")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = message[position + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, position + place + 1
    raise ValueError("no protobuf")
