"""What a running coordinator does for itself: fresh trust bundles, its own certificate, the end of old keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from coordinator.authority import Authority
from coordinator.bundles import bundle_is_due, publish_bundle
from coordinator.keyring import Keyring
from coordinator.releases import Publisher
from coordinator.rotation import Rotation
from coordinator.state import State
from rsfed.clock import Now, utc_now
from rsfed.config import CoordinatorConfig
from rsfed.errors import NotAdmitted, ReleaseRefused, StateError
from rsfed.home import Home
from rsfed.telemetry import log
from rsfed.trust.certificates import make_csr, needs_renewal
from rsfed.trust.identity import create_keys, load_identity, save_certificate

EXPIRES_SOON = timedelta(days=30)
_WARN_EVERY = timedelta(days=1)


class Upkeep:
    """Keeps the coordinator's trust in order.

    Args:
        home: The coordinator's home.
        state: Its database.
        config: coordinator.toml.
        now: Clock.
    """

    def __init__(self, home: Home, state: State, config: CoordinatorConfig, *, now: Now = utc_now) -> None:
        self._home = home
        self._state = state
        self._now = now
        self._warned = datetime.min.replace(tzinfo=UTC)
        self._authority = Authority(home, state, config, now=now)
        self._publisher = Publisher(home, state, config.federation, now=now)
        self._keyring = Keyring(home)
        self._rotation = Rotation(state, self._keyring, self._authority.coordinator, now)

    def once(self) -> bool:
        """Do what is due and say whether anything was."""
        done = [self._retire_cas(), self._publish_bundle(), self._renew_certificate(), self._sign_release()]
        self._watch_release()
        return any(done)

    def _retire_cas(self) -> bool:
        ended = self._rotation.retire_cas()
        if ended:
            log.info("ca.retired", count=len(ended))
        return bool(ended)

    def _publish_bundle(self) -> bool:
        now = self._now()
        with self._state.writing() as connection:
            if not bundle_is_due(connection, now):
                return False
            publish_bundle(connection, self._keyring, self._authority.coordinator, now)
        log.info("bundle.published")
        return True

    def _renew_certificate(self) -> bool:
        try:
            leaf = load_identity(self._home.identity).chain[0]
            if not needs_renewal(leaf, now=self._now()) and self._authority.own_is_of_serving_ca(leaf):
                return False
        except (NotAdmitted, StateError) as error:  # lost or damaged: the CA is here, so it can be made again
            log.warning("certificate.missing", reason=error.reason)
        csr = make_csr(create_keys(self._home.identity).key)
        save_certificate(self._home.identity, self._authority.renew_own(csr))
        log.info("certificate.renewed", member=self._authority.coordinator.uri)
        return True

    def _sign_release(self) -> bool:
        try:
            signed = self._publisher.renew_signature()
        except ReleaseRefused as error:  # members refuse the release too, but all else goes on
            log.error("release.not_signed", reason=error.reason)
            return False
        if signed:
            log.info("release.signed")
        return signed

    def _watch_release(self) -> None:
        """Warn once a day of a release that expires soon: only training publishes the next one."""
        now, manifest = self._now(), self._publisher.current().manifest
        left = manifest.expires - now
        if left < EXPIRES_SOON and now - self._warned >= _WARN_EVERY:
            self._warned = now
            log.warning("release.expires_soon", release=manifest.version, days=max(0, left.days))
