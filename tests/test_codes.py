"""Packing and distance of codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed import codes
from rsfed.errors import CodeError

WIDTHS = st.integers(2, 32).map(lambda n: n * 8)


@given(WIDTHS, st.integers(0, 2**32 - 1))
def test_distance_equals_counting_differing_digits(bits, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((5, bits)) < 0.5, rng.random((7, bits)) < 0.5
    expected = (a[:, None, :] != b[None, :, :]).sum(axis=2)
    assert (codes.hamming(codes.pack(a), codes.pack(b)) == expected).all()
    assert (codes.unpack(codes.pack(a)) == a).all()


@pytest.mark.parametrize("bits", [0, 8, 12, 17, 264])
def test_widths_that_codes_may_not_have_are_refused(bits):
    with pytest.raises(CodeError):
        codes.check_bits(bits)


def test_codes_of_two_widths_are_never_compared():
    with pytest.raises(CodeError):
        codes.hamming(np.zeros((1, 4), np.uint8), np.zeros((1, 8), np.uint8))


def test_bytes_that_hold_part_of_a_code_are_refused():
    with pytest.raises(CodeError):
        codes.from_bytes(b"\0" * 9, 64)
