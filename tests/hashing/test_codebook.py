"""Codebooks: what nodes count of their codes, and the cells that follow."""

import numpy as np
import pytest

from rsfed.codes import pack
from rsfed.errors import InvalidMessage
from rsfed.hashing.codebook import CodeCounts, count_codes, from_arrays, make_codebook, to_arrays
from rsfed.trust.manifest import CodebookEntry

BITS = 16


WORDS = np.array([[False] * BITS, [True] * 10 + [False] * 6, [False] * 6 + [True] * 10])  # 8 bits apart at least


def labelled(classes, rng, flips=0.1):
    """Codes about one word for each class, and their labels."""
    bits = WORDS[classes] ^ (rng.random((len(classes), BITS)) < flips)
    return bits, np.eye(3, dtype=bool)[classes]


def test_an_acquisition_counts_as_one_however_many_patches_it_has():
    bits = np.zeros((103, BITS), bool)
    bits[:100] = True  # all of one acquisition
    labels = np.ones((103, 1), bool)
    behind = ["large"] * 100 + ["a", "b", "c"]
    counts = count_codes(pack(bits), labels, behind, [], None, least=4)
    assert counts.acquisitions.tolist() == [4]
    np.testing.assert_allclose(counts.set_bits[0], 1.0)
    [entry], _ = make_codebook([counts], [7], None)
    assert (entry.class_id, entry.code) == (7, "0000"), "three acquisitions outvote one"


def test_a_class_of_few_acquisitions_is_not_counted():
    bits, labels = labelled(np.array([0] * 10 + [1] * 50), np.random.default_rng(0))
    behind = [f"{n}" for n in range(10)] + [f"{n % 4}" for n in range(50)]
    counts = count_codes(pack(bits), labels, behind, [(pack(bits[:10]), labels[:10])], None, least=5)
    assert counts.acquisitions.tolist() == [10, 0, 0]
    assert not counts.set_bits[1:].any()


def test_nodes_together_give_the_majority_of_all_their_acquisitions_and_the_bits_that_vary_most():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 3, 600)
    bits, labels = labelled(classes, rng)
    bits[:, 5] = rng.random(600) < 0.5
    parts = [slice(0, 200), slice(200, 600)]
    each = [
        count_codes(
            pack(bits[p]), labels[p], [str(n) for n in range(600)[p]], [(pack(bits[p]), labels[p])], None, least=5
        )
        for p in parts
    ]
    entries, reach = make_codebook(each, [4, 5, 6], None)
    assert make_codebook(each[::-1], [4, 5, 6], None) == (entries, reach)
    wanted = [(bits[classes == c].mean(axis=0) > 0.5) for c in range(3)]
    assert [entry.code for entry in entries] == [pack(w[None]).tobytes().hex() for w in wanted]
    assert all(entry.varied[0] == 5 and len(entry.varied) == 3 for entry in entries)
    nearest = np.min([(bits != w).sum(axis=1) for w in wanted], axis=0)
    assert (nearest <= reach).mean() >= 0.98 > (nearest < reach).mean()


def test_bits_of_hash_centres_stay_whatever_was_counted():
    centres = np.array([[True] * 12, [False] * 12])
    counts = CodeCounts(np.array([[0.0] * BITS, [9.0] * BITS]), np.array([9.0, 9.0]), np.zeros(BITS + 1))
    (one, two), reach = make_codebook([counts], [1, 2], centres)
    assert (one.code, two.code) == ("fff0", "000f")
    assert min(one.varied + two.varied) >= 12
    assert reach == 12, "nothing was held out, so only the other class bounds it, 16 bits away"


def test_the_reach_is_measured_from_the_codebook_and_not_from_codes_that_missed_it():
    centres = np.array([[True] * 12, [False] * 12])
    bits = np.tile(
        np.arange(BITS) < 8, (20, 1)
    )  # a network that tells nothing apart, four bits from the nearest centre
    labels = np.eye(2, dtype=bool)[np.arange(20) % 2]
    counts = count_codes(
        pack(bits), labels, [str(n) for n in range(20)], [(pack(bits[:1]), labels[:1])], centres, least=5
    )
    entries, reach = make_codebook([counts], [1, 2], centres)
    assert {entry.code for entry in entries} == {"fff0", "0000"}
    assert reach == 4


