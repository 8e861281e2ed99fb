"""The audit logs of the nodes as the coordinator watches them: what a node signed once, it can never unsay.

With every answer comes a signed head of the node's log. The newest is kept, and each other one must be the beginning
of it or its continuation, which the node proves on demand, beside the queries. A log that was rewritten or cut shows.
Such a node is still searched: its answers are not worse for it, but the operators have to know. Nothing is refined
there: what it had spent on that may have gone back with the log.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from coordinator.journal import Journal
from coordinator.links import NodeLink
from coordinator.live import Live
from coordinator.state import State, to_ms
from rsfed.clock import Deadline
from rsfed.errors import Busy, DeadlineExceeded, InvalidAnswer, RsfedError, TrustError, Unreachable
from rsfed.telemetry import log
from rsfed.trust.audit_head import Head, verify_head
from rsfed.trust.audit_log import Position
from rsfed.trust.merkle import HASH_BYTES, extends
from rsfed.trust.names import MemberId, Role
from rsfed.v1.archive_pb2 import ArchiveServiceProveAuditRequest, ArchiveServiceProveAuditResponse
from rsfed.v1.audit_pb2 import SignedTreeHead

FORK, ROLLBACK, UNPROVEN, NOT_GENUINE = "AUDIT_FORK", "AUDIT_ROLLBACK", "AUDIT_UNPROVEN", "AUDIT_HEAD"
_REPLACED = "AUDIT_REPLACED"  # what a node says of a log that it no longer has
_GATHER_S = 1.0  # heads of so long a time are proven together
_CALL_S = 10.0
_MOST = 500  # heads of one node that wait; more come in again with the next answers


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one node's log.

    Attributes:
        position: How far it was at the newest head.
        signed: That head as it came.
        earlier: The logs that the node says it no longer has, the oldest first.
        reason: Why the log is not believed: AUDIT_FORK, AUDIT_ROLLBACK, AUDIT_HEAD or AUDIT_UNPROVEN; "" if it is.
        contradiction: The head that does not fit, as it came; empty where there is none.
    """

    position: Position
    signed: bytes
    earlier: tuple[str, ...] = ()
    reason: str = ""
    contradiction: bytes = b""

    @property
    def settled(self) -> bool:
        """Whether the node contradicted itself: nothing that it says later changes that."""
        return self.reason in {FORK, ROLLBACK}


