"""How the images of an evaluation are split: nothing in two parts, whole places together, MiLaN's protocol exactly."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rsfed.errors import UsageError
from rsfed.lab.evaluate.data import Entry, Whereabouts
from rsfed.lab.evaluate.division import Split, default_split, divide, places

NOWHERE = Whereabouts(None, None, None)


@dataclass
class Images:
    """As much of an ImageSet as a split looks at."""

    entries: list
    whereabouts: list
    classes: list
    labels: np.ndarray

    multi_label = False

    def __len__(self):
        return len(self.entries)


def images(classes=("field", "lake"), each=10, where=lambda _position: NOWHERE, roles=lambda _position: None):
    names = [name for name in classes for _ in range(each)]
    return Images(
        [Entry(None, f"{position}.tif", (name,), roles(position)) for position, name in enumerate(names)],
        [where(position) for position in range(len(names))],
        list(classes),
        np.array([[name == other for other in classes] for name in names]),
    )


def box(west, south, side=0.01):
    return Whereabouts(None, (west, south, west + side, south + side), None)


def test_random_is_the_protocol_of_milan_a_permutation_of_each_class_by_the_seed():
    rng = np.random.default_rng(3)
    train = [*rng.permutation(10)[:6], *(10 + rng.permutation(10))[:6]]
    division = divide(images(), Split.RANDOM, 3)
    assert division.train.tolist() == sorted(train)
    assert division.gallery.tolist() == division.queries.tolist() == sorted(set(range(20)) - set(train))
    assert division.own.tolist() == list(range(8))


def test_by_place_no_place_is_in_two_parts():
    scattered = images(each=40, where=lambda position: box(position // 4 * 0.02, 45.0))
    for seed in range(5):
        division = divide(scattered, Split.BY_PLACE, seed)
        parts = [set(part // 4) for part in (division.train, division.gallery, division.queries)]
        assert all(parts)
        assert parts[0].isdisjoint(parts[1] | parts[2])
        assert parts[1].isdisjoint(parts[2])
        assert set(division.own) == {-1}


pair = st.tuples(
    st.integers(0, 40), st.integers(0, 4),
    st.sampled_from([(0.0, 0.0), (0.0005, 0.0), (0.0, -0.0004), (0.0002, 0.0002)]), st.sampled_from(["", "tag"]),
)  # fmt: skip


@given(st.lists(pair, min_size=6, max_size=30, unique_by=lambda each: each[:2]), st.integers(0, 9))
def test_by_place_both_of_a_pair_of_sensors_are_in_one_part(pairs, seed):
    """A pair lies at one place, by nine tenths of its ground or by its tag, and was taken in two acquisitions."""
    seen = []
    for number, (col, row, (east, north), tag) in enumerate(pairs):
        name = f"33UUP_{number}" if tag else None
        for sensor, (across, up) in (("S1B:006020", (0.0, 0.0)), ("S2A:20170613T101031", (east, north))):
            box = (0.02 * col + across, 45 + 0.02 * row + up, 0.02 * col + across + 0.01, 45.01 + 0.02 * row + up)
            seen.append(Whereabouts(name, None if tag else box, sensor))
    both = images(each=len(pairs), where=lambda position: seen[position])
    both.labels[:] = True
    parts = parts_of(divide(both, Split.BY_PLACE, seed))
    assert sum(len({position // 2 for position in part}) for part in parts) == len(pairs)


def test_by_acquisition_no_acquisition_is_in_two_parts():
    seen = images(each=40, where=lambda position: Whereabouts(None, None, f"pass {position % 9}"))
    division = divide(seen, Split.BY_ACQUISITION, 0)
    parts = [set(part % 9) for part in (division.train, division.gallery, division.queries)]
    assert all(parts)
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])


@given(st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=12, max_size=60), st.integers(0, 9))
def test_by_acquisition_every_image_is_in_one_part_with_its_whole_acquisition(names, seed):
    """An image without an acquisition is one of its own."""
    whole = [name or f"alone {position}" for position, name in enumerate(names)]
    assume(len(set(whole)) >= 3 and any(names))
    seen = images(classes=("field", "lake"), each=(len(names) + 1) // 2)
    seen.whereabouts = [Whereabouts(None, None, name or None) for name in names] + [NOWHERE] * (len(names) % 2)
    seen.labels[:] = True  # every group trains both classes, so none of these archives may be refused
    parts = parts_of(divide(seen, Split.BY_ACQUISITION, seed))
    assert sorted(each for part in parts for each in part) == list(range(len(seen)))
    groups = [{whole[each] if each < len(whole) else "last" for each in part} for part in parts]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_whole_acquisitions_come_as_near_to_their_shares_as_they_allow():
    first = [*[0] * 300, *[1] * 60, *[2] * 60, *[3] * 60]
    uneven = images(each=240, where=lambda position: Whereabouts(None, None, f"pass {first[position]}"))
    uneven.labels[:] = True
    for seed in range(5):
        assert sorted(map(len, parts_of(divide(uneven, Split.BY_ACQUISITION, seed)))) == [60, 120, 300]
        equal = images(each=20, where=lambda position: Whereabouts(None, None, f"pass {position // 10}"))
        assert list(map(len, parts_of(divide(equal, Split.BY_ACQUISITION, seed)))) == [20, 10, 10]
        single = images(each=50, where=lambda position: box(position, 0))
        for part, of_a_class in zip(parts_of(divide(single, Split.BY_PLACE, seed)), (30, 10, 10), strict=True):
            assert single.labels[part].sum(axis=0).tolist() == [of_a_class, of_a_class]


def parts_of(division):
    return division.train.tolist(), division.gallery.tolist(), division.queries.tolist()


def test_official_searches_what_it_trains_on_and_never_touches_val():
    division = divide(images(roles=lambda position: ("train", "val", "query")[position % 3]), Split.OFFICIAL, 0)
    assert set(division.train % 3) == set(division.gallery % 3) == {0}
    assert set(division.queries % 3) == {2}
    assert set(division.own) == {-1}


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    one, same, other = (divide(images(), Split.RANDOM, seed).train.tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_a_place_is_a_tag_or_a_shared_fifth_of_the_footprint_and_neighbours_are_other_places():
    found = places(
        [box(0, 0), box(0.005, 0), box(0.0099, 0), *[Whereabouts("pond", None, None)] * 2, NOWHERE, box(5, 5)]
    )
    assert found[0] == found[1]
    assert found[2] == found[1]  # covers half of the second, a hundredth of the first: one place through the second
    assert found[3] == found[4]
    assert found[5] is None
    assert len({found[0], found[3], found[6]}) == 3
    side_by_side = places([box(0, 0), box(0.0095, 0)])
    assert side_by_side[0] != side_by_side[1]


def test_images_that_say_where_they_lie_are_split_by_place_unless_told_otherwise():
    assert default_split(images(where=lambda position: box(position, 0))) is Split.BY_PLACE
    one = images(where=lambda position: box(0, 0) if position == 3 else NOWHERE)
    assert default_split(one) is Split.BY_PLACE
    assert divide(one, Split.BY_PLACE, 0)
    assert default_split(images()) is Split.RANDOM
    assert default_split(images(where=lambda position: box(position // 10, 0))) is Split.RANDOM  # of two places


@pytest.mark.parametrize("split", [Split.RANDOM, Split.BY_PLACE])
def test_a_class_with_one_image_is_named(split):
    lonely = images(where=lambda position: box(position, 0))
    lonely.labels[10:] = [True, False]
    lonely.labels[19] = [False, True]
    with pytest.raises(UsageError, match="class lake has one image"):
        divide(lonely, split, 0)


def test_one_class_to_learn_from_is_refused():
    one = images(roles=lambda position: "query" if position >= 8 else "train")
    with pytest.raises(UsageError, match="has one class: call images of two classes train"):
        divide(one, Split.OFFICIAL, 0)


@pytest.mark.parametrize(("split", "what"), [(Split.BY_PLACE, "place"), (Split.BY_ACQUISITION, "acquisition")])
def test_images_that_do_not_tell_or_are_all_of_one_are_not_split_by_it(split, what):
    with pytest.raises(UsageError, match=f"no image tells its {what}"):
        divide(images(), split, 0)
    together = images(where=lambda _position: Whereabouts("here", None, "then"))
    with pytest.raises(UsageError, match=f"of 1 {what}s, too few"):
        divide(together, split, 0)


def test_a_place_goes_on_across_the_antimeridian():
    across, west, east = (179.995, 0, -179.995, 0.01), (179.99, 0, 180.0, 0.01), (-180.0, 0, -179.99, 0.01)
    for footprints, count in [((across, west), 1), ((across, east), 1), ((across, across), 1), ((west, east), 2)]:
        for order in (footprints, footprints[::-1]):
            assert len(set(places([Whereabouts(None, each, None) for each in order]))) == count
