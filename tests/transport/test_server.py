"""What a server refuses, on real connections with real certificates."""

import asyncio
import itertools
import random
import ssl
import stat
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loopback import Script, add_everything, methods, serving
from members import CLIENT, SERVER, START, Authority, World, forge

from rsfed.clock import Deadline
from rsfed.errors import Busy, InvalidMessage, NotAdmitted, RsfedError, StateError, Unreachable
from rsfed.transport.channel import call, open_channel, open_control_channel, open_join_channel
from rsfed.transport.limits import MAX_MESSAGE_BYTES, SMALL_MESSAGE_BYTES
from rsfed.transport.rate import RateLimit
from rsfed.transport.server import (
    add_health,
    bind,
    bind_control,
    current_certificate,
    current_member,
    deadline_of,
    make_server,
    server_credentials,
)
from rsfed.trust.access import RULES, UNNAMED_PORTS, Port
from rsfed.trust.certificates import member_of, to_der, to_pem
from rsfed.trust.names import Role
from rsfed.v1.federation_pb2 import FederationServiceGetTrustBundleRequest as BundleRequest
from rsfed.v1.federation_pb2_grpc import FederationServiceStub

GET_BUNDLE = "/rsfed.v1.FederationService/GetTrustBundle"
ENROLL = "/rsfed.v1.FederationService/Enroll"


@pytest.fixture
def world():
    return World()


def dial(world, running, identity, *, role=Role.COORDINATOR):
    return open_channel(running.address, identity, world.member(role))


async def ask(channel, method=GET_BUNDLE, request=b"", *, seconds=5):
    """Make a call with raw bytes and return its answer."""
    if methods()[method].server_streaming:
        return [answer async for answer in channel.unary_stream(method)(request, timeout=seconds)]
    return await channel.unary_unary(method)(request, timeout=seconds)


async def refusal(channel, method=GET_BUNDLE, request=b"", *, kind=RsfedError, seconds=5):
    """Return the reason with which a call is refused, as a client of ours sees it."""
    with pytest.raises(kind) as caught:
        await call(channel.unary_unary(method), request, Deadline.after(seconds), what="the server")
    return caught.value.reason


# Who may call what


@pytest.mark.parametrize("port", [Port.FEDERATION, Port.NODE])
async def test_every_role_makes_exactly_the_calls_of_the_table_over_the_wire(world, port):
    server_role = Role.NODE if port is Port.NODE else Role.COORDINATOR
    async with serving(world, port) as running:
        for role in Role:
            async with dial(world, running, world.identity(role), role=server_role) as channel:
                for method in methods():
                    rule = RULES.get(method)
                    if rule and role in rule.grants.get(port, ()):
                        await ask(channel, method)
                    else:
                        with pytest.raises(grpc.aio.AioRpcError) as caught:
                            await ask(channel, method)
                        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, (role, method)
        allowed = [m for role, m in itertools.product(Role, RULES) if role in RULES[m].grants.get(port, ())]
        assert sorted(running.script.seen) == sorted(allowed)


@pytest.mark.parametrize("port", sorted(UNNAMED_PORTS, key=str))
async def test_ports_without_certificates_serve_their_own_calls_only(world, port, tmp_path):
    async with serving(world, port, folder=tmp_path) as running:
        ca = to_pem([world.cas[0].cert])
        open_it = {
            Port.JOIN: lambda: open_join_channel(running.address, ca, world.member(Role.COORDINATOR).dns),
            Port.CONTROL: lambda: open_control_channel(tmp_path / "control.sock"),
        }[port]
        async with open_it() as channel:
            for method in methods():
                if method in RULES and port in RULES[method].grants:
                    await ask(channel, method)
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await ask(channel, method)
                    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, method


