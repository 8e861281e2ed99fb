"""An analyst's session against a coordinator that is real up to its answers."""

import hashlib
import tracemalloc
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_coordinator import FakeCoordinator, serving
from members import Clock, World
from PIL import Image

from rsfed.analyst.session import AnalystSession
from rsfed.clock import utc_now
from rsfed.errors import (
    DeadlineExceeded,
    EnvelopeRefused,
    InvalidAnswer,
    NotAdmitted,
    RasterRejected,
    ReleaseRefused,
    Unreachable,
    UsageError,
)
from rsfed.hashing.weights import init_weights
from rsfed.raster import reader
from rsfed.raster.input_spec import BandGroup, InputSpec
from rsfed.raster.writer import Grid, write_geotiff
from rsfed.trust.envelope import MAX_CODES
from rsfed.trust.manifest import Calibration, CalibrationBand, CompactResnet, EncoderEntry, FileEntry
from rsfed.v1 import outcome_pb2

BUCKETS = [("danube", 0, 2), ("alps", 2, 5), ("danube", 2, 3)]


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4), dtype=np.uint8)


@pytest.fixture
def world():
    return World(clock=Clock(utc_now()))  # an analyst reads the real clock, however long other tests took before


@pytest.fixture
def coordinator(world):
    return FakeCoordinator(world, BUCKETS)


@pytest.fixture
def encoder_of_tiles(coordinator, world):
    """A release whose encoder is real and cuts images into tiles."""
    spec = InputSpec(
        groups=(BandGroup(bands=("red", "green", "blue"), gsd=10.0, size=32, offset=(0.0,) * 3, scale=(255.0,) * 3),),
        fit="tile",
    )
    small = CompactResnet(width=8, blocks=1)
    weights = init_weights(small, spec, 32, 0)
    file = FileEntry(name="weights.safetensors", size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    entry = EncoderEntry(modality="rgb", input=spec, architecture=small, weights=file)
    coordinator.release = world.release(weights=weights, encoders={"rgb": entry})
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of several tests would wait for each other
    yield
    torch.set_num_threads(before)


def scene(path, tiles, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (3, 32, 32 * tiles)).astype(np.uint8)
    write_geotiff(path, values, Grid(32632, 400_000, 5_000_000, 10), {})
    return path


async def test_a_search_returns_one_ranking_for_each_code_and_every_nodes_outcome(coordinator, tmp_path):
    heard = []
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        results = await session.search(codes(3), k=4, on_outcome=heard.append)
    assert [result.code_index for result in results] == [0, 1, 2]
    assert [(hit.node, hit.distance) for hit in results[0].hits] == [("danube", 0)] * 2 + [("alps", 2)] * 2
    assert [outcome.node for outcome in heard] == ["alps", "danube"]


async def test_a_query_is_signed_by_the_analyst_for_the_newest_release(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        await session.search(codes(1), k=7)
    query = coordinator.asked[0]
    assert query.requester.name == "ada"
    assert query.envelope.release_digest == coordinator.release.digest
    assert (query.envelope.k, query.envelope.HasField("radius"), query.envelope.codes) == (7, False, codes(1).tobytes())


async def test_a_radius_wider_than_the_codes_is_refused_with_their_width_before_anybody_is_asked(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        wide = session.bits + 1
        for search in (session.search, partial(session.search_radius, limit=9)):
            with pytest.raises(UsageError, match=f"have {session.bits} bits") as caught:
                await search(codes(1), radius=wide)
            assert caught.value.reason == "SEARCH_RANGE"
        assert not coordinator.asked
        await session.search(codes(1), radius=session.bits)
    assert coordinator.asked[0].envelope.radius == session.bits


async def test_more_codes_than_a_query_may_have_travel_in_several_queries(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        results = await session.search(codes(MAX_CODES + 1), k=1)
    assert len(results) == MAX_CODES + 1
    assert [len(query.envelope.codes) // 4 for query in coordinator.asked] == [MAX_CODES, 1]
    assert len({query.envelope.query_id for query in coordinator.asked}) == 2


async def test_everything_within_a_radius_is_listed_bucket_by_bucket(coordinator, tmp_path, monkeypatch):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 2)
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (result,) = await session.search_radius(codes(1), radius=3, limit=100)
    assert len(result.hits) == result.matched == 10
    assert [hit.rank for hit in result.hits] == list(range(1, 11))
    assert [hit.node for hit in result.hits[2:]] == ["alps", "danube"] * 3 + ["alps"] * 2
    assert len({(hit.node, hit.handle) for hit in result.hits}) == 10
    assert result.complete()


async def test_hits_have_the_relevance_of_their_release_also_where_a_bucket_is_paged_through(
    coordinator, world, tmp_path, monkeypatch
):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 2)
    bands = tuple(CalibrationBand(distance=d, relevance=r, pairs=50) for d, r in ((0, 0.75), (2, 0.5)))
    table = Calibration(bands=bands, prior=0.1, k=20, queries=9, acquisitions=9, nodes=1, held_out_by="acquisition")
    coordinator.release = world.release(calibration={"rgb:rgb": table})
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (near,) = await session.search(codes(1), k=4)
        (result,) = await session.search_radius(codes(1), radius=3, limit=100)
    assert [hit.relevance for hit in near.hits] == [0.75, 0.75, 0.5, 0.5]
    assert [hit.relevance for hit in result.hits] == [0.75, 0.75] + [0.5] * 8


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 9])
async def test_a_limited_listing_is_the_head_of_the_whole_one(coordinator, tmp_path, monkeypatch, limit):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 1)
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (whole,) = await session.search_radius(codes(1), radius=3, limit=100)
        (head,) = await session.search_radius(codes(1), radius=3, limit=limit)
    assert [(hit.rank, hit.node, hit.bucket) for hit in head.hits] == [
        (hit.rank, hit.node, hit.bucket) for hit in whole.hits[:limit]
    ]


