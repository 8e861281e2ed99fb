"""A Flower `Grid` whose nodes are apps in this process: each message is answered as it is sent, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from rsfed.errors import RsfedError

_RUN = 1
_NO_RESULT = 0  # Flower's code of an error without a code of its own


class LocalGrid(Grid):  # type: ignore[misc]  # flwr is untyped
    """Hands messages to apps; their records are bytes that nobody changes, so nodes may share them.

    Flower stamps messages with a process-wide identity, so one grid at a time is used in a process.

    Args:
        apps: The app of each node; their numbers count from 1.
    """

    def __init__(self, apps: Sequence[Callable[[Message, Context], Message]]) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, 1, _RUN
        self._apps = dict(enumerate(apps, start=1))
        self._replies: dict[str, Message] = {}
        self._pushed = 0
        self._run: object = None

    @property
    def run(self) -> object:
        """What Flower knows of the run."""
        return self._run

    def set_run(self, run: object) -> None:
        """Keep what Flower knows of the run."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """Return the numbers of the nodes."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have messages answered and return the ids of the replies."""
        ids = []
        for message in messages:
            self._pushed += 1
            ids.append(str(self._pushed))
            self._replies[ids[-1]] = self._answer(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return replies by their ids."""
        return [self._replies.pop(each) for each in message_ids]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the replies in the order of the messages; an app in this process is never late."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        """Have one node answer; what it refuses is an error with a closed reason, as from a node far away."""
        number = message.metadata.dst_node_id
        context = Context(run_id=_RUN, node_id=number, node_config={}, state=RecordDict(), run_config={})
        try:
            return self._apps[number](message, context)
        except RsfedError as error:
            return Message(Error(_NO_RESULT, error.reason), reply_to=message)