class HeadKeeper:
    """Takes heads as they come and checks them, node by node, until it is cancelled.

    Args:
        state: The coordinator's database.
        live: What the coordinator knows at this moment.
        link: Returns the link to a node.
        journal: Takes note of what is wrong.
    """

    def __init__(self, state: State, live: Live, link: Callable[[str], NodeLink], journal: Journal) -> None:
        self._state = state
        self._live = live
        self._link = link
        self._journal = journal
        self._waiting: dict[str, dict[bytes, SignedTreeHead]] = {}
        self._wake = asyncio.Event()

    def offer(self, node: str, head: SignedTreeHead) -> None:
        """Take the head that came with an answer of a node; an empty one where none came."""
        heads = self._waiting.setdefault(node, {})
        if len(heads) < _MOST:
            heads[head.head] = head
        self._wake.set()

    async def run(self) -> None:
        """Check what came, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            await self.check()

    async def check_not_rolled_back(self, node: str) -> None:
        """Check that a node did not contradict its audit log, as one does whose state is an older one.

        Raises:
            TrustError: AUDIT_FORK or AUDIT_ROLLBACK; until its operator has explained it.
        """
        kept = await asyncio.to_thread(self._load, node)
        if kept is not None and kept.settled:
            raise TrustError(
                "the audit log of this archive went back or contradicts itself, so nothing is refined there; its "
                "operator and the coordinator's have to deal with it",
                reason=kept.reason,
            )

    async def check(self) -> None:
        """Check what came until now; what cannot be proven just now waits on."""
        self._wake.clear()
        waiting, self._waiting = self._waiting, {}
        await asyncio.gather(*(self._check_node(node, list(heads.values())) for node, heads in waiting.items()))

    async def _check_node(self, node: str, signed: list[SignedTreeHead]) -> None:
        try:
            kept = await asyncio.to_thread(self._load, node)
            if kept is not None and kept.settled:
                return
            judged = await self._judge(node, kept, signed)
            if judged is not None and judged != kept:
                await asyncio.to_thread(self._store, node, kept, judged)
        except (Unreachable, DeadlineExceeded, Busy):
            for head in signed:
                self.offer(node, head)
        except Exception as error:  # noqa: BLE001 - whatever one node causes stays with that node
            log.error("audit.unchecked", node=node, error_type=type(error).__name__)

    async def _judge(self, node: str, kept: Kept | None, signed: list[SignedTreeHead]) -> Kept | None:
        """Return what is to be kept of a node's log after more heads came."""
        if not all(each.head for each in signed):
            return kept and replace(
                kept, reason=UNPROVEN
            )  # it signed heads before; a node that never did is old software
        signer = MemberId(self._live.bundle.federation, Role.NODE, node)
        try:
            heads = await asyncio.to_thread(self._verified, signer, signed)
        except InvalidAnswer:
            evidence = signed[-1].SerializeToString()
            return replace(kept or _nothing(), reason=NOT_GENUINE, contradiction=evidence)
        kept = kept if kept and kept.position.size else None
        for log_id in _in_order(kept, heads):
            kept = await self._follow(node, kept, [pair for pair in heads if pair[0].position.log == log_id])
            if kept.reason:
                return kept
        return kept

    def _verified(self, signer: MemberId, signed: Iterable[SignedTreeHead]) -> list[tuple[Head, SignedTreeHead]]:
        bundle, now = self._live.bundle, self._live.now()
        heads = [(verify_head(each, bundle.cas, now=now), each) for each in signed]
        if any(head.signer != signer for head, _ in heads):
            raise InvalidAnswer("the head of the audit log is another member's", reason="AUDIT_HEAD")
        return heads

    async def _follow(self, node: str, kept: Kept | None, heads: list[tuple[Head, SignedTreeHead]]) -> Kept:
        """Return what is to be kept after heads of one log, which go on from what is kept or begin a new log."""
        newest_head, newest = max(heads, key=lambda pair: pair[0].position.size)
        evidence, position = newest.SerializeToString(), newest_head.position
        if kept is not None and position.log in kept.earlier:
            return replace(kept, reason=ROLLBACK, contradiction=evidence)
        if kept is not None and position.log != kept.position.log:
            earlier, kept = tuple(dict.fromkeys((*kept.earlier, kept.position.log))), None
        else:
            earlier = kept.earlier if kept else ()
        base = kept or Kept(position, evidence, earlier)
        roots = {(each.size, each.root) for each in (base.position, *(head.position for head, _ in heads))}
        if len(roots) > len({size for size, _ in roots}):
            return replace(base, reason=FORK, contradiction=evidence)
        reason = await self._prove(node, position.log, sorted(roots))
        if reason == _REPLACED:
            return replace(base, earlier=(*earlier, position.log))
        if reason:
            return replace(base, reason=reason, contradiction=evidence)
        newer = position.size > base.position.size
        return Kept(position, evidence, earlier) if newer else replace(base, reason="", contradiction=b"")

    async def _prove(self, node: str, log_id: str, roots: Sequence[tuple[int, bytes]]) -> str:
        """Ask for the proof that these trees are each the beginning of the next; return why not, or "".

        Raises:
            Unreachable, DeadlineExceeded, Busy: it cannot be had just now.
        """
        if len(roots) == 1:
            return ""
        request = ArchiveServiceProveAuditRequest(log=bytes.fromhex(log_id), sizes=[size for size, _ in roots])
        try:
            response = await self._link(node).prove(request, Deadline.after(_CALL_S))
        except (Unreachable, DeadlineExceeded, Busy):
            raise
        except RsfedError as error:
            return {"AUDIT_SIZE": ROLLBACK, _REPLACED: _REPLACED}.get(error.reason, UNPROVEN)
        return "" if proven(roots, response) else FORK

    def _load(self, node: str) -> Kept | None:
        with self._state.reading() as connection:
            return kept_head(connection, node)

    def _store(self, node: str, before: Kept | None, kept: Kept) -> None:
        with self._state.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO audit_head VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    node,
                    kept.position.to_text(),
                    kept.signed,
                    json.dumps(kept.earlier),
                    kept.reason,
                    kept.contradiction,
                    to_ms(self._live.now()),
                ),
            )
        subject = MemberId(self._live.bundle.federation, Role.NODE, node).uri
        if kept.reason != (before.reason if before else ""):
            self._journal.note("audit.judged", subject, reason=kept.reason)
            log.error("audit.judged", node=node, reason=kept.reason)
        if before is not None and before.position.size and kept.position.log != before.position.log:
            self._journal.note("audit.restarted", subject, log=kept.position.log)
            log.warning("audit.restarted", node=node)


def proven(roots: Sequence[tuple[int, bytes]], response: ArchiveServiceProveAuditResponse) -> bool:
    """Say whether proofs show that these trees, by size and root, are each the beginning of the next."""
    pairs, proofs = list(pairwise(roots)), [_hashes(each.hashes) for each in response.proofs]
    return len(pairs) == len(proofs) and all(
        extends(*old, *new, proof) for (old, new), proof in zip(pairs, proofs, strict=True)
    )


def kept_head(connection: sqlite3.Connection, node: str) -> Kept | None:
    """Return what is kept of a node's log, or None."""
    row = connection.execute("SELECT * FROM audit_head WHERE node = ?", (node,)).fetchone()
    return None if row is None else _kept(row)


def kept_heads(connection: sqlite3.Connection) -> dict[str, Kept]:
    """Return what is kept of every node's log, by the node's name."""
    return {row["node"]: _kept(row) for row in connection.execute("SELECT * FROM audit_head")}


def forget_head(connection: sqlite3.Connection, node: str) -> Kept | None:
    """Forget what is kept of a node's log, and return it."""
    kept = kept_head(connection, node)
    connection.execute("DELETE FROM audit_head WHERE node = ?", (node,))
    return kept


def _kept(row: sqlite3.Row) -> Kept:
    return Kept(
        Position.of_text(row["position"]),
        row["signed"],
        tuple(json.loads(row["earlier"])),
        row["reason"],
        row["contradiction"],
    )


def _in_order(kept: Kept | None, heads: list[tuple[Head, SignedTreeHead]]) -> list[str]:
    """Return the logs that heads are of: the known one first, others in the order of their first head."""
    known = {} if kept is None else {kept.position.log: None}
    by_time = sorted((head for head, _ in heads), key=lambda head: head.time)
    order = known | dict.fromkeys(head.position.log for head in by_time)
    present = {head.position.log for head in by_time}
    return [each for each in order if each in present]


def _nothing() -> Kept:
    return Kept(Position("", 0, bytes(HASH_BYTES)), b"")


def _hashes(data: bytes) -> list[bytes]:
    """Split packed hashes; a part that is too short proves nothing."""
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
