"""Archives and queries of the demo: disjoint, repeatable, acquisitions whole."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.errors import UsageError
from rsfed.lab.split import Sample, class_mix, hold_out, spread


def images(classes=5, each=40, per_acquisition=1):
    return [
        Sample(Path(f"c{c}/{i}.tif"), f"c{c}", f"a{c}-{i // per_acquisition}" if per_acquisition > 1 else None)
        for c in range(classes)
        for i in range(each)
    ]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4]), st.sampled_from([0.2, 1.0, 10.0]))
def test_every_image_is_in_one_archive_or_a_query_and_in_no_two(seed, per_acquisition, skew):
    samples = images(per_acquisition=per_acquisition)
    archive, queries = hold_out(samples, share=0.2, at_most=1000, seed=seed)
    parts = spread(archive, 3, skew=skew, seed=seed)
    assert Counter(s.path for part in [*parts, queries] for s in part) == Counter(s.path for s in samples)
    assert all(parts)


def test_no_acquisition_is_on_two_sides():
    archive, queries = hold_out(images(per_acquisition=4), share=0.2, at_most=1000, seed=1)
    parts = spread(archive, 3, skew=0.5, seed=1)
    sides = [{s.acquisition for s in side} for side in [*parts, queries]]
    assert sum(len(side) for side in sides) == len(set.union(*sides))


def test_an_acquisition_cut_by_the_limit_leaves_nothing_in_the_archive():
    archive, queries = hold_out(images(per_acquisition=4), share=0.5, at_most=10, seed=1)
    assert len(queries) == 10
    assert not {s.acquisition for s in archive} & {s.acquisition for s in queries}


def test_queries_have_every_class_alike():
    _, queries = hold_out(images(), share=0.2, at_most=1000, seed=3)
    assert set(class_mix(queries).values()) == {8}


def test_a_rare_class_that_runs_out_does_not_stop_the_others():
    samples = [*images(classes=2, each=50), Sample(Path("rare.tif"), "rare")]
    _, queries = hold_out(samples, share=0.5, at_most=1000, seed=3)
    assert class_mix(queries)["rare"] == 1
    assert len(queries) == round(0.5 * 101)


def test_a_small_skew_makes_archives_differ_and_a_large_one_makes_them_alike():
    def unlikeness(skew):
        parts = spread(images(each=100), 3, skew=skew, seed=2)
        mixes = [class_mix(part) for part in parts]
        return max(abs(m.get(f"c{c}", 0) - 33.3) for m in mixes for c in range(5))

    assert unlikeness(0.2) > 50 > 15 > unlikeness(1000)


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    first, again, other = (spread(images(), 3, skew=0.5, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


def test_too_few_images_for_the_archives_are_refused_with_a_remedy():
    with pytest.raises(UsageError, match="lower --nodes"):
        spread(images(classes=1, each=2), 3, skew=0.5, seed=0)