async def test_a_call_that_no_table_knows_is_denied_although_it_is_served(world):
    def add(server):
        async def answer(request, context):
            return b"secret"

        handler = grpc.unary_unary_rpc_method_handler(answer)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("rsfed.v1.New", {"Call": handler})])

    async with serving(world, prepare=add) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        assert await refusal(channel, "/rsfed.v1.New/Call", kind=NotAdmitted) == "WRONG_ROLE"
        with pytest.raises(RsfedError) as caught:
            await call(channel.unary_unary("/rsfed.v1.New/Nothing"), b"", Deadline.after(5), what="the server")
        assert caught.value.reason == "UNIMPLEMENTED"


async def test_a_servicer_learns_who_calls_and_how_long_it_has(world):
    seen = []
    async with serving(world) as running:
        running.script.answer = lambda _m, _r, context: seen.append(
            (current_member(), current_certificate(), deadline_of(context).remaining())
        )
        for role, name in ((Role.NODE, "dlr"), (Role.ANALYST, "ada")):
            async with dial(world, running, world.identity(role, name)) as channel:
                await ask(channel, seconds=30)
    assert [member.uri for member, _, _ in seen] == ["spiffe://alps/node/dlr", "spiffe://alps/analyst/ada"]
    assert [member_of(certificate) for _, certificate, _ in seen] == [member for member, _, _ in seen]
    assert all(20 < remaining <= 30 for _, _, remaining in seen)
    with pytest.raises(LookupError):
        current_member()


async def test_calls_at_once_do_not_mix_up_their_callers(world):
    async with serving(world) as running:

        async def answer(_method, _request, context):
            before = current_member()
            await asyncio.sleep(0.02)
            if current_member() != before or dict(context.invocation_metadata())["who"] != before.name:
                raise ValueError("mixed up")

        running.script.answer = answer

        async def knock(name):
            async with dial(world, running, world.identity(Role.NODE, name)) as channel:
                for _ in range(5):
                    await channel.unary_unary(GET_BUNDLE)(b"", timeout=10, metadata=(("who", name),))

        await asyncio.gather(*(knock(f"n{number}") for number in range(8)))


# Certificates at the door


async def test_strangers_and_callers_without_a_certificate_do_not_get_a_connection(world):
    async with serving(world) as running:
        other = World(cas=[Authority.new()])
        stranger = replace(other.identity(Role.NODE), bundle=world.bundle())
        selfsigned = Authority.new()
        posing = replace(stranger, key=selfsigned.key, chain=(selfsigned.cert,))
        for identity in (stranger, posing):
            async with dial(world, running, identity) as channel:
                assert await refusal(channel, kind=Unreachable) == "UNREACHABLE"
        ca = to_pem([world.cas[0].cert])
        async with open_join_channel(running.address, ca, world.member(Role.COORDINATOR).dns) as channel:
            assert await refusal(channel, kind=Unreachable) == "UNREACHABLE"
        assert running.script.seen == []


@pytest.mark.parametrize("days", [-40, 5], ids=["expired", "not yet valid"])
@pytest.mark.parametrize("role", [Role.NODE, Role.ANALYST])
async def test_certificates_out_of_their_time_do_not_get_a_connection(world, role, days):
    past = World(cas=[Authority.new(now=START - timedelta(days=50))])
    identity = past.identity(role, now=START + timedelta(days=days))
    async with serving(past) as running, dial(past, running, identity) as channel:
        assert await refusal(channel, kind=Unreachable) == "UNREACHABLE"
        assert running.script.seen == []


