"""One query to all nodes at once. No node, however slow, broken or dishonest, touches the answers of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from coordinator.breaker import Breaker
from coordinator.links import NodeLink
from coordinator.offload import sized
from rsfed.clock import Deadline
from rsfed.errors import (
    Busy,
    DeadlineExceeded,
    EnvelopeRefused,
    InvalidAnswer,
    NotAdmitted,
    RsfedError,
    StaleRelease,
    Unreachable,
    WithheldByPolicy,
)
from rsfed.merging.answers import Question
from rsfed.merging.queries import Gathered, outcome_of
from rsfed.merging.validate import rows_of, validate
from rsfed.telemetry import log
from rsfed.trust.envelope import filter_names
from rsfed.trust.scope import LEVELS
from rsfed.v1 import outcome_pb2 as pb
from rsfed.v1.archive_pb2 import ArchiveServiceSearchRequest, ArchiveServiceSearchResponse
from rsfed.v1.envelope_pb2 import SignedEnvelope

WAY_BACK_S = 0.05  # of the caller's time, kept for merging and the answer
FAIR_S = 0.9  # a node that had less time than this is not blamed for being late
_STATUS: tuple[tuple[type[RsfedError], pb.NodeStatus.ValueType], ...] = (
    (Unreachable, pb.NODE_STATUS_UNREACHABLE),
    (DeadlineExceeded, pb.NODE_STATUS_TIMED_OUT),
    (Busy, pb.NODE_STATUS_BUSY),
    (StaleRelease, pb.NODE_STATUS_STALE_RELEASE),
    (InvalidAnswer, pb.NODE_STATUS_INVALID),
    (RsfedError, pb.NODE_STATUS_REFUSED),
)
_FAILED = {pb.NODE_STATUS_UNREACHABLE, pb.NODE_STATUS_INVALID}
_NO_VERDICT = {pb.NODE_STATUS_BUSY, pb.NODE_STATUS_EJECTED}  # say neither that a node is well nor that it is not


class Asking(Protocol):
    """What is asked of the nodes."""

    def request(self, node: str) -> ArchiveServiceSearchRequest:
        """Return what a node gets, but for the time that it has."""
        ...

    async def take(self, node: str, response: ArchiveServiceSearchResponse, gathered: Gathered) -> pb.NodeOutcome:
        """Keep a node's answer and say how it took part.

        Raises:
            InvalidAnswer: it breaks a rule.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenQuery:
    """A query whose answers are merged here.

    Attributes:
        query: The analyst's query, passed on unchanged.
        question: The same, verified.
    """

    query: SignedEnvelope
    question: Question

    def request(self, node: str) -> ArchiveServiceSearchRequest:
        """Return the query, the same for every node."""
        del node
        return ArchiveServiceSearchRequest(query=self.query)

    async def take(self, node: str, response: ArchiveServiceSearchResponse, gathered: Gathered) -> pb.NodeOutcome:
        """Validate an answer."""
        answer = await sized(rows_of(response), validate, response, self.question)
        gathered.answers[node] = answer
        return outcome_of(node, answer, self.question)


@dataclass(frozen=True, slots=True)
class ClosedQuery:
    """A query that is sealed for each node, whose answers only the analyst can read.

    Attributes:
        parts: What each node can open, by its name.
    """

    parts: Mapping[str, bytes]

    def request(self, node: str) -> ArchiveServiceSearchRequest:
        """Return the part of a node.

        Raises:
            NotAdmitted: NO_SEALING_KEY, the analyst had no key of it.
        """
        if node not in self.parts:
            raise NotAdmitted("the query is not sealed for this node", reason="NO_SEALING_KEY")
        return ArchiveServiceSearchRequest(sealed_query=self.parts[node])

    async def take(self, node: str, response: ArchiveServiceSearchResponse, gathered: Gathered) -> pb.NodeOutcome:
        """Keep an answer unread."""
        if not response.sealed_answer:
            raise InvalidAnswer("the node's answer was dropped: it is not sealed")
        gathered.sealed[node] = response.sealed_answer
        return pb.NodeOutcome(node=node, status=pb.NODE_STATUS_SEALED)


