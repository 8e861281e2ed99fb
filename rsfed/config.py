"""Configuration of the three roles: one TOML file in the role's home, `RSFED_<ROLE>__...` environment overrides.

Unknown keys are refused with their location; everything has a value that works on one machine except what only
the operator can know.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from rsfed.config_images import ArchiveSection, EncoderSection
from rsfed.config_objectives import DEFAULT_OBJECTIVE, ClosedFormSection, ObjectiveSection
from rsfed.config_policy import PolicySection
from rsfed.config_section import Section
from rsfed.config_strategies import StrategySection, default_strategy
from rsfed.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_ADDRESS = re.compile(r"\[?[A-Za-z0-9.:_-]+\]?:([0-9]{1,5})")
_OUR_WORDS = "Value error, "  # which pydantic puts before them


def _address(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if found is None or int(found[1]) > 65535:
        raise ValueError("must read host:port, for example hub.example.org:7440")
    return value


def _ids_of_their_own(classes: dict[str, int]) -> dict[str, int]:
    for number, count in Counter(classes.values()).items():
        if count > 1:
            raise ValueError(f"two classes have the id {number}; give each its own")
    return classes


Address = Annotated[str, AfterValidator(_address)]


class NodeServe(Section):
    """Where the node listens and how the coordinator reaches it."""

    bind: Address = "0.0.0.0:7443"
    advertise: Address = "localhost:7443"
    max_concurrent: int = Field(default=64, ge=1, le=4096)  # calls


class LabelsSection(Section):
    """How own labels become classes of the federation."""

    map: dict[str, str | list[str]] = Field(default={})  # own label -> "none", one class or several


Hours = Annotated[str, Field(pattern=r"^([01]?[0-9]|2[0-3])-([01]?[0-9]|2[0-3])$")]
Coding = Literal["float32", "float16", "int8", "int4"]
ObjectiveName = Literal["milan", "milan_batchall", "centres", "closed_form", "pairwise", "contrastive"]


class NodeTraining(Section):
    """What training may ask of the node; the coordinator can only ask for less."""

    enabled: bool = True
    threads: int = Field(default=1, ge=1, le=256)
    memory_mib: int = Field(default=1024, ge=16)  # of patches held while a run goes on; more are sampled down
    max_steps: int = Field(default=10_000, ge=1)  # optimiser steps that one round may ask for
    max_epochs: float | None = Field(default=None, gt=0)  # passes over the own patches that one round may ask for
    rounds_per_day: int | None = Field(default=None, ge=1)  # in any 24 hours
    hours: Hours | None = None  # in which tasks are taken, in local time, "from-until"; "20-6" is overnight
    objectives: tuple[ObjectiveName, ...] = ()  # that may be trained; all where none is listed
    min_others: int = Field(default=0, ge=0)  # other members that must have the same task
    calibration: bool = True  # keep some patches out of training and send counts of near pairs of them
    sums: bool = True  # send sums of products of features, from which the last layer on a frozen trunk is solved for
    sums_acquisitions: int = Field(default=5, ge=5)  # that each class of them comes from; others are left out
    report: tuple[Literal["loss"], ...] = ()  # what else is told beside the update


class AccessSection(Section):
    """Requests for found items; nothing is given without the operator's word."""

    enabled: bool = True  # take requests; without it all are refused
    max_mib: int = Field(default=64, ge=1, le=256)  # of one delivery


class NodeConfig(Section):
    """node.toml."""

    serve: NodeServe = NodeServe()
    archive: ArchiveSection = ArchiveSection()
    labels: LabelsSection = LabelsSection()
    policy: PolicySection = PolicySection()
    access: AccessSection = AccessSection()
    training: NodeTraining = NodeTraining()


class CoordinatorServe(Section):
    """Where the coordinator listens and how members reach it."""

    bind: Address = "0.0.0.0:7440"
    advertise: Address = "localhost:7440"
    join_bind: Address = "0.0.0.0:7441"
    join_advertise: Address = "localhost:7441"
    max_concurrent: int = Field(default=64, ge=1, le=4096)  # calls