@pytest.mark.parametrize(
    ("names", "usages", "reason"),
    [
        (["spiffe://alps/node/a", "spiffe://alps/node/b"], [CLIENT, SERVER], "BAD_NAME"),
        (["spiffe://alps/node/*"], [CLIENT, SERVER], "BAD_NAME"),
        (["spiffe://alps/analyst/ada/"], [CLIENT], "BAD_NAME"),
        (["spiffe://alps/analyst/Ada"], [CLIENT], "BAD_NAME"),
        (["spiffe://alps/analyst/ada"], [CLIENT, SERVER], "BAD_CERTIFICATE"),
        (["spiffe://andes/analyst/ada"], [CLIENT], "WRONG_FEDERATION"),
        (["spiffe://alps/coordinator/second"], [CLIENT, SERVER], "BAD_NAME"),
    ],
)
async def test_odd_certificates_of_the_right_ca_are_refused_at_the_first_call(world, names, usages, reason):
    general = [x509.UniformResourceIdentifier(name) for name in names]
    if "coordinator" in names[0]:
        general.append(x509.DNSName("second.coordinator.alps.rsfed.internal"))
    identity = world.identity(Role.ANALYST)
    leaf = forge(world.cas[0], general, usages=usages, key=identity.key)
    async with serving(world) as running, dial(world, running, replace(identity, chain=(leaf,))) as channel:
        assert await refusal(channel, kind=NotAdmitted) == reason
        assert running.script.seen == []


async def test_a_caller_believes_only_the_server_it_asked_for(world):
    async with serving(world) as running:
        node = world.identity(Role.NODE)
        async with open_channel(running.address, node, world.member(Role.COORDINATOR, "other")) as channel:
            assert await refusal(channel, kind=Unreachable) == "UNREACHABLE"
        elsewhere = replace(node, bundle=World(cas=[Authority.new()]).bundle())
        async with dial(world, running, elsewhere) as channel:
            assert await refusal(channel, kind=Unreachable) == "UNREACHABLE"


async def test_an_analyst_cannot_serve(world):
    """Its certificate is for clients only: a caller that dials it does not believe it."""
    analyst = world.identity(Role.ANALYST, "ada")
    server = make_server(Port.NODE, trust=world.bundle, now=world.clock)
    add_everything(server, Script())
    number = bind(server, "127.0.0.1:0", server_credentials(lambda: analyst))
    await server.start()
    try:
        address, coordinator = f"127.0.0.1:{number}", world.identity(Role.COORDINATOR)
        async with open_channel(address, coordinator, world.member(Role.ANALYST, "ada")) as channel:
            assert await refusal(channel, "/rsfed.v1.ArchiveService/Describe", kind=Unreachable) == "UNREACHABLE"
    finally:
        await server.stop(0)


# On channels that are already open


async def test_revocation_counts_on_an_open_channel_from_the_next_call(world):
    async with serving(world) as running:
        lost, kept = world.identity(Role.NODE, "lost"), world.identity(Role.NODE, "kept")
        async with dial(world, running, lost) as first, dial(world, running, kept) as second:
            await ask(first)
            serials = frozenset({lost.chain[0].serial_number})
            for bundle in (
                replace(running.bundle, revoked_serials=serials),
                replace(running.bundle, revoked_names=frozenset({lost.member.uri})),
            ):
                running.bundle = bundle
                assert await refusal(first, kind=NotAdmitted) == "REVOKED"
                await ask(second)


async def test_expiry_counts_on_an_open_channel_from_the_next_call(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.ANALYST)) as channel:
        await ask(channel)
        world.clock.move(days=6.9)
        await ask(channel)
        running.bundle = world.bundle()
        world.clock.move(days=0.2)
        assert await refusal(channel, kind=NotAdmitted) == "CERT_EXPIRED"