async def test_a_listing_asks_for_nothing_beyond_its_limit(coordinator, tmp_path, monkeypatch):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 2)
    coordinator.buckets = [*BUCKETS, ("alps", 3, 1000)]
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        await session.search_radius(codes(1), radius=3, limit=2)
        assert len(coordinator.requests) == 1
        await session.search_radius(codes(1), radius=3, limit=8)
    assert len(coordinator.requests) == 1 + 1 + 2


async def test_a_bucket_that_cannot_be_listed_to_the_end_makes_its_node_partial_and_spares_the_others(
    coordinator, tmp_path, monkeypatch
):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 2)
    coordinator.broken = {"alps"}
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (result,) = await session.search_radius(codes(1), radius=3, limit=100)
    assert [(o.node, o.status, o.reason) for o in result.outcomes] == [
        ("alps", "PARTIAL", "UNKNOWN_HANDLE"),
        ("danube", "COMPLETE", ""),
    ]
    assert sum(hit.node == "danube" for hit in result.hits) == 5


async def test_a_node_whose_pages_are_too_short_is_partial_and_not_asked_for_ever(coordinator, tmp_path, monkeypatch):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 2)
    coordinator.page = 1
    coordinator.buckets = [("danube", 0, 2), ("alps", 2, 500)]
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (result,) = await session.search_radius(codes(1), radius=3, limit=400)
    assert [(o.node, o.status, o.reason) for o in result.outcomes] == [
        ("alps", "PARTIAL", "INVALID_ANSWER"),
        ("danube", "COMPLETE", ""),
    ]
    assert len(coordinator.requests) == 2


async def test_of_many_buckets_at_one_distance_no_more_is_listed_than_the_limit_can_show(
    coordinator, tmp_path, monkeypatch
):
    monkeypatch.setattr("rsfed.analyst.session.MAX_K", 2)
    coordinator.buckets = [("danube", 2, 3), *[("alps", 2, 50)] * 20]
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (result,) = await session.search_radius(codes(1), radius=3, limit=60)
    assert [hit.node for hit in result.hits[:7]] == ["danube", "alps"] * 3 + ["alps"]
    assert len(result.hits) == 60
    assert len(coordinator.requests) == 1 + 3


