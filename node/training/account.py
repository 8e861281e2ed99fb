"""What the operator of a node is told of training: whether it takes part, what was asked of it and what it sent."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from node.state import open_state
from node.training import consent, journal
from rsfed.config import NodeConfig, load_config
from rsfed.home import Home


@dataclass(frozen=True, slots=True)
class Account:
    """What is told.

    Attributes:
        enabled: What node.toml says.
        paused: Whether the operator paused training.
        refused_runs: Numbers of the runs that the operator refused, rising.
        tasks: The last tasks, the newest first.
    """

    enabled: bool
    paused: bool
    refused_runs: list[int]
    tasks: list[journal.Entry]

    def as_json(self) -> dict[str, Any]:
        """Return it in the form of `--output json`."""
        tasks = [asdict(task) | {"time": task.time.isoformat()} for task in self.tasks]
        return {"enabled": self.enabled, "paused": self.paused, "refused_runs": self.refused_runs, "tasks": tasks}

    def words(self) -> list[str]:
        """Return in words what the operator said."""
        lines = [f"this node takes {'part' if self.enabled and not self.paused else 'no part'} in training"]
        if not self.enabled:
            lines.append("node.toml says training.enabled = false")
        if self.paused:
            lines.append("paused: no new task is taken until `rsfed node train resume`")
        if self.refused_runs:
            lines.append(f"refused runs: {', '.join(map(str, self.refused_runs))}")
        return lines


def account(home: Home, limit: int) -> Account:
    """Read what is told, with the last tasks.

    Args:
        home: The node's home.
        limit: How many tasks.

    Raises:
        ConfigError: there is no node here, or node.toml will not do.
    """
    enabled = load_config(NodeConfig, home.path).training.enabled
    with closing(open_state(home)) as connection:
        paused, refused = consent.is_paused(connection), consent.refused_runs(connection)
        return Account(enabled, paused, refused, journal.entries(connection, limit))


def task_line(task: journal.Entry) -> str:
    """Return in one line what a task asked for and what was sent."""
    asked = "" if task.objective is None else f" ({task.objective}, {task.steps} steps)"
    sent = "nothing sent" if task.sent_digest is None else f"{task.sent_bytes} bytes sent, {task.sent_digest[:12]}"
    return f"run {task.run} round {task.round} {task.kind}{asked}: {task.state}, {sent}"
