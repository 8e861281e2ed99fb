"""`rsfed coordinator serve`: puts the parts together, listens, and drains when told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from coordinator.authority import Authority
from coordinator.control_service import ControlService
from coordinator.federation_service import FederationService
from coordinator.heads import HeadKeeper
from coordinator.journal import Journal
from coordinator.live import Live
from coordinator.nodes import Nodes
from coordinator.query_service import Limits, QueryService
from coordinator.releases import Publisher
from coordinator.scopes import Quotas
from coordinator.state import State
from coordinator.training.board import TaskBoard
from coordinator.training.checkpoints import Checkpoints
from coordinator.training.runs import RunDriver
from coordinator.training.service import TrainingServicer
from coordinator.upkeep import Upkeep
from rsfed.clock import Now, utc_now
from rsfed.config import CoordinatorConfig, load_config
from rsfed.errors import NotAdmitted
from rsfed.home import Home
from rsfed.telemetry import log
from rsfed.transport.loop import Stop
from rsfed.transport.server import add_health, bind, bind_control, make_server, server_credentials
from rsfed.trust.access import Port
from rsfed.trust.preflight import check_identity
from rsfed.v1.control_pb2_grpc import add_ControlServiceServicer_to_server
from rsfed.v1.federation_pb2_grpc import add_FederationServiceServicer_to_server
from rsfed.v1.query_pb2_grpc import add_QueryServiceServicer_to_server
from rsfed.v1.training_pb2_grpc import add_TrainingServiceServicer_to_server

if TYPE_CHECKING:
    import grpc

    from coordinator.links import NodeLink
    from coordinator.training.checkpoints import Base
    from coordinator.training.engine import Trained
    from rsfed.hashing.plan import TrainingPlan
    from rsfed.trust.release_store import Release

WAITING_NODES = 256  # calls beside the configured ones: every node parks one call while it waits for a training task
_LOOK_S = 1.0  # a notice that got lost costs so much
_UPKEEP_S = 60.0
_DRAIN_S = 15.0  # for calls in progress


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a running coordinator listens: host:port each."""

    federation: str
    join: str


async def serve(home: Home, *, ready: Callable[[Listening], None], now: Now = utc_now) -> int:
    """Serve the federation until SIGTERM or SIGINT.

    Args:
        home: The coordinator's home.
        ready: Called once everything listens.
        now: Wall clock.

    Returns:
        Exit code: 0 after SIGTERM, 130 after an interrupt from the keyboard.

    Raises:
        ConfigError: there is no federation here, or its configuration is wrong.
        StateError: another process serves this home, or an address cannot be used.
    """
    config = load_config(CoordinatorConfig, home.path)
    stop = Stop()
    with home.lock(), closing(State(home)) as state:
        async with Coordinator(home, state, config, now=now) as coordinator:
            ready(coordinator.listening)
            await stop.wait()
    return stop.exit_code


