"""An analyst's one warm channel to the coordinator: the certificate renewed when it is due, the newest trust bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from rsfed.clock import Deadline, Now, utc_now
from rsfed.config import AnalystConfig, load_config
from rsfed.home import Home
from rsfed.transport.channel import open_channel
from rsfed.trust.certificates import needs_renewal
from rsfed.trust.enrolment import recover, refresh_bundle, renew
from rsfed.trust.identity import Identity, load_federation, load_identity
from rsfed.trust.preflight import check_identity
from rsfed.v1.query_pb2_grpc import QueryServiceStub

if TYPE_CHECKING:
    from rsfed.v1.query_pb2_grpc import QueryServiceAsyncStub

COORDINATOR = "the coordinator"


class Connection:
    """The way to the coordinator, once `refresh` was called.

    Args:
        home: Home of the analyst.
        now: Wall clock.

    Attributes:
        identity: Who asks.
        stub: The coordinator's calls.
        now: Wall clock.

    Raises:
        ConfigError: there is no analyst here, or its configuration will not do.
    """

    identity: Identity
    stub: QueryServiceAsyncStub

    def __init__(self, home: Home, *, now: Now = utc_now) -> None:
        self.now = now
        self._home = home
        self._deadline_s = load_config(AnalystConfig, home.path).deadline_s
        self._channel: grpc.aio.Channel | None = None

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    def deadline(self) -> Deadline:
        """Return by when a call must be answered that begins now."""
        return Deadline.after(self._deadline_s)

    async def refresh(self) -> None:
        """Renew the certificate when it is due, fetch the newest trust bundle and open the channel.

        Raises:
            NotAdmitted: the certificate will not do, and why.
            Unreachable: the coordinator cannot be reached.
        """
        await self._renew_if_due()
        await refresh_bundle(self._home, load_identity(self._home.identity))
        await self._connect(load_identity(self._home.identity))

    async def _renew_if_due(self) -> None:
        identity, now = load_identity(self._home.identity), self.now()
        if identity.chain[0].not_valid_after_utc <= now:
            await recover(self._home, identity)
        elif needs_renewal(identity.chain[0], now=now):
            await renew(self._home, identity)

    async def _connect(self, identity: Identity) -> None:
        """Open the channel, anew when the certificate or the CAs that it was opened with are no longer the newest."""
        check_identity(identity, now=self.now())
        if self._channel is not None:
            if identity.fits_channel_of(self.identity):
                self.identity = identity
                return
            await self._channel.close()
        federation = load_federation(self._home.identity)
        self.identity = identity
        self._channel = open_channel(federation.address, identity, federation.coordinator)
        self.stub = QueryServiceStub(self._channel)
