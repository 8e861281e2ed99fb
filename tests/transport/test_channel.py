"""Calls as their caller sees them: which errors come back, and what is tried again."""

import asyncio
import json
from contextlib import aclosing, suppress

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from loopback import serving
from members import World

from rsfed import errors
from rsfed.clock import Deadline
from rsfed.errors import (
    Busy,
    DeadlineExceeded,
    EnvelopeRefused,
    ExitCode,
    InvalidAnswer,
    InvalidMessage,
    NoNodeReachable,
    NotAdmitted,
    ReleaseRefused,
    RsfedError,
    StaleRelease,
    UnknownHandle,
    Unreachable,
    WithheldByPolicy,
)
from rsfed.transport import channel as channel_module
from rsfed.transport.channel import call, open_channel, service_config, stream
from rsfed.transport.status import to_error, to_status
from rsfed.trust.access import RULES
from rsfed.trust.names import Role
from rsfed.v1.federation_pb2 import (
    FederationServiceGetReleaseRequest,
    FederationServiceGetTrustBundleRequest,
    FederationServiceGetTrustBundleResponse,
)
from rsfed.v1.federation_pb2_grpc import FederationServiceStub

READ = "/rsfed.v1.FederationService/GetTrustBundle"
WRITE = "/rsfed.v1.FederationService/Announce"
STREAM = "/rsfed.v1.FederationService/GetRelease"
WIRED = [cls for cls in errors.error_classes() if cls.__module__ == errors.__name__]  # not those of a loaded package
REASONS = [(cls, reason) for cls in WIRED for reason in (None, "SOME_REASON_OF_ONE_CASE")]


@pytest.fixture
def world():
    return World()


def dial(world, running):
    return open_channel(running.address, world.identity(Role.NODE), world.member(Role.COORDINATOR))


async def failure(channel, method=READ, *, seconds=5, kind=RsfedError):
    with pytest.raises(kind) as caught:
        await call(channel.unary_unary(method), b"", Deadline.after(seconds), what="the coordinator")
    return caught.value


def failing(error):
    def answer(*_):
        raise error

    return answer


@pytest.mark.parametrize(("cls", "reason"), REASONS, ids=lambda value: getattr(value, "__name__", value))
async def test_every_error_comes_back_as_itself(world, cls, reason):
    """Class, reason, public text and so the exit code survive the wire; the operator's detail does not."""
    async with serving(world) as running, dial(world, running) as channel:
        running.script.answer = failing(cls("what happened, what to do", reason=reason, detail="/secret"))
        error = await failure(channel, WRITE)
        assert type(error) is cls
        assert error.reason == reason or reason is None
        assert error.reason == cls("").reason or reason
        assert error.exit_code == cls.exit_code
        assert error.public == "the coordinator: what happened, what to do"
        assert "secret" not in str(error)


def test_no_two_classes_share_a_reason():
    reasons = [cls.reason for cls in errors.error_classes()]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize(
    ("status", "cls", "exit_code"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unreachable, ExitCode.FAILURE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded, ExitCode.FAILURE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Busy, ExitCode.FAILURE),
        (grpc.StatusCode.PERMISSION_DENIED, NotAdmitted, ExitCode.NOT_ADMITTED),
        (grpc.StatusCode.UNAUTHENTICATED, NotAdmitted, ExitCode.NOT_ADMITTED),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidMessage, ExitCode.FAILURE),
        (grpc.StatusCode.NOT_FOUND, UnknownHandle, ExitCode.FAILURE),
        (grpc.StatusCode.DATA_LOSS, InvalidAnswer, ExitCode.FAILURE),
        (grpc.StatusCode.CANCELLED, Unreachable, ExitCode.FAILURE),
        (grpc.StatusCode.INTERNAL, RsfedError, ExitCode.FAILURE),
        (grpc.StatusCode.UNKNOWN, RsfedError, ExitCode.FAILURE),
        (grpc.StatusCode.UNIMPLEMENTED, RsfedError, ExitCode.FAILURE),
    ],
)
def test_a_status_that_names_no_reason_becomes_the_nearest_error(status, cls, exit_code):
    error = to_error(rpc_error(status, "some words of grpc about /a/path"), "the node")
    assert type(error) is cls
    assert error.exit_code == exit_code
    assert error.public.startswith("the node ")
    assert "path" not in error.public


def rpc_error(code, details, trailers=()):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=details)


def packed(info):
    message = any_pb2.Any()
    message.Pack(info)
    return message


def trailers(code, text, *details):
    status = status_pb2.Status(code=code.value[0], message=text, details=details)
    return [("grpc-status-details-bin", status.SerializeToString())]


DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "sent",
    [
        [("grpc-status-details-bin", b"\xff\xff")],
        trailers(grpc.StatusCode.INTERNAL, "text"),
        trailers(DENIED, "other text", packed(error_details_pb2.ErrorInfo(reason="REVOKED", domain="rsfed"))),
        trailers(DENIED, "text"),
        trailers(DENIED, "text", any_pb2.Any(type_url="x/y.z", value=b"\xff")),
        trailers(DENIED, "text", any_pb2.Any(type_url="x/google.rpc.ErrorInfo", value=b"\xff")),
        trailers(DENIED, "text", packed(error_details_pb2.ErrorInfo(reason="REVOKED", domain="elsewhere"))),
        trailers(DENIED, "text", packed(error_details_pb2.ErrorInfo(reason="not upper", domain="rsfed"))),
        trailers(DENIED, "text", packed(error_details_pb2.ErrorInfo(reason="A" * 64, domain="rsfed"))),
    ],
    ids=range(9),
)
def test_trailers_that_do_not_fit_are_ignored(sent):
    error = to_error(rpc_error(DENIED, "text", sent), "the node")
    assert type(error) is NotAdmitted
    assert error.reason == "NOT_ADMITTED"


@pytest.mark.parametrize("fields", [(), ("time",), ("time", "label")])
def test_the_fields_that_a_query_was_refused_for_come_over_the_wire(fields):
    status = to_status(EnvelopeRefused("no", reason="UNFILTERABLE_TIME", fields=fields))
    error = to_error(rpc_error(DENIED, status.details, status.trailing_metadata), "the node")
    assert isinstance(error, EnvelopeRefused)
    assert (error.reason, error.fields) == ("UNFILTERABLE_TIME", fields)


@pytest.mark.parametrize("level", ["", "sealed"])
def test_the_policy_level_of_a_refusal_comes_over_the_wire(level):
    status = to_status(WithheldByPolicy("no", level=level))
    error = to_error(rpc_error(DENIED, status.details, status.trailing_metadata), "the node")
    assert (error.reason, error.level) == ("POLICY", level)


def test_an_unknown_kind_of_error_falls_back_to_its_status():
    info = error_details_pb2.ErrorInfo(reason="NEW_REASON", domain="rsfed", metadata={"kind": "OF_A_NEWER_VERSION"})
    error = to_error(rpc_error(DENIED, "text", trailers(DENIED, "text", packed(info))), "the node")
    assert type(error) is NotAdmitted
    assert error.reason == "NEW_REASON"


@given(st.text(max_size=2000))
def test_a_peers_text_is_shown_printable_and_short(text):
    info = error_details_pb2.ErrorInfo(reason="REVOKED", domain="rsfed")
    clean = text.encode(errors="ignore").decode()
    public = to_error(rpc_error(DENIED, clean, trailers(DENIED, clean, packed(info))), "the node").public
    assert public.isprintable()
    assert len(public) <= 420


def test_the_wire_carries_one_reason_of_our_domain():
    status = to_status(ReleaseRefused("no", reason="RELEASE_ROLLBACK", detail="/secret"))
    sent = status_pb2.Status.FromString(status.trailing_metadata[0][1])
    info = error_details_pb2.ErrorInfo()
    (detail,) = sent.details
    assert detail.Unpack(info)
    assert (info.reason, info.domain, sent.message) == ("RELEASE_ROLLBACK", "rsfed", "no")
    assert status.code is grpc.StatusCode.FAILED_PRECONDITION
    assert b"secret" not in sent.SerializeToString()


# What is tried again


@pytest.mark.parametrize(("method", "tries"), [(READ, 3), (WRITE, 1)])
async def test_only_reads_are_tried_again_when_the_connection_fails(world, method, tries):
    async with serving(world) as running, dial(world, running) as channel:
        running.script.answer = failing(Unreachable("away"))
        await failure(channel, method, kind=Unreachable)
        assert len(running.script.seen) == tries


