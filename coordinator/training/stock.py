"""The coordinator's `ServerApp` on the stock Flower engine: the same rounds over the SuperLink's grid.

It runs beside the SuperLink with `--run-config 'home="DIR" rounds=10 min-nodes=2'`: plan and start come from the
coordinator's home, and the release goes there, where a running `serve` hands it to the members.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from coordinator.releases import Publisher
from coordinator.state import State
from coordinator.training.blob import Blob
from coordinator.training.checkpoints import Progress
from coordinator.training.engine import train
from coordinator.training.grid import Exchange, error_reply
from coordinator.training.rules import Rules
from coordinator.training.runs import make_plan
from rsfed.config import CoordinatorConfig, load_config
from rsfed.errors import ConfigError
from rsfed.home import Home

WARNING = (
    "on this engine whoever may start a run ships code to all its nodes: only a proxy that passes /v1/fleet/ may face "
    "them (docs/stock-flower.md)"
)
_log = logging.getLogger("flwr")  # which `flwr run --stream` and `flwr log` show

app = ServerApp()


def main(grid: Grid, context: Context) -> None:
    """Train as coordinator.toml says and publish the release.

    Raises:
        ConfigError: the home is not named, or is none.
        TrainingError: TOO_FEW_NODES, NO_RESULT.
    """
    _log.warning(WARNING)
    settings = context.run_config
    home = _home(settings)
    config = load_config(CoordinatorConfig, home.path)
    with closing(State(home)) as state:
        publisher = Publisher(home, state, config.federation)
        plan = make_plan(config, int(settings["rounds"]) or config.pace.rounds, publisher.trunk())
        start = publisher.start(plan)
        trained = train(
            SuperLinkGrid(grid),
            plan,
            Progress(weights=start.weights),
            run_id=context.run_id,
            strategy=config.averages_by,
            rules=Rules.of(config.training, int(settings["min-nodes"])),
            note=_note,
        )
        release = publisher.publish_trained(plan, trained, start.based_on)
    _note("released", {"version": release.manifest.version, "digest": release.digest.hex()})


class SuperLinkGrid:
    """The grid of a SuperLink, with what a run asks beside Flower's calls; nodes have numbers in place of names.

    Args:
        grid: The SuperLink's.

    Attributes:
        exchanges: Always empty: what moved, the SuperLink does not tell.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.exchanges: dict[str, Exchange] = {}

    def get_node_ids(self) -> list[int]:
        """Return the numbers of the nodes that are connected."""
        return list(self._grid.get_node_ids())

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies.

        Returns:
            Replies in the order of the nodes' numbers, so that no sum depends on who was the fastest. Where a node is
            gone the SuperLink answers in its own name; here that is an error of the node.
        """
        asked = list(messages)
        replies = list(self._grid.send_and_receive(asked, timeout=timeout))
        by_id = {message.metadata.message_id: message for message in asked}
        nodes = {message.metadata.dst_node_id for message in asked}
        own = [reply for reply in replies if reply.metadata.src_node_id in nodes]
        gone = [
            by_id[reply.metadata.reply_to_message_id] for reply in replies if reply.metadata.src_node_id not in nodes
        ]
        own += [error_reply(message, "NODE_GONE") for message in gone]
        return sorted(own, key=lambda reply: reply.metadata.src_node_id)

    def name_of(self, node: int) -> str:
        """Return the number as text."""
        return str(node)

    def wait(self, seconds: float) -> None:
        """Let time pass for nodes to come."""
        time.sleep(seconds)

    def aside(self, data: bytes) -> Blob:
        """Put bytes aside until they are let go."""
        return Blob.of(data)


def _home(settings: dict[str, Any]) -> Home:
    if not settings.get("home"):
        raise ConfigError("the run does not say where the coordinator is; run it with --run-config 'home=\"DIR\"'")
    return Home(Path(str(settings["home"])))


def _note(kind: str, data: dict[str, Any]) -> None:
    """Tell an event in the form of `rsfed coordinator train --output json`, but for what is not known here."""
    told = {key: value for key, value in data.items() if key not in {"sent_bytes", "received_bytes"}}
    _log.info("%s", json.dumps({"event": kind} | told))


app.main()(main)
