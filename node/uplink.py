"""The node's connection to its coordinator: announcing itself, hearing of new releases, fetching them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from node.membership import FINAL_PAUSE_S, FINAL_REASONS, Membership
from node.served import Shelf
from rsfed.clock import Deadline, Now
from rsfed.errors import InvalidAnswer, ReleaseRefused, RsfedError, TrustError
from rsfed.home import Home
from rsfed.telemetry import log
from rsfed.transport.channel import call, open_channel
from rsfed.trust import enrolment
from rsfed.trust.certificates import CLOCK_TOLERANCE
from rsfed.trust.identity import Identity, load_federation
from rsfed.trust.preflight import check_identity
from rsfed.trust.release_store import Release, ReleaseStore
from rsfed.v1 import federation_pb2 as pb
from rsfed.v1.federation_pb2_grpc import FederationServiceStub

if TYPE_CHECKING:
    import grpc

ANNOUNCE_S = 10.0
FIRST_PAUSE_S = 0.5
REFUSED_S = 600.0  # before a release that was refused is looked at again
_CALL_S = 5.0
_CLOSING_S = 60.0  # for calls in progress on a channel that was replaced


class Uplink:
    """Keeps the coordinator informed, and the node up to date.

    Args:
        home: The node's home.
        membership: Who the node is.
        shelf: Holds what is served.
        announcement: Returns what the node says of itself now.
        fetched: Called after a new release was admitted.
        refused: Called after a release was refused, with its digest and the reason.
        now: Wall clock.

    Attributes:
        connected: Whether the last announcement was heard.
    """

    def __init__(  # noqa: PLR0913 - the parts of a node, put together in one place
        self,
        home: Home,
        membership: Membership,
        shelf: Shelf,
        *,
        announcement: Callable[[], pb.FederationServiceAnnounceRequest],
        fetched: Callable[[], None],
        refused: Callable[[bytes, str], None],
        now: Now,
    ) -> None:
        self._home = home
        self._membership = membership
        self._shelf = shelf
        self._announcement = announcement
        self._fetched = fetched
        self._release_refused = refused
        self._now = now
        self._store = ReleaseStore(home.releases)
        self._speak, self._look = asyncio.Event(), asyncio.Event()
        self._wanted = b""
        self._refused: dict[bytes, float] = {}  # digest of a release -> when it was refused
        self._channel: tuple[Identity, grpc.aio.Channel] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._skewed = False
        self.connected = False

    def channel(self) -> grpc.aio.Channel:
        """Return the warm channel to the coordinator; it follows the identity of the node.

        Raises:
            NotAdmitted: the own certificate will not do, which the wire would not say.
        """
        identity = self._membership.identity()
        check_identity(identity, now=self._now())
        if self._channel and identity.fits_channel_of(self._channel[0]):
            return self._channel[1]
        self._drop_channel()
        federation = load_federation(self._home.identity)
        channel = open_channel(federation.address, identity, federation.coordinator)
        self._channel = identity, channel
        return channel

    def announce_now(self) -> None:
        """Tell the coordinator at once that something changed."""
        self._speak.set()
        self._look.set()

    def trust_changed(self) -> None:
        """Look again at what was refused, and announce under the new certificate."""
        self._refused.clear()
        self.announce_now()

    async def announce(self) -> None:
        """Announce the node for ever; while the coordinator is away, try again and again.

        Who was refused for good is silent until the membership has news, but for a try now and then.
        """
        pause = FIRST_PAUSE_S
        while True:
            self._speak.clear()
            try:
                await self._announce_once()
                pause = ANNOUNCE_S
            except RsfedError as error:
                pause = FINAL_PAUSE_S if error.reason in FINAL_REASONS else pause
                self._log_failure(error, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._speak.wait(), pause)
            pause = min(ANNOUNCE_S, 2 * pause)

    async def follow_releases(self) -> None:
        """Fetch every release that the coordinator announces, for ever, and delete those that are no longer needed."""
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                await self._follow_once()
            except (RsfedError, OSError) as error:
                reason = error.reason if isinstance(error, RsfedError) else type(error).__name__
                log.warning("release.not_followed", reason=reason)

    async def close(self) -> None:
        """Close the channel to the coordinator."""
        self._drop_channel(grace=None)
        await asyncio.gather(*self._closing)

    async def _follow_once(self) -> None:
        current = self._store.current()
        if self._wanted and (current is None or current.digest != self._wanted or not self._believed(current)):
            await self._fetch(self._wanted)
        elif current and self._shelf.served and self._shelf.served.release.digest == current.digest:
            await asyncio.to_thread(self._store.prune)

    async def _announce_once(self) -> None:
        stub = FederationServiceStub(self.channel())
        request = self._announcement()
        sent = self._now()
        request.clock.FromDatetime(sent)
        answer = await call(stub.Announce, request, Deadline.after(_CALL_S), what="the coordinator")
        theirs = _clock_of(answer)
        if not self.connected:
            log.info("coordinator.connected")
        self.connected = True
        self._compare_clocks(sent, theirs)
        if answer.bundle_version > self._membership.bundle().version:
            self._membership.ask_now()
        refused = time.monotonic() - self._refused.get(answer.release_digest, float("-inf")) < REFUSED_S
        self._wanted = b"" if refused else answer.release_digest
        self._look.set()

    async def _fetch(self, digest: bytes) -> None:
        try:
            release = await enrolment.fetch_release(self._home, self._membership.identity(), now=self._now)
        except ReleaseRefused as error:
            log.error("release.refused", release=digest.hex()[:12], reason=error.reason)
            self._release_refused(digest, error.reason)
            self._refused[digest] = time.monotonic()
            self._membership.ask_now()  # the key that signed it may be new
        else:
            if release:
                log.info("release.admitted", release=release.manifest.version)
                self._fetched()

    def _believed(self, release: Release) -> bool:
        """Say whether the key that signed a release is still the federation's; if not, it was signed anew."""
        return release.header.key_id in self._membership.bundle().release_keys

    def _compare_clocks(self, sent: datetime, theirs: datetime) -> None:
        """Say when the clocks are too far apart to tell fresh queries from old ones."""
        middle = sent + (self._now() - sent) / 2
        skew = (middle - theirs).total_seconds()
        skewed = abs(skew) > CLOCK_TOLERANCE.total_seconds()
        if skewed and not self._skewed:
            log.error("clock.skewed", reason="CLOCK_SKEW", seconds=round(skew, 1))
        self._skewed = skewed

    def _log_failure(self, error: RsfedError, pause: float) -> None:
        if isinstance(error, TrustError):
            log.error("coordinator.refused", reason=error.reason, seconds=pause)
        elif self.connected:
            log.warning("coordinator.lost", reason=error.reason, seconds=pause)
        else:
            log.info("coordinator.waiting", reason=error.reason, seconds=pause)
        self.connected = False

    def _drop_channel(self, grace: float | None = _CLOSING_S) -> None:
        if self._channel is None:
            return
        (_, channel), self._channel = self._channel, None
        task = asyncio.get_running_loop().create_task(channel.close(grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _clock_of(answer: pb.FederationServiceAnnounceResponse) -> datetime:
    try:
        return answer.clock.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidAnswer("the coordinator's clock says a time that does not exist; tell its operator") from error
