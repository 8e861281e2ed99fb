"""Limits of the wire that both sides share."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 16 << 20
CHUNK_BYTES = 1 << 20  # of a streamed file
KEEPALIVE_MS = 60_000
MIN_KEEPALIVE_MS = 30_000  # a server puts up with pings that far apart
MAX_CONNECTION_AGE_MS = 30 * 60_000
CONNECTION_GRACE_MS = 10 * 60_000  # for calls in progress when a connection has come of age

SIZE_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
