"""Hash centres: far apart, the same everywhere, and where they were when a class is added."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from rsfed.errors import TrainingError
from rsfed.hashing.centres import LEAST_DISTANCE, hash_centres, least_distance

HADAMARD = [bits for bits in range(16, 257, 8) if bits not in (184, 232)]  # the widths with a matrix of their own


def plotkin(count, bits):
    """The largest least distance that any `count` words of this width can have (Plotkin, 1960)."""
    pairs = count // 2 * (count - count // 2)  # in which one bit can differ, at most
    return bits * pairs // (count * (count - 1) // 2)


@pytest.mark.parametrize("bits", HADAMARD)
@pytest.mark.parametrize("count", [2, 10, 19, 43])
def test_centres_differ_in_half_of_their_bits_which_is_nearly_all_that_can_be(bits, count):
    if count > 2 * (bits - 1):
        pytest.skip("more classes than the matrix has rows and complements")
    found = least_distance(hash_centres(range(count), bits, 0))
    assert found == bits // 2
    assert found <= plotkin(count, bits)
    if count > 9:
        assert found >= 0.9 * plotkin(count, bits)


@pytest.mark.parametrize("bits", [12, 18, 20, 28, 138, 184, 232])
def test_widths_without_a_matrix_of_their_own_come_near_the_bound(bits):
    found = least_distance(hash_centres(range(20), bits, 0))
    assert 0.8 * plotkin(20, bits) <= found <= plotkin(20, bits)


@pytest.mark.parametrize(("bits", "count", "least"), [(16, 45, 6), (16, 300, 4), (32, 300, 10), (64, 500, 22)])
def test_hundreds_of_classes_are_searched_for(bits, count, least):
    centres = hash_centres(range(count), bits, 0)
    assert centres.shape == (count, bits)
    assert least_distance(centres) >= least
    assert np.abs(centres.mean(axis=1) - 0.5).max() <= 0.125, "about half of the bits are set in each"


def test_centres_of_hadamard_rows_are_balanced():
    assert (hash_centres(range(31), 32, 5).sum(axis=1) == 16).all()


def test_more_classes_than_there_is_room_for_are_refused_with_the_remedy():
    with pytest.raises(TrainingError, match="more bits") as refusal:
        hash_centres(range(1000), 16, 0)
    assert refusal.value.reason == "TOO_MANY_CLASSES"
    most = int(str(refusal.value.public).split("centres of ")[1].split()[0])
    assert least_distance(hash_centres(range(most), 16, 0)) >= LEAST_DISTANCE * 16
    with pytest.raises(TrainingError):
        hash_centres(range(most + 1), 16, 0)


def test_the_order_in_which_classes_are_named_does_not_matter():
    ids = [40, 3, 17, 900, 65535]
    assert (hash_centres(ids, 32, 1) == hash_centres(sorted(ids), 32, 1)[[2, 0, 1, 3, 4]]).all()


@pytest.mark.parametrize(("before", "after"), [(5, 6), (15, 16), (30, 31), (60, 120)])
def test_a_new_class_with_the_highest_id_leaves_the_others_where_they_are(before, after):
    assert (hash_centres(range(after), 16, 3)[:before] == hash_centres(range(before), 16, 3)).all()


def test_seeds_give_other_centres():
    assert len({hash_centres(range(5), 32, seed).tobytes() for seed in range(20)}) == 20


def test_a_fresh_process_and_every_version_compute_the_same():
    """The golden value: if it changes, nodes of two versions of this software would train for different centres."""
    ids, golden = (5, 1, 70, 400), "a20932ebe170"
    here = hashlib.sha256(
        np.packbits(hash_centres(ids, 64, 7)).tobytes() + np.packbits(hash_centres(range(90), 16, 7)).tobytes()
    ).hexdigest()
    script = (
        "import hashlib, numpy as np\nfrom rsfed.hashing.centres import hash_centres\n"
        f"first, second = hash_centres({ids}, 64, 7), hash_centres(range(90), 16, 7)\n"
        "print(hashlib.sha256(np.packbits(first).tobytes() + np.packbits(second).tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    assert here == there
    assert here.startswith(golden)
