"""Changes of weights in few bytes: how much is lost, who keeps it, and what is refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsfed.errors import InvalidMessage
from rsfed.hashing import deltas
from rsfed.hashing.deltas import BLOCK, PACKED, fingerprint

LEVELS = {"int8": 127, "int4": 7}
VALUES = st.floats(-(2.0**99), 2.0**99, width=32)
ARRAYS = st.dictionaries(
    st.text("abz._", min_size=1, max_size=4),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40), elements=VALUES),
    max_size=4,
)


def pack(change: dict[str, np.ndarray], coding: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """The packed form, and what is lost."""
    lost = {}

    def take(name, array, given):
        lost[name] = np.asarray(array - given)

    return deltas.pack(change.items(), coding, take), lost


def unpack(packed: bytes, like: dict[str, np.ndarray], coding: str) -> dict[str, np.ndarray]:
    return dict(deltas.unpack(packed, like, coding))


def drawn(size: int = 40 * BLOCK) -> dict[str, np.ndarray]:
    values = np.random.default_rng(3).normal(size=(2, size)).astype(np.float32)
    return {"b": 1e-3 * values[0].reshape(8, -1), "a": 1e-6 * values[1]}


@settings(deadline=None)
@given(ARRAYS, st.sampled_from(PACKED))
def test_what_is_read_and_what_is_lost_make_up_the_change(change: dict[str, np.ndarray], coding: str) -> None:
    packed, lost = pack(change, coding)
    read = unpack(packed, change, coding)
    assert list(read) == list(change)
    for name, array in change.items():
        assert read[name].dtype == lost[name].dtype == np.float32
        assert read[name].shape == lost[name].shape == array.shape
        np.testing.assert_array_equal(lost[name], array - read[name])


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 3 * BLOCK), elements=st.floats(-1e6, 1e6, width=32)))
@pytest.mark.parametrize("coding", LEVELS)
def test_no_value_is_off_by_more_than_half_a_level_of_its_block(coding: str, values: np.ndarray) -> None:
    _, lost = pack({"a": values}, coding)
    for start in range(0, len(values), BLOCK):
        step = np.abs(values[start : start + BLOCK]).max() / LEVELS[coding]
        assert np.abs(lost["a"][start : start + BLOCK]).max() <= step * 0.5001 + np.finfo(np.float32).tiny


@pytest.mark.parametrize(("coding", "most"), [("float16", 0.5), ("int8", 0.24), ("int4", 0.12)])
def test_a_change_takes_this_part_of_its_float32(coding: str, most: float) -> None:
    change = drawn()
    packed, _ = pack(change, coding)
    assert len(packed) <= most * sum(array.nbytes for array in change.values()) + 1


def test_huffman_coding_is_left_where_it_does_not_pay() -> None:
    level = np.random.default_rng(1).permutation(np.arange(254 * 64) % 254 - 127).astype(np.float32)
    level[::BLOCK] = 127.0  # so that the steps are 1
    packed, lost = pack({"a": level}, "int8")
    assert not lost["a"].any()
    assert len(packed) <= 1 + level.size + 4 * -(-level.size // BLOCK)


@pytest.mark.parametrize("coding", PACKED)
def test_what_is_lost_goes_with_the_next_change_so_nothing_is_lost_for_good(coding: str) -> None:
    change = drawn(BLOCK)
    sent = {name: np.zeros_like(array) for name, array in change.items()}
    lost = {name: np.zeros_like(array) for name, array in change.items()}
    for _ in range(50):
        packed, lost = pack({name: array + lost[name] for name, array in change.items()}, coding)
        read = unpack(packed, change, coding)
        sent = {name: sent[name] + read[name] for name in sent}
    for name, array in change.items():
        step = max(np.abs(array).max() / LEVELS.get(coding, 1024), 2.0**-24)  # the least half-precision number
        assert np.abs(sent[name] - 50 * array).max() <= 1.1 * step


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("coding", PACKED)
def test_what_is_not_finite_is_not_packed(coding: str, value: float) -> None:
    with pytest.raises(InvalidMessage) as caught:
        pack({"a": np.array([0.0, value], np.float32)}, coding)
    assert caught.value.reason == "NOT_FINITE"


def plain(head: bytes, body: bytes) -> bytes:
    return b"\0" + head + body


STEP = np.array([1.0], "<f4").tobytes()


@pytest.mark.parametrize(
    ("packed", "coding", "reason"),
    [
        (b"", "int8", "DELTA_FORM"),
        (b"\2" + STEP + b"\1\1", "int8", "DELTA_FORM"),
        (plain(STEP, b"\1"), "int8", "DELTA_FORM"),
        (plain(STEP, b"\1\1\1"), "int8", "DELTA_FORM"),
        (plain(STEP, b"\x80\1"), "int8", "DELTA_FORM"),
        (plain(STEP, b"\x08\1"), "int4", "DELTA_FORM"),
        (plain(np.array([-1.0], "<f4").tobytes(), b"\1\1"), "int8", "DELTA_FORM"),
        (plain(np.array([np.nan], "<f4").tobytes(), b"\1\1"), "int8", "NOT_FINITE"),
        (plain(np.array([3e38], "<f4").tobytes(), b"\x7f\1"), "int8", "NOT_FINITE"),
        (plain(b"", np.array([1, np.inf], "<f2").tobytes()), "float16", "NOT_FINITE"),
        (b"\1garbage", "int8", "DELTA_FORM"),
        (b"\1" + zlib.compress(b"\0" * (1 << 26)), "int8", "DELTA_FORM"),
        (b"\1" + zlib.compress(STEP + b"\1\1") + b"more", "int8", "DELTA_FORM"),
        (plain(STEP, b"\1\1"), "int2", "DELTA_FORM"),
        (plain(STEP, b"\1\1"), "float32", "DELTA_FORM"),
    ],
)
def test_what_is_no_change_is_refused(packed: bytes, coding: str, reason: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        unpack(packed, {"a": np.zeros(2, np.float32)}, coding)
    assert caught.value.reason == reason


def test_weights_are_told_apart_by_name_shape_and_value_whatever_their_order() -> None:
    a, b = np.zeros((2, 3), np.float32), np.ones(3, np.float32)
    same = fingerprint({"a": a, "b": b})
    assert fingerprint({"b": b, "a": a}) == same
    others = [{"a": a, "c": b}, {"a": a.reshape(3, 2), "b": b}, {"a": a, "b": b + 1e-7}, {"a": a}]
    assert same not in [fingerprint(other) for other in others]
