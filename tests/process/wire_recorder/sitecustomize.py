"""Loaded by every process of a recorded federation: writes the plaintext of each gRPC message to a file.

The wire itself is encrypted, so the bytes are taken where they enter and leave the client of each call; every
message has exactly one client, so nothing is missed.
"""

import os
from pathlib import Path

from grpc.aio._channel import Channel

FOLDER = Path(os.environ["RSFED_TEST_WIRE"])
FILE = (FOLDER / f"{os.getpid()}.wire").open("ab", buffering=0)


def record(convert):
    def recorded_bytes(value):
        FILE.write(value)
        return convert(value)

    def recorded_message(value):
        data = convert(value)
        FILE.write(data)
        return data

    return recorded_bytes, recorded_message


def recording(make_call):
    def make_recorded_call(self, method, request_serializer=None, response_deserializer=None, **rest):
        FILE.write(method.encode())
        _, serializer = record(request_serializer)
        deserializer, _ = record(response_deserializer)
        return make_call(self, method, serializer, deserializer, **rest)

    return make_recorded_call


for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
    setattr(Channel, kind, recording(getattr(Channel, kind)))
