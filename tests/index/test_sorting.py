"""Codes are sorted as bytes are, and items of one code stay in the order in which they came."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rsfed.index.sorting import group, sort_words
from rsfed.index.words import from_words, to_words

SEEDS = st.integers(0, 2**32 - 1)
WIDTHS = st.sampled_from([16, 24, 32, 40, 64, 72, 96, 128, 200, 256])


def many(seed, bits, items, values):
    """Codes that agree in their first bytes, and whose others have few values."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([0, 1, 128, 255][:values], (items, bits // 8)).astype(np.uint8)
    codes[:, : rng.integers(0, bits // 8 + 1)] = rng.integers(256)
    return codes


@given(SEEDS, WIDTHS, st.integers(0, 300), st.integers(1, 4))
def test_codes_sort_as_their_bytes_and_equal_ones_keep_their_order(seed, bits, items, values):
    codes = many(seed, bits, items, values)
    expected = sorted(range(items), key=lambda item: codes[item].tobytes())
    assert sort_words(to_words(codes, bits)).tolist() == expected


@given(SEEDS, WIDTHS, st.integers(0, 300), st.integers(1, 4))
def test_each_code_comes_once_with_where_its_items_start(seed, bits, items, values):
    codes = many(seed, bits, items, values)
    words = to_words(codes, bits)
    distinct, starts = group(words, sort_words(words))
    wanted, sizes = np.unique(codes, axis=0, return_counts=True)
    assert from_words(distinct, bits).tolist() == wanted.tolist()
    assert starts.tolist() == [0, *np.cumsum(sizes)]