class QuerySection(Section):
    """How queries are fanned out."""

    deadline_s: float = Field(default=5.0, gt=0, le=120)  # for nodes, when the analyst allows longer


class NomenclatureSection(Section):
    """The federation's classes with their stable ids."""

    name: str = "classes"
    version: int = Field(default=1, ge=1)
    classes: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[int, Field(ge=0, lt=65536)]],
        AfterValidator(_ids_of_their_own),
    ] = Field(default={})


class Pace(NamedTuple):
    """How often nodes train and are averaged, and how long they do in between."""

    rounds: int
    local_steps: int  # optimiser steps of a node in one round


SHORT_ROUNDS = Pace(60, 5)  # a head on a frozen trunk: nodes with other classes must not drift apart
LONG_ROUNDS = Pace(10, 40)
ONE_ROUND = Pace(1, 1)  # the closed form, which takes no steps


class CoordinatorTraining(Section):
    """How federated runs are driven."""

    local_steps: int | None = Field(default=None, ge=1, le=100_000)  # of a node in one round; left out, see `pace`
    batch: int = Field(default=64, ge=4, le=4096)  # patches
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    round_timeout_s: float = Field(default=600.0, gt=0)
    min_nodes: int = Field(default=1, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)  # of the present nodes that a round asks; min_nodes at least
    coding: Coding = "int8"  # how weights travel: whole (float32), else their change; see docs/operating.md
    average_rounds: int = Field(default=1, ge=1, le=10_000)  # last ones, the mean of whose weights is released
    seed: int = Field(default=0, ge=0, lt=1 << 62)


class LastLayerSection(Section):
    """When the last layer of a trained head is solved for from sums of the nodes; left out, wherever it can be."""

    start: bool | None = None  # before the first round
    end: bool | None = None  # after the last one


class CoordinatorConfig(Section):
    """coordinator.toml."""

    federation: str
    name: str = "coordinator"
    serve: CoordinatorServe = CoordinatorServe()
    query: QuerySection = QuerySection()
    encoder: EncoderSection = EncoderSection()
    objective: ObjectiveSection | None = (
        None  # left out: closed_form on a frozen trunk unless the file speaks of rounds, else centres
    )
    strategy: StrategySection | None = None  # left out: fedavgm with momentum 0.5 on a frozen trunk, else fedavg
    closed_form: LastLayerSection = LastLayerSection()
    nomenclature: NomenclatureSection = NomenclatureSection()
    training: CoordinatorTraining = CoordinatorTraining()

    @model_validator(mode="after")
    def _solves_what_it_can(self) -> Self:
        if (self.closed_form.start or self.closed_form.end) and not self._solvable:
            raise ValueError(
                "closed_form.start and closed_form.end solve for the last layer on a frozen trunk, for hash centres: "
                'take them out, or set encoder.kind = "frozen-trunk" and objective.name = "centres"'
            )
        return self

    @model_validator(mode="after")
    def _has_what_the_closed_form_needs(self) -> Self:
        if self.learns_by.name == "closed_form" and (self.encoder.kind != "frozen-trunk" or self.strategy is not None):
            raise ValueError(
                'objective.name = "closed_form" is one sum over all nodes on a frozen trunk: set encoder.kind = '
                '"frozen-trunk" and take [strategy] out, or choose another objective'
            )
        return self

    @property
    def learns_by(self) -> ObjectiveSection:
        """The objective of a run: the closed form where rounds of training are not asked for and it can be had."""
        if self.objective is not None:
            return self.objective
        rounds = (self.strategy, self.training.local_steps, self.closed_form.start, self.closed_form.end)
        solved = self.encoder.kind == "frozen-trunk" and all(each is None for each in rounds)
        return ClosedFormSection() if solved else DEFAULT_OBJECTIVE

    @property
    def pace(self) -> Pace:
        """How many rounds and steps a run takes that is told neither."""
        if self.learns_by.name == "closed_form":
            return ONE_ROUND
        usual = SHORT_ROUNDS if self.encoder.kind == "frozen-trunk" else LONG_ROUNDS
        return usual if self.training.local_steps is None else usual._replace(local_steps=self.training.local_steps)

    @property
    def averages_by(self) -> StrategySection:
        """The strategy of a run."""
        return self.strategy or default_strategy(self.encoder.kind)

    @property
    def solves_start(self) -> bool:
        """Whether a run solves for the last layer before its first round."""
        return self._solves_unasked if self.closed_form.start is None else self.closed_form.start

    @property
    def solves_end(self) -> bool:
        """Whether a run solves for the last layer after its last round."""
        return self._solves_unasked if self.closed_form.end is None else self.closed_form.end

    @property
    def _solves_unasked(self) -> bool:
        return self._solvable and self.averages_by.least_nodes == 1  # no median of sums: they undo what one protects

    @property
    def _solvable(self) -> bool:
        return self.encoder.kind == "frozen-trunk" and self.learns_by.name == "centres"


