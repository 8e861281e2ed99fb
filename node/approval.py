"""The operator's answer to a request: once, noted before it counts, and with nothing in clear on its way out."""

from __future__ import annotations

import hashlib
import sqlite3
from datetime import datetime

from node import outbox, requests
from node.auditing import Kind, handle_digest, name_digest, note_beside
from node.catalogue import Catalogue
from node.delivery import deliver
from node.requests import COLLECTABLE, MAX_REASON, AccessRequest, State, Want
from rsfed.config import NodeConfig, load_config
from rsfed.errors import AccessRefused, NotAdmitted, UsageError
from rsfed.home import Home, transaction
from rsfed.trust.identity import Identity, load_identity
from rsfed.trust.names import MemberId
from rsfed.trust.preflight import check_identity
from rsfed.trust.sealing import Purpose, seal, sealing_key_of
from rsfed.v1 import access_pb2 as pb

WANTS = {
    Want.QUICKLOOK: pb.ACCESS_WANT_QUICKLOOK,
    Want.CROP: pb.ACCESS_WANT_CROP,
    Want.FILE: pb.ACCESS_WANT_FILE,
}
_FORMS = {
    "PNG": pb.ACCESS_FORM_PNG,
    "GTiff": pb.ACCESS_FORM_TIFF,
    "JPEG": pb.ACCESS_FORM_JPEG,
    "JP2OpenJPEG": pb.ACCESS_FORM_JP2,
}


def approve(home: Home, request_id: bytes, *, operator: str, now: datetime) -> AccessRequest:
    """Seal what is asked for, for who asked, and lay it out to be collected.

    Raises:
        UnknownHandle: UNKNOWN_REQUEST.
        AccessRefused: the request was answered, withdrawn or has expired; ACCESS_TOO_LARGE; ITEM_WITHDRAWN, the patch
            is no longer in the archive.
        NotAdmitted: the requester may no longer be given anything (REVOKED, SCOPE_..., NO_SEALING_KEY), that is not
            known (REVOCATION_STALE), or the node's own certificate will not do.
        RasterRejected: the file is gone, damaged, or changed since it was ingested.
    """
    config, identity = load_config(NodeConfig, home.path), load_identity(home.identity)
    check_identity(identity, now=now)
    with Catalogue(home) as catalogue:
        request = requests.get(catalogue.connection, request_id)
        request.require(State.OPEN, now)
        recipient, key = _recipient(request, identity, now)
        if catalogue.state(request.item) == "withdrawn":
            raise AccessRefused(
                "the patch is no longer in the archive; deny the request, without a note that says so",
                reason="ITEM_WITHDRAWN",
            )
        driver, content = deliver(catalogue.item(request.item), request.want, most=config.access.max_mib << 20)
        delivery = pb.AccessDelivery(
            request_id=request.id,
            handle=request.handle,
            want=WANTS[request.want],
            form=_FORMS[driver],
            content=content,
        ).SerializeToString()
        sealed = seal(
            delivery, Purpose.ACCESS_DELIVERY, sender=identity, recipient=recipient, key=key, context=request.id
        )
        outbox.put(home, request.id, sealed)
        digest = hashlib.sha256(sealed).digest()
        answer = {
            "state": State.APPROVED,
            "expires": now + COLLECTABLE,
            "sealed_size": len(sealed),
            "sealed_digest": digest,
        }
        try:
            return _answer(
                home, catalogue.connection, request, Kind.ACCESS_APPROVED, operator=operator, now=now, **answer
            )
        except BaseException:
            outbox.drop(home, request.id)
            raise


def deny(home: Home, request_id: bytes, *, operator: str, note: str = "", now: datetime) -> AccessRequest:
    """Say no, or take back what was approved; what was collected by then stays collected.

    Raises:
        UnknownHandle: UNKNOWN_REQUEST.
        AccessRefused: the request was denied or withdrawn already, or has expired.
        UsageError: the note is too long or has characters that cannot be printed.
    """
    if len(note) > MAX_REASON or not note.isprintable():
        raise UsageError(f"a note has at most {MAX_REASON} characters, in one line")
    with Catalogue(home) as catalogue:
        request = requests.get(catalogue.connection, request_id)
        if approved := request.state_at(now) is State.APPROVED:
            kind, state = Kind.ACCESS_RECALLED, State.WITHDRAWN
        else:
            kind, state = Kind.ACCESS_DENIED, State.DENIED
            request.require(State.OPEN, now)
        answer = {"state": state, "note": note}
        answered = _answer(home, catalogue.connection, request, kind, operator=operator, now=now, **answer)
        if approved:
            outbox.drop(home, request.id)
        return answered


def _recipient(request: AccessRequest, identity: Identity, now: datetime) -> tuple[MemberId, bytes]:
    """Return who asked, with the key to seal for, if who asked may still be given something."""
    bundle, member = identity.bundle, MemberId.parse(request.requester)
    if bundle.stale(now):
        raise NotAdmitted(
            "the list of revoked certificates is older than 24 hours; start `rsfed node serve`, then approve",
            reason="REVOCATION_STALE",
        )
    if member.uri in bundle.revoked_names or int(request.serial, 16) in bundle.revoked_serials:
        raise NotAdmitted("who asked was put out of the federation, or has joined anew; deny it", reason="REVOKED")
    scope = bundle.scope_of(member)
    scope.check(request.modality, now)
    scope.check_name(identity.member.name)
    return member, sealing_key_of(bundle, member)


def _answer(  # noqa: PLR0913 - what an answer is made of
    home: Home,
    connection: sqlite3.Connection,
    request: AccessRequest,
    kind: Kind,
    *,
    operator: str,
    now: datetime,
    **values: object,
) -> AccessRequest:
    """Answer a request in one step with its note; a request that changed meanwhile is not answered."""
    with transaction(connection):
        requests.get(connection, request.id).require(request.state, now)
        requests.change(connection, request.id, answered=now, operator=operator, **values)
        answered = requests.get(connection, request.id)
        sealed = {"delivery": answered.sealed_digest.hex()} if answered.sealed_digest else {}
        note_beside(home, connection, kind, now=now, **audited(answered), **sealed)
    return answered


def audited(request: AccessRequest) -> dict[str, object]:
    """Return how entries of the audit log name a request."""
    return {
        "requester": name_digest(request.requester),
        "request": hashlib.sha256(request.id).hexdigest(),
        "query": request.query_digest.hex(),
        "handle": handle_digest(request.handle),
        "want": request.want.value,
    }
