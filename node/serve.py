"""`rsfed node serve`: puts the parts of a running node together, and takes them apart again in order.

Nothing here waits for the coordinator: the node listens first, announces itself when it can, and goes on answering
while the coordinator is away, for as long as its trust bundle is young enough.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import timedelta

import rsfed
from node.auditing import Auditor, Kind, open_log
from node.borders import detail_of
from node.budgets import Budgets
from node.cataloguing import Cataloguer
from node.control import ControlService
from node.desk import AccessDesk
from node.encoders import MakeEncoder, torch_encoder
from node.guard import Guard
from node.handles import Handles
from node.indexing import Indexer
from node.keys import handle_key, tie_key
from node.ledger import Ledger
from node.membership import Membership
from node.publishing import Publisher
from node.refining import Refiner
from node.sealed_queries import SealedQueries
from node.search import Searcher
from node.served import Shelf
from node.service import ArchiveService
from node.state import open_state, restored_at
from node.training.puller import Puller
from node.uplink import Uplink
from rsfed.clock import Now, utc_now
from rsfed.config import NodeConfig
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.privacy.budgets import Budget
from rsfed.privacy.policy import Policies
from rsfed.telemetry import log
from rsfed.transport.loop import Stop
from rsfed.transport.server import add_health, bind, bind_control, make_server, server_credentials
from rsfed.trust.access import Port
from rsfed.trust.names import Role
from rsfed.trust.scope import LEVELS
from rsfed.v1 import archive_pb2_grpc, control_pb2, control_pb2_grpc, federation_pb2
from rsfed.v1.training_pb2_grpc import TrainingServiceStub
from rsfed.wire import PROTOCOL

DRAIN_S = 10.0  # for calls in progress
_PRUNE_S = 24 * 3600.0
_TRAINING_PAUSE_S = 60.0  # after training failed
Serving = Callable[[bool], Awaitable[None]]
"""Says whether the node is healthy."""


class NodeServer:
    """One running node; the home is locked by the caller.

    Args:
        home: The node's home.
        config: Its configuration.
        now: Wall clock.
        make_encoder: Loads encoders of releases.

    Attributes:
        port: Number of the port that the node listens at, once it runs.

    Raises:
        NotAdmitted: the home has not joined a federation, or its certificate will not do.
        StateError: the state or the audit log is damaged.
        ConfigError: the borders that the policy names will not do.
    """

    def __init__(
        self, home: Home, config: NodeConfig, *, now: Now = utc_now, make_encoder: MakeEncoder | None = None
    ) -> None:
        self._home = home
        self._config = config
        self._now = now
        self._loop = asyncio.get_running_loop()
        own = {name: each.level for name, each in config.policy.analysts.items()}
        self._policies = Policies.of(config.policy.level, own)
        self._detail = detail_of(home, config.policy)
        self._membership = Membership(home, now=now, renewed=self._trust_changed)
        with closing(open_state(home)) as connection:
            self._audit_log = open_log(home, connection, now=now())
        self._auditor = Auditor(self._audit_log, self._membership.identity, now)
        self._shelf = Shelf()
        self._swapped = asyncio.Event()
        self._indexer = Indexer(
            home,
            self._shelf,
            make_encoder or torch_encoder(config.training.threads),
            changed=self._swapped_in_thread,
            publisher=self._publisher(),
            cataloguer=self._cataloguer(),
            workers=config.archive.workers,
        )
        self._uplink = Uplink(
            home,
            self._membership,
            self._shelf,
            announcement=self._announcement,
            fetched=self._indexer.notify,
            refused=self._release_refused,
            now=now,
        )
        self._puller = Puller(home, config.training, lambda: TrainingServiceStub(self._uplink.channel()))
        self._announced = b""  # digest of the release that was announced last
        self._noted = b""  # of the one that the audit log knows of
        self._draining = False
        self.port = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then let calls in progress end."""
        connection = open_state(self._home)
        audited = self._audit_log.durable
        with (
            closing(self._audit_log),
            closing(Ledger(connection, restored_at=restored_at(connection), audited=audited)) as ledger,
            closing(self._access_desk(ledger)) as desk,
            closing(self._budgets()) as budgets,
        ):
            listening = self._listening(ledger, desk, budgets)
            async with self._controlled(), listening as serving, self._indexing() as indexing:
                await _until(stop, [*self._loops(ledger, desk, serving), asyncio.shield(indexing)])
                self._draining = True
                log.info("node.draining")
                await serving(False)
        log.info("node.stopped")

    def _access_desk(self, ledger: Ledger) -> AccessDesk:
        connection = open_state(self._home)
        return AccessDesk(
            self._home,
            connection,
            ledger=ledger,
            handles=Handles(handle_key(self._home)),
            auditor=self._auditor,
            identity=self._membership.identity,
            policies=self._policies,
            now=self._now,
            enabled=self._config.access.enabled,
            restored_at=restored_at(connection),
        )

    def _budgets(self) -> Budgets:
        budget = Budget(self._config.policy.refine_budget)
        return Budgets(self._home, open_state(self._home), budget, note=self._auditor.note, now=self._now)

    def _loops(self, ledger: Ledger, desk: AccessDesk, serving: Serving) -> list[Awaitable[None]]:
        loops: list[Awaitable[None]] = [
            self._membership.run(),
            self._uplink.announce(),
            self._uplink.follow_releases(),
            self._report_health(serving),
            self._prune(ledger, desk),
        ]
        if self._config.training.enabled:
            loops.append(self._train())
        return loops

    def _publisher(self) -> Publisher | None:
        """Return what publishes the archive for those who are answered by cells; None where nobody is."""
        policy, config = self._policies.by_cells, self._config.policy
        if policy is None:
            return None
        epoch = timedelta(hours=config.epoch_hours)
        key, countries = tie_key(self._home), self._detail.countries
        return Publisher(policy, config.cells_per_class, epoch, tie_key=key, now=self._now, countries=countries)

    def _cataloguer(self) -> Cataloguer | None:
        """Return what publishes the archive where no query is answered; None where they are."""
        if not self._policies.chosen.publishes:
            return None
        return Cataloguer(
            self._home,
            self._policies.chosen,
            self._config.policy,
            identity=self._membership.identity,
            note=self._auditor.note,
            key=tie_key(self._home),
            now=self._now,
        )

    @asynccontextmanager
    async def _listening(self, ledger: Ledger, desk: AccessDesk, budgets: Budgets) -> AsyncIterator[Serving]:
        """Listen for the coordinator; at the end let calls in progress finish."""
        identity = self._membership.identity
        searcher = Searcher(
            shelf=self._shelf,
            guard=Guard(
                self._membership.bundle,
                ledger,
                node=identity().member.name,
                policies=self._policies,
                detail=self._detail,
            ),
            handles=Handles(handle_key(self._home)),
            tie_key=tie_key(self._home),
            now=self._now,
        )
        service = ArchiveService(
            identity().member.name,
            searcher,
            self._auditor,
            self._policies,
            desk=desk,
            sealed=SealedQueries(identity, self._auditor),
            refiner=Refiner(self._shelf, searcher.guard, budgets, searcher.handles, self._now),
        )
        limit = self._config.serve.max_concurrent
        server = make_server(
            Port.NODE,
            trust=self._membership.bundle,
            now=self._now,
            max_concurrent=limit,
            refused=self._auditor.call_refused,
        )
        archive_pb2_grpc.add_ArchiveServiceServicer_to_server(service, server)
        serving = add_health(server)
        self.port = bind(server, self._config.serve.bind, server_credentials(identity))
        await server.start()
        log.info("node.listening", name=identity().member.name, port=self.port, policy=self._policies.chosen.level)
        try:
            yield serving
        finally:
            await server.stop(DRAIN_S)
            await service.close()
            await self._uplink.close()

    @asynccontextmanager
    async def _controlled(self) -> AsyncIterator[None]:
        """Listen for the other commands of this home."""
        server = make_server(Port.CONTROL, trust=None, now=self._now)
        servicer = ControlService(self._status, self._notified)
        control_pb2_grpc.add_ControlServiceServicer_to_server(servicer, server)
        bind_control(server, self._home.control_socket)
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)  # takes the socket away, too

    @asynccontextmanager
    async def _indexing(self) -> AsyncIterator[asyncio.Future[None]]:
        """Keep the index up to date in a thread; at the end wait for the batch in progress."""
        with ThreadPoolExecutor(1, thread_name_prefix="index") as pool:
            indexing = self._loop.run_in_executor(pool, self._indexer.run)
            try:
                yield indexing
            finally:
                self._indexer.stop()
                await asyncio.wait([indexing])

    async def _report_health(self, serving: Serving) -> None:
        while True:
            await self._swapped.wait()
            self._swapped.clear()
            await serving(self._shelf.served is not None)

    async def _train(self) -> None:
        """Take part in training; whatever goes wrong there must not end the search."""
        while True:
            try:
                await self._puller.run()
            except Exception as error:  # noqa: BLE001 - not even a bug in there
                log.error("training.failed", reason=getattr(error, "reason", ""), error_type=type(error).__name__)
            self._puller.busy = False
            await asyncio.sleep(_TRAINING_PAUSE_S)

    async def _prune(self, ledger: Ledger, desk: AccessDesk) -> None:
        while True:
            try:
                await asyncio.to_thread(ledger.prune, now=self._now())
                await asyncio.to_thread(desk.prune)
            except sqlite3.Error as error:  # a full disk, say: old entries do no harm
                log.error("ledger.not-pruned", error_type=type(error).__name__)
            await asyncio.sleep(_PRUNE_S)

    def _swapped_in_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._serves_something_else)

    def _serves_something_else(self) -> None:
        served = self._shelf.served
        self._swapped.set()
        if served and served.release.digest != self._announced:
            self._uplink.announce_now()
        if served and served.release.digest != self._noted:
            self._noted = served.release.digest
            self._note(Kind.RELEASE_SERVED, release=self._noted.hex(), version=served.release.manifest.version)

    def _release_refused(self, digest: bytes, reason: str) -> None:
        self._note(Kind.RELEASE_REFUSED, release=digest.hex(), reason=reason)

    def _note(self, kind: Kind, **data: object) -> None:
        """Note what happened already; where that is not possible, no query is answered either."""
        try:
            self._auditor.note(kind, **data)
        except StateError as error:
            log.error("audit.failed", reason=error.reason)

    def _trust_changed(self) -> None:
        self._uplink.trust_changed()

    def _notified(self) -> None:
        self._membership.reload()
        self._indexer.notify()
        self._puller.notify()

    def _announcement(self) -> federation_pb2.FederationServiceAnnounceRequest:
        request = federation_pb2.FederationServiceAnnounceRequest(
            address=self._config.serve.advertise,
            software=rsfed.__version__,
            protocol=PROTOCOL,
            level=LEVELS[self._policies.chosen.level],
        )
        if served := self._shelf.served:
            request.release_version = served.release.manifest.version
            request.release_digest = served.release.digest
            if (held := served.held_at(self._policies.chosen)) is not None:
                request.held = held
        self._announced = request.release_digest
        return request

    def _status(self) -> control_pb2.ControlServiceStatusResponse:
        status = control_pb2.ControlServiceStatusResponse(
            pid=os.getpid(),
            role=Role.NODE,
            name=self._membership.identity().member.name,
            pending=self._indexer.pending,
            state=self._state(),
            address=self._config.serve.bind,
            connected=self._uplink.connected,
        )
        if served := self._shelf.served:
            status.release_version = served.release.manifest.version
            status.release_digest = served.release.digest
            status.indexed = served.indexed
        return status

    def _state(self) -> str:
        if self._draining:
            return "draining"
        if self._indexer.pending:
            return "hashing"
        if self._puller.busy:
            return "training"
        return "serving" if self._shelf.served else "starting"


async def serve(home: Home, config: NodeConfig, *, starting: Callable[[], None] = lambda: None) -> int:
    """Serve until the process is asked to end.

    Args:
        home: The node's home.
        config: Its configuration.
        starting: Called once no other process serves this home.

    Returns:
        Exit code: 0 after SIGTERM, 130 after an interrupt from the keyboard.

    Raises:
        RsfedError: the node cannot start, or cannot go on.
    """
    with home.lock():
        starting()
        node = NodeServer(home, config)
        stop = Stop()
        await node.run(stop)
    return stop.exit_code


async def _until(stop: asyncio.Event, loops: Sequence[Awaitable[None]]) -> None:
    """Run loops that never end until `stop` is set; an error in one ends all and is raised."""
    tasks = [asyncio.ensure_future(each) for each in (stop.wait(), *loops)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