class AnalystConfig(Section):
    """analyst.toml."""

    deadline_s: float = Field(default=10.0, gt=0, le=120)  # of a query, as the analyst waits


Config = TypeVar("Config", NodeConfig, CoordinatorConfig, AnalystConfig)
_FILES: dict[type[BaseModel], str] = {
    NodeConfig: "node.toml",
    CoordinatorConfig: "coordinator.toml",
    AnalystConfig: "analyst.toml",
}


def listening(advertised: str) -> str:
    """Return where to listen for calls to an advertised address: the same port, on every interface."""
    return f"0.0.0.0:{advertised.rpartition(':')[2]}"


def config_path(model: type[Config], home: Path) -> Path:
    """Return where the configuration of a role lies in its home."""
    return home / _FILES[model]


def toml_text(value: str) -> str:
    """Return a text as a TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_options(model: type[Config], text: str, options: Mapping[str, str]) -> None:
    """Check the configuration that a command makes of its options, before it is written.

    Args:
        model: The role's configuration.
        text: What its file would hold.
        options: The option that each key comes from; one whose value others follow stands before them.

    Raises:
        UsageError: an option has a value that will not do.
    """
    try:
        model.model_validate(tomllib.loads(text))
    except ValidationError as error:
        problems = {str(part): _remedy(e) for e in error.errors() for part in e["loc"]}
        key = next(key for key in options if key in problems)
        raise UsageError(f"{options[key]}: {problems[key]}") from error


def load_config(model: type[Config], home: Path) -> Config:
    """Read and check the configuration of a role.

    Raises:
        ConfigError: the file is missing, is not TOML, or has an unknown key or a wrong value; an override in the
            environment names a key below a value.
    """
    path = config_path(model, home)
    try:
        raw = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        role = path.stem
        raise ConfigError(f"there is no {path.name}; run `rsfed {role} init` first", detail=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}", detail=str(path)) from error
    _apply_environment(raw, f"RSFED_{path.stem.upper()}__")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {_remedy(e)}" for e in error.errors())
        raise ConfigError(f"{path.name}: {problems}", detail=str(path)) from error


def _remedy(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key; `rsfed config schema ROLE` lists the known ones"
    if error["type"] == "literal_error":
        return f"{toml_text(str(error['input']))} is none of {error['ctx']['expected']}"
    if error["type"] == "tuple_type" and isinstance(error["input"], str):
        return f"write a list: [{toml_text(error['input'])}]"
    return error["msg"].removeprefix(_OUR_WORDS)


def _apply_environment(raw: dict[str, Any], prefix: str) -> None:
    """Lay `PREFIX` + `SECTION__KEY=value` over the file; values are read as TOML where they are, else as text."""
    for variable, value in os.environ.items():
        if not variable.startswith(prefix):
            continue
        *sections, key = variable.removeprefix(prefix).lower().split("__")
        target = raw
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{variable}: {section} is a value, not a section")
        try:
            target[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            target[key] = value
