"""The section of node.toml that says what the node discloses; `rsfed.privacy.policy` says what its levels mean."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rsfed.config_section import Section

FilterName = Literal["time", "bbox", "modality", "label"]
PlaceName = Literal["exact", "10km", "100km", "country", "none"]
TimeName = Literal["exact", "day", "month", "year", "none"]

LevelName = Literal["partner", "guarded", "catalogue", "sealed", "counts"]
"""Policy levels, the one that discloses most first."""


class AnalystPolicy(Section):
    """What the node discloses to one analyst."""

    level: LevelName
    loosen: bool = False  # has to be said where this discloses more than the node's own level


class PolicySection(Section):
    """What the node discloses."""

    level: LevelName = "guarded"
    unfilterable: tuple[FilterName, ...] = ()  # fields that no query may be filtered by; such a query is refused
    footprints: PlaceName = "exact"  # how coarsely places are told, and may be asked for
    countries: str | None = None  # GeoJSON file of their borders, for footprints = "country"; relative to the home
    dates: TimeName = "exact"  # the same of times
    cells_per_class: Literal[1, 2, 4, 8] = 1  # at guarded: more order within a class, and more of each code is told
    epoch_hours: float = Field(default=24.0, ge=0, le=24 * 366)  # at guarded: between two publications
    catalogue_days: float = Field(default=30.0, ge=1, le=366)  # at catalogue, sealed and counts: between publications
    epsilon: float = Field(default=0.5, gt=0, le=0.5)  # there: what the counts of one publication cost of 2 a release
    counted_patches: int = Field(default=50, ge=1, le=50)  # there: of one acquisition; fewer need less noise
    refine_budget: int = Field(default=500, ge=0)  # at catalogue: how often a patch may be listed under a release
    analysts: dict[str, AnalystPolicy] = Field(default={})  # by name

    @model_validator(mode="after")
    def _has_borders_where_it_tells_countries(self) -> Self:
        if self.footprints == "country" and not self.countries:
            raise ValueError(
                'footprints = "country" needs the borders: name a GeoJSON file of them, countries = "borders.geojson"'
            )
        if self.footprints != "country" and self.countries is not None:
            raise ValueError('countries is for footprints = "country"; write that, or take countries out')
        return self

    @model_validator(mode="after")
    def _loosens_only_where_it_says_so(self) -> Self:
        if not self.analysts:
            return self
        from rsfed.privacy.policy import POLICIES  # noqa: PLC0415 - numpy, only where it is used

        levels = list(POLICIES)
        for name, own in self.analysts.items():
            if levels.index(own.level) < levels.index(self.level) and not own.loosen:
                raise ValueError(
                    f"analysts.{name} is answered at {own.level}, which discloses more than {self.level}: write "
                    "loosen = true beside it if that is meant"
                )
            if POLICIES[self.level].publishes and POLICIES[own.level].publishes and own.level != self.level:
                raise ValueError(
                    f"analysts.{name} cannot be answered at {own.level}: every member may read what is published at "
                    f"{self.level}; take the line out, or choose {own.level} for all"
                )
        return self
