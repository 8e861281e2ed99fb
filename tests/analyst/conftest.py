"""One answer that all tests of the outputs share."""

from datetime import UTC, datetime

import pytest

from rsfed.analyst.outputs import Answer, Asked
from rsfed.analyst.results import Bucket, Hit, Outcome, SearchResult


@pytest.fixture
def asked():
    return Asked(release_version=3, release_digest="ab" * 32, encoder="rgb", bits=64, k=20, radius=None)


@pytest.fixture
def result():
    buckets = (
        Bucket("danube", b"\1" * 16, 0, 1),
        Bucket("alps", b"\2" * 16, 2, 40),
        Bucket("danube", b"\3" * 16, 2, 2),
    )
    taken = (datetime(2024, 5, 1, 10, 30, tzinfo=UTC), datetime(2024, 5, 1, 10, 31, tzinfo=UTC))
    hits = (
        Hit(1, "danube", "0a" * 16, 0, 0, 1, (8.1, 47.0, 8.3, 47.2), taken, 0.975),
        Hit(2, "alps", "0b" * 16, 2, 1, 40, relevance=0.8125),
        Hit(3, "danube", "0c" * 16, 2, 2, 2, (179.5, -17.5, -179.5, -16.5), (taken[0], taken[0]), 0.8125),
    )
    outcomes = (
        Outcome("alps", "COMPLETE", 4.25, 1.0, 1200, "partner", "", "NOTHING"),
        Outcome("danube", "PARTIAL", 7.5, 0.5, 800, "partner", "", "LIMIT"),
        Outcome("elbe", "UNREACHABLE", 12.0, reason="UNREACHABLE"),
    )
    return SearchResult(bytes(range(16)), 0, hits, buckets, outcomes, "5e" * 32)


@pytest.fixture
def answer(result):
    return Answer("forêt, nord.tif", result)