async def test_a_session_that_lasts_keeps_no_query_that_has_expired(coordinator, world, tmp_path):
    async with serving(coordinator, tmp_path) as home, AnalystSession(home, now=world.clock) as session:
        (early,) = await session.search(codes(1))
        assert len(await session.expand(early, 1, offset=0)) == 5
        world.clock.move(minutes=6)
        (late,) = await session.search(codes(1))
        assert set(session._asked) == {late.query_id}
        with pytest.raises(EnvelopeRefused) as refusal:
            await session.expand(early, 1, offset=0)
    assert refusal.value.reason == "ENVELOPE_EXPIRED"


async def test_nothing_of_an_image_but_its_code_is_in_what_is_sent(coordinator, tmp_path, monkeypatch):
    canary = bytes(range(100, 148))  # a row of pixels
    image = tmp_path / "canary-name.png"
    Image.frombytes("RGB", (16, 16), canary * 16).save(image)
    made = codes(1, seed=9)

    class Encoder:
        def encode(self, contents):
            assert [content["all"].shape for content in contents] == [(3, 32, 32)]
            return made

    monkeypatch.setattr(AnalystSession, "_load_encoder", lambda _: Encoder())
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        encoded = session.encode([image])
        await session.search(encoded.codes, k=2)
        await session.search_radius(encoded.codes, radius=2, limit=50)
    sent = b"".join(coordinator.requests)
    assert encoded.images == (0,)
    assert made.tobytes() in sent
    assert b"canary" not in sent
    assert str(tmp_path).encode() not in sent
    assert all(canary[start : start + 6] not in sent for start in range(len(canary) - 6))


