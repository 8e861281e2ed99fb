"""Limits of the wire that both sides share."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 16 << 20
CHUNK_BYTES = 1 << 20  # of a streamed file
KEEPALIVE_MS = 60_000
MIN_KEEPALIVE_MS = 30_000  # a server puts up with pings that far apart
MAX_CONNECTION_AGE_MS = 30 * 60_000
CONNECTION_GRACE_MS = 10 * 60_000  # for calls in progress when a connection has come of age

SMALL_MESSAGE_BYTES = 64 << 10  # of requests of newcomers and of the owner's commands
ANSWER_BYTES = 5 << 20  # of a node: 64 codes with 1,000 buckets and items each need 4.5 MiB
MAX_CALL_S = 600.0  # no caller is served longer, whatever its deadline


def size_options(receive: int = MAX_MESSAGE_BYTES) -> list[tuple[str, int]]:
    """Return the options of a channel or server that takes messages of so many bytes."""
    return [("grpc.max_receive_message_length", receive), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
