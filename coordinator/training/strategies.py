"""The strategies of a run: Flower's own classes, chosen by `[strategy]`, with what they carry from round to round.

Those that average do it as results come, with one running mean: Flower's own averaging first collects all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)
from numpy.typing import NDArray

from coordinator.training.arrays import record_of, view
from rsfed.config_strategies import StrategySection
from rsfed.errors import ConfigError
from rsfed.hashing.plan import EXAMPLES, METRICS


class StreamedAvg(FedAvg):  # type: ignore[misc]  # flwr stays untyped behind this folder
    """FedAvg that takes results one by one and lets go of each; put before FedAvg, it does so for its subclasses."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean of the weights that come, each by its patches; no metrics."""
        mean: dict[str, NDArray[np.float32]] = {}
        seen = 0.0
        for reply in replies:
            examples = float(reply.content[METRICS][self.weighted_by_key])
            seen += examples
            for name, array in reply.content[self.arrayrecord_key].items():
                if name in mean:
                    step = view(array) - mean[name]
                    step *= np.float32(examples / seen)
                    mean[name] += step
                else:
                    mean[name] = np.array(view(array))
            del reply, array  # or this result would be held while the next one is read
        return (record_of(mean.items()) if mean else None), None


class StreamedProx(FedProx, StreamedAvg):  # type: ignore[misc]
    """FedProx that takes results one by one."""


class StreamedAdam(FedAdam, StreamedAvg):  # type: ignore[misc]
    """FedAdam that takes results one by one."""


class StreamedYogi(FedYogi, StreamedAvg):  # type: ignore[misc]
    """FedYogi that takes results one by one."""


class StreamedAvgM(FedAvgM, StreamedAvg):  # type: ignore[misc]
    """FedAvgM that takes results one by one, and takes its step array by array."""

    current_arrays: ArrayRecord
    momentum_vector: list[NDArray[np.float32]] | None

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the weights after a step with momentum, as FedAvgM computes it; no metrics."""
        mean, _ = StreamedAvg.aggregate_train(self, server_round, replies)
        if mean is None or not self.server_opt:
            return mean, None
        kept, momentum = self.momentum_vector, []
        new = ArrayRecord()
        for position, (name, before) in enumerate(self.current_arrays.items()):
            step = view(before) - view(mean.pop(name))
            if kept is not None:
                step += self.server_momentum * kept[position]
            momentum.append(step)
            new[name] = Array(np.asarray(view(before) - self.server_learning_rate * step))
        self.current_arrays = new
        self.momentum_vector = momentum if self.server_momentum > 0 else None
        return new, None


STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": StreamedAvg,
    "fedprox": StreamedProx,
    "fedavgm": StreamedAvgM,
    "fedadam": StreamedAdam,
    "fedyogi": StreamedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}
_STREAMED = 6  # copies of the model in a round that looks at one result at a time
_MOMENT_COPIES = 8  # more, where Flower computes moments and weights in double precision
_COPIES = {  # of each result, in the strategies that compare all of them
    "fedmedian": 1, "fedtrimmedavg": 1, "krum": 3, "multikrum": 3, "bulyan": 3,
}  # fmt: skip
_MOMENTS = ("m_t", "v_t")  # of FedAdam and FedYogi, by name of the weights
_MOMENTUM = "momentum"  # of FedAvgM, in the order of the weights

StrategyState = dict[str, NDArray[Any]]
"""What a strategy carries from round to round, by name."""


def make_strategy(section: StrategySection, *, fraction: float, min_nodes: int) -> FedAvg:
    """Return a strategy as it is before the first round.

    Args:
        section: Which, and its options.
        fraction: Share of the present nodes that a round asks.
        min_nodes: Nodes that it asks at least.

    Raises:
        ConfigError: of so few its rule would be the plain mean, or would fail.
    """
    if min_nodes < section.least_nodes:
        raise ConfigError(
            f"strategy {section.name} with these options needs {section.least_nodes} nodes in every round, and the run "
            f"was asked for with {min_nodes}; train with --nodes {section.least_nodes}"
        )
    return STRATEGIES[section.name](
        fraction_train=fraction,
        fraction_evaluate=1.0,
        min_train_nodes=min_nodes,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=EXAMPLES,
        **section.model_dump(exclude={"name"}),
    )


def copies_held(section: StrategySection, nodes: int) -> int:
    """Return how many times the model a round holds in memory at most, measured with some margin.

    Args:
        section: The strategy.
        nodes: Nodes whose results come.
    """
    fixed = _STREAMED + (_MOMENT_COPIES if section.name in {"fedadam", "fedyogi"} else 0)
    return fixed + _COPIES.get(section.name, 0) * nodes


def state_of(strategy: FedAvg) -> StrategyState:
    """Return what a strategy needs besides the weights to go on elsewhere."""
    if isinstance(strategy, FedAdam | FedYogi):
        moments = {moment: getattr(strategy, moment) or {} for moment in _MOMENTS}
        return {f"{moment}/{name}": np.asarray(a) for moment, arrays in moments.items() for name, a in arrays.items()}
    if isinstance(strategy, FedAvgM):
        return {f"{_MOMENTUM}/{n}": np.asarray(array) for n, array in enumerate(strategy.momentum_vector or ())}
    return {}


def restore(strategy: FedAvg, state: StrategyState) -> None:
    """Have a fresh strategy go on where another was; the weights come to it with its next round.

    Args:
        strategy: As `make_strategy` gives it.
        state: What `state_of` gave.
    """
    if isinstance(strategy, FedAdam | FedYogi):
        for moment in _MOMENTS:
            arrays = {name.removeprefix(f"{moment}/"): a for name, a in state.items() if name.startswith(f"{moment}/")}
            setattr(strategy, moment, arrays or None)
    if isinstance(strategy, FedAvgM):
        kept = sorted(int(name.removeprefix(f"{_MOMENTUM}/")) for name in state if name.startswith(f"{_MOMENTUM}/"))
        strategy.momentum_vector = [state[f"{_MOMENTUM}/{position}"] for position in kept] or None


def go_on_from(strategy: FedAvg, arrays: ArrayRecord) -> None:
    """Have a strategy take its next step from these weights in place of those that it gave."""
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = arrays  # the others take those that they send
