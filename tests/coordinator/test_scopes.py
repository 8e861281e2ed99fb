"""What an analyst may ask and how often: said by the coordinator's operator, checked there and by every node."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from founded import founded
from hypothesis import given
from hypothesis import strategies as st
from test_serve import Cast, statuses

from coordinator import audit
from coordinator.scopes import Allowed, Quotas
from rsfed.cli import run
from rsfed.errors import Busy, EnvelopeRefused, NotAdmitted
from rsfed.trust.names import MemberId, Role
from rsfed.trust.scope import EVERYTHING, Scope
from rsfed.v1 import archive_pb2, query_pb2
from rsfed.v1.outcome_pb2 import POLICY_LEVEL_PARTNER

ADA = MemberId("alps", Role.ANALYST, "ada")
NOW = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
STRICTER = POLICY_LEVEL_PARTNER + 1  # than any node here


# the rules

SCOPES = st.builds(
    Scope,
    nodes=st.frozensets(st.sampled_from(["bern", "graz", "lyon"])),
    modalities=st.frozensets(st.sampled_from(["rgb", "sentinel-1-grd"])),
    level=st.integers(0, 3),
    until=st.none() | st.integers(-500, 500).map(lambda hours: NOW + timedelta(hours=hours)),
)


@given(SCOPES)
def test_a_scope_travels_in_the_bundle_as_it_is(scope):
    assert Scope.of_wire(scope.to_wire()) == scope


@given(SCOPES, st.sampled_from(["bern", "graz"]), st.sampled_from(["rgb", "sentinel-1-grd"]), st.integers(1, 3))
def test_a_scope_allows_exactly_what_it_names(scope, node, modality, level):
    may = (
        (not scope.until or scope.until > NOW)
        and (not scope.modalities or modality in scope.modalities)
        and (not scope.nodes or node in scope.nodes)
        and level >= scope.level
    )
    try:
        scope.check(modality, NOW)
        scope.check_node(node, level)
    except NotAdmitted:
        assert not may
    else:
        assert may


def test_who_has_no_scope_may_ask_everything():
    EVERYTHING.check("rgb", NOW)
    EVERYTHING.check_node("bern", POLICY_LEVEL_PARTNER)


# quotas


class Time:
    """A wall clock and a steady one."""

    def __init__(self):
        self.moment = NOW

    def now(self):
        return self.moment

    def monotonic(self):
        return self.moment.timestamp()


@pytest.fixture
def federation(template, tmp_path):
    with founded(template, tmp_path / "alps") as federation:
        yield federation


def allow(federation, allowed):
    federation.authority.allow("ada", allowed)


async def taken(quotas, times):
    """How many of so many requests are allowed, and what the first refusal says."""
    for number in range(times):
        try:
            await quotas.take(ADA)
        except Busy as refused:
            return number, refused.reason, refused.retry_after
    return times, "", None


async def test_a_days_requests_are_counted_over_restarts_until_midnight(federation):
    time = Time()
    allow(federation, Allowed(per_day=5))
    assert await taken(Quotas(federation.state, time.now), 3) == (3, "", None)
    again = Quotas(federation.state, time.now)
    assert await taken(again, 9) == (2, "QUOTA_USED", 2 * 3600)
    time.moment += timedelta(hours=2)
    assert await taken(again, 9) == (5, "QUOTA_USED", 24 * 3600)


async def test_a_clock_that_is_set_back_gives_no_second_quota(federation):
    time = Time()
    allow(federation, Allowed(per_day=5))
    quotas = Quotas(federation.state, time.now)
    assert (await taken(quotas, 9))[0] == 5
    time.moment -= timedelta(days=3)
    assert (await taken(quotas, 9))[0] == 0


async def test_requests_of_a_minute_are_bounded_and_the_wait_is_told(federation):
    time = Time()
    allow(federation, Allowed(per_minute=3))
    quotas = Quotas(federation.state, time.now, time.monotonic)
    assert await taken(quotas, 9) == (3, "RATE_LIMITED", 20)
    time.moment += timedelta(seconds=20)
    assert (await taken(quotas, 9))[0] == 1


async def test_nothing_is_counted_of_who_may_ask_any_number(federation):
    assert (await taken(Quotas(federation.state, Time().now), 500))[0] == 500
    with federation.state.reading() as connection:
        assert connection.execute("SELECT count(*) FROM usage").fetchone()[0] == 0


async def test_a_quota_of_nothing_allows_nothing(federation):
    allow(federation, Allowed(per_day=0))
    assert (await taken(Quotas(federation.state, Time().now), 1))[1] == "QUOTA_USED"


async def test_many_at_once_get_no_more_than_the_quota(federation):
    allow(federation, Allowed(per_day=7))
    quotas = Quotas(federation.state, Time().now)
    results = await asyncio.gather(*(quotas.take(ADA) for _ in range(40)), return_exceptions=True)
    assert sum(result is None for result in results) == 7


# over the wire


def noted(federation, *kinds):
    """What the coordinator's audit log says of the analyst in entries of some kinds."""
    with federation.state.reading() as connection:
        lines = [line for kind in kinds for line in audit.entries(connection, kind=kind)]
    assert {line.subject for line in lines} <= {ADA.uri}
    return [(line.kind, line.data) for line in lines]


