"""Buckets: each has k acquisitions, all patches are in one, and in its middle every acquisition has one vote."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.codes import hamming, unpack
from rsfed.privacy.buckets import buckets

items = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 20)), min_size=1, max_size=80
)  # acquisition, class, which code of its class


def columns(rows):
    acquisitions, classes, numbers = np.array(rows, np.int64).T
    pool = np.random.default_rng(0).integers(0, 256, (3, 21, 4), dtype=np.uint8)
    return pool[classes, numbers], acquisitions.astype(np.uint64), classes


@settings(deadline=None)
@given(items, st.integers(1, 6))
def test_every_bucket_has_enough_acquisitions_and_every_patch_is_in_one(rows, floor):
    codes, acquisitions, classes = columns(rows)
    places, middles = buckets(codes, acquisitions, classes, floor)
    if len(set(acquisitions.tolist())) < floor:
        assert (places == -1).all()
        assert len(middles) == 0
        return
    assert set(places.tolist()) == set(range(len(middles)))
    for number in range(len(middles)):
        assert len(set(acquisitions[places == number].tolist())) >= floor


@settings(deadline=None)
@given(items, st.integers(1, 6))
def test_in_the_middle_every_acquisition_has_one_vote_however_many_patches_it_has(rows, floor):
    codes, acquisitions, classes = columns(rows)
    places, middles = buckets(codes, acquisitions, classes, floor)
    for number, middle in enumerate(unpack(middles) if len(middles) else ()):
        inside = places == number
        votes = [unpack(codes[inside & (acquisitions == one)]).mean(axis=0) for one in set(acquisitions[inside])]
        shares = np.mean(votes, axis=0)
        clear = np.abs(shares - 0.5) > 1e-9
        assert (middle[clear] == (shares > 0.5)[clear]).all()


@settings(deadline=None)
@given(items, st.integers(1, 6), st.randoms())
def test_the_order_of_the_patches_does_not_matter(rows, floor, random):
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    codes, acquisitions, classes = columns(rows)
    _, middles = buckets(codes, acquisitions, classes, floor)
    _, again = buckets(codes[shuffled], acquisitions[shuffled], classes[shuffled], floor)
    assert middles.tobytes() == again.tobytes()


def test_classes_that_can_fill_buckets_of_their_own_are_not_mixed():
    rng = np.random.default_rng(1)
    classes = np.repeat([0, 1], 200)
    codes = rng.integers(0, 256, (400, 4), dtype=np.uint8)
    places, middles = buckets(codes, np.arange(400).astype(np.uint64), classes, 10)
    assert len(middles) > 10  # and the archive does not fall into a handful of buckets
    for number in range(len(middles)):
        assert len(set(classes[places == number].tolist())) == 1


def test_small_clusters_join_what_is_near():
    rng = np.random.default_rng(2)
    centres = rng.integers(0, 256, (4, 8), dtype=np.uint8)
    near = np.repeat(centres, 30, axis=0)
    near[np.arange(120), rng.integers(0, 8, 120)] ^= (1 << rng.integers(0, 8, 120)).astype(np.uint8)  # one bit is off
    places, middles = buckets(near, np.arange(120).astype(np.uint64), np.zeros(120, np.int64), 10)
    for number in range(len(middles)):
        assert len(set((np.flatnonzero(places == number) // 30).tolist())) == 1
    assert hamming(middles, centres).min(axis=1).max() <= 1
