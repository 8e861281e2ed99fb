"""Asking a node for a found item, through the coordinator, which can read neither the call nor the answer."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from rsfed.analyst.connection import COORDINATOR, Connection
from rsfed.analyst.state import Asked, Found
from rsfed.clock import Deadline
from rsfed.errors import InvalidAnswer
from rsfed.transport.channel import call, stream
from rsfed.transport.limits import MAX_CALL_S
from rsfed.trust.envelope import LIFETIME
from rsfed.trust.names import MemberId, Role
from rsfed.trust.sealing import MAX_DELIVERY_BYTES, Purpose, open_sealed, seal, sealing_key_of
from rsfed.v1 import access_pb2 as pb
from rsfed.v1.archive_pb2 import ArchiveServiceCollectAccessRequest, ArchiveServiceRequestAccessRequest
from rsfed.v1.query_pb2 import QueryServiceCollectAccessRequest, QueryServiceRequestAccessRequest

WANTS = {
    "quicklook": pb.ACCESS_WANT_QUICKLOOK,
    "crop": pb.ACCESS_WANT_CROP,
    "file": pb.ACCESS_WANT_FILE,
}
SUFFIXES = {
    pb.ACCESS_FORM_PNG: ".png",
    pb.ACCESS_FORM_TIFF: ".tif",
    pb.ACCESS_FORM_JPEG: ".jpg",
    pb.ACCESS_FORM_JP2: ".jp2",
}
_STATES = {
    pb.ACCESS_STATE_OPEN: "open",
    pb.ACCESS_STATE_APPROVED: "approved",
    pb.ACCESS_STATE_DENIED: "denied",
    pb.ACCESS_STATE_WITHDRAWN: "withdrawn",
    pb.ACCESS_STATE_EXPIRED: "expired",
}
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a node gave.

    Attributes:
        suffix: What a file with it is called: ".png", ".tif", ".jpg" or ".jp2".
        content: Its bytes.
    """

    suffix: str
    content: bytes


def new_request(found: Found, want: str, reason: str, now: datetime) -> Asked:
    """Return a request that was not sent yet."""
    return Asked(secrets.token_bytes(16), found.node, found.handle, want, reason, now)


class AccessClient:
    """Makes calls about found items.

    Args:
        connection: The way to the coordinator, refreshed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ask(self, asked: Asked, found: Found) -> Asked:
        """Send a request, and return it as the node took it.

        Raises:
            RsfedError: what the coordinator or the node refused, or that they are not reached.
        """
        ask = pb.AccessAsk(query_id=found.query_id, handle=found.handle, want=WANTS[asked.want], reason=asked.reason)
        return _updated(asked, await self._request(asked, pb.AccessCall(ask=ask)))

    async def look(self, asked: Asked) -> Asked:
        """Return a request as its node knows it now; errors as for `ask`."""
        return _updated(asked, await self._request(asked, pb.AccessCall(look=pb.AccessLook())))

    async def withdraw(self, asked: Asked) -> Asked:
        """Take a request back; errors as for `ask`."""
        return _updated(asked, await self._request(asked, pb.AccessCall(withdraw=pb.AccessWithdraw())))

    async def collect(self, asked: Asked) -> tuple[Asked, Delivered | None]:
        """Fetch what was approved, and open it once it is sure who sent it, and that it is what was asked for.

        Returns:
            The request as its node knows it now, and what came; None where it is not approved.

        Raises:
            SealRefused: it was changed on its way, or was not sealed by that node for this request.
            InvalidAnswer: it is not what the node announced, or not what was asked for.
            RsfedError: as for `ask`.
        """
        announced = await self._request(asked, pb.AccessCall(look=pb.AccessLook()))
        if announced.state != pb.ACCESS_STATE_APPROVED:
            return _updated(asked, announced), None
        sealed = await self._fetch(asked, announced.sealed_size)
        if announced.sealed_digest != hashlib.sha256(sealed).digest():
            raise InvalidAnswer("what came is not what the archive announced; collect it again")
        delivery = self._opened(asked, sealed, Purpose.ACCESS_DELIVERY, asked.id, pb.AccessDelivery())
        fits = (delivery.request_id, delivery.handle, delivery.want) == (asked.id, asked.handle, WANTS[asked.want])
        if not fits or delivery.form not in SUFFIXES:
            raise InvalidAnswer("what the archive sent is not what was asked for; ask its operator")
        return _updated(asked, announced), Delivered(SUFFIXES[delivery.form], delivery.content)

    async def _request(self, asked: Asked, what: pb.AccessCall) -> pb.AccessAnswer:
        sealed = self._sealed_call(asked, what)
        request = QueryServiceRequestAccessRequest(
            node=asked.node, request=ArchiveServiceRequestAccessRequest(sealed_call=sealed)
        )
        deadline = self._connection.deadline()
        response = await call(self._connection.stub.RequestAccess, request, deadline, what=COORDINATOR)
        answer = self._opened(
            asked, response.response.sealed_answer, Purpose.ACCESS_ANSWER, what.call_id, pb.AccessAnswer()
        )
        if answer.request_id != asked.id or answer.state not in _STATES:
            raise InvalidAnswer("the archive answered something else than was asked; update the older software")
        return answer

    async def _fetch(self, asked: Asked, size: int) -> bytes:
        """Return what a node sends, at most `size` bytes of it."""
        if size > MAX_DELIVERY_BYTES:
            raise InvalidAnswer("the archive announced more than any delivery has")
        collect = pb.AccessCall(collect=pb.AccessCollect())
        request = QueryServiceCollectAccessRequest(
            node=asked.node,
            request=ArchiveServiceCollectAccessRequest(sealed_call=self._sealed_call(asked, collect)),
        )
        deadline, fetched = Deadline.after(MAX_CALL_S), bytearray()
        parts = stream(self._connection.stub.CollectAccess, request, deadline, what=COORDINATOR)
        async with aclosing(parts):
            async for part in parts:
                fetched += part.response.chunk
                if len(fetched) > size:
                    raise InvalidAnswer("more came than the archive announced; collect it again")
        return bytes(fetched)

    def _sealed_call(self, asked: Asked, what: pb.AccessCall) -> bytes:
        """Complete a call and seal it for the request's node."""
        identity, now = self._connection.identity, self._connection.now()
        what.call_id, what.request_id = secrets.token_bytes(16), asked.id
        what.created.FromDatetime(now)
        what.expires.FromDatetime(now + LIFETIME)
        node = self._node(asked)
        key = sealing_key_of(identity.bundle, node)
        return seal(what.SerializeToString(), Purpose.ACCESS_CALL, sender=identity, recipient=node, key=key)

    def _opened(self, asked: Asked, sealed: bytes, purpose: Purpose, context: bytes, into: Answer) -> Answer:
        """Open what must come from the request's node."""
        identity = self._connection.identity
        opened = open_sealed(
            sealed,
            purpose,
            recipient=identity.member,
            key=identity.sealing_key,
            bundle=identity.bundle,
            now=self._connection.now(),
            context=context,
            sender=self._node(asked),
        )
        try:
            into.ParseFromString(opened.content)
        except DecodeError as error:
            raise InvalidAnswer("what the archive sent cannot be read; update the older software") from error
        return into

    def _node(self, asked: Asked) -> MemberId:
        return MemberId(self._connection.identity.member.federation, Role.NODE, asked.node)


def _updated(asked: Asked, answer: pb.AccessAnswer) -> Asked:
    note = "".join(c if c.isprintable() else " " for c in answer.note[:500])
    return replace(asked, state=_STATES[answer.state], expires=answer.expires.ToDatetime(UTC), note=note)
