"""`rsfed query --merge local` finds what the coordinator's merge finds, and leaves nothing to read on the way."""

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def by_file(federation, answer, *, below=1000):
    """(node, distance, size of the bucket, file) of every hit nearer than that: handles are fresh in every query."""
    found = []
    for node in ("alps", "coast", "north"):
        hits = [hit for hit in answer["queries"][0]["hits"] if hit["node"] == node and hit["distance"] < below]
        meant = federation.resolve(node, [hit["handle"] for hit in hits]) if hits else []
        found += [(node, h["distance"], h["bucket_size"], m["path"]) for h, m in zip(hits, meant, strict=True)]
    return sorted(found)


def test_both_ways_find_the_same(federation, image):
    clear = federation.query(image, "--k", "12")
    sealed = federation.query(image, "--k", "12", "--merge", "local", "--require-all")
    reach = max(hit["distance"] for hit in clear["queries"][0]["hits"])
    assert len(sealed["queries"][0]["hits"]) == 12
    assert by_file(federation, clear, below=reach) == by_file(federation, sealed, below=reach)
    told = [[(o["node"], o["status"], o["held"]) for o in each["queries"][0]["outcomes"]] for each in (clear, sealed)]
    assert told[0] == told[1]


def test_everything_within_a_radius_is_paged_through_sealed(federation, image):
    clear, sealed = (federation.query(image, "--radius", "32", *how) for how in ((), ("--merge", "local")))
    assert by_file(federation, clear) == by_file(federation, sealed)
    assert sealed["queries"][0]["matched"] == 72


def test_what_was_found_sealed_can_be_asked_for(federation, image):
    hit = federation.query(image, "--merge", "local")["queries"][0]["hits"][0]
    home = federation.home("ada")
    federation.rsfed("access", "request", hit["handle"], "--reason", "flood mapping", "--home", home)