@pytest.mark.usefixtures("encoder_of_tiles")
async def test_an_image_that_will_not_do_is_named_and_nothing_is_sent(coordinator, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        with pytest.raises(RasterRejected) as refusal:
            session.encode([bad])
    assert str(bad) in str(refusal.value)
    assert str(bad) not in refusal.value.public
    assert not coordinator.requests


@pytest.mark.usefixtures("encoder_of_tiles")
async def test_images_that_will_not_do_are_told_and_the_others_have_the_codes_they_have_alone(coordinator, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not an image")
    good = [scene(tmp_path / f"{seed}.tif", 3, seed) for seed in range(2)]
    told = []
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        encoded = session.encode([bad, good[0], bad, good[1]], on_refused=lambda *refusal: told.append(refusal))
        alone = [session.encode([image]).codes for image in good]
        none = session.encode([bad], on_refused=lambda *_: None)
    assert encoded.images == (1, 1, 1, 3, 3, 3)
    assert (encoded.codes == np.concatenate(alone)).all()
    assert [image for image, _ in told] == [bad, bad]
    assert "convert it" in told[0][1].public
    assert (none.images, none.codes.shape) == ((), (0, 4))


@pytest.mark.usefixtures("encoder_of_tiles")
async def test_a_scene_that_breaks_off_has_no_code_at_all(coordinator, tmp_path, monkeypatch):
    first, broken, last = (scene(tmp_path / f"{seed}.tif", 12, seed) for seed in range(3))
    read = reader._content

    def break_off(source, window, *rest):
        if str(source.path) == str(broken) and window.col >= 32 * 10:
            raise RasterRejected("it breaks off; copy it again")
        return read(source, window, *rest)

    monkeypatch.setattr(reader, "_content", break_off)
    told = []
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        encoded = session.encode([first, broken, last], on_refused=lambda image, _: told.append(image))
        alone = [session.encode([image]).codes for image in (first, last)]
    assert told == [broken]
    assert encoded.images == (0,) * 12 + (2,) * 12
    assert (encoded.codes == np.concatenate(alone)).all()


@pytest.mark.usefixtures("encoder_of_tiles")
async def test_memory_does_not_grow_with_the_number_of_images(coordinator, tmp_path):
    image = scene(tmp_path / "a.tif", 10)
    peaks = []
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        session.encode([image])  # what is loaded only once
        for count in (2, 12):
            tracemalloc.start()
            session.encode([image] * count)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    patch_bytes = 3 * 32 * 32 * 4
    assert peaks[1] - peaks[0] < 20 * patch_bytes, "ten more images of ten patches each"


async def test_an_answer_that_breaks_a_rule_is_not_used(coordinator, tmp_path):
    coordinator.spoil = lambda response: response.rankings[0].nodes.append("alps")
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        with pytest.raises(InvalidAnswer):
            await session.search(codes(1))


async def test_a_node_that_is_down_is_an_outcome_and_no_error(coordinator, tmp_path):
    coordinator.status["alps"] = outcome_pb2.NODE_STATUS_TIMED_OUT
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (result,) = await session.search(codes(1))
    assert not result.complete()
    assert result.answered()


async def test_an_older_release_than_the_one_in_hand_is_refused(coordinator, world, tmp_path):
    async with serving(coordinator, tmp_path) as home:
        coordinator.release = world.release(version=5)
        async with AnalystSession(home) as session:
            assert session.release.manifest.version == 5
        coordinator.release = world.release(version=4)
        with pytest.raises(ReleaseRefused) as refusal:
            await AnalystSession(home).refresh()
    assert refusal.value.reason == "RELEASE_ROLLBACK"


async def test_an_analyst_keeps_the_release_in_hand_and_the_one_before(coordinator, world, tmp_path):
    async with serving(coordinator, tmp_path) as home:
        for version in (3, 4, 5, 6):
            coordinator.release = world.release(version=version)
            async with AnalystSession(home) as session:
                assert session.release.manifest.version == version
    kept = [Path(manifest).parent.name for manifest in home.releases.glob("*/manifest.json")]
    assert len(kept) == 2
    assert session.release.digest.hex() in kept


async def test_a_revoked_analyst_is_told_why(coordinator, world, tmp_path):
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        world.revoked_names.append(session._connection.identity.member.uri)
        with pytest.raises(NotAdmitted) as refusal:
            await session.search(codes(1))
    assert refusal.value.reason == "REVOKED"
    assert "audit" not in str(refusal.value)  # the call was refused before the query was read


async def test_a_query_that_is_refused_whole_is_named_as_audit_logs_name_it(coordinator, tmp_path):
    def refuse(_):
        raise NotAdmitted("you may not", reason="SCOPE_MODALITY")

    coordinator.spoil = refuse
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        with pytest.raises(NotAdmitted) as refusal:
            await session.search(codes(1))
    query_id = coordinator.asked[0].envelope.query_id.hex()
    assert str(refusal.value).endswith(f"(the coordinator's audit log names it query {query_id[:16]})")


async def test_a_result_tells_by_which_digest_audit_logs_name_its_query(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home, AnalystSession(home) as session:
        (result,) = await session.search(codes(1))
    assert result.query_digest == coordinator.asked[0].digest.hex()


async def test_a_coordinator_that_is_gone_is_unreachable(coordinator, tmp_path):
    async with serving(coordinator, tmp_path) as home:
        pass
    with pytest.raises((Unreachable, DeadlineExceeded)):
        await AnalystSession(home).refresh()


@pytest.mark.parametrize(("days_old", "called"), [(1, []), (5, ["renew"]), (8, ["recover"])])
async def test_a_certificate_is_renewed_when_due_and_recovered_when_late(
    coordinator, tmp_path, monkeypatch, days_old, called
):
    calls = []

    def note(name):
        async def noted(home, identity):
            calls.append(name)

        return noted

    for name in ("renew", "recover"):
        monkeypatch.setattr(f"rsfed.analyst.connection.{name}", note(name))
    async with serving(coordinator, tmp_path, analyst_since=timedelta(days=-days_old)) as home:
        if days_old < 7:
            await AnalystSession(home).refresh()
        else:
            with pytest.raises(NotAdmitted):  # what was recovered here is not kept, so the old one is still too old
                await AnalystSession(home).refresh()
    assert calls == called