async def test_without_news_about_revocation_for_a_day_every_call_is_refused(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        running.bundle = replace(running.bundle, refreshed=world.clock())
        await ask(channel)
        world.clock.move(hours=24, seconds=1)
        assert await refusal(channel, kind=NotAdmitted) == "REVOCATION_STALE"
        running.bundle = replace(running.bundle, refreshed=world.clock())
        await ask(channel)


async def test_a_ca_that_left_the_bundle_carries_no_call_on_an_open_channel(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        await ask(channel)
        running.bundle = World(cas=[Authority.new()]).bundle()
        assert await refusal(channel, kind=NotAdmitted) == "WRONG_CA"


async def test_a_ca_is_changed_under_load_without_a_failed_call(world):
    """Old CA; both; the new one alone: members and server move over one after the other while calls go on."""
    old_node = world.identity(Role.NODE, "old")
    async with serving(world) as running:

        async def calls(identity):
            for _ in range(5):
                async with dial(world, running, identity) as channel:
                    await asyncio.gather(*(ask(channel) for _ in range(4)))

        await calls(old_node)
        world.cas, world.version = [Authority.new(), *world.cas], 2
        new_ca, old_ca = world.cas
        both = world.bundle()
        running.bundle, running.identity = both, replace(running.identity, bundle=both)
        old_node = replace(old_node, bundle=both)
        new_node = world.identity(Role.NODE, "new", ca=new_ca)
        await asyncio.gather(calls(old_node), calls(new_node))

        running.identity = world.identity(Role.COORDINATOR, ca=new_ca)
        await asyncio.gather(calls(old_node), calls(new_node))

        world.cas, world.version = [new_ca], 3
        running.bundle = world.bundle()
        running.identity = replace(running.identity, bundle=running.bundle)
        await calls(new_node)
        async with dial(world, running, old_node) as channel:
            assert await refusal(channel, kind=Unreachable) == "UNREACHABLE"
    assert old_ca is not new_ca


async def test_a_renewed_server_certificate_is_shown_from_the_next_handshake(world, tmp_path):
    async def shown(running):
        context = ssl.create_default_context(cadata=to_pem([world.cas[0].cert]).decode())
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        node = world.identity(Role.NODE)
        pem = tmp_path / "node.pem"
        pem.write_bytes(node.key_pem + node.chain_pem)
        context.load_cert_chain(pem)
        host, port = running.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return der

    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as open_before:
        await ask(open_before)
        assert await shown(running) == to_der(running.identity.chain[0])
        running.identity = world.identity(Role.COORDINATOR)
        for _ in range(2):
            assert await shown(running) == to_der(running.identity.chain[0])
        await ask(open_before)


# Messages


async def test_a_call_without_a_deadline_is_refused(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(GET_BUNDLE)(b"")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "deadline" in caught.value.details()
        assert running.script.seen == []


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_unknown_exception_never_shows_its_text(world, streaming):
    method = "/rsfed.v1.FederationService/GetRelease" if streaming else GET_BUNDLE

    def fail(*_):
        raise ZeroDivisionError("/secret/path and key material")

    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        running.script.answer = fail
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, method)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error"
        assert "secret" not in repr(caught.value) + str(caught.value.trailing_metadata())


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_of_the_wrong_kind_is_an_internal_error_without_text(world, streaming):
    method = "/rsfed.v1.FederationService/GetRelease" if streaming else GET_BUNDLE
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        running.script.answer = lambda *_: "secret"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, method)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in repr(caught.value)


async def test_the_operators_detail_of_an_error_stays_at_home(world):
    def fail(*_):
        raise StateError("the disk is full", detail="/secret/path")

    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        running.script.answer = fail
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
        assert caught.value.details() == "the disk is full"
        assert "secret" not in repr(caught.value) + str(caught.value.trailing_metadata())


async def test_malformed_bytes_are_refused_as_such_and_never_reach_a_servicer(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x08", b"\x0a\x05abc", bytes([0x1B])):
            assert await refusal(channel, request=garbage, kind=InvalidMessage) == "MALFORMED"
        assert running.script.seen == []
        await ask(channel)


@pytest.mark.parametrize("name", [name for name in methods() if name.startswith("/rsfed")])
def test_random_bytes_are_malformed_or_a_message_and_nothing_else(name):
    """S14, at the size of every change: what the guard catches is all that parsing ever raises."""
    rng = random.Random(name)
    parse = GetMessageClass(methods()[name].input_type).FromString
    for _ in range(2000):
        with suppress(DecodeError):
            parse(rng.randbytes(rng.randrange(1, 40)))


async def test_random_bytes_over_the_wire_are_refused_as_malformed_or_reach_the_servicer_whole(world):
    rng = random.Random(1)
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        for number in range(200):
            announce = channel.unary_unary("/rsfed.v1.FederationService/Announce")
            data = rng.randbytes(rng.randrange(1, 40)) if number % 2 else bytes([8, rng.randrange(128)]) * number
            with suppress(InvalidMessage):
                await call(announce, data, Deadline.after(10), what="the server")


async def test_who_may_not_call_does_not_learn_whether_its_request_was_well_formed(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.ANALYST)) as channel:
        announce = "/rsfed.v1.FederationService/Announce"
        assert await refusal(channel, announce, b"\xff", kind=NotAdmitted) == "WRONG_ROLE"


async def test_a_message_of_several_megabytes_passes_both_ways(world):
    def add(server):
        async def echo(request, context):
            return request

        handler = grpc.unary_unary_rpc_method_handler(echo, bytes, bytes)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("rsfed.v1.TrainingService", {"PushResult": handler})]
        )

    method, data = "/rsfed.v1.TrainingService/PushResult", bytes(15 << 20)
    async with serving(world, prepare=add) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        assert await channel.unary_unary(method)(data, timeout=30) == data


