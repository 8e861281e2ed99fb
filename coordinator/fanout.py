"""One query to all nodes at once. No node, however slow, broken or dishonest, touches the answers of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from coordinator.breaker import Breaker
from coordinator.links import NodeLink
from coordinator.offload import sized
from rsfed.clock import Deadline
from rsfed.errors import Busy, DeadlineExceeded, EnvelopeRefused, InvalidAnswer, RsfedError, StaleRelease, Unreachable
from rsfed.merging.answers import NodeAnswer, Question
from rsfed.merging.queries import Gathered, outcome_of
from rsfed.merging.validate import rows_of, validate
from rsfed.telemetry import log
from rsfed.trust.envelope import filter_names
from rsfed.v1 import outcome_pb2 as pb
from rsfed.v1.archive_pb2 import ArchiveServiceSearchRequest
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
        query: SignedEnvelope,
        question: Question,
        deadline: Deadline,
        on_outcome: Callable[[pb.NodeOutcome], None] = lambda _: None,
    ) -> Gathered:
        """Ask all nodes and wait until each has an outcome.

        Args:
            links: The registered nodes by name.
            query: The analyst's query, passed on unchanged.
            question: The same, verified.
            deadline: When the analyst wants the answer.
            on_outcome: Told of each outcome as it arrives.
        """
        due = deadline.less(WAY_BACK_S)
        gathered = Gathered()

        async def ask_one(name: str, link: NodeLink) -> None:
            outcome, answer = await self._ask_one(name, link, query, question, due)
            self._judge(outcome, len(links))
            if answer is not None:
                gathered.answers[name] = answer
            gathered.outcomes.append(outcome)
            on_outcome(outcome)

        async with asyncio.TaskGroup() as group:
            for name, link in links.items():
                group.create_task(ask_one(name, link))
        gathered.outcomes.sort(key=lambda outcome: outcome.node)
        return gathered

    async def _ask_one(
        self, name: str, link: NodeLink, query: SignedEnvelope, question: Question, due: Deadline
    ) -> tuple[pb.NodeOutcome, NodeAnswer | None]:
        """Ask one node and return its outcome, with its answer if it is valid; no error gets out of here."""
        started, answer = self._monotonic(), None
        if self._breaker.ejected(name, started):
            return pb.NodeOutcome(node=name, status=pb.NODE_STATUS_EJECTED, reason="EJECTED"), None
        try:
            async with asyncio.timeout(due.remaining()):
                request = ArchiveServiceSearchRequest(query=query, remaining_ms=int(due.remaining() * 1000))
                response = await link.search(request, due)
                answer = await sized(rows_of(response), validate, response, question)
            outcome = outcome_of(name, answer, question)
        except TimeoutError:
            outcome = _failure(name, DeadlineExceeded("the node did not answer in time"))
        except RsfedError as error:
            outcome = _failure(name, error)
        except Exception as error:  # noqa: BLE001 - whatever one node causes stays with that node
            log.error("node.failed", node=name, error_type=type(error).__name__)
            outcome = _failure(name, RsfedError("internal error"))
        outcome.elapsed.FromTimedelta(timedelta(seconds=self._monotonic() - started))
        return outcome, answer

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
    return outcome
