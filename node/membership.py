"""Staying a member: the identity of the moment, its trust bundle and certificate renewed while the node serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from rsfed.clock import Now
from rsfed.errors import NotAdmitted, RsfedError, TrustError
from rsfed.home import Home
from rsfed.telemetry import log
from rsfed.trust import enrolment
from rsfed.trust.bundle import Bundle
from rsfed.trust.certificates import needs_renewal
from rsfed.trust.identity import Identity, load_identity
from rsfed.trust.preflight import check_identity

POLL_S = 30.0
FIRST_PAUSE_S = 1.0
FINAL_PAUSE_S = 3600.0
FINAL_REASONS = frozenset({"CERT_EXPIRED", "REVOKED", "WRONG_CA", "BAD_NAME", "KEY_MISMATCH"})
"""Refusals that asking again does not change: only a person can do something."""
_REMEDY = "ask the federation for a new invitation, then run `rsfed node join TOKEN`"
_Step = Callable[[], Awaitable[None]]


class Membership:
    """The identity of a running node.

    Args:
        home: The node's home.
        now: Wall clock.
        renewed: Called after a new certificate or trust bundle was taken into use.

    Raises:
        NotAdmitted: the home has not joined, or its certificate will not do. An expired one will: it is recovered.
        StateError: the identity is damaged.
    """

    def __init__(self, home: Home, *, now: Now, renewed: Callable[[], None] = lambda: None) -> None:
        self._home = home
        self._now = now
        self._renewed = renewed
        self._wake = asyncio.Event()
        self._identity = load_identity(home.identity)
        try:
            check_identity(self._identity, now=now())
        except NotAdmitted as error:
            if error.reason != "CERT_EXPIRED":
                raise

    def identity(self) -> Identity:
        """Return the identity of the moment."""
        return self._identity

    def bundle(self) -> Bundle:
        """Return the trust bundle of the moment."""
        return self._identity.bundle

    def reload(self) -> None:
        """Take what another command changed on disk, and ask the coordinator for news now."""
        try:
            self._use(load_identity(self._home.identity))
        except RsfedError as error:
            log.error("identity.damaged", reason=error.reason)
        self.ask_now()

    def ask_now(self) -> None:
        """Ask the coordinator for a newer trust bundle without waiting for the next turn."""
        self._wake.set()

    async def run(self) -> None:
        """Poll the trust bundle and renew the certificate for ever; while the coordinator is away, wait for it."""
        retry = FIRST_PAUSE_S
        while True:
            self._wake.clear()
            outcomes = [await _attempt(step) for step in self._due()]
            failures = [outcome for outcome in outcomes if outcome]
            if not failures:
                pause, retry = POLL_S, FIRST_PAUSE_S
            elif all(outcome and _is_final(outcome) for outcome in outcomes):
                pause = FINAL_PAUSE_S
            else:
                pause, retry = retry, min(POLL_S, 2 * retry)
            for failure in failures:
                _log_failure(failure, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def _due(self) -> list[_Step]:
        """Return what there is to ask, each apart from the other: revocations have to arrive whatever else fails."""
        now, leaf = self._now(), self._identity.chain[0]
        if now >= leaf.not_valid_after_utc:
            return [self._recover]  # brings the bundle, too; nothing else is heard now
        return [self._refresh, self._renew] if needs_renewal(leaf, now=now) else [self._refresh]

    async def _refresh(self) -> None:
        await enrolment.refresh_bundle(self._home, self._identity, now=self._now)
        self._use(load_identity(self._home.identity))

    async def _renew(self) -> None:
        self._use(await enrolment.renew(self._home, self._identity, now=self._now))
        log.info("certificate.renewed", days=self._days_left())

    async def _recover(self) -> None:
        self._use(await enrolment.recover(self._home, self._identity, now=self._now))
        log.info("certificate.recovered", days=self._days_left())

    def _use(self, identity: Identity) -> None:
        before, self._identity = self._identity, identity
        if identity.bundle.version != before.bundle.version:
            log.info("bundle.admitted", version=identity.bundle.version)
        if (identity.chain, identity.bundle.version) != (before.chain, before.bundle.version):
            self._renewed()

    def _days_left(self) -> int:
        return (self._identity.chain[0].not_valid_after_utc - self._now()).days


async def _attempt(step: _Step) -> RsfedError | OSError | None:
    try:
        await step()
    except (RsfedError, OSError) as error:
        return error
    return None


def _is_final(error: RsfedError | OSError) -> bool:
    return isinstance(error, TrustError) and error.reason in FINAL_REASONS


def _log_failure(error: RsfedError | OSError, pause: float) -> None:
    reason = error.reason if isinstance(error, RsfedError) else type(error).__name__
    if _is_final(error):
        log.error("membership.refused", reason=reason, remedy=_REMEDY, seconds=pause)
        return
    level = log.error if isinstance(error, TrustError | OSError) else log.warning
    level("membership.waiting", reason=reason, seconds=pause)