async def test_oversized_messages_are_refused_on_both_sides(world):
    async with serving(world) as running:
        node = world.identity(Role.NODE)
        async with dial(world, running, node) as channel:
            assert await refusal(channel, request=bytes(MAX_MESSAGE_BYTES + 1), kind=InvalidMessage) == (
                "MESSAGE_TOO_LARGE"
            )
        credentials = grpc.ssl_channel_credentials(to_pem(node.bundle.cas), node.key_pem, node.chain_pem)
        options = [
            ("grpc.ssl_target_name_override", world.member(Role.COORDINATOR).dns),
            ("grpc.max_send_message_length", -1),
        ]
        async with grpc.aio.secure_channel(running.address, credentials, options=options) as careless:
            assert await refusal(careless, request=bytes(MAX_MESSAGE_BYTES + 1), kind=InvalidMessage) == (
                "MESSAGE_TOO_LARGE"
            )
        assert running.script.seen == []


async def test_a_flood_of_metadata_is_refused(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        flood = tuple((f"key-{number}", "x" * 50) for number in range(10_000))
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(GET_BUNDLE)(b"", timeout=5, metadata=flood)
        assert running.script.seen == []
        await ask(channel)


@pytest.mark.parametrize("port", sorted(UNNAMED_PORTS, key=str))
async def test_who_shows_no_certificate_sends_small_messages_only(world, port, tmp_path):
    method = ENROLL if port is Port.JOIN else "/rsfed.v1.ControlService/Notify"
    async with serving(world, port, folder=tmp_path) as running:
        ca = to_pem([world.cas[0].cert])
        open_it = {
            Port.JOIN: lambda: open_join_channel(running.address, ca, world.member(Role.COORDINATOR).dns),
            Port.CONTROL: lambda: open_control_channel(tmp_path / "control.sock"),
        }[port]
        async with open_it() as channel:
            with pytest.raises(InvalidMessage) as caught:
                await call(channel.unary_unary(method), bytes(SMALL_MESSAGE_BYTES + 1), Deadline.after(5), what="it")
            assert caught.value.reason == "MESSAGE_TOO_LARGE"
            assert running.script.seen == []
            await ask(channel, method)


# Too much at once


@pytest.mark.parametrize("method", [GET_BUNDLE, "/rsfed.v1.FederationService/GetRelease"])
async def test_nobody_is_served_longer_than_allowed_whatever_the_deadline(world, monkeypatch, method):
    monkeypatch.setattr("rsfed.transport.server.MAX_CALL_S", 0.2)
    left = []

    async def wait(_method, _request, context):
        left.append(deadline_of(context).remaining())
        await asyncio.sleep(60)

    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        running.script.answer = wait
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, method, seconds=50)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "too long" in caught.value.details()
        assert left[0] <= 0.2


