"""The nodes of the federation as they can be asked now: links, health, fan-out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from coordinator.breaker import Breaker
from coordinator.fanout import Asking, FanOut
from coordinator.links import LinkPool, NodeLink, OnHead
from coordinator.live import Live
from coordinator.registry import Announcement
from rsfed.clock import Deadline
from rsfed.errors import NotAdmitted, RsfedError, UnknownHandle
from rsfed.merging.queries import Gathered
from rsfed.telemetry import log
from rsfed.trust.scope import EVERYTHING, Scope
from rsfed.v1.outcome_pb2 import NODE_STATUS_REFUSED, NodeOutcome

_PROBE_S = 5.0


class Nodes:
    """Reaches the registered nodes.

    Args:
        live: What the coordinator knows at this moment.
        on_head: Given the heads of the nodes' audit logs that come with answers.
    """

    def __init__(self, live: Live, on_head: OnHead) -> None:
        self._live = live
        self._pool = LinkPool(lambda: live.identity, on_head)
        self._breaker = Breaker()
        self._fan_out = FanOut(self._breaker)
        self._probes: dict[str, asyncio.Task[bool]] = {}

    async def ask(
        self,
        asking: Asking,
        deadline: Deadline,
        scope: Scope,
        on_outcome: Callable[[NodeOutcome], None] = lambda _: None,
    ) -> Gathered:
        """Ask the registered nodes that the scope allows, as `FanOut.ask` does; of the others it says so."""
        links, refused = {}, []
        for node in self._live.registry.nodes():
            try:
                scope.check_node(node.name, node.level)
                links[node.name] = self._pool.link(node)
            except NotAdmitted as error:
                refused.append(NodeOutcome(node=node.name, status=NODE_STATUS_REFUSED, reason=error.reason))
                on_outcome(refused[-1])
        gathered = await self._fan_out.ask(links, asking, deadline, on_outcome)
        gathered.outcomes = sorted([*gathered.outcomes, *refused], key=lambda outcome: outcome.node)
        return gathered

    def link(self, name: str, scope: Scope = EVERYTHING) -> NodeLink:
        """Return the link to one registered node.

        Raises:
            UnknownHandle: there is no such node.
            NotAdmitted: the scope does not allow it.
        """
        node = self._live.registry.get(name)
        if node is None:
            raise UnknownHandle("the federation has no such node", reason="UNKNOWN_NODE")
        scope.check_node(node.name, node.level)
        return self._pool.link(node)

    def announced(self, node: Announcement) -> None:
        """Warm up the link to a node that announced itself, and see at once whether an ejected one is well again."""
        self._pool.warm_up(node)
        if self._breaker.ejected(node.name, time.monotonic()) and node.name not in self._probes:
            probe = asyncio.create_task(self.dial(node, Deadline.after(_PROBE_S)))
            self._probes[node.name] = probe
            probe.add_done_callback(lambda _: self._probes.pop(node.name, None))

    async def dial(self, node: Announcement, deadline: Deadline) -> bool:
        """Say whether a node answers under its name at its announced address; if so, the next query tries it."""
        try:
            await self._pool.link(node).describe(deadline)
        except RsfedError as error:
            log.info("node.unreachable", node=node.name, reason=error.reason)
            return False
        self._breaker.found_well(node.name, time.monotonic())
        return True

    def reload(self) -> None:
        """Close the links to nodes that left the federation."""
        gone = self._pool.keep_only({node.name for node in self._live.registry.nodes()})
        for name in gone:
            self._breaker.forget(name)

    async def close(self) -> None:
        """Close all links."""
        for probe in list(self._probes.values()):
            probe.cancel()
        await self._pool.close()