class FanOut:
    """Sends queries to nodes and remembers how they fared.

    Args:
        breaker: Leaves out nodes that fail again and again.
        monotonic: Clock in seconds.
    """

    def __init__(self, breaker: Breaker, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._breaker = breaker
        self._monotonic = monotonic

    async def ask(
        self,
        links: Mapping[str, NodeLink],
        asking: Asking,
        deadline: Deadline,
        on_outcome: Callable[[pb.NodeOutcome], None] = lambda _: None,
    ) -> Gathered:
        """Ask all nodes and wait until each has an outcome.

        Args:
            links: The registered nodes by name.
            asking: What each node gets, and what its answer must be.
            deadline: When the analyst wants the answer.
            on_outcome: Told of each outcome as it arrives.
        """
        due = deadline.less(WAY_BACK_S)
        gathered = Gathered()

        async def ask_one(name: str, link: NodeLink) -> None:
            outcome = await self._ask_one(name, link, asking, due, gathered)
            self._judge(outcome, len(links))
            gathered.outcomes.append(outcome)
            on_outcome(outcome)

        async with asyncio.TaskGroup() as group:
            for name, link in links.items():
                group.create_task(ask_one(name, link))
        gathered.outcomes.sort(key=lambda outcome: outcome.node)
        return gathered

    async def _ask_one(
        self, name: str, link: NodeLink, asking: Asking, due: Deadline, gathered: Gathered
    ) -> pb.NodeOutcome:
        """Ask one node, keep its answer if it is valid, and return its outcome; no error gets out of here."""
        started = self._monotonic()
        if self._breaker.ejected(name, started):
            return pb.NodeOutcome(node=name, status=pb.NODE_STATUS_EJECTED, reason="EJECTED")
        try:
            async with asyncio.timeout(due.remaining()):
                request = asking.request(name)
                request.remaining_ms = int(due.remaining() * 1000)
                outcome = await asking.take(name, await link.search(request, due), gathered)
        except TimeoutError:
            outcome = _failure(name, DeadlineExceeded("the node did not answer in time"))
        except RsfedError as error:
            outcome = _failure(name, error)
        except Exception as error:  # noqa: BLE001 - whatever one node causes stays with that node
            log.error("node.failed", node=name, error_type=type(error).__name__)
            outcome = _failure(name, RsfedError("internal error"))
        outcome.elapsed.FromTimedelta(timedelta(seconds=self._monotonic() - started))
        return outcome

    def _judge(self, outcome: pb.NodeOutcome, nodes: int) -> None:
        """Tell the breaker what an outcome says about the node's health."""
        now = self._monotonic()
        late = outcome.status == pb.NODE_STATUS_TIMED_OUT
        if outcome.status in _FAILED or (late and outcome.elapsed.ToTimedelta().total_seconds() >= FAIR_S):
            self._breaker.failed(outcome.node, now, nodes)
        elif not late and outcome.status not in _NO_VERDICT:
            self._breaker.succeeded(outcome.node, now)


def _failure(name: str, error: RsfedError) -> pb.NodeOutcome:
    status = next(status for cls, status in _STATUS if isinstance(error, cls))
    outcome = pb.NodeOutcome(node=name, status=status, reason=error.reason)
    if isinstance(error, EnvelopeRefused):
        fields = pb.FilterField.values()[1:]  # the first is none
        outcome.unfilterable.extend(field for field in fields if filter_names([field])[0] in error.fields)
    if isinstance(error, WithheldByPolicy):
        outcome.level = LEVELS.get(error.level, pb.POLICY_LEVEL_UNSPECIFIED)
    return outcome