@pytest.mark.parametrize(
    "error",
    [
        NotAdmitted("no", reason="REVOKED"),
        EnvelopeRefused("no"),
        InvalidMessage("no"),
        Busy("no"),
        StaleRelease("no"),
        DeadlineExceeded("no"),
        RsfedError("no"),
        ZeroDivisionError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_cannot_succeed_is_not_tried_again(world, error):
    async with serving(world) as running, dial(world, running) as channel:
        running.script.answer = failing(error)
        await failure(channel)
        assert len(running.script.seen) == 1


async def test_a_read_that_succeeds_at_the_third_try_is_a_success(world):
    async with serving(world) as running, dial(world, running) as channel:

        def answer(*_):
            if len(running.script.seen) < 3:
                raise Unreachable("away")

        running.script.answer = answer
        assert await call(channel.unary_unary(READ), b"", Deadline.after(5), what="the coordinator") == b""


async def test_retries_stop_when_everything_fails(world):
    """R16: an outage does not multiply the calls."""
    async with serving(world) as running, dial(world, running) as channel:
        running.script.answer = failing(NoNodeReachable("away"))
        for _ in range(100):
            await failure(channel, kind=NoNodeReachable)
        assert len(running.script.seen) <= 120


def test_the_service_config_names_exactly_the_reads():
    (entry,) = json.loads(service_config())["methodConfig"]
    named = {f"/{name['service']}/{name['method']}" for name in entry["name"]}
    assert named == {method for method, rule in RULES.items() if rule.read}
    assert entry["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


async def test_a_server_that_is_not_there_is_unreachable(world):
    async with serving(world) as running:
        pass
    async with dial(world, running) as channel:
        error = await failure(channel, kind=Unreachable)
        assert error.reason == "UNREACHABLE"
        assert "the coordinator cannot be reached" in error.public


async def test_a_server_that_comes_back_is_found_again(world):
    async with serving(world) as first:
        channel = dial(world, first)
        await call(channel.unary_unary(WRITE), b"", Deadline.after(5), what="the coordinator")
    await failure(channel, WRITE, kind=Unreachable)
    deadline, answered = Deadline.after(20), False
    async with serving(world, at=first.address), channel:
        while deadline.remaining() and not answered:
            with suppress(Unreachable):
                await call(channel.unary_unary(WRITE), b"", deadline, what="the coordinator")
                answered = True
            await asyncio.sleep(0.05)
    assert answered


# Deadlines


async def test_a_late_answer_is_a_missed_deadline(world):
    async with serving(world) as running, dial(world, running) as channel:
        running.script.answer = lambda *_: asyncio.sleep(30)
        error = await failure(channel, seconds=0.3, kind=DeadlineExceeded)
        assert "in time" in error.public


async def test_without_time_left_nothing_is_sent(world):
    async with serving(world) as running, dial(world, running) as channel:
        await failure(channel, seconds=0, kind=DeadlineExceeded)
        with pytest.raises(DeadlineExceeded):
            async for _ in stream(channel.unary_stream(STREAM), b"", Deadline.after(0), what="the coordinator"):
                pass
        assert running.script.seen == []


# Answers


async def test_an_answer_that_cannot_be_read_is_an_invalid_answer(world):
    def add(server):
        async def one(request, context):
            return b"\xff\xff"

        async def many(request, context):
            yield b"\xff\xff"

        handlers = {
            "GetTrustBundle": grpc.unary_unary_rpc_method_handler(one, bytes, bytes),
            "GetRelease": grpc.unary_stream_rpc_method_handler(many, bytes, bytes),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("rsfed.v1.FederationService", handlers)])

    async with serving(world, prepare=add) as running, dial(world, running) as channel:
        stub, deadline = FederationServiceStub(channel), Deadline.after(5)
        with pytest.raises(InvalidAnswer):
            await call(stub.GetTrustBundle, FederationServiceGetTrustBundleRequest(), deadline, what="the coordinator")
        with pytest.raises(InvalidAnswer):
            async for _ in stream(
                stub.GetRelease, FederationServiceGetReleaseRequest(), deadline, what="the coordinator"
            ):
                pass


async def test_a_stream_yields_its_messages_and_ends_in_our_errors(world):
    async with serving(world) as running, dial(world, running) as channel:
        method = channel.unary_stream(STREAM)
        assert [m async for m in stream(method, b"", Deadline.after(5), what="the coordinator")] == [b""]
        running.script.answer = failing(ReleaseRefused("no", reason="RELEASE_UNKNOWN"))
        with pytest.raises(ReleaseRefused) as caught:
            async for _ in stream(method, b"", Deadline.after(5), what="the coordinator"):
                pass
        assert caught.value.reason == "RELEASE_UNKNOWN"


async def test_who_stops_listening_stops_the_server(world):
    stopped = asyncio.Event()

    def add(server):
        async def many(request, context):
            try:
                while True:
                    yield b""
                    await asyncio.sleep(0.01)
            finally:
                stopped.set()

        handler = grpc.unary_stream_rpc_method_handler(many, bytes, bytes)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("rsfed.v1.FederationService", {"GetRelease": handler})]
        )

    async with serving(world, prepare=add) as running, dial(world, running) as channel:
        async with aclosing(
            stream(channel.unary_stream(STREAM), b"", Deadline.after(30), what="the coordinator")
        ) as messages:
            await anext(messages)
        await asyncio.wait_for(stopped.wait(), 10)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:7440", True),
        ("localhost:1", True),
        ("[::1]:7440", True),
        ("10.0.0.1:7440", False),
        ("coordinator.example:7440", False),
    ],
)
def test_a_proxy_of_the_environment_is_not_used_on_the_own_machine(address, loopback):
    assert channel_module._is_loopback(address) == loopback


async def test_an_answer_that_is_larger_than_taken_is_an_invalid_one(world):
    async with serving(world) as running:
        running.script.answer = lambda *_: FederationServiceGetTrustBundleResponse(bundle={"bundle": bytes(3000)})
        coordinator = world.member(Role.COORDINATOR)
        async with open_channel(running.address, world.identity(Role.NODE), coordinator, receive=2000) as channel:
            error = await failure(channel, kind=InvalidAnswer)
            assert error.reason == "MESSAGE_TOO_LARGE"
