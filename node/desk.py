"""What a node answers to calls about found items: takes requests, says what became of them, gives what was approved.

Checked in this order, each before the next:

- certificate and role of the coordinator, which relays (by the server, on every call);
- the seal: made for this node and this purpose, signed by a member that is believed now, an analyst;
- the call: whole, fresh; the requester's scope: still open, and with this node in it;
- replay: a call is taken once, in the transaction of what it does;
- the handle, or the request: given by this node, to this requester, in the query that is named.

A patch that was withdrawn may be asked for as any other where nothing is told of single patches: else whoever asks
would learn which ones went. The operator sees it, and denies the request or lets it expire.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from google.protobuf.message import DecodeError

from node import outbox, requests
from node.approval import WANTS, audited
from node.auditing import Auditor, Kind, name_digest
from node.catalogue import Catalogue
from node.handles import Handles
from node.ledger import KEPT, Ledger
from node.requests import MAX_REASON, WAITING, AccessRequest, State
from node.state import writing_soon
from rsfed.clock import Now
from rsfed.errors import AccessRefused, EnvelopeRefused, InvalidMessage, NotAdmitted, RsfedError, UnknownHandle
from rsfed.home import Home
from rsfed.privacy.policy import Policies
from rsfed.telemetry import log
from rsfed.transport.limits import SMALL_MESSAGE_BYTES
from rsfed.trust.envelope import check_freshness
from rsfed.trust.identity import Identity
from rsfed.trust.names import MemberId, Role
from rsfed.trust.sealing import Purpose, open_sealed, seal, sealing_key_of
from rsfed.v1 import access_pb2 as pb
from rsfed.wire import HANDLE_BYTES

_ID_BYTES = 16
_WANTS = {wire: want for want, wire in WANTS.items()}
_STATES = {
    State.OPEN: pb.ACCESS_STATE_OPEN,
    State.APPROVED: pb.ACCESS_STATE_APPROVED,
    State.DENIED: pb.ACCESS_STATE_DENIED,
    State.WITHDRAWN: pb.ACCESS_STATE_WITHDRAWN,
    State.EXPIRED: pb.ACCESS_STATE_EXPIRED,
}


@dataclass(frozen=True, slots=True)
class _Caller:
    """A call whose sender is proven."""

    call: pb.AccessCall
    member: MemberId
    serial: str


class AccessDesk:
    """Answers calls; may be used from several threads.

    Args:
        home: The node's home.
        connection: The node's database, used by nothing else meanwhile.
        ledger: Knows whose handles are.
        handles: Opens handles.
        auditor: Notes every call before its answer leaves.
        identity: Returns the node's identity of the moment.
        policies: Who is answered at which level.
        now: Wall clock.
        enabled: Whether requests are taken.
        restored_at: When the state came out of a backup, which does not know the calls that were taken after it.
    """

    def __init__(  # noqa: PLR0913 - the parts of a node that answer
        self,
        home: Home,
        connection: sqlite3.Connection,
        *,
        ledger: Ledger,
        handles: Handles,
        auditor: Auditor,
        identity: Callable[[], Identity],
        policies: Policies,
        now: Now,
        enabled: bool = True,
        restored_at: datetime | None = None,
    ) -> None:
        self._home = home
        self._connection = connection
        self._ledger = ledger
        self._handles = handles
        self._auditor = auditor
        self._identity = identity
        self._policies = policies
        self._now = now
        self._enabled = enabled
        self._restored_at = restored_at
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the database once no thread uses it."""
        with self._lock:
            self._connection.close()

    def answer(self, sealed: bytes) -> bytes:
        """Take a call and return the sealed answer, once it is noted; a refusal is noted, too.

        Raises:
            RsfedError: the call is refused, or AUDIT_UNWRITABLE.
        """
        with self._noting_refusals(sealed) as opened:
            caller = opened()
            acts = {"ask": self._ask, "look": self._look, "withdraw": self._withdraw}
            act = acts.get(caller.call.WhichOneof("what") or "")
            if act is None:
                raise InvalidMessage("the call wants nothing that is known here; update the older software")
            request = act(caller)
        return self._sealed_answer(caller, request)

    def collect(self, sealed: bytes) -> BinaryIO:
        """Return what was approved, sealed for who calls, once it is noted; a refusal is noted, too.

        Raises:
            RsfedError: the call is refused, or AUDIT_UNWRITABLE.
        """
        with self._noting_refusals(sealed) as opened:
            caller = opened()
            if caller.call.WhichOneof("what") != "collect":
                raise InvalidMessage("the call collects nothing")
            return self._collected(caller)

    def prune(self) -> None:
        """Forget requests that ended long ago, and take away what can no longer be collected."""
        now = self._now()
        try:
            with self._writing():
                requests.forget_old(self._connection, now)
                everything = requests.matching(self._connection, "")
            collectable = [each.id for each in everything if each.state_at(now) is State.APPROVED]
            outbox.keep_only(self._home, collectable)
        except (RsfedError, sqlite3.Error, OSError) as error:
            log.warning("requests.not_pruned", error_type=type(error).__name__)

    @contextmanager
    def _noting_refusals(self, sealed: bytes) -> Iterator[Callable[[], _Caller]]:
        """Give what opens the call; whatever goes wrong then is noted, under the name that is proven by then."""
        known: dict[str, str] = {}

        def opened() -> _Caller:
            caller = self._open(sealed, known)
            self._check(caller)
            return caller

        try:
            yield opened
        except Exception as error:
            reason = error.reason if isinstance(error, RsfedError) else RsfedError.reason
            call = hashlib.sha256(sealed).hexdigest()
            self._auditor.note(Kind.ACCESS_REFUSED, reason=reason, call=call, **known)
            raise

    def _open(self, sealed: bytes, known: dict[str, str]) -> _Caller:
        if len(sealed) > SMALL_MESSAGE_BYTES:
            raise InvalidMessage("the call is too large", reason="MESSAGE_TOO_LARGE")
        identity = self._identity()
        opened = open_sealed(
            sealed,
            Purpose.ACCESS_CALL,
            recipient=identity.member,
            key=identity.sealing_key,
            bundle=identity.bundle,
            now=self._now(),
        )
        known["requester"] = name_digest(opened.sender.uri)
        if opened.sender.role is not Role.ANALYST:
            raise NotAdmitted(f"this is for analysts, not for the role {opened.sender.role}", reason="WRONG_ROLE")
        try:
            call = pb.AccessCall.FromString(opened.content)
        except DecodeError as error:
            raise InvalidMessage("the call cannot be read") from error
        return _Caller(call, opened.sender, f"{opened.serial:x}")

    def _check(self, caller: _Caller) -> None:
        call, now = caller.call, self._now()
        if len(call.call_id) != _ID_BYTES or len(call.request_id) != _ID_BYTES:
            raise InvalidMessage(f"a call and a request have ids of {_ID_BYTES} bytes")
        check_freshness(call, now, what="call")
        if self._restored_at and call.created.ToDatetime(UTC) < self._restored_at:
            raise EnvelopeRefused("the call is older than this node's restored state; ask again", reason="REPLAY")
        identity = self._identity()
        scope = identity.bundle.scope_of(caller.member)
        scope.check_time(now)
        scope.check_name(identity.member.name)
        sealing_key_of(identity.bundle, caller.member)  # else the answer could not be sealed

    def _ask(self, caller: _Caller) -> AccessRequest:
        if not self._enabled:
            raise AccessRefused("this archive takes no requests", reason="ACCESS_CLOSED")
        request = self._asked(caller)
        with self._taking(caller):
            requests.add(self._connection, request, self._now())
            self._auditor.note(Kind.ACCESS_ASKED, **audited(request))
        return request

    def _asked(self, caller: _Caller) -> AccessRequest:
        """Return the request that a call makes, if its handle is the requester's."""
        ask, now = caller.call.ask, self._now()
        if not ask.reason.strip() or len(ask.reason) > MAX_REASON or not ask.reason.isprintable():
            raise InvalidMessage(f"a reason has 1 to {MAX_REASON} characters, in one line", reason="REQUEST_REASON")
        if ask.want not in _WANTS:
            raise InvalidMessage("what is wanted is not known here; update the older software")
        if len(ask.handle) != HANDLE_BYTES:
            raise InvalidMessage(f"a handle has {HANDLE_BYTES} bytes")
        item, salt = self._handles.open(ask.handle)
        entry = self._ledger.by_salt(salt, now=now)
        if entry is None:
            raise UnknownHandle("this handle was not given by this archive in the last 90 days; search again")
        if entry.requester != caller.member.uri:
            raise UnknownHandle("this handle was given to somebody else; search yourself", reason="HANDLE_OF_ANOTHER")
        if entry.query_id != ask.query_id:
            raise UnknownHandle("this handle was given in another query", reason="HANDLE_OF_QUERY")
        with Catalogue(self._home) as catalogue:
            state = catalogue.state(item)
            if state is None:
                raise UnknownHandle("this handle names a bucket; ask for one of its items")
            if state == "withdrawn" and self._policies.for_analyst(caller.member.name).exact:
                raise AccessRefused("the patch is no longer in the archive; search again", reason="ITEM_WITHDRAWN")
            modality = catalogue.item(item).modality
        self._identity().bundle.scope_of(caller.member).check(modality, now)
        return AccessRequest(
            id=caller.call.request_id,
            requester=caller.member.uri,
            serial=caller.serial,
            query_digest=entry.envelope_digest,
            handle=ask.handle,
            item=item,
            modality=modality,
            want=_WANTS[ask.want],
            reason=ask.reason.strip(),
            asked=now,
            expires=min(now + WAITING, entry.created + KEPT),
        )

    def _look(self, caller: _Caller) -> AccessRequest:
        with self._taking(caller):
            request = self._of(caller)
            self._auditor.note(Kind.ACCESS_LOOKED, **audited(request))
        return request

    def _withdraw(self, caller: _Caller) -> AccessRequest:
        """Take a request back; what ended otherwise stays as it is."""
        with self._taking(caller):
            request = self._of(caller)
            if request.state_at(self._now()) in {State.OPEN, State.APPROVED}:
                requests.change(self._connection, request.id, state=State.WITHDRAWN)
                request = self._of(caller)
            self._auditor.note(Kind.ACCESS_WITHDRAWN, **audited(request))
        outbox.drop(self._home, request.id)
        return request

    def _collected(self, caller: _Caller) -> BinaryIO:
        now = self._now()
        with self._taking(caller):
            request = self._of(caller)
            request.require(State.APPROVED, now)
            self._identity().bundle.scope_of(caller.member).check(request.modality, now)
            try:
                file = outbox.sealed_file(self._home, request.id).open("rb")
            except FileNotFoundError as error:
                raise AccessRefused("what was approved is no longer there; ask anew", reason="ACCESS_GONE") from error
            requests.change(self._connection, request.id, collected=now)
            delivery = (request.sealed_digest or b"").hex()
            self._auditor.note(Kind.ACCESS_COLLECTED, delivery=delivery, **audited(request))
        return file

    def _of(self, caller: _Caller) -> AccessRequest:
        return requests.get(self._connection, caller.call.request_id, caller.member.uri)

    def _sealed_answer(self, caller: _Caller, request: AccessRequest) -> bytes:
        state = request.state_at(self._now())
        answer = pb.AccessAnswer(request_id=request.id, state=_STATES[state], note=request.note)
        answer.expires.FromDatetime(request.expires)
        if state is State.APPROVED:
            answer.sealed_size, answer.sealed_digest = request.sealed_size or 0, request.sealed_digest or b""
        identity = self._identity()
        return seal(
            answer.SerializeToString(),
            Purpose.ACCESS_ANSWER,
            sender=identity,
            recipient=caller.member,
            key=sealing_key_of(identity.bundle, caller.member),
            context=caller.call.call_id,
        )

    @contextmanager
    def _taking(self, caller: _Caller) -> Iterator[None]:
        """Take a call, in the transaction of what it does and of the note of it."""
        with self._writing():
            requests.take_call(self._connection, caller.call.call_id, caller.call.expires.ToDatetime(UTC), self._now())
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, writing_soon(self._connection):
            yield