def test_held_out_patches_of_classes_that_are_not_counted_do_not_move_the_reach():
    rng = np.random.default_rng(0)
    bits, labels = labelled(np.array([0] * 20 + [1] * 20 + [2] * 4), rng, flips=0)
    held_out = [(pack(bits[place][None]), labels[place][None]) for place in range(len(bits))]
    counts = count_codes(pack(bits), labels, [str(n) for n in range(44)], held_out, None, least=5)
    assert counts.distances.tolist() == [40, *[0] * BITS]
    rare = count_codes(pack(bits), labels, [str(n) for n in range(44)], held_out[-4:], None, least=5)
    assert not rare.distances.any()


def measuring(distance, *, acquisitions=1):
    """The counts of a node with classes 10 bits apart, all of whose held-out patches lie so far away."""
    set_bits = np.array([[0.0] * BITS, [9.0] * 10 + [0.0] * 6])
    return CodeCounts(set_bits, np.array([9.0, 9.0]), np.eye(BITS + 1)[distance] * acquisitions)


@pytest.mark.parametrize(
    ("distances", "reach"),
    [((2, 3, 4), 3), ((2, 3, 16), 3), ((0, 3, 4), 3), ((2, 16), 2), ((2, 0), 0), ((3, 3, 0, 16), 3)],
)
def test_the_reach_is_that_of_the_median_node_so_one_that_lies_moves_it_only_among_the_others(distances, reach):
    nodes = [measuring(distance, acquisitions=500 if distance in {0, 16} else 1) for distance in distances]
    assert make_codebook(nodes, [1, 2], None)[1] == reach


def test_the_reach_ends_before_the_next_class_whatever_most_nodes_say():
    assert make_codebook([measuring(9)] * 3, [1, 2], None)[1] == 7
    one = [CodeCounts(each.set_bits[:1], each.acquisitions[:1], each.distances) for each in [measuring(9)] * 3]
    assert make_codebook(one, [1], None)[1] == 9, "a single class has no neighbour"


def test_two_classes_of_one_code_are_one_cell():
    counts = CodeCounts(np.zeros((2, BITS)), np.array([9.0, 9.0]), np.zeros(BITS + 1))
    assert [entry.class_id for entry in make_codebook([counts], [1, 2], None)[0]] == [1]


def test_counts_come_back_from_the_wire_as_they_were():
    bits, labels = labelled(np.arange(60) % 3, np.random.default_rng(2))
    counts = count_codes(pack(bits), labels, [str(n) for n in range(60)], [(pack(bits[:9]), labels[:9])], None, least=5)
    again = from_arrays(to_arrays(counts), 3, BITS)
    for name in ("set_bits", "acquisitions", "distances"):
        np.testing.assert_allclose(getattr(again, name), getattr(counts, name), rtol=1e-6)


LIES = {
    "more set bits than patches": {"code-bits": np.full((3, BITS), 9.0)},
    "negative": {"code-bits": np.full((3, BITS), -1.0)},
    "too many acquisitions": {"code-acquisitions": np.full(3, 501.0)},
    "not finite": {"code-acquisitions": np.array([np.nan, 8, 8])},
    "too many held out": {"code-distances": np.full(BITS + 1, 100.0)},
}


@pytest.mark.parametrize("lie", LIES)
def test_counts_that_cannot_be_are_refused(lie):
    counts = CodeCounts(np.full((3, BITS), 4.0), np.full(3, 8.0), np.ones(BITS + 1))
    arrays = to_arrays(counts) | {name: a.astype(np.float32) for name, a in LIES[lie].items()}
    with pytest.raises(InvalidMessage) as refused:
        from_arrays(arrays, 3, BITS)
    assert refused.value.reason == "CODEBOOK_COUNTS"


def test_counts_of_another_form_are_refused():
    counts = to_arrays(CodeCounts(np.zeros((2, BITS)), np.zeros(2), np.zeros(BITS + 1)))
    for changed in ({}, counts | {"more": np.zeros(1, np.float32)}, counts):
        with pytest.raises(InvalidMessage) as refused:
            from_arrays(changed, 3, BITS)
        assert refused.value.reason == "CODEBOOK_FORM"


@pytest.mark.parametrize(
    "entry", [{"code": "zz00"}, {"code": "00"}, {"class_id": -1}, {"varied": (1, 2, 3, 4)}, {"varied": (256,)}]
)
def test_an_entry_that_makes_no_sense_is_no_entry(entry):
    with pytest.raises(ValueError, match="validation error"):
        CodebookEntry(**({"class_id": 1, "code": "0000"} | entry))
