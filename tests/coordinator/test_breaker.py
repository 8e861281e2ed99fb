"""A node that fails again and again is left out for a while, and comes back."""

import random

from coordinator.breaker import Breaker


def fail(breaker, node, times, now, nodes=10):
    for _ in range(times):
        breaker.failed(node, now, nodes)


def test_five_failures_in_a_row_eject_for_thirty_seconds():
    breaker = Breaker()
    fail(breaker, "a", 4, now=0.0)
    assert not breaker.ejected("a", 0.0)
    fail(breaker, "a", 1, now=0.0)
    assert breaker.ejected("a", 29.9)
    assert not breaker.ejected("a", 30.0)


def test_one_success_between_failures_starts_the_count_again():
    breaker = Breaker()
    for _ in range(3):
        fail(breaker, "a", 4, now=0.0)
        breaker.succeeded("a", 0.0)
    assert not breaker.ejected("a", 0.0)


def test_ejections_grow_by_thirty_seconds_up_to_five_minutes():
    breaker, now, lengths = Breaker(), 0.0, []
    fail(breaker, "a", 4, now)
    for _ in range(12):
        fail(breaker, "a", 1, now)
        length = next(s for s in range(1, 1000) if not breaker.ejected("a", now + s))
        lengths.append(length)
        now += length
    assert lengths == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]


def test_after_its_time_one_failure_ejects_again_and_one_success_readmits():
    breaker = Breaker()
    fail(breaker, "a", 5, now=0.0)
    breaker.succeeded("a", 30.0)
    fail(breaker, "a", 4, now=31.0)
    assert not breaker.ejected("a", 31.0)
    fail(breaker, "a", 1, now=31.0)
    assert breaker.ejected("a", 90.9)  # the second ejection: 60 s


def test_a_node_that_is_found_well_is_tried_before_its_time_is_over_and_one_more_failure_ejects_it_for_longer():
    breaker = Breaker()
    fail(breaker, "a", 5, now=0.0)
    breaker.found_well("a", 3.0)
    assert not breaker.ejected("a", 3.0)
    fail(breaker, "a", 1, now=3.0)
    assert breaker.ejected("a", 62.9)


def test_health_checks_hide_no_failed_queries():
    breaker = Breaker()
    for _ in range(5):
        breaker.found_well("a", 0.0)
        fail(breaker, "a", 1, now=0.0)
    assert breaker.ejected("a", 29.9)


def test_a_node_that_stayed_well_for_five_minutes_starts_afresh():
    breaker = Breaker()
    fail(breaker, "a", 5, now=0.0)
    breaker.succeeded("a", 30.0)
    breaker.succeeded("a", 331.0)
    fail(breaker, "a", 5, now=400.0)
    assert breaker.ejected("a", 429.9)
    assert not breaker.ejected("a", 430.0)


def test_never_more_than_half_of_the_nodes_are_ejected():
    rng = random.Random(5)
    for nodes in (1, 2, 3, 8):
        breaker, now = Breaker(), 0.0
        for _ in range(2000):
            now += rng.expovariate(0.5)
            node = str(rng.randrange(nodes))
            breaker.succeeded(node, now) if rng.random() < 0.1 else breaker.failed(node, now, nodes)
            assert sum(breaker.ejected(str(n), now) for n in range(nodes)) <= nodes / 2
