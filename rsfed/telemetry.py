"""Structured logs on standard error, without secrets.

Log events by a fixed name with closed fields: `log.info("query.answered", query=..., outcome=..., ms=...)`.
The redactor drops any field that is not on the list, so a careless call cannot leak a path, label, code or key.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

ALLOWED_FIELDS = frozenset(
    {
        "address",
        "attempt",
        "bytes",
        "count",
        "days",
        "error_type",
        "event",
        "held",
        "indexed",
        "level",
        "member",
        "method",
        "ms",
        "name",
        "node",
        "outcome",
        "peer",
        "pending",
        "policy",
        "port",
        "query",
        "rate",
        "reason",
        "release",
        "remedy",
        "requester",
        "role",
        "round",
        "run",
        "seconds",
        "serial",
        "state",
        "status",
        "timestamp",
        "version",
    }
)


def drop_unlisted(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop every field that is not on the list of fields that are safe to log."""
    return {key: value for key, value in event.items() if key in ALLOWED_FIELDS}


def configure_logs(*, verbose: bool = False) -> None:
    """Send logs as one JSON object a line to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            drop_unlisted,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        # The standard error of the moment: a progress bar or a test may have put another in its place.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


configure_logs()  # a command that does not ask for logs still never prints one among its results
log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