class Coordinator:
    """All parts of a running coordinator; used as a context, it serves inside and is drained on leaving.

    Args:
        home: The coordinator's home; the caller holds its lock.
        state: Its database.
        config: coordinator.toml.
        now: Wall clock.

    Attributes:
        listening: Where it listens, once entered.
    """

    def __init__(self, home: Home, state: State, config: CoordinatorConfig, *, now: Now = utc_now) -> None:
        self._home, self._state, self._config, self._now = home, state, config, now
        self._upkeep = Upkeep(home, state, config, now=now)
        self._upkeep.once()  # before anything listens: the own certificate may have expired meanwhile
        self._seen = state.changes()  # before anything is read, so that no change between is missed
        self._live = Live(home, state, now=now)
        self._check_certificate()
        self._journal = Journal(state, now)
        self._heads = HeadKeeper(state, self._live, self._link, self._journal)
        self._nodes = Nodes(self._live, self._heads.offer)
        self._board = TaskBoard(home.path)
        self._publisher = Publisher(home, state, config.federation, now=now)
        self._driver = RunDriver(
            state,
            partial(load_config, CoordinatorConfig, home.path),
            self._board,
            starting=self._publisher.start,
            publish=self._publish,
            checkpoints=Checkpoints(home, state),
            trunk=self._publisher.trunk,
            now=now,
        )
        self._draining = False
        self._federation, self._join, self._control = self._make_servers()
        self._serving = add_health(self._federation)
        self._work: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Coordinator:
        """Listen, then say so through health."""
        for server in (self._control, self._join, self._federation):
            await server.start()
        self._work = [
            asyncio.create_task(_every(_LOOK_S, self._look)),
            asyncio.create_task(_every(_UPKEEP_S, self._keep_up)),
            asyncio.create_task(_every(_LOOK_S, self._driver.run)),
            asyncio.create_task(self._heads.run()),
        ]
        self._writing = asyncio.create_task(self._journal.run())
        await self._serving(True)
        log.info("serve.started", address=self.listening.federation)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take no new work, let calls in progress end, write what is left."""
        self._draining = True
        log.info("serve.draining")
        await self._serving(False)
        self._board.stop()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await asyncio.gather(*(server.stop(_DRAIN_S) for server in (self._federation, self._join, self._control)))
        await self._nodes.close()
        self._journal.stop()
        await self._writing
        self._home.control_socket.unlink(missing_ok=True)
        log.info("serve.stopped")

    def _make_servers(self) -> tuple[grpc.aio.Server, grpc.aio.Server, grpc.aio.Server]:
        serve = self._config.serve
        authority = Authority(self._home, self._state, self._config, now=self._now)
        members = FederationService(self._live, authority, self._nodes, serve.advertise)
        limits = Limits(self._config.query.deadline_s, serve.max_concurrent)
        quotas = Quotas(self._state, self._now)
        queries = QueryService(self._live, self._nodes, self._journal, quotas, limits, heads=self._heads)

        federation = make_server(
            Port.FEDERATION,
            trust=lambda: self._live.bundle,
            now=self._now,
            max_concurrent=serve.max_concurrent + WAITING_NODES,
            refused=self._journal.call_refused,
        )
        add_FederationServiceServicer_to_server(members, federation)
        add_QueryServiceServicer_to_server(queries, federation)
        add_TrainingServiceServicer_to_server(TrainingServicer(self._board), federation)
        port = bind(federation, serve.bind, server_credentials(lambda: self._live.identity))

        join = make_server(Port.JOIN, trust=None, now=self._now, max_concurrent=serve.max_concurrent)
        add_FederationServiceServicer_to_server(members, join)
        open_to_all = server_credentials(lambda: self._live.identity, client_certificates=False)
        join_port = bind(join, serve.join_bind, open_to_all)

        self.listening = Listening(_with_port(serve.bind, port), _with_port(serve.join_bind, join_port))
        control = make_server(Port.CONTROL, trust=None, now=self._now)
        add_ControlServiceServicer_to_server(
            ControlService(self._live, self.listening.federation, self._doing, self._changed), control
        )
        bind_control(control, self._home.control_socket)
        return federation, join, control

    def _link(self, node: str) -> NodeLink:
        return self._nodes.link(node)

    def _doing(self) -> str:
        if self._draining:
            return "draining"
        return "serving" if self._driver.running is None else "training"

    def _publish(self, plan: TrainingPlan, trained: Trained, before: Base | None) -> Release:
        release = self._publisher.publish_trained(plan, trained, before)
        self._live.reload()
        return release

    async def _changed(self) -> None:
        """Read the state again, after this or another process changed it."""
        await asyncio.to_thread(self._live.reload)
        self._nodes.reload()
        self._driver.wake()

    def _check_certificate(self) -> None:
        """Say why no node will believe this coordinator, if so: in a handshake it would look like absent nodes."""
        try:
            check_identity(self._live.identity, now=self._now())
        except NotAdmitted as error:
            log.error("certificate.unfit", reason=error.reason)

    async def _look(self) -> None:
        """Notice that another command changed the state, although its notice may have got lost."""
        if (changes := await asyncio.to_thread(self._state.changes)) != self._seen:
            await self._changed()
            self._seen = changes

    async def _keep_up(self) -> None:
        if await asyncio.to_thread(self._upkeep.once):
            await self._changed()


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Do a step again and again, whatever becomes of it: without these loops no revocation would be heard of."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - a full disk or a bug of ours; the next try may do better
            log.error("serve.step_failed", error_type=type(error).__name__)


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
