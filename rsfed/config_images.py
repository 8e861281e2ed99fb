"""The sections that say what images are: of an archive in node.toml, for an encoder in coordinator.toml."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictInt, model_validator

from rsfed.codes import MAX_BITS, MIN_BITS
from rsfed.config_section import Section
from rsfed.errors import ConfigError, UsageError
from rsfed.hosts import Hosts, address, own_entry
from rsfed.raster.input_spec import MAX_SIZE, Fit, InputSpec, branched_spec, reduced_spec
from rsfed.raster.modality import check_radiometry, modality


def _modality(value: str) -> str:
    try:
        return modality(value).name
    except UsageError as error:
        raise ValueError(error.public) from error


ModalityName = Annotated[str, AfterValidator(_modality)]


class ArchiveSection(Section):
    """The images of the node."""

    path: str = "archive"  # relative to the home
    stac: str | None = None  # instead of path, the address of a STAC catalogue, collection, ItemCollection or its pages
    hosts: tuple[str, ...] = ()  # that files and links of it may lie on, beside its own
    fetch_gib: float = Field(default=100.0, gt=0)  # that its files may take in the home
    modality: ModalityName = "rgb"
    labels: str = "folders"  # or "none", "bigearthnet-19", "bigearthnet-43", or the name of a CSV file with path,label
    independent_files: bool = False  # every file without metadata is an acquisition of its own
    radiometry: StrictInt | str | None = None  # what stored values are that do not say it: see docs/radiometry.md
    workers: int = Field(default=0, ge=0, le=64)  # processes that read images ahead; 0 reads without any
    stride: float | None = Field(default=None, ge=10, le=1e6)  # metres; cuts scenes along a grid of their projection
    max_cloud: float = Field(default=0.2, ge=0, le=1)  # share of a searched patch under clouds or shadows, where told

    @model_validator(mode="after")
    def _lies_in_one_place(self) -> Self:
        if self.stac is None:
            if self.hosts:
                raise ValueError("hosts are those of stac, which is not set; take hosts out")
            return self
        if "path" in self.model_fields_set:
            raise ValueError("path and stac are two archives; take one of them out")
        try:
            if reason := self.allowed.refusal(address(self.stac)):
                raise ValueError(f"stac will not do: {reason}")
        except ConfigError as error:
            raise ValueError(error.public) from error
        return self

    @property
    def allowed(self) -> Hosts:
        """The hosts that are fetched from."""
        return Hosts((*own_entry(self.stac or ""), *self.hosts))

    @model_validator(mode="after")
    def _declares_what_its_images_have(self) -> Self:
        check_radiometry(self.radiometry, self.modality)
        return self


class EncoderSection(Section):
    """The hash network that the federation trains."""

    kind: Literal["compact-resnet", "k-branch", "frozen-trunk"] = "compact-resnet"
    modality: ModalityName = "rgb"
    bits: int = Field(default=64, ge=MIN_BITS, le=MAX_BITS, multiple_of=8)
    size: int = Field(default=64, ge=16, le=MAX_SIZE)  # pixels; of the finest bands where there are branches
    reduction: Literal[1, 2, 4, 8] = 1  # sources are read at 1/2, 1/4 or 1/8 of their resolution; compact-resnet alone
    fit: Fit | None = None  # chosen by the modality when left out
    width: int = Field(default=16, ge=8, le=256)  # channels of the first stage
    blocks: int = Field(default=1, ge=1, le=4)  # residual blocks of each stage
    offset: tuple[float, ...] = ()  # subtracted from stored values, per band; the modality's when left out
    scale: tuple[Annotated[float, Field(gt=0)], ...] = ()  # divides them after that, per band

    @model_validator(mode="after")
    def _has_an_input(self) -> Self:
        try:
            self.input()
        except UsageError as error:
            raise ValueError(error.public) from error
        return self

    def input(self) -> InputSpec:
        """Return how the network takes a patch.

        Raises:
            UsageError: the modality has not what the network needs.
        """
        bands = modality(self.modality)
        offset, scale = self.offset or bands.offset, self.scale or bands.scale
        if not len(bands.bands) == len(offset) == len(scale):
            raise UsageError(
                f"offset and scale need one value for each of the {len(bands.bands)} bands of {bands.name}"
            )
        if self.reduction > 1 and self.kind != "compact-resnet":
            raise UsageError(f'{self.kind} takes full resolution: take reduction out, or set kind = "compact-resnet"')
        normalised = replace(bands, offset=offset, scale=scale)
        if self.kind == "k-branch":
            return branched_spec(normalised, self.size, self.fit)
        return reduced_spec(normalised, self.size, self.reduction, self.fit)
