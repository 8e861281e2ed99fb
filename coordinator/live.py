"""What the running `serve` knows: read from the state once, and again whenever that changed."""

from __future__ import annotations

import threading

from coordinator.bundles import current_bundle
from coordinator.registry import Registry
from coordinator.releases import current_release
from coordinator.state import State
from rsfed.clock import Now, utc_now
from rsfed.errors import ReleaseRefused, StaleRelease
from rsfed.home import Home
from rsfed.telemetry import log
from rsfed.trust.bundle import Bundle
from rsfed.trust.identity import Identity, load_identity, save_bundle
from rsfed.trust.release_store import Release, ReleaseStore
from rsfed.v1.federation_pb2 import SignedTrustBundle


class Live:
    """The coordinator's identity, trust bundle, releases and registry of this moment.

    Args:
        home: The coordinator's home.
        state: Its database.
        now: Clock.

    Attributes:
        signed: The newest trust bundle as it is sent.
        identity: The coordinator's identity with that bundle.
        release: The release that is served.
        registry: The registered nodes.
    """

    def __init__(self, home: Home, state: State, *, now: Now = utc_now) -> None:
        self._home = home
        self._state = state
        self._reloading = threading.Lock()
        self.now = now
        self.registry = Registry(state, now)
        self._store = ReleaseStore(home.releases)
        self.signed = SignedTrustBundle()
        self.signed, self.identity = self._read_identity()
        self.release = current_release(self._store)

    @property
    def bundle(self) -> Bundle:
        """The newest trust bundle."""
        return self.identity.bundle

    def reload(self) -> None:
        """Read everything again; what did not change stays the same object, so that nothing is reconnected for it."""
        with self._reloading:
            self._reload()

    def _reload(self) -> None:
        signed, identity = self._read_identity()
        if signed != self.signed or identity.chain != self.identity.chain:
            self.signed, self.identity = signed, identity
            log.info("trust.reloaded", version=identity.bundle.version)
        self.registry.reload()
        store = ReleaseStore(self._home.releases)
        release = current_release(store)
        if release.header != self.release.header:
            self._store, self.release = store, release
            log.info("release.served", version=release.manifest.version)

    def release_of(self, digest: bytes) -> Release:
        """Return a release by its digest.

        Raises:
            StaleRelease: it is not kept here.
        """
        try:
            return self._store.get(digest)
        except ReleaseRefused as error:
            raise StaleRelease(
                f"the codes are of a release that is not served; fetch release {self.release.manifest.version}"
            ) from error

    def _read_identity(self) -> tuple[SignedTrustBundle, Identity]:
        with self._state.reading() as connection:
            signed = current_bundle(connection)
        if signed != self.signed:
            save_bundle(self._home.identity, signed)
        return signed, load_identity(self._home.identity)
