"""The section `[strategy]` of coordinator.toml: how the results of a round become new weights."""

from __future__ import annotations

from itertools import count
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from rsfed.config_section import Section

_Decay = Annotated[float, Field(ge=0, lt=1)]
_Step = Annotated[float, Field(gt=0, le=10)]
_BadNodes = Annotated[int, Field(ge=0, le=1000)]


class _Strategy(Section):
    """What the strategies have in common; each has exactly the options that it uses, named as Flower names them."""

    title: ClassVar[str]  # name of Flower's class, as releases tell it

    @property
    def proximal(self) -> float:
        """Weight of the term that holds a node near the weights that it starts from."""
        return 0.0

    @property
    def least_nodes(self) -> int:
        """Results below which its rule says nothing."""
        return 1


class FedAvgSection(_Strategy):
    """The mean of the nodes' weights, each by its patches."""

    title: ClassVar[str] = "FedAvg"

    name: Literal["fedavg"] = "fedavg"


class FedProxSection(_Strategy):
    """FedAvg of nodes that are held near the weights that they start from."""

    title: ClassVar[str] = "FedProx"

    name: Literal["fedprox"] = "fedprox"
    proximal_mu: float = Field(default=0.01, gt=0, le=100)

    @property
    def proximal(self) -> float:
        """Weight of the term that holds a node near the weights that it starts from."""
        return self.proximal_mu


class FedAvgMSection(_Strategy):
    """FedAvg whose steps keep their momentum."""

    title: ClassVar[str] = "FedAvgM"

    name: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: _Step = 1.0
    server_momentum: _Decay = 0.9


class _Adaptive(_Strategy):
    """Steps of their own for each weight; `eta` is about the step of a weight in one round."""

    eta: _Step = 1e-2
    beta_1: _Decay = 0.9
    beta_2: _Decay = 0.99
    tau: float = Field(default=1e-3, gt=0, le=1)  # below which a weight counts as at rest


class FedAdamSection(_Adaptive):
    """Adam over the rounds."""

    title: ClassVar[str] = "FedAdam"

    name: Literal["fedadam"] = "fedadam"


class FedYogiSection(_Adaptive):
    """Yogi over the rounds: Adam that forgets large steps more slowly."""

    title: ClassVar[str] = "FedYogi"

    name: Literal["fedyogi"] = "fedyogi"


class FedMedianSection(_Strategy):
    """The median of each weight; all nodes count alike."""

    title: ClassVar[str] = "FedMedian"

    name: Literal["fedmedian"] = "fedmedian"

    @property
    def least_nodes(self) -> int:
        """Of two results the median is the mean."""
        return 3


class FedTrimmedAvgSection(_Strategy):
    """The mean of each weight without the largest and smallest; all nodes count alike."""

    title: ClassVar[str] = "FedTrimmedAvg"

    name: Literal["fedtrimmedavg"] = "fedtrimmedavg"
    beta: float = Field(default=0.2, ge=0.001, lt=0.5)  # share of the nodes left out at each end

    @property
    def least_nodes(self) -> int:
        """As many as it takes to leave one out at each end, as Flower rounds: int(beta * nodes)."""
        return next(nodes for nodes in count(1) if int(self.beta * nodes))


class KrumSection(_Strategy):
    """The result of the one node that is nearest to the others."""

    title: ClassVar[str] = "Krum"

    name: Literal["krum"] = "krum"
    num_malicious_nodes: _BadNodes = 1

    @property
    def least_nodes(self) -> int:
        """Blanchard et al., NeurIPS 2017: 2f + 3."""
        return 2 * self.num_malicious_nodes + 3


class MultiKrumSection(_Strategy):
    """The mean of the nodes that are nearest to the others."""

    title: ClassVar[str] = "MultiKrum"

    name: Literal["multikrum"] = "multikrum"
    num_malicious_nodes: _BadNodes = 1
    num_nodes_to_select: int = Field(default=2, ge=1, le=1000)

    @property
    def least_nodes(self) -> int:
        """As Krum needs, and as many as it selects."""
        return max(2 * self.num_malicious_nodes + 3, self.num_nodes_to_select)


class BulyanSection(_Strategy):
    """The mean of what is nearest to the median of each weight, among the nodes that MultiKrum selects."""

    title: ClassVar[str] = "Bulyan"

    name: Literal["bulyan"] = "bulyan"
    num_malicious_nodes: _BadNodes = 1

    @property
    def least_nodes(self) -> int:
        """El Mhamdi et al., ICML 2018: 4f + 3."""
        return 4 * self.num_malicious_nodes + 3


DEFAULT_STRATEGY = FedAvgSection()


def default_strategy(architecture: str) -> StrategySection:
    """Return what averages a network of this kind where the configuration names no strategy."""
    return FedAvgMSection(server_momentum=0.5) if architecture == "frozen-trunk" else DEFAULT_STRATEGY


def _with_name(raw: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    return {"name": DEFAULT_STRATEGY.name, **raw} if isinstance(raw, dict) else raw


StrategySection = Annotated[
    FedAvgSection
    | FedProxSection
    | FedAvgMSection
    | FedAdamSection
    | FedYogiSection
    | FedMedianSection
    | FedTrimmedAvgSection
    | KrumSection
    | MultiKrumSection
    | BulyanSection,
    Field(discriminator="name"),
    BeforeValidator(_with_name),
]
"""Which strategy averages, with its options; those of another strategy are unknown keys."""
