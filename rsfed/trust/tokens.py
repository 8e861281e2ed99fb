"""Invitation tokens: everything a new member needs so that already its first connection is verified.

A token is text to paste: a prefix and one base64url word. It holds a secret, so it is given to one person, and it is
worth nothing once it was used or has expired. Others can read the arguments of a process, so it may also be piped in.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rsfed.errors import NotAdmitted, UsageError
from rsfed.trust.certificates import load_chain, to_der, to_pem
from rsfed.trust.names import MemberId, Role, check_label

_PREFIX = "rsfed1."
_MAX_CHARACTERS = 16_384


@dataclass(frozen=True, slots=True)
class Token:
    """An invitation as its holder sees it.

    Attributes:
        address: Join port of the coordinator, host:port.
        server_name: DNS name that the coordinator's certificate carries.
        ca_pem: Certificates of the federation's CA.
        federation: Name of the federation.
        role: Role of the new member.
        name: Name of the new member.
        invitation: Id of the invitation.
        secret: Proof of having been invited.
        expires: After this moment the coordinator takes the token no more.
    """

    address: str
    server_name: str
    ca_pem: bytes
    federation: str
    role: Role
    name: str
    invitation: str
    secret: bytes = field(repr=False)
    expires: datetime

    @property
    def member(self) -> MemberId:
        """Who its holder becomes."""
        return MemberId(self.federation, self.role, self.name)

    def encode(self) -> str:
        """Return the token as text to paste."""
        fields = {
            "address": self.address,
            "server": self.server_name,
            "ca": [_to_text(to_der(ca)) for ca in load_chain(self.ca_pem)],
            "federation": self.federation,
            "role": self.role.value,
            "name": self.name,
            "invitation": self.invitation,
            "secret": _to_text(self.secret),
            "expires": int(self.expires.timestamp()),
        }
        return _PREFIX + _to_text(json.dumps(fields, separators=(",", ":")).encode())


def read_token(argument: str) -> Token:
    """Read the token that a command was given, where `-` means the next line of standard input.

    Raises:
        NotAdmitted: BAD_TOKEN, there is no whole token.
    """
    if argument != "-":
        return decode_token(argument)
    line = sys.stdin.buffer.readline() if sys.stdin else b""  # None where the caller closed it
    if not line.strip():
        raise NotAdmitted("standard input held no token; pipe it in as one line", reason="BAD_TOKEN")
    return decode_token(line.decode("ascii", "replace"))


def decode_token(text: str) -> Token:
    """Read a token; white space around and inside it, as pasting brings it, does no harm.

    Raises:
        NotAdmitted: BAD_TOKEN, the text is not a whole token.
    """
    prefix, dot, word = "".join(text.split()).partition(".")
    problem = NotAdmitted(
        "this is not a whole invitation token; copy it again, or ask for a new one", reason="BAD_TOKEN"
    )
    if prefix + dot != _PREFIX or len(word) > _MAX_CHARACTERS:
        raise problem
    try:
        return _from_fields(json.loads(_from_text(word)))
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError, UsageError, NotAdmitted) as error:
        raise problem from error


def _from_fields(fields: dict[str, object]) -> Token:
    texts = {key: fields[key] for key in ("address", "server", "federation", "role", "name", "invitation", "secret")}
    cas, expires = fields["ca"], fields["expires"]
    if not all(isinstance(value, str) for value in texts.values()):
        raise TypeError("a text is missing")
    if not isinstance(cas, list) or not isinstance(expires, int):
        raise TypeError("a certificate or the expiry is missing")
    text = {key: str(value) for key, value in texts.items()}
    return Token(
        address=text["address"],
        server_name=text["server"],
        ca_pem=to_pem(load_chain([_from_text(ca) for ca in cas])),
        federation=check_label(text["federation"], "a federation"),
        role=Role(text["role"]),
        name=check_label(text["name"], "a member"),
        invitation=text["invitation"],
        secret=_from_text(text["secret"]),
        expires=datetime.fromtimestamp(expires, UTC),
    )


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_text(text: str) -> bytes:
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
