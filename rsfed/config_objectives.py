"""The section `[objective]` of coordinator.toml, as plans and releases record it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from rsfed.config_section import Section
from rsfed.errors import ConfigError

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Objective(Section):
    """What the objectives have in common; each has exactly the options that it uses."""

    needs_labels: ClassVar[bool] = True  # whether it trains on labelled patches alone
    needs_classes: ClassVar[int] = 2  # that a node's patches must have


class MilanSection(_Objective):
    """MiLaN as its authors train it; they take learning_rate 1e-4 and batch 90, and 10,000 steps in all."""

    name: Literal["milan"] = "milan"
    margin: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    push: Weight = 0.001
    balance: Weight = 1.0
    beta_1: float = Field(default=0.5, ge=0, lt=1)  # of Adam
    beta_2: float = Field(default=0.9, ge=0, lt=1)


class BatchAllSection(_Objective):
    """The MiLaN losses over all triplets of a batch that violate the margin."""

    name: Literal["milan_batchall"] = "milan_batchall"
    margin: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    push: Weight = 0.001
    balance: Weight = 1.0


class CentresSection(_Objective):
    """Outputs go to the fixed hash centres of their classes."""

    needs_classes: ClassVar[int] = 1

    name: Literal["centres"] = "centres"
    free: float = Field(default=0.25, ge=0, le=0.5)  # share of the bits that centres leave to the patch
    within: Weight = 0.3  # of NT-Xent, which tells patches of a class apart; see objectives/centres.py
    quantisation: Weight = 0.1


class ClosedFormSection(_Objective):
    """One regression to the hash centres, from sums of all nodes, on a frozen trunk; see hashing/closed_form.py."""

    needs_classes: ClassVar[int] = 1

    name: Literal["closed_form"] = "closed_form"
    free: float = Field(default=0.125, ge=0, le=0.5)  # share of the bits that centres leave to the patch


class PairwiseSection(_Objective):
    """Likelihood of which pairs share a class (DPSH)."""

    name: Literal["pairwise"] = "pairwise"
    scale: float = Field(default=8.0, gt=0, le=1000)  # log-odds that two equal codes share a class
    quantisation: Weight = 0.1


class ContrastiveSection(_Objective):
    """Two views of one patch are alike, those of different patches are not (NT-Xent)."""

    needs_labels: ClassVar[bool] = False
    needs_classes: ClassVar[int] = 0

    name: Literal["contrastive"] = "contrastive"
    temperature: float = Field(default=0.5, ge=0.01, le=100)
    quantisation: Weight = 0.001
    balance: Weight = 0.01


DEFAULT_OBJECTIVE = CentresSection()


def _with_name(raw: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    return {"name": DEFAULT_OBJECTIVE.name, **raw} if isinstance(raw, dict) else raw


def _as_named_now(raw: Any) -> Any:  # noqa: ANN401 - whatever a plan holds
    is_older = isinstance(raw, dict) and raw.get("name") == "milan" and "beta_1" not in raw
    return {**raw, "name": "milan_batchall"} if is_older else raw


ObjectiveSection = Annotated[
    MilanSection | BatchAllSection | CentresSection | ClosedFormSection | PairwiseSection | ContrastiveSection,
    Field(discriminator="name"),
    BeforeValidator(_with_name),
]
"""Which objective is trained, with its weights; the options of another objective are unknown keys."""

RecordedObjective = Annotated[ObjectiveSection, BeforeValidator(_as_named_now)]
"""An objective in a plan or a release, where every option is written out.

Those of before `milan_batchall` had its name say "milan", without the options that tell MiLaN's own training.
"""


def recorded_objective(raw: Mapping[str, Any]) -> ObjectiveSection:
    """Return the objective that a release names.

    Raises:
        ConfigError: this software does not know it.
    """
    try:
        return TypeAdapter[ObjectiveSection](RecordedObjective).validate_python(dict(raw))
    except ValidationError as error:
        raise ConfigError("the release names an objective that this software does not know: update rsfed") from error
