"""Every error that rsfed raises on purpose, with its place on the wire and on the command line.

RsfedError
├── UsageError             the command was called wrongly
├── ConfigError            a configuration file or state folder will not do
│   └── StateError         the state folder is locked, newer or damaged
├── ArchiveError           an image, label file or archive folder will not do
│   └── RasterRejected     one image is refused; the rest goes on
├── CodeError              codes do not fit each other or the release
├── TrustError             somebody or something is not trusted
│   ├── NotAdmitted        a certificate, role, token or signature was refused
│   ├── ReleaseRefused     a release may not replace the current one
│   ├── EnvelopeRefused    a signed query was refused
│   ├── WithheldByPolicy   a node's policy level keeps it back
│   └── SealRefused        something sealed cannot be opened, or is not its sender's
├── StaleRelease           codes of another release than the one served
├── InvalidMessage         a message breaks the rules of the wire
├── InvalidAnswer          a node's answer breaks the rules
├── UnknownHandle          a handle means nothing here
├── AccessRefused          a found item is not given
├── Busy                   too much to do; try again later
├── Unreachable            no connection
│   └── NoNodeReachable    no node of the federation answered
├── DeadlineExceeded       no answer in time
└── TrainingError          a training run or task failed

The public text of an error may go over the wire: it names no image, path, key or code.
What is only for the operator goes into `detail`, which is printed locally and never sent.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    PARTIAL = 3
    NOT_ADMITTED = 4
    NO_NODE_REACHABLE = 5
    CONFIGURATION = 6
    INTERRUPTED = 130


class RsfedError(Exception):
    """Base of all errors that rsfed raises on purpose.

    Args:
        public: What happened and what to do next, in words that may leave the machine.
        reason: Closed reason in UPPER_SNAKE; the class's own one when omitted.
        detail: What only the local user may read, for example a path.
    """

    reason = "INTERNAL"
    grpc_status = "INTERNAL"
    exit_code = ExitCode.FAILURE

    def __init__(self, public: str, *, reason: str | None = None, detail: str = "") -> None:
        super().__init__(public)
        self.public = public
        self.detail = detail
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.public} ({self.detail})" if self.detail else self.public


class UsageError(RsfedError):
    """The command was called wrongly."""

    reason = "USAGE"
    grpc_status = "INVALID_ARGUMENT"
    exit_code = ExitCode.USAGE


class ConfigError(RsfedError):
    """A configuration file or state folder will not do."""

    reason = "CONFIGURATION"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = ExitCode.CONFIGURATION


class StateError(ConfigError):
    """The state folder is locked by another process, newer than this software, or damaged."""

    reason = "STATE"


class ArchiveError(RsfedError):
    """An image, label file or archive folder will not do."""

    reason = "ARCHIVE"
    grpc_status = "FAILED_PRECONDITION"


class RasterRejected(ArchiveError):
    """One image is refused; the rest of the archive goes on.

    Its reason is UNREADABLE where the image may be sound and cannot be read just now.
    """

    reason = "RASTER_REJECTED"
    grpc_status = "INVALID_ARGUMENT"


class CodeError(RsfedError):
    """Codes do not fit each other or the release."""

    reason = "CODE_WIDTH"
    grpc_status = "INVALID_ARGUMENT"


class TrustError(RsfedError):
    """Somebody or something is not trusted."""

    reason = "NOT_TRUSTED"
    grpc_status = "PERMISSION_DENIED"
    exit_code = ExitCode.NOT_ADMITTED


class NotAdmitted(TrustError):
    """A certificate, role, token or signature was refused."""

    reason = "NOT_ADMITTED"


class ReleaseRefused(TrustError):
    """A release may not replace the current one."""

    reason = "RELEASE_REFUSED"
    grpc_status = "FAILED_PRECONDITION"


class EnvelopeRefused(TrustError):
    """A signed query was refused.

    Args:
        public: As for every error.
        reason: As for every error.
        detail: As for every error.
        fields: The fields of its filter that the node's policy keeps out of filters, where it was refused for them.
    """

    reason = "ENVELOPE_REFUSED"

    def __init__(
        self, public: str, *, reason: str | None = None, detail: str = "", fields: tuple[str, ...] = ()
    ) -> None:
        super().__init__(public, reason=reason, detail=detail)
        self.fields = fields


class WithheldByPolicy(TrustError):
    """A node's policy level keeps it back; the wire says no more than that, the node's audit log says why.

    Args:
        public: As for every error.
        reason: As for every error.
        detail: As for every error.
        level: Name of the level, which answers tell, too; "" where software of before does not.
    """

    reason = "POLICY"

    def __init__(self, public: str, *, reason: str | None = None, detail: str = "", level: str = "") -> None:
        super().__init__(public, reason=reason, detail=detail)
        self.level = level


class SealRefused(TrustError):
    """Something sealed cannot be opened, or is not from whom it says."""

    reason = "SEAL_REFUSED"


class StaleRelease(RsfedError):
    """The codes belong to another release than the one that is served."""

    reason = "STALE_RELEASE"
    grpc_status = "FAILED_PRECONDITION"


class InvalidMessage(RsfedError):
    """A message breaks the rules of the wire."""

    reason = "INVALID_MESSAGE"
    grpc_status = "INVALID_ARGUMENT"


class InvalidAnswer(RsfedError):
    """A node's answer breaks the rules and was dropped."""

    reason = "INVALID_ANSWER"
    grpc_status = "DATA_LOSS"


class UnknownHandle(RsfedError):
    """A handle means nothing here: of another node, expired or made up."""

    reason = "UNKNOWN_HANDLE"
    grpc_status = "NOT_FOUND"


class AccessRefused(RsfedError):
    """A found item is not given: not yet, no longer, or not at all."""

    reason = "ACCESS_REFUSED"
    grpc_status = "FAILED_PRECONDITION"


class Busy(RsfedError):
    """There is too much to do; the same call may succeed later.

    Args:
        public: As for every error.
        reason: As for every error.
        detail: As for every error.
        retry_after: Seconds after which it will, where that is known.
    """

    reason = "BUSY"
    grpc_status = "RESOURCE_EXHAUSTED"

    def __init__(
        self, public: str, *, reason: str | None = None, detail: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(public, reason=reason, detail=detail)
        self.retry_after = retry_after


class Unreachable(RsfedError):
    """No connection could be made."""

    reason = "UNREACHABLE"
    grpc_status = "UNAVAILABLE"


class NoNodeReachable(Unreachable):
    """No node of the federation answered."""

    reason = "NO_NODE_REACHABLE"
    exit_code = ExitCode.NO_NODE_REACHABLE


class DeadlineExceeded(RsfedError):
    """There was no answer in time."""

    reason = "DEADLINE"
    grpc_status = "DEADLINE_EXCEEDED"


class TrainingError(RsfedError):
    """A training run or task failed."""

    reason = "TRAINING"
    grpc_status = "FAILED_PRECONDITION"


def error_classes() -> list[type[RsfedError]]:
    """Return every error class, the base first, each after its parent."""
    classes: list[type[RsfedError]] = [RsfedError]
    for cls in classes:
        classes.extend(cls.__subclasses__())
    return classes
