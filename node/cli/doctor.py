"""`rsfed node doctor`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from node.cli.control import serve_status
from node.cli.options import DEFAULT_HOME, HomeOption, Output, OutputOption, node_home
from rsfed.errors import ExitCode

if TYPE_CHECKING:
    from node.doctor import Coordinator, Finding
    from rsfed.config import NodeConfig
    from rsfed.home import Home
    from rsfed.v1.control_pb2 import ControlServiceStatusResponse
    from rsfed.v1.federation_pb2 import FederationServiceAnnounceRequest

_PATIENCE_S = 20.0  # the coordinator tries to dial back meanwhile


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("doctor")(doctor)


def doctor(home: HomeOption = DEFAULT_HOME, output: OutputOption = Output.TABLE) -> None:
    """Check what may keep this node from working, and say what to do about it. Exits with 1 when a check fails.

    Run it while serve runs: only then can the coordinator try to dial this node.
    """
    from node.doctor import Verdict, coordinator_findings, local_findings  # noqa: PLC0415 - loaded only when used
    from rsfed.config import NodeConfig, load_config  # noqa: PLC0415 - loaded only when used

    place = node_home(home)
    config = load_config(NodeConfig, place.path)
    serve = serve_status(place)
    findings = [
        *local_findings(place, config, serve_connected=serve and serve.connected),
        *coordinator_findings(lambda: asyncio.run(_ask_coordinator(place, config, serve))),
    ]
    typer.echo(json.dumps([asdict(each) for each in findings], indent=1) if output is Output.JSON else _table(findings))
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(ExitCode.FAILURE)


async def _ask_coordinator(home: Home, config: NodeConfig, serve: ControlServiceStatusResponse | None) -> Coordinator:
    """Announce what `serve` announces, but for its holdings, and ask to be dialled; else ask for the clock alone."""
    from datetime import UTC  # noqa: PLC0415 - loaded only when used

    from node.doctor import Coordinator  # noqa: PLC0415 - loaded only when used
    from rsfed.clock import Deadline, utc_now  # noqa: PLC0415 - loaded only when used
    from rsfed.transport.channel import call, open_channel  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.identity import load_federation, load_identity  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.preflight import check_identity  # noqa: PLC0415 - loaded only when used
    from rsfed.v1 import federation_pb2  # noqa: PLC0415 - loaded only when used
    from rsfed.v1.federation_pb2_grpc import FederationServiceStub  # noqa: PLC0415 - loaded only when used

    identity, federation = load_identity(home.identity), load_federation(home.identity)
    check_identity(identity, now=utc_now())
    async with open_channel(federation.address, identity, federation.coordinator) as channel:
        request, before = _announcement(config, serve), utc_now()
        request.clock.FromDatetime(before)
        stub = FederationServiceStub(channel)
        answer = await call(stub.Announce, request, Deadline.after(_PATIENCE_S), what="the coordinator")
        dialled = {federation_pb2.DIAL_BACK_REACHED: True, federation_pb2.DIAL_BACK_FAILED: False}
        return Coordinator(answer.clock.ToDatetime(UTC), (before, utc_now()), dialled.get(answer.dial_back))


def _announcement(config: NodeConfig, serve: ControlServiceStatusResponse | None) -> FederationServiceAnnounceRequest:
    import rsfed  # noqa: PLC0415 - loaded only when used
    from rsfed.trust.scope import LEVELS  # noqa: PLC0415 - loaded only when used
    from rsfed.v1.federation_pb2 import FederationServiceAnnounceRequest  # noqa: PLC0415 - loaded only when used
    from rsfed.wire import PROTOCOL  # noqa: PLC0415 - loaded only when used

    request = FederationServiceAnnounceRequest(software=rsfed.__version__, protocol=PROTOCOL)
    if serve is not None:
        request.address = config.serve.advertise
        request.level = LEVELS[config.policy.level]
        request.release_version = serve.release_version
        request.release_digest = serve.release_digest
        request.dial_back = True
    return request


def _table(findings: list[Finding]) -> str:
    rows = [f"{each.verdict:<6}{each.check:<14}{each.found}{_remedy(each)}" for each in findings]
    return "\n".join(rows)


def _remedy(finding: Finding) -> str:
    reason = f" [{finding.reason}]" if finding.reason else ""
    return f"{reason}\n{'':<20}-> {finding.remedy}" if finding.remedy else reason
