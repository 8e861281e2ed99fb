"""Staying a member: the identity of the moment, its trust bundle and certificate renewed while the node serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
            self._identity = load_identity(self._home.identity)
        except RsfedError as error:
            log.error("identity.damaged", reason=error.reason)
        self.ask_now()

    def ask_now(self) -> None:
        """Ask the coordinator for a newer trust bundle without waiting for the next turn."""
        self._wake.set()

    async def run(self) -> None:
        """Poll the trust bundle and renew the certificate for ever; while the coordinator is away, wait for it."""
        pause = FIRST_PAUSE_S
        while True:
            self._wake.clear()
            try:
                await self._refresh()
                pause = POLL_S
            except (RsfedError, OSError) as error:
                _log_failure(error, pause)
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                pause = min(POLL_S, 2 * pause)

    async def _refresh(self) -> None:
        """Renew what is due, then ask for a newer trust bundle."""
        now = self._now()
        leaf = self._identity.chain[0]
        if now >= leaf.not_valid_after_utc:
            self._use(await enrolment.recover(self._home, self._identity, now=self._now))
            log.info("certificate.recovered", days=self._days_left())
        elif needs_renewal(leaf, now=now):
            self._use(await enrolment.renew(self._home, self._identity, now=self._now))
            log.info("certificate.renewed", days=self._days_left())
        else:
            await enrolment.refresh_bundle(self._home, self._identity, now=self._now)
            self._use(load_identity(self._home.identity))

    def _use(self, identity: Identity) -> None:
        before, self._identity = self._identity, identity
        if identity.bundle.version != before.bundle.version:
            log.info("bundle.admitted", version=identity.bundle.version)
        if (identity.chain, identity.bundle.version) != (before.chain, before.bundle.version):
            self._renewed()

    def _days_left(self) -> int:
        return (self._identity.chain[0].not_valid_after_utc - self._now()).days


def _log_failure(error: RsfedError | OSError, pause: float) -> None:
    reason = error.reason if isinstance(error, RsfedError) else type(error).__name__
    level = log.error if isinstance(error, TrustError | OSError) else log.warning
    level("membership.waiting", reason=reason, seconds=pause)