async def test_nodes_outside_the_scope_are_not_asked_and_the_answer_says_so(federation, tmp_path):
    async with federation.serving() as serving, AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst = await cast.analyst()
        bern, graz = await cast.node("bern"), await cast.node("graz")
        allow(federation, Allowed(Scope(nodes=frozenset({"bern"}))))
        await serving._changed()
        found = await cast.search(analyst)
        assert statuses(found) == {"bern": "COMPLETE", "graz": "REFUSED"}
        assert found.outcomes[1].reason == "SCOPE_NODE"
        assert (len(bern.asked), len(graz.asked)) == (1, 0)
        inner = archive_pb2.ArchiveServiceExpandBucketRequest(query=federation.query(analyst, [0]), limit=5)
        with pytest.raises(NotAdmitted) as refused:
            await cast.ask(
                "ExpandBucket", query_pb2.QueryServiceExpandBucketRequest(node="graz", request=inner), analyst
            )
        assert refused.value.reason == "SCOPE_NODE"
    ((_, answered),) = noted(federation, "query.answered")
    assert answered["outcomes"] == {"bern": "COMPLETE", "graz": "REFUSED"}
    assert answered["reasons"] == {"graz": "SCOPE_NODE"}


async def test_all_that_the_coordinator_refuses_is_in_its_audit_log(federation, tmp_path, capsys):
    def one(query_id, reason):
        return ("query.refused", {"query": (query_id * 16).hex(), "reason": reason})

    async with federation.serving() as serving, AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst = await cast.analyst()
        await cast.node("bern")
        for query_id, allowed in (
            (b"a", Allowed(Scope(until=datetime(2020, 1, 1, tzinfo=UTC)))),
            (b"b", Allowed(Scope(modalities=frozenset({"sentinel-1-grd"})))),
            (b"c", Allowed(per_day=0)),
        ):
            allow(federation, allowed)
            await serving._changed()
            with pytest.raises((NotAdmitted, Busy)):
                await cast.search(analyst, query_id=query_id * 16)
        page = archive_pb2.ArchiveServiceExpandBucketRequest(
            query=federation.query(analyst, [0], query_id=b"d" * 16), limit=5
        )
        with pytest.raises(Busy):
            await cast.ask(
                "ExpandBucket", query_pb2.QueryServiceExpandBucketRequest(node="bern", request=page), analyst
            )
        forged = federation.query(analyst, [0], query_id=b"e" * 16)
        forged.signature = b"no"
        with pytest.raises(EnvelopeRefused):
            await cast.ask("Search", query_pb2.QueryServiceSearchRequest(query=forged), analyst)
        forged.envelope = b"no query"
        with pytest.raises(EnvelopeRefused):
            await cast.ask("Search", query_pb2.QueryServiceSearchRequest(query=forged), analyst)
        federation.authority.revoke("ada")
        await serving._changed()
        with pytest.raises(NotAdmitted):
            await cast.search(analyst)
    assert noted(federation, "query.refused", "bucket.refused", "call.refused") == [
        one(b"a", "SCOPE_ENDED"),
        one(b"b", "SCOPE_MODALITY"),
        one(b"c", "QUOTA_USED"),
        one(b"e", "ENVELOPE_SIGNATURE"),
        ("query.refused", {"query": "", "reason": "ENVELOPE_SIGNATURE"}),
        ("bucket.refused", {"query": (b"d" * 16).hex(), "reason": "QUOTA_USED"}),
        ("call.refused", {"reason": "REVOKED"}),
    ]
    file = tmp_path / "one.json"
    command(federation, "audit", "export", str(file), "--query", (b"c" * 4).hex())
    assert f"written to {file}\n" in capsys.readouterr().err
    command(federation, "audit", "verify", str(file))
    (line,) = capsys.readouterr().out.splitlines()
    assert (json.loads(line)["kind"], json.loads(line)["data"]["reason"]) == ("query.refused", "QUOTA_USED")
    command(federation, "audit", "export", str(tmp_path / "no"), "--query", "ffff", code=2)


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (Scope(modalities=frozenset({"sentinel-1-grd"})), "SCOPE_MODALITY"),
        (Scope(until=datetime(2020, 1, 1, tzinfo=UTC)), "SCOPE_ENDED"),
    ],
)
async def test_what_is_outside_the_scope_reaches_no_node(federation, tmp_path, scope, reason):
    async with federation.serving() as serving, AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst, bern = await cast.analyst(), await cast.node("bern")
        allow(federation, Allowed(scope))
        await serving._changed()
        with pytest.raises(NotAdmitted) as refused:
            await cast.search(analyst)
        assert (refused.value.reason, bern.asked) == (reason, [])


