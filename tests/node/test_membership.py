"""Staying a member: revocations arrive whatever becomes of a renewal, and what cannot succeed is not asked for ever."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from members import World
from serving import join, make_home

import node.membership
from node.membership import Membership
from rsfed.errors import NotAdmitted, Unreachable
from rsfed.telemetry import log
from rsfed.trust import enrolment

PATIENCE_S = 30.0
AWAY = Unreachable("the coordinator is away")


class Scene:
    """A node's home whose coordinator answers as a test says: with an error, or with nothing new."""

    def __init__(self, folder, monkeypatch):
        self.world, self.home = World(), make_home(folder)
        self.asked, self.answers, self.lines, self.news = [], {}, [], 0
        for name in ("refresh_bundle", "renew", "recover"):
            monkeypatch.setattr(enrolment, name, self._answer(name))
        for level in ("error", "warning"):
            monkeypatch.setattr(log, level, lambda event, **f: self.lines.append((event, f)), raising=False)

    def _answer(self, name):
        async def answer(home, identity, *, now):
            self.asked.append(name)
            if error := self.answers.get(name):
                raise error
            return identity

        return answer

    @asynccontextmanager
    async def member(self, **when):
        join(self.world, self.home, "berne", "127.0.0.1:1", **when)
        membership = Membership(self.home, now=self.world.clock, renewed=self._renewed)
        running = asyncio.create_task(membership.run())
        try:
            yield membership
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _renewed(self):
        self.news += 1

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - no event says that a fake was called
                await asyncio.sleep(0.005)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    for name in ("POLL_S", "FIRST_PAUSE_S"):
        monkeypatch.setattr(node.membership, name, 0.01)
    return Scene(tmp_path / "n", monkeypatch)


async def test_revocations_arrive_although_the_renewal_that_is_due_fails(scene):
    scene.answers["renew"] = AWAY
    async with scene.member(days_ago=25):
        await scene.until(lambda: scene.asked.count("refresh_bundle") > 2)
    assert scene.asked[:2] == ["refresh_bundle", "renew"]


async def test_a_certificate_is_renewed_although_no_trust_bundle_came(scene):
    scene.answers["refresh_bundle"] = AWAY
    async with scene.member(days_ago=25):
        await scene.until(lambda: scene.asked.count("renew") > 2)


@pytest.mark.parametrize(
    ("days_ago", "call", "reason"),
    [(61, "recover", "CERT_EXPIRED"), (31, "recover", "REVOKED"), (1, "refresh_bundle", "REVOKED")],
)
async def test_what_was_refused_for_good_is_not_asked_again_and_the_remedy_is_logged(scene, days_ago, call, reason):
    scene.answers[call] = NotAdmitted("never again", reason=reason)
    async with scene.member(days_ago=days_ago):
        await scene.until(lambda: scene.lines)
        await asyncio.sleep(0.2)
    assert scene.asked == [call]
    ((event, fields),) = scene.lines
    assert (event, fields["reason"], fields["seconds"]) == ("membership.refused", reason, 3600.0)
    assert "node join" in fields["remedy"]


async def test_a_new_invitation_is_taken_into_use_at_once_after_a_refusal(scene):
    scene.answers["recover"] = NotAdmitted("never again", reason="REVOKED")
    async with scene.member(days_ago=31) as membership:
        await scene.until(lambda: scene.lines)
        join(scene.world, scene.home, "berne", "127.0.0.1:1")
        membership.reload()
        assert scene.news == 1
        await scene.until(lambda: "refresh_bundle" in scene.asked)


async def test_what_may_succeed_later_is_asked_again(scene):
    scene.answers["recover"] = NotAdmitted("check the clock", reason="CLOCK_SKEW")
    async with scene.member(days_ago=31):
        await scene.until(lambda: scene.asked.count("recover") > 2)