async def test_more_calls_than_allowed_at_once_are_told_to_come_again(world):
    arrived, gate = asyncio.Semaphore(0), asyncio.Event()

    async def wait(*_):
        arrived.release()
        await gate.wait()

    async with serving(world, max_concurrent=2) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        running.script.answer = wait
        waiting = [asyncio.create_task(ask(channel, seconds=30)) for _ in range(2)]
        for _ in waiting:
            await arrived.acquire()
        assert await refusal(channel, kind=Busy, seconds=30) == "BUSY"
        gate.set()
        await asyncio.gather(*waiting)
        await ask(channel)


async def test_a_host_that_knocks_too_often_at_the_join_port_has_to_wait(world):
    seconds = [0.0]
    rate = RateLimit(burst=3, per_second=0.5, monotonic=lambda: seconds[0])
    async with serving(world, Port.JOIN, rate=rate) as running:
        ca = to_pem([world.cas[0].cert])
        async with open_join_channel(running.address, ca, world.member(Role.COORDINATOR).dns) as channel:
            for _ in range(3):
                await ask(channel, ENROLL)
            assert await refusal(channel, ENROLL, kind=Busy) == "RATE_LIMITED"
            seconds[0] += 2
            await ask(channel, ENROLL)
            assert await refusal(channel, ENROLL, kind=Busy) == "RATE_LIMITED"


def test_hosts_are_limited_apart_from_each_other_and_forgotten_in_time():
    rate = RateLimit(burst=1, per_second=0, monotonic=lambda: 0.0)
    for number in range(5000):
        rate.take(f"host {number}")
    with pytest.raises(Busy):
        rate.take("host 4999")
    rate.take("host 0")


# Addresses


async def test_two_servers_never_share_a_port(world):
    async with serving(world) as running:
        second = make_server(Port.FEDERATION, trust=world.bundle)
        with pytest.raises(StateError) as caught:
            bind(second, running.address, server_credentials(lambda: running.identity))
        assert caught.value.reason == "BIND"
        await second.stop(0)


async def test_the_control_socket_is_its_owners_alone_and_replaces_one_left_over(world, tmp_path):
    path = tmp_path / "control.sock"
    path.write_text("left over")
    async with serving(world, Port.CONTROL, folder=tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)


async def test_a_home_with_too_long_a_path_is_refused_with_the_remedy(tmp_path):
    server = make_server(Port.CONTROL, trust=None)
    with pytest.raises(StateError, match="shorter"):
        bind_control(server, tmp_path / ("x" * 100) / "control.sock")
    await server.stop(0)


def test_a_port_with_certificates_is_never_made_without_a_bundle():
    for port in (Port.FEDERATION, Port.NODE):
        with pytest.raises(ValueError, match="trust bundle"):
            make_server(port, trust=None)


# Health


async def test_health_says_not_serving_until_told_otherwise(world):
    switches = []
    request, status = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse
    async with serving(world, Port.NODE, prepare=lambda server: switches.append(add_health(server))) as running:
        async with dial(world, running, world.identity(Role.COORDINATOR), role=Role.NODE) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(request, timeout=5)).status == status.NOT_SERVING
            await switches[0](True)
            assert (await stub.Check(request, timeout=5)).status == status.SERVING
            await switches[0](False)
            assert (await stub.Check(request, timeout=5)).status == status.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # it would hold a place of the server for ever
                await stub.Watch(request, timeout=5).read()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        async with dial(world, running, world.identity(Role.ANALYST), role=Role.NODE) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_generated_stubs_and_servicers_work_through_the_guard(world):
    async with serving(world) as running, dial(world, running, world.identity(Role.NODE)) as channel:
        answer = await call(
            FederationServiceStub(channel).GetTrustBundle,
            BundleRequest(have_version=3),
            Deadline.after(5),
            what="the coordinator",
        )
        assert not answer.HasField("bundle")