async def test_a_node_that_discloses_more_than_the_analyst_may_learn_is_not_asked(federation, tmp_path):
    async with federation.serving() as serving, AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst, bern = await cast.analyst(), await cast.node("bern")
        allow(federation, Allowed(Scope(level=STRICTER)))
        await serving._changed()
        found = await cast.search(analyst)
        assert ([each.reason for each in found.outcomes], bern.asked) == (["SCOPE_LEVEL"], [])


async def test_an_analyst_who_asks_too_often_is_told_when_to_come_back(federation, tmp_path):
    async with federation.serving(), AsyncExitStack() as stack:
        cast = Cast(federation, tmp_path, stack)
        analyst = await cast.analyst()
        await cast.node("bern")
        allow(federation, Allowed(per_minute=2))
        for number in range(2):
            await cast.search(analyst, query_id=bytes([number]) * 16)
        with pytest.raises(Busy) as refused:
            await cast.search(analyst, query_id=b"3" * 16)
        assert refused.value.reason == "RATE_LIMITED"
        assert 0 < refused.value.retry_after <= 30  # a RetryInfo
        assert "try again in" in str(refused.value)


# said by the operator


def command(federation, *arguments, code=0):
    assert run(["coordinator", *arguments, "--home", str(federation.home.path)]) == code


def scope_of(federation, capsys):
    capsys.readouterr()
    command(federation, "members", "--output", "json")
    return {row["name"]: row["scope"] for row in json.loads(capsys.readouterr().out)["members"]}["ada"]


