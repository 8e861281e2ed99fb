"""FederationService: unpack, ask the authority or registry, pack."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509

from coordinator.live import Live
from coordinator.registry import Announcement
from rsfed.clock import Deadline
from rsfed.errors import InvalidMessage, NotAdmitted, ReleaseRefused, StaleRelease
from rsfed.telemetry import log
from rsfed.transport.rate import RateLimit
from rsfed.transport.server import current_certificate, current_member, deadline_of
from rsfed.trust.certificates import CLOCK_TOLERANCE, to_der
from rsfed.v1 import federation_pb2 as pb
from rsfed.v1 import outcome_pb2
from rsfed.v1.federation_pb2_grpc import FederationServiceServicer
from rsfed.wire import MAX_HELD, PROTOCOL

if TYPE_CHECKING:
    import grpc

    from coordinator.authority import Admission, Authority
    from coordinator.nodes import Nodes
    from rsfed.trust.release_store import Release

    Context = grpc.aio.ServicerContext[Any, Any]

PROTOCOLS = range(max(1, PROTOCOL - 1), PROTOCOL + 1)  # versions of the wire that are spoken here
_DIAL_BACK_S = 5.0
_ADDRESS = re.compile(r"\[?[A-Za-z0-9.:_-]{1,253}\]?:[0-9]{1,5}")
_SOFTWARE = re.compile(r"[A-Za-z0-9.+-]{1,32}")


class FederationService(FederationServiceServicer):
    """Serves identity, trust and releases.

    Args:
        live: What the coordinator knows at this moment.
        authority: Admits members.
        nodes: Reaches the nodes.
        address: How members reach the federation port.
    """

    def __init__(self, live: Live, authority: Authority, nodes: Nodes, address: str) -> None:
        self._live = live
        self._authority = authority
        self._nodes = nodes
        self._address = address
        self._moves = RateLimit(burst=3, per_second=0.2, monotonic=time.monotonic)  # each costs a new connection

    async def Enroll(  # noqa: N802 - name of the wire
        self, request: pb.FederationServiceEnrollRequest, context: Context
    ) -> pb.FederationServiceEnrollResponse:
        """Exchange an invitation for a certificate."""
        admission = await asyncio.to_thread(
            self._authority.enroll, request.invitation, request.secret, request.csr, request.sealing_key
        )
        await asyncio.to_thread(self._live.reload)
        self._nodes.reload()  # a former holder of the name is reached no more
        log.info("member.enrolled", member=admission.member.uri)
        return pb.FederationServiceEnrollResponse(
            certificate_chain=_der(admission.chain), bundle=admission.bundle, federation_address=self._address
        )

    async def Recover(  # noqa: N802 - name of the wire
        self, request: pb.FederationServiceRecoverRequest, context: Context
    ) -> pb.FederationServiceRecoverResponse:
        """Exchange an expired certificate for a fresh one."""
        admission = await asyncio.to_thread(self._authority.recover, request)
        log.info("certificate.recovered", member=admission.member.uri)
        return pb.FederationServiceRecoverResponse(certificate_chain=_der(admission.chain), bundle=admission.bundle)

    async def Renew(  # noqa: N802 - name of the wire
        self, request: pb.FederationServiceRenewRequest, context: Context
    ) -> pb.FederationServiceRenewResponse:
        """Exchange a certificate for a fresh one of the same name."""
        admission: Admission = await asyncio.to_thread(
            self._authority.renew, current_member(), current_certificate(), request.csr
        )
        log.info("certificate.renewed", member=admission.member.uri)
        return pb.FederationServiceRenewResponse(certificate_chain=_der(admission.chain), bundle=admission.bundle)

    async def Announce(  # noqa: N802 - name of the wire
        self, request: pb.FederationServiceAnnounceRequest, context: Context
    ) -> pb.FederationServiceAnnounceResponse:
        """Take what a node says of itself; without an address nothing is taken, the node only asks what is new."""
        now = self._live.now()
        _check_terms(request, now)
        response = pb.FederationServiceAnnounceResponse(
            bundle_version=self._live.bundle.version,
            release_version=self._live.release.manifest.version,
            release_digest=self._live.release.digest,
        )
        if request.address:
            announcement = _announcement(request, current_member().name, now)
            known = self._live.registry.get(announcement.name)
            if request.dial_back and announcement.held is None and known is not None:
                announcement = replace(announcement, held=known.held)  # it only asks to be dialled
            await self._register(announcement)
            if request.dial_back:
                reached = await self._nodes.dial(announcement, _sooner(deadline_of(context), _DIAL_BACK_S))
                response.dial_back = pb.DIAL_BACK_REACHED if reached else pb.DIAL_BACK_FAILED
        response.clock.FromDatetime(self._live.now())
        return response

    async def _register(self, announcement: Announcement) -> None:
        known = self._live.registry.get(announcement.name)
        if known is not None and known.address != announcement.address:
            self._moves.take(announcement.name)
        await asyncio.to_thread(self._live.registry.announce, announcement)
        if known is None or known.address != announcement.address:
            log.info("node.announced", node=announcement.name, address=announcement.address)
        self._nodes.announced(announcement)

    async def GetTrustBundle(  # noqa: N802 - name of the wire
        self, request: pb.FederationServiceGetTrustBundleRequest, context: Context
    ) -> pb.FederationServiceGetTrustBundleResponse:
        """Return the newest trust bundle, unless the caller holds it."""
        newest = None if request.have_version == self._live.bundle.version else self._live.signed
        return pb.FederationServiceGetTrustBundleResponse(bundle=newest)

    async def GetRelease(  # noqa: N802 - name of the wire
        self, request: pb.FederationServiceGetReleaseRequest, context: Context
    ) -> AsyncIterator[pb.FederationServiceGetReleaseResponse]:
        """Stream a release: header first, then its files."""
        release = self._wanted(request.digest)
        yield pb.FederationServiceGetReleaseResponse(header=release.header)
        if request.have_digest == release.digest:
            return
        chunks = release.chunks()
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield pb.FederationServiceGetReleaseResponse(chunk=chunk)

    def _wanted(self, digest: bytes) -> Release:
        if not digest:
            return self._live.release
        try:
            return self._live.release_of(digest)
        except StaleRelease as error:
            raise ReleaseRefused(
                "this release is no longer kept; fetch the newest", reason="RELEASE_UNKNOWN"
            ) from error


def _check_terms(request: pb.FederationServiceAnnounceRequest, now: datetime) -> None:
    """Check that a node can work with this coordinator at all.

    Raises:
        NotAdmitted: CLOCK_SKEW, or PROTOCOL_TOO_OLD, PROTOCOL_TOO_NEW.
        InvalidMessage: its clock cannot be read.
    """
    if request.protocol not in PROTOCOLS:
        older = request.protocol < PROTOCOLS.start
        raise NotAdmitted(
            f"the coordinator speaks protocol {' and '.join(map(str, PROTOCOLS))}, the node {request.protocol}; "
            f"update the {'node' if older else 'coordinator'}",
            reason="PROTOCOL_TOO_OLD" if older else "PROTOCOL_TOO_NEW",
        )
    skew = _time(request) - now
    if abs(skew) > CLOCK_TOLERANCE:
        raise NotAdmitted(
            f"the node's clock is {abs(skew.total_seconds()):.0f} s {'ahead' if skew.total_seconds() > 0 else 'behind'}"
            f" of the coordinator's; at most {CLOCK_TOLERANCE.total_seconds():.0f} s are allowed, set the clock",
            reason="CLOCK_SKEW",
        )


def _announcement(request: pb.FederationServiceAnnounceRequest, name: str, now: datetime) -> Announcement:
    """Return a checked announcement.

    Raises:
        InvalidMessage: a field breaks the rules.
    """
    held = request.held if request.HasField("held") else None
    known_level = request.level in outcome_pb2.PolicyLevel.values() and request.level
    if not _ADDRESS.fullmatch(request.address) or not _SOFTWARE.fullmatch(request.software) or not known_level:
        raise InvalidMessage("an announcement has an address host:port, a software version and a policy level")
    if len(request.release_digest) != (32 if request.release_version else 0) or (held or 0) > MAX_HELD:
        raise InvalidMessage("an announcement names release and holdings as they are")
    return Announcement(
        name=name,
        address=request.address,
        software=request.software,
        protocol=request.protocol,
        release_version=min(request.release_version, (1 << 63) - 1),
        release_digest=request.release_digest,
        held=held,
        level=request.level,
        last_seen=now,
    )


def _time(request: pb.FederationServiceAnnounceRequest) -> datetime:
    try:
        return request.clock.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidMessage("the node's clock cannot be read") from error


def _sooner(deadline: Deadline, seconds: float) -> Deadline:
    """Return what is sooner: so many seconds from now, or the deadline less half a second for the answer."""
    return Deadline(min(deadline.less(0.5).at, Deadline.after(seconds).at))


def _der(chain: Sequence[x509.Certificate]) -> list[bytes]:
    return [to_der(certificate) for certificate in chain]
