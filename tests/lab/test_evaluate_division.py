"""How the images of an evaluation are split: nothing in two parts, whole places together, MiLaN's protocol exactly."""

from dataclasses import dataclass

import numpy as np
import pytest

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


def test_by_acquisition_no_acquisition_is_in_two_parts():
    seen = images(each=40, where=lambda position: Whereabouts(None, None, f"pass {position % 9}"))
    division = divide(seen, Split.BY_ACQUISITION, 0)
    parts = [set(part % 9) for part in (division.train, division.gallery, division.queries)]
    assert all(parts)
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])


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
    assert default_split(images()) is Split.RANDOM


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
