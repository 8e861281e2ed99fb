"""What a member asks of its coordinator: to be taken in, to stay believed, and to hear what is new.

Nothing on disk changes before the answer was verified, and then each file is replaced whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509

from rsfed.clock import Deadline, Now, utc_now
from rsfed.errors import ConfigError, InvalidAnswer, NotAdmitted, RsfedError, StateError, UsageError
from rsfed.home import Home
from rsfed.transport.channel import call, open_channel, open_join_channel, stream
from rsfed.trust.bundle import Bundle, admit_bundle, check_member
from rsfed.trust.certificates import check_validity, load_chain, make_csr, to_pem
from rsfed.trust.identity import (
    Federation,
    Identity,
    create_keys,
    load_federation,
    load_identity,
    mark_refreshed,
    save_bundle,
    save_certificate,
    save_federation,
)
from rsfed.trust.names import MemberId, Role
from rsfed.trust.preflight import check_identity
from rsfed.trust.recovery import recovery_request
from rsfed.trust.release_store import Release, ReleaseStore
from rsfed.trust.tokens import Token
from rsfed.v1.federation_pb2 import (
    FederationServiceEnrollRequest,
    FederationServiceGetReleaseRequest,
    FederationServiceGetTrustBundleRequest,
    FederationServiceRenewRequest,
    SignedTrustBundle,
)
from rsfed.v1.federation_pb2_grpc import FederationServiceStub

if TYPE_CHECKING:
    from rsfed.v1.federation_pb2_grpc import FederationServiceAsyncStub

Result = TypeVar("Result")

_CALL_S = 10.0
_RELEASE_S = 600.0
_COORDINATOR = "the coordinator"


async def join(home: Home, token: Token, *, role: Role, now: Now = utc_now) -> Identity:
    """Become a member: make keys here, send a request for a certificate with the token, keep the answer.

    Args:
        home: State folder of the new member; an identity in it is replaced only by one of the same federation.
        token: The invitation.
        role: The role that this home is for.
        now: Wall clock.

    Raises:
        UsageError: the home belongs to another federation.
        NotAdmitted: the token is for another role (WRONG_ROLE), has expired (TOKEN_EXPIRED) or was refused, this
            machine's clock is wrong (CERT_NOT_YET_VALID), or what came back is not believed.
        Unreachable: the coordinator cannot be reached.
    """
    _check_token(home, token, role, now())
    keys = create_keys(home.identity, joining=True)
    request = FederationServiceEnrollRequest(
        invitation=token.invitation,
        secret=token.secret,
        csr=make_csr(keys.key),
        sealing_key=keys.sealing_public,
    )
    async with open_join_channel(token.address, token.ca_pem, token.server_name) as channel:
        stub = FederationServiceStub(channel)
        answer = await call(stub.Enroll, request, Deadline.after(_CALL_S), what=_COORDINATOR)
    anchors = load_chain(token.ca_pem)
    bundle = admit_bundle(None, answer.bundle, anchors=anchors, now=now())
    if bundle.federation != token.federation:
        raise NotAdmitted("the coordinator answered for another federation", reason="WRONG_FEDERATION")
    certificates = _believed(answer.certificate_chain, bundle, token.member, now())
    save_federation(home.identity, Federation(answer.federation_address, token.address, bundle.coordinator))
    return _keep(home, certificates, answer.bundle, now())


async def check_not_joined(home: Home, token: Token, *, following: str, now: Now = utc_now) -> None:
    """Refuse to spend a token on a membership that the home has already and the coordinator still believes.

    Who was revoked, whose certificate expired, or who cannot reach the coordinator joins again by the token.

    Args:
        home: State folder of the member.
        token: The invitation.
        following: What the user may do next.
        now: Wall clock.

    Raises:
        ConfigError: ALREADY_JOINED.
    """
    try:
        identity = load_identity(home.identity)
        if identity.member != token.member:
            return
        await refresh_bundle(home, identity, now=now)
        check_identity(load_identity(home.identity), now=now())
    except (RsfedError, OSError):
        return
    raise ConfigError(
        f"this home has joined {token.federation} as {token.role} {token.name} already; next: {following}",
        reason="ALREADY_JOINED",
    )


async def renew(home: Home, identity: Identity, *, now: Now = utc_now) -> Identity:
    """Exchange a certificate that is still valid for a fresh one with a new key.

    Raises:
        NotAdmitted: the own certificate will not do, was refused, or what came back is not believed.
        Unreachable: the coordinator cannot be reached.
    """
    request = FederationServiceRenewRequest(csr=make_csr(create_keys(home.identity).key))
    async with _federation_stub(home, identity, now()) as stub:
        answer = await call(stub.Renew, request, Deadline.after(_CALL_S), what=_COORDINATOR)
    return _take(home, identity, answer.certificate_chain, answer.bundle, now())


async def recover(home: Home, identity: Identity, *, now: Now = utc_now) -> Identity:
    """Exchange a certificate that expired at most 30 days ago for a fresh one, proven by the old key.

    Raises:
        NotAdmitted: the request was refused, or what came back is not believed.
        Unreachable: the coordinator cannot be reached.
    """
    federation = load_federation(home.identity)
    request = recovery_request(identity, make_csr(create_keys(home.identity).key), now=now())
    cas, name = to_pem(identity.bundle.cas), federation.coordinator.dns
    async with open_join_channel(federation.join_address, cas, name) as channel:
        stub = FederationServiceStub(channel)
        answer = await call(stub.Recover, request, Deadline.after(_CALL_S), what=_COORDINATOR)
    return _take(home, identity, answer.certificate_chain, answer.bundle, now())


async def refresh_bundle(home: Home, identity: Identity, *, now: Now = utc_now) -> bool:
    """Ask for a newer trust bundle, note when the coordinator was asked, and say whether there was one.

    Both are on disk then, so load the identity again in either case.

    Raises:
        NotAdmitted: the own certificate will not do, or the bundle is not believed; the old one stays.
        Unreachable: the coordinator cannot be reached.
    """
    asked = now()
    request = FederationServiceGetTrustBundleRequest(have_version=identity.bundle.version)
    async with _federation_stub(home, identity, asked) as stub:
        answer = await call(stub.GetTrustBundle, request, Deadline.after(_CALL_S), what=_COORDINATOR)
    if not answer.HasField("bundle"):
        mark_refreshed(home.identity, asked)
        return False
    bundle = admit_bundle(identity.bundle, answer.bundle, anchors=identity.bundle.cas, now=asked)
    save_bundle(home.identity, answer.bundle, refreshed=asked)
    return bundle.digest != identity.bundle.digest


async def fetch_release(home: Home, identity: Identity, *, now: Now = utc_now) -> Release | None:
    """Fetch the newest release, verify it and make it current.

    Returns:
        The release, or None when it is the one that is current already; if the federation signed that one anew, the new
        signature is kept, so that versions are counted for the new key too.

    Raises:
        ReleaseRefused: the release is not believed or may not replace the current one, which stays.
        NotAdmitted: the own certificate will not do.
        Unreachable: the coordinator cannot be reached.
    """
    store = ReleaseStore(home.releases)
    current = store.current()
    have = current.digest if current else b""
    request = FederationServiceGetReleaseRequest(have_digest=have)
    async with (
        _federation_stub(home, identity, now()) as stub,
        aclosing(stream(stub.GetRelease, request, Deadline.after(_RELEASE_S), what=_COORDINATOR)) as parts,
    ):
        first = await anext(parts, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidAnswer("the coordinator sent a release without its manifest")
        header, bundle, federation = first.header, identity.bundle, identity.member.federation
        if current and header.manifest == current.header.manifest:
            if header.key_id != current.header.key_id:
                files = current.chunks()
                await _to_its_end(partial(store.admit, header, files, bundle, federation=federation, now=now()))
            return None
        with store.receive(header, bundle, federation=federation, now=now()) as intake:
            async for part in parts:
                await _to_its_end(partial(intake.write, part.chunk))
            return await _to_its_end(intake.finish)


async def _to_its_end(step: Callable[[], Result]) -> Result:
    """Do a step in a thread; who is cancelled meanwhile waits for its end, lest it be tidied away half done."""
    work = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise


def _check_token(home: Home, token: Token, role: Role, now: datetime) -> None:
    if token.role is not role:
        raise NotAdmitted(
            f"the invitation is for the role {token.role}; run `rsfed {token.role} join`", reason="WRONG_ROLE"
        )
    if token.expires <= now:
        raise NotAdmitted("the invitation has expired; ask for a new one", reason="TOKEN_EXPIRED")
    for ca in load_chain(token.ca_pem):  # otherwise a wrong clock here would look like an absent coordinator
        check_validity(ca, now, "the federation's CA certificate")
    before = _federation_of(home)
    if before not in {None, token.federation}:
        raise UsageError(f"this home belongs to federation {before}; use another --home for {token.federation}")


def _federation_of(home: Home) -> str | None:
    """Return the federation that a home belongs to; None where it has not joined, or nothing says it any more."""
    try:
        return load_identity(home.identity).member.federation
    except NotAdmitted:
        return None
    except StateError:  # joining again is the way out of it
        with suppress(NotAdmitted, StateError):
            return load_federation(home.identity).coordinator.federation
    return None


@asynccontextmanager
async def _federation_stub(home: Home, identity: Identity, now: datetime) -> AsyncIterator[FederationServiceAsyncStub]:
    """Open the federation port, once it is sure that the own certificate is not the obstacle."""
    check_identity(identity, now=now)
    federation = load_federation(home.identity)
    async with open_channel(federation.address, identity, federation.coordinator) as channel:
        yield FederationServiceStub(channel)


def _take(home: Home, identity: Identity, chain: Sequence[bytes], signed: SignedTrustBundle, now: datetime) -> Identity:
    """Keep a renewed certificate of the same member, once it and its bundle are believed."""
    bundle = admit_bundle(identity.bundle, signed, anchors=identity.bundle.cas, now=now)
    return _keep(home, _believed(chain, bundle, identity.member, now), signed, now)


def _believed(chain: Sequence[bytes], bundle: Bundle, member: MemberId, now: datetime) -> tuple[x509.Certificate, ...]:
    certificates = load_chain(list(chain))
    if check_member(bundle, certificates, now=now) != member:
        raise NotAdmitted("the coordinator sent a certificate for another member", reason="BAD_NAME")
    return certificates


def _keep(home: Home, certificates: tuple[x509.Certificate, ...], signed: SignedTrustBundle, now: datetime) -> Identity:
    """Keep bundle and certificate, in this order: a certificate on disk says that all else is there."""
    save_bundle(home.identity, signed, refreshed=now)
    save_certificate(home.identity, certificates)
    return load_identity(home.identity)
