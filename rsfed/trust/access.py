"""Who may call what, and on which port: one table for every call of the federation. What has no row is denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rsfed.errors import NotAdmitted
from rsfed.trust.names import MemberId, Role


class Port(Enum):
    """Where a call may arrive."""

    JOIN = "join"  # coordinator, server TLS only
    FEDERATION = "federation"  # coordinator, client certificate required
    NODE = "node"  # node, client certificate required
    CONTROL = "control"  # Unix socket of the owner, 0600


UNNAMED_PORTS = frozenset({Port.JOIN, Port.CONTROL})
"""Ports whose callers show no certificate: newcomers prove themselves by token or old key, the owner by the socket."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may make one call.

    Attributes:
        grants: Roles that may call, by the port at which the call is served; empty on ports without certificates.
        read: Whether asking twice does what asking once does, so that a lost connection is worth another try.
    """

    grants: Mapping[Port, frozenset[Role]]
    read: bool = False


_NODE, _COORDINATOR, _ANALYST = (frozenset({role}) for role in (Role.NODE, Role.COORDINATOR, Role.ANALYST))
_MEMBERS = _NODE | _ANALYST
_NOBODY: frozenset[Role] = frozenset()

_AT_JOIN = Rule({Port.JOIN: _NOBODY})
_AT_CONTROL = Rule({Port.CONTROL: _NOBODY})
_HEALTH = Rule({Port.NODE: _COORDINATOR | _NODE, Port.FEDERATION: _COORDINATOR | _MEMBERS})


def _federation(roles: frozenset[Role], *, read: bool = False) -> Rule:
    return Rule({Port.FEDERATION: roles}, read)


def _node(*, read: bool = False) -> Rule:
    return Rule({Port.NODE: _COORDINATOR}, read)


# A search is not repeated, nor a call about an item: a node takes each once, and the first try may have reached it.
RULES: Mapping[str, Rule] = {
    "/rsfed.v1.ArchiveService/Describe": _node(read=True),
    "/rsfed.v1.ArchiveService/Search": _node(),
    "/rsfed.v1.ArchiveService/ExpandBucket": _node(read=True),
    "/rsfed.v1.ArchiveService/ProveAudit": _node(read=True),
    "/rsfed.v1.ArchiveService/RequestAccess": _node(),
    "/rsfed.v1.ArchiveService/CollectAccess": _node(),
    "/rsfed.v1.ArchiveService/GetCatalogue": _node(read=True),
    "/rsfed.v1.ArchiveService/Refine": _node(),
    "/rsfed.v1.FederationService/Enroll": _AT_JOIN,
    "/rsfed.v1.FederationService/Recover": _AT_JOIN,
    "/rsfed.v1.FederationService/Renew": _federation(_MEMBERS),
    "/rsfed.v1.FederationService/Announce": _federation(_NODE),
    "/rsfed.v1.FederationService/GetTrustBundle": _federation(_MEMBERS, read=True),
    "/rsfed.v1.FederationService/GetRelease": _federation(_MEMBERS, read=True),
    "/rsfed.v1.QueryService/Search": _federation(_ANALYST),
    "/rsfed.v1.QueryService/WatchSearch": _federation(_ANALYST),
    "/rsfed.v1.QueryService/ExpandBucket": _federation(_ANALYST, read=True),
    "/rsfed.v1.QueryService/GetCatalogue": _federation(_ANALYST, read=True),
    "/rsfed.v1.QueryService/Refine": _federation(_ANALYST),
    "/rsfed.v1.QueryService/ListNodes": _federation(_MEMBERS, read=True),
    "/rsfed.v1.QueryService/RequestAccess": _federation(_ANALYST),
    "/rsfed.v1.QueryService/CollectAccess": _federation(_ANALYST),
    "/rsfed.v1.TrainingService/PullTask": _federation(_NODE),
    "/rsfed.v1.TrainingService/PushResult": _federation(_NODE),
    "/rsfed.v1.ControlService/Notify": _AT_CONTROL,
    "/rsfed.v1.ControlService/Status": _AT_CONTROL,
    "/grpc.health.v1.Health/Check": _HEALTH,
}


def authorize(method: str, port: Port, member: MemberId | None) -> None:
    """Check that a caller may make a call at a port.

    Args:
        method: Full name of the call, for example "/rsfed.v1.ArchiveService/Search".
        port: Where the call arrived.
        member: Whose certificate the caller showed; None on ports without certificates.

    Raises:
        NotAdmitted: WRONG_ROLE, in every case that the table does not allow.
    """
    rule = RULES.get(method)
    if rule is None or port not in rule.grants:
        raise NotAdmitted("this call is not served here", reason="WRONG_ROLE")
    if port in UNNAMED_PORTS:
        return
    if member is None or member.role not in rule.grants[port]:
        raise NotAdmitted(f"this call is not for the role {member.role if member else 'nobody'}", reason="WRONG_ROLE")