def test_the_operator_says_what_an_analyst_may_before_and_after_it_joins(federation, capsys):
    federation.enroll("bern")
    federation.authority.invite("ada", Role.ANALYST, hours=1)
    limits = ["--node", "bern", "--modality", "rgb", "--level", "partner", "--until", "2027-01-01"]
    command(federation, "allow", "ada", *limits, "--per-day", "50", "--per-minute", "9")
    said = capsys.readouterr()
    assert (
        "ada may ask bern for rgb down to level partner until 2027-01-01 23:59 UTC, at most 50 requests a day and 9"
        " requests a minute\n"
    ) in said.out
    assert "no analyst ada is a member yet; this holds once one joins\n" in said.err
    expected = {
        "nodes": ["bern"],
        "modalities": ["rgb"],
        "level": "partner",
        "until": "2027-01-01T23:59:59+00:00",
        "per_day": 50,
        "per_minute": 9,
    }
    assert scope_of(federation, capsys) == expected
    federation.enroll("ada", Role.ANALYST)
    end = datetime(2027, 1, 1, 23, 59, 59, 999_000, tzinfo=UTC)
    scope = Scope(frozenset({"bern"}), frozenset({"rgb"}), POLICY_LEVEL_PARTNER, end)
    assert federation.bundle().scope_of(ADA) == scope
    assert federation.bundle().scope_of(replace(ADA, name="bea")) == EVERYTHING
    command(federation, "members")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ada")]
    assert "bern for rgb" in row
    command(federation, "allow", "ada")
    assert "member yet" not in capsys.readouterr().err
    assert (scope_of(federation, capsys), federation.bundle().scope_of(ADA)) == (None, EVERYTHING)
    with federation.state.reading() as connection:
        first, second = audit.entries(connection, kind="scope.set")
    assert (first.subject, first.data) == (ADA.uri, expected)
    nothing = dict.fromkeys(["level", "until", "per_day", "per_minute"]) | {"nodes": [], "modalities": []}
    assert (second.subject, second.data) == (ADA.uri, nothing)


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ("2027-01-31", "2027-01-31T23:59:59.999+00:00"),
        ("2027-01-31T18:00", "2027-01-31T18:00:00+00:00"),
        ("2027-01-31T18:00:00+02:00", "2027-01-31T16:00:00+00:00"),
    ],
)
def test_until_takes_in_a_day_and_ends_at_a_time(federation, until, end):
    federation.enroll("ada", Role.ANALYST)
    command(federation, "allow", "ada", "--until", until)
    scope = federation.bundle().scope_of(ADA)
    assert scope.until == datetime.fromisoformat(end)
    scope.check("rgb", scope.until - timedelta(milliseconds=1))
    with pytest.raises(NotAdmitted):
        scope.check("rgb", scope.until + timedelta(milliseconds=1))


def test_an_end_that_has_passed_is_said(federation, capsys):
    command(federation, "allow", "ada", "--until", "2020-01-31")
    assert "that time has passed, so ada may ask nothing" in capsys.readouterr().err


def test_a_node_is_not_allowed_anything_and_an_analyst_of_its_name_is(federation, capsys):
    federation.enroll("bern")
    command(federation, "allow", "bern", "--per-day", "5", code=2)
    assert "'bern' is a node" in capsys.readouterr().err
    federation.authority.invite("bern", Role.ANALYST, hours=1)
    command(federation, "allow", "bern", "--per-day", "5")


def test_a_node_that_was_revoked_is_no_node_that_may_be_asked(federation, capsys):
    federation.enroll("bern")
    command(federation, "allow", "ada", "--node", "bern")
    federation.authority.revoke("bern")
    version = federation.bundle().version
    command(federation, "allow", "ada", "--node", "bern", code=2)
    assert "no node 'bern', or it was revoked" in capsys.readouterr().err
    assert federation.bundle().version == version


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--modality", "rgb", "--modality", "rbg"], "the release searches no rbg; name some of rgb, or leave"),
        (["--until", "31.1.2027"], "--until '31.1.2027' is no date or time; write 2024-05-01 or 2024-05-01T10:30:00Z"),
    ],
)
def test_what_is_mistyped_is_named_with_what_may_be_written(federation, capsys, wrong, says):
    command(federation, "allow", "ada", *wrong, code=2)
    assert says in capsys.readouterr().err


def test_what_cannot_be_meant_is_refused_and_changes_nothing(federation, capsys):
    version = federation.bundle().version
    for wrong in (["--node", "nowhere"], ["--level", "everything"], ["--per-minute", "0"], ["--until", "soon"]):
        command(federation, "allow", "ada", *wrong, code=2)
    command(federation, "allow", "Not A Name", code=2)
    assert federation.bundle().version == version


def test_a_scope_outlives_a_revocation_so_that_a_new_invitation_does_not_widen_it(federation):
    allow(federation, Allowed(Scope(modalities=frozenset({"rgb"}))))
    federation.enroll("ada", Role.ANALYST)
    federation.authority.revoke("ada", Role.ANALYST)
    federation.enroll("ada", Role.ANALYST)
    assert federation.bundle().scope_of(ADA).modalities == {"rgb"}
