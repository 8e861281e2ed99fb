"""The strategies of a run: Flower's own classes, chosen by `[strategy]`, with what they carry from round to round."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
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

from rsfed.config_strategies import StrategySection
from rsfed.hashing.plan import EXAMPLES

_CLASSES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}
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
    """
    return _CLASSES[section.name](
        fraction_train=fraction,
        fraction_evaluate=1.0,
        min_train_nodes=min_nodes,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=EXAMPLES,
        **section.model_dump(exclude={"name"}),
    )


def state_of(strategy: FedAvg) -> StrategyState:
    """Return what a strategy needs besides the weights to go on elsewhere."""
    if isinstance(strategy, FedAdam | FedYogi):
        moments = {moment: getattr(strategy, moment) or {} for moment in _MOMENTS}
        return {f"{moment}/{name}": np.asarray(a) for moment, arrays in moments.items() for name, a in arrays.items()}
    if isinstance(strategy, FedAvgM):
        return {f"{_MOMENTUM}/{n}": np.asarray(array) for n, array in enumerate(strategy.momentum_vector or ())}
    return {}


def restore(strategy: FedAvg, state: StrategyState, weights: ArrayRecord) -> None:
    """Have a fresh strategy go on where another was.

    Args:
        strategy: As `make_strategy` gives it.
        state: What `state_of` gave.
        weights: The weights at that time.
    """
    if isinstance(strategy, FedAdam | FedYogi):
        for moment in _MOMENTS:
            arrays = {name: state[f"{moment}/{name}"] for name in weights if f"{moment}/{name}" in state}
            setattr(strategy, moment, arrays or None)
    if isinstance(strategy, FedAvgM):
        strategy.current_arrays = weights
        strategy.momentum_vector = [state[f"{_MOMENTUM}/{n}"] for n in range(len(state))] or None


def as_float32(arrays: ArrayRecord) -> ArrayRecord:
    """Return weights as nodes take them: some strategies compute them in double precision."""
    return ArrayRecord({name: Array(array.numpy().astype(np.float32, copy=False)) for name, array in arrays.items()})
