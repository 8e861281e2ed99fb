"""InputSpec: how an encoder wants its input. Part of every release; it alone decides how an item is read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rsfed.errors import UsageError
from rsfed.raster.modality import MAX_BANDS, Modality

MIN_SIZE, MAX_SIZE = 8, 1024  # pixels
Fit = Literal["resize", "crop", "tile"]
BandName = Annotated[str, Field(min_length=1, max_length=32)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class BandGroup(BaseModel):
    """Bands that an encoder takes at one size: float32, shape (bands, size, size).

    Attributes:
        name: Key of the group in a patch's content.
        bands: Band names of the modality, in the order of the array.
        gsd: Ground sampling distance in metres that the bands are brought to; None to take pixels as they are.
        size: Width and height in pixels.
        offset: Subtracted from stored values, per band.
        scale: Divides stored values after the offset, per band.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "all"
    bands: tuple[BandName, ...] = Field(min_length=1, max_length=MAX_BANDS)
    gsd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    size: int = Field(ge=MIN_SIZE, le=MAX_SIZE)
    offset: tuple[Finite, ...]
    scale: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]

    @model_validator(mode="after")
    def _one_value_per_band(self) -> Self:
        if not len(self.bands) == len(self.offset) == len(self.scale):
            raise ValueError("offset and scale need one value for each band")
        return self


class InputSpec(BaseModel):
    """How an item becomes the input of an encoder.

    Attributes:
        groups: Band groups; most encoders have one.
        fit: `resize` brings the whole window to the size (photographs); `crop` takes the centre at the group's
            ground sampling distance; `tile` cuts a source into windows of the size, one item each.
        resampling: Method where pixels have to be interpolated.
        reduction: Power of two by which a source is reduced before reading; 1 for none.
        max_nodata: Largest share of nodata pixels that an indexed item may have.
        holes: What pixels without data become after normalisation: with `rings` they are filled from around
            (`rsfed.raster.holes`); with `fill`, as releases of before have it, they become `fill`.
        fill: Value of a group without any data, or of all pixels without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[BandGroup, ...] = Field(min_length=1, max_length=4)
    fit: Fit = "resize"
    resampling: Literal["bilinear", "nearest", "average"] = "bilinear"
    reduction: Literal[1, 2, 4, 8] = 1
    max_nodata: float = Field(default=0.1, ge=0, le=1)
    holes: Literal["fill", "rings"] = "fill"  # of a release that does not say it
    fill: Finite = 0.0

    @model_validator(mode="after")
    def _groups_have_names_of_their_own(self) -> Self:
        if len({group.name for group in self.groups}) != len(self.groups):
            raise ValueError("two groups share a name")
        return self


def default_spec(modality: Modality, size: int, fit: Fit | None = None) -> InputSpec:
    """Return the one-group spec of a modality: `crop` where the ground sampling distance is known, else `resize`."""
    group = BandGroup(bands=modality.bands, gsd=modality.gsd, size=size, offset=modality.offset, scale=modality.scale)
    return InputSpec(groups=(group,), fit=fit or ("crop" if modality.gsd else "resize"), holes="rings")


def reduced_spec(modality: Modality, size: int, reduction: int, fit: Fit | None = None) -> InputSpec:
    """Return the one-group spec of a modality whose sources are read at a reduced resolution and stay at it.

    Args:
        modality: Its bands.
        size: Width and height in pixels of what a patch is at full resolution; the group has `size // reduction`.
        reduction: Power of two by which a source is reduced; 1 for none.
        fit: As for `default_spec`.

    Raises:
        UsageError: the size is no multiple of the reduction, or too small for it.
    """
    if size % reduction or size // reduction < MIN_SIZE:
        raise UsageError(
            f"with a reduction of {reduction} size has to be a multiple of it, at least {MIN_SIZE * reduction}"
        )
    coarser = replace(modality, gsd=modality.gsd * reduction) if modality.gsd else modality
    spec = default_spec(coarser, size // reduction, fit)
    return spec.model_copy(update={"reduction": reduction})


def branched_spec(modality: Modality, size: int, fit: Fit | None = None) -> InputSpec:
    """Return the spec of a modality with one group for each ground sampling distance, the finest first.

    Args:
        modality: Its bands are seen at several ground sampling distances, as those of Sentinel-2.
        size: Width and height in pixels of the group with the finest; all groups cover the same ground.
        fit: How a patch is cut; `crop` when left out.

    Raises:
        UsageError: the modality has one ground sampling distance only, or a group would not have whole pixels.
    """
    distances = sorted(set(modality.native_gsd))
    if len(distances) < 2:
        raise UsageError(
            f"the bands of {modality.name} have one ground sampling distance, so there is nothing to branch"
        )
    smallest = size * distances[0] / distances[-1]
    if smallest < MIN_SIZE or any(size * distances[0] % distance for distance in distances):
        unit = math.lcm(*(int(distance) for distance in distances)) // int(distances[0])
        least = unit * -(-MIN_SIZE * int(distances[-1]) // (unit * int(distances[0])))
        raise UsageError(
            f"branches at {_listed(distances)} m need a size that is a multiple of {unit}, at least {least}"
        )
    groups = [_native_group(modality, distance, int(size * distances[0] / distance)) for distance in distances]
    # The mean over its area gives a pixel of a coarse band back exactly where a file repeats it at a finer distance.
    return InputSpec(groups=tuple(groups), fit=fit or "crop", resampling="average", holes="rings")


def _native_group(modality: Modality, distance: float, size: int) -> BandGroup:
    chosen = [place for place, each in enumerate(modality.native_gsd) if each == distance]
    return BandGroup(
        name=f"{distance:g}m",
        bands=tuple(modality.bands[place] for place in chosen),
        gsd=distance,
        size=size,
        offset=tuple(modality.offset[place] for place in chosen),
        scale=tuple(modality.scale[place] for place in chosen),
    )


def _listed(distances: list[float]) -> str:
    return ", ".join(f"{distance:g}" for distance in distances)
