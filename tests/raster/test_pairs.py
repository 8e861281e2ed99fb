"""Pairs of two modalities against an oracle that counts cells of ground one by one, all round the earth."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from math import cos, radians

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfed.raster.pairs import Alone, Pair, Seen, find_pairs

CELLS = 64  # of a degree
ROUND = 360 * CELLS
START = datetime(2024, 2, 28, tzinfo=UTC)
DAY = timedelta(days=1)


def seen(box, days):
    """Return a patch from cells (west of -180, north of the equator, across, up) and its first and last day."""
    acquired = None if days is None else (START + days[0] * DAY, START + (days[0] + days[1]) * DAY)
    if box is None:
        return Seen(None, acquired)
    west, south, across, up = box
    edges = [(each / CELLS + 180) % 360 - 180 for each in (west - ROUND // 2, west + across - ROUND // 2)]
    return Seen((edges[0], south / CELLS, 180.0 if edges[1] == -180 else edges[1], (south + up) / CELLS), acquired)


def in_common(one, other):
    """Return intersection over union of two boxes of cells."""
    cells = [
        ({(west + step) % ROUND for step in range(across)}, set(range(south, south + up)))
        for west, south, across, up in (one, other)
    ]
    both = len(cells[0][0] & cells[1][0]) * len(cells[0][1] & cells[1][1])
    return both / (sum(len(each[0]) * len(each[1]) for each in cells) - both)


def oracle(one, other, within):
    """Take the best of all pairs that are left, again and again; also tell why each other patch is alone."""
    ground, allowed = set(), {}
    for name, (box, days) in one.items():
        for partner, (other_box, other_days) in other.items():
            if None in (box, days, other_box, other_days) or in_common(box, other_box) < 0.9:
                continue
            ground |= {(0, name), (1, partner)}
            first, last = sorted((days, other_days))
            apart = max(0, last[0] - sum(first))
            if apart <= within:
                allowed[name, partner] = (-round(in_common(box, other_box), 2), apart, name, partner)
    left, pairs = dict(allowed), set()
    while left:
        best = min(left, key=left.get)
        pairs.add(best)
        left = {each: rank for each, rank in left.items() if each[0] != best[0] and each[1] != best[1]}
    alone = {}
    for side, patches in enumerate((one, other)):
        for name, (box, days) in patches.items():
            if any(each[side] == name for each in pairs):
                continue
            if box is None or days is None:
                alone[side, name] = Alone.NO_FOOTPRINT if box is None else Alone.NO_TIME
            elif (side, name) not in ground:
                alone[side, name] = Alone.NO_GROUND
            else:
                alone[side, name] = Alone.TAKEN if any(each[side] == name for each in allowed) else Alone.NO_DAY
    return pairs, alone


near = st.builds(
    lambda place, east, north, across: ((place + east) % ROUND, north, across, 20),
    st.sampled_from([0, 0, 9000]), st.integers(-3, 3), st.sampled_from([0, 0, 0, 1]), st.sampled_from([36, 40]),
)  # fmt: skip
boxes = st.one_of(
    *[near] * 6,
    st.tuples(st.integers(0, ROUND - 1), st.integers(-200, 200), st.integers(1, 90), st.integers(1, 90)),
    st.none(),
)
days = st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 2]))
patches = st.dictionaries(
    st.sampled_from("abcdefghij"), st.tuples(boxes, st.one_of(*[days] * 6, st.none())), min_size=1, max_size=8
)


@settings(max_examples=400)
@given(patches, patches, st.integers(0, 5), st.randoms(use_true_random=False))
def test_pairs_and_why_others_are_alone_are_those_of_the_oracle_in_any_order_and_either_way(one, other, within, rng):
    found = find_pairs(*({name: seen(*each) for name, each in side.items()} for side in (one, other)), within * DAY)
    pairs, alone = oracle(one, other, within)
    assert {(pair.one, pair.other) for pair in found.pairs} == pairs
    assert {(side, name): why for side in (0, 1) for name, why in found.alone[side].items()} == alone
    shuffled = [{name: seen(*side[name]) for name in rng.sample(sorted(side), len(side))} for side in (one, other)]
    assert find_pairs(*shuffled, within * DAY) == found
    back = find_pairs(*shuffled[::-1], within * DAY)
    assert sorted((pair.swapped() for pair in back.pairs), key=lambda pair: pair.one) == found.pairs
    assert back.alone == found.alone[::-1]


def square(west, south, side=0.01):
    return west, south, west + side, south + side


def share(one, other):
    """Return intersection over union of two boxes that do not cross the antimeridian."""
    across, down = (min(one[end], other[end]) - max(one[end - 2], other[end - 2]) for end in (2, 3))
    both = max(across, 0) * max(down, 0)
    return both / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both)


@pytest.mark.parametrize("seed", range(3))
def test_a_grid_over_a_continent_misses_no_pair_that_comparing_all_with_all_finds(seed):
    rng = random.Random(seed)
    one, other = {}, {}
    for number in range(700):
        side = rng.choice([0.0027, 0.011, 0.0123, 1.0])
        south = rng.uniform(-70, 70)
        west, up = rng.uniform(-179, 178), side * cos(radians(south))
        one[f"{number}"] = Seen((west, south, west + side, south + up), (START, START))
        shift, wider = rng.uniform(-0.06, 0.06) * side, rng.uniform(0.94, 1.06)
        box = (west + shift, south - shift / 2, west + shift + side * wider, south - shift / 2 + up / wider)
        other[f"{number}"] = Seen(box, (START, START))
    wanted = {
        (name, partner)
        for name, each in one.items()
        for partner, another in other.items()
        if share(each.footprint, another.footprint) >= 0.9
    }
    assert 100 < len(wanted) < 700, seed
    assert {(pair.one, pair.other) for pair in find_pairs(one, other, DAY).pairs} == wanted, seed


def test_a_pair_says_what_is_shared_and_how_long_lies_between():
    morning, noon = (START, START + DAY / 8), (START + DAY / 2, START + DAY)
    found = find_pairs(
        {"radar": Seen(square(8.0, 47.0), morning)}, {"optical": Seen(square(8.0005, 47.0), noon)}, DAY * 3 / 8
    )
    assert found.pairs == [Pair("radar", "optical", pytest.approx(95 / 105), DAY * 3 / 8)]
    later = find_pairs(
        {"radar": Seen(square(8.0, 47.0), morning)}, {"optical": Seen(square(8.0005, 47.0), noon)}, DAY / 4
    )
    assert later == ([], ({"radar": Alone.NO_DAY}, {"optical": Alone.NO_DAY}))


def test_more_common_ground_goes_before_nearer_days_unless_it_is_less_than_a_hundredth():
    day = [(START + number * DAY,) * 2 for number in range(4)]
    radar = {"r": Seen(square(8.0, 47.0), day[0])}
    far_off = {"near in time": Seen(square(8.0003, 47.0), day[1]), "near": Seen(square(8.0, 47.0), day[3])}
    assert [pair.other for pair in find_pairs(radar, far_off, 3 * DAY).pairs] == ["near"]
    hardly = {"near in time": Seen(square(8.00001, 47.0), day[1]), "near": Seen(square(8.0, 47.0), day[3])}
    assert [pair.other for pair in find_pairs(radar, hardly, 3 * DAY).pairs] == ["near in time"]
