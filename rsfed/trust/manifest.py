"""The manifest of a release: everything needed to reproduce codes, as strict data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rsfed.errors import ReleaseRefused
from rsfed.raster.input_spec import MAX_SIZE, InputSpec
from rsfed.raster.modality import MAX_BANDS

SCHEMA_MAJOR, SCHEMA_MINOR = 1, 3
MAX_MANIFEST_BYTES = 1 << 20
_UNKNOWN_WORD = frozenset({"union_tag_invalid", "literal_error"})  # pydantic's names of what is wrong
RESERVED_NAMES = frozenset({"manifest.json", "manifest.sig", "key_id"})
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
EncoderPair = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}:[a-z0-9][a-z0-9-]{0,31}$")]
"""Encoder of the query and encoder of the item, as "rgb:rgb"."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class FileEntry(_Part):
    """One file of a release."""

    name: FileName
    size: int = Field(ge=1, le=4 << 30)  # bytes
    sha256: Digest


class CompactResnet(_Part):
    """The compact residual network: one band group."""

    kind: Literal["compact-resnet"] = "compact-resnet"
    width: int = Field(default=16, ge=8, le=256)  # channels of the first stage
    blocks: int = Field(default=1, ge=1, le=4)  # residual blocks of each stage


class ReducedResnet(_Part):
    """The compact residual network on an image read at a reduced resolution; what it lacks is approximated first."""

    kind: Literal["reduced-resnet"] = "reduced-resnet"
    width: int = Field(default=16, ge=8, le=256)  # channels of the first stage
    blocks: int = Field(default=1, ge=1, le=4)  # residual blocks of each stage
    doublings: int = Field(default=1, ge=1, le=3)  # transposed convolutions, each to twice the size
    detail: int = Field(default=8, ge=4, le=64)  # channels of each


class KBranch(_Part):
    """One residual branch for each band group, joined before the head."""

    kind: Literal["k-branch"] = "k-branch"
    width: int = Field(default=16, ge=8, le=256)  # channels of the first stage of each branch
    blocks: int = Field(default=1, ge=1, le=4)  # residual blocks of each stage


Head = Literal["perceptron", "fourier"]
"""What hashes the features of a frozen trunk; see `rsfed.hashing.head`."""


class FrozenTrunk(_Part):
    """A head on the features of an ONNX model that stays as it is."""

    kind: Literal["frozen-trunk"] = "frozen-trunk"
    trunk: FileEntry
    bands: int = Field(ge=1, le=MAX_BANDS)  # that the model takes
    size: int = Field(ge=8, le=MAX_SIZE)  # width and height in pixels that it takes
    features: int = Field(ge=1, le=16384)  # that it gives for each patch
    turns: bool = False  # features are the mean over the eight positions of a square
    head: Head = "perceptron"
    projections: int = Field(default=4096, ge=1, le=16384)  # of a Fourier head


Architecture = Annotated[CompactResnet | ReducedResnet | KBranch | FrozenTrunk, Field(discriminator="kind")]
"""How to build an encoder's network before its weights are loaded."""


class EncoderEntry(_Part):
    """One encoder of a release."""

    modality: str
    input: InputSpec
    architecture: Architecture
    weights: FileEntry

    def files(self) -> list[FileEntry]:
        """Return the encoder's files in the order in which they are sent."""
        trunk = [self.architecture.trunk] if isinstance(self.architecture, FrozenTrunk) else []
        return [self.weights, *trunk]


class FederationClass(_Part):
    """One class of the nomenclature; ids stay when names change."""

    id: int = Field(ge=0, lt=65536)
    name: str = Field(min_length=1, max_length=64)


class Nomenclature(_Part):
    """The federation's classes."""

    name: str = "classes"
    version: int = Field(default=1, ge=1)
    classes: tuple[FederationClass, ...] = ()


class Provenance(_Part):
    """How the weights came to be."""

    rounds: int = 0  # 0: untrained, weights from the seed
    strategy: str = "none"
    nodes: int = 0
    summed: int = 0  # nodes whose sums the last layer was solved for from at the end; 0 where it was not
    privacy: str = "none"
    seed: int = 0
    based_on: Digest | None = None  # release whose weights training started from


class CalibrationBand(_Part):
    """Distances with one measured probability of relevance, from above the band before to this one."""

    distance: int = Field(ge=0, le=256)  # bits; the largest of the band
    relevance: Share
    pairs: float = Field(ge=0, allow_inf_nan=False)  # that it rests on


class PriorShift(_Part):
    """How far the table is off where relevance is less likely than it assumes."""

    prior: Share
    error: Share  # of the table as it is
    corrected_error: Share  # of the table with its odds corrected to this prior


class Calibration(_Part):
    """How likely a hit is to share a class with its query, by distance; measured on held-out queries of the nodes."""

    bands: tuple[CalibrationBand, ...] = Field(min_length=1)
    prior: Share  # chance that an item of the gallery is relevant, which the table assumes
    k: int = Field(ge=1)  # nearest items of each query that were counted
    queries: int = Field(ge=1)
    acquisitions: int = Field(ge=1)  # that the queries are of
    nodes: int = Field(ge=1)
    held_out_by: Literal["acquisition", "patch", "mixed"]
    error: Share | None = None  # expected calibration error on queries that the table was not fitted on
    shifted: PriorShift | None = None

    @model_validator(mode="after")
    def _relevance_never_rises(self) -> Self:
        if any(a.distance >= b.distance or a.relevance < b.relevance for a, b in pairwise(self.bands)):
            raise ValueError("the bands must rise in distance and not in relevance")
        return self

    def relevance(self, distance: int) -> float | None:
        """Return the probability at a distance, or at the upper edge of a band; None beyond what was measured."""
        return next((band.relevance for band in self.bands if distance <= band.distance), None)


MOST_VARIED = 3  # bits of a class that its sub-cells take apart


class CodebookEntry(_Part):
    """One cell of the codebook: the code that stands for a class, and where codes of the class differ most."""

    class_id: int = Field(ge=0, lt=65536)
    code: str = Field(pattern=r"^([0-9a-f]{2}){2,32}$")
    varied: tuple[Annotated[int, Field(ge=0, lt=256)], ...] = Field(default=(), max_length=MOST_VARIED)  # most first


class Manifest(_Part):
    """What a release consists of."""

    schema_version: str = Field(default=f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}", alias="schema", pattern=r"^\d+\.\d+$")
    federation: str
    version: int = Field(ge=1, lt=1 << 63)
    created: AwareDatetime
    expires: AwareDatetime
    bits: int
    encoders: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")], EncoderEntry] = Field(min_length=1)
    objective: dict[str, Any]
    nomenclature: Nomenclature = Nomenclature()
    codebook: tuple[CodebookEntry, ...] = ()
    codebook_reach: int = Field(default=0, ge=0, le=256)  # bits from the nearest cell within which queries lie
    training: Provenance = Provenance()
    metrics: dict[str, float] = {}
    calibration: dict[EncoderPair, Calibration] = {}
    critical: tuple[str, ...] = ()  # keys that a reader must understand

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    def to_bytes(self) -> bytes:
        """Return the bytes that are signed; whoever reads them keeps them as they are."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True).encode()

    @model_validator(mode="after")
    def _files_have_names_of_their_own(self) -> Self:
        if len({entry.name for entry in self.files()} - RESERVED_NAMES) != len(self.files()):
            raise ValueError("two files share a name, or one has a name that is reserved")
        return self

    @model_validator(mode="after")
    def _codebook_is_of_its_codes(self) -> Self:
        digits = self.bits // 4
        if any(len(entry.code) != digits or max(entry.varied, default=0) >= self.bits for entry in self.codebook):
            raise ValueError("the codebook has codes of another width")
        if any(len(set(each)) != len(each) for each in _codebook_sets(self.codebook)):
            raise ValueError("the codebook names a class, a code or a bit twice")
        return self

    def files(self) -> list[FileEntry]:
        """Return every file of the release once, in the order in which they are sent."""
        encoders = [encoder for _, encoder in sorted(self.encoders.items())]
        return list(dict.fromkeys(entry for encoder in encoders for entry in encoder.files()))

    def calibration_of(self, query: str, item: str) -> Calibration | None:
        """Return the table for codes of these encoders; None where the release has none."""
        return self.calibration.get(encoder_pair(query, item))

    def expired(self, now: datetime) -> bool:
        """Say whether the release may no longer be used."""
        return self.expires <= now


def _codebook_sets(entries: Sequence[CodebookEntry]) -> list[Sequence[object]]:
    """Return what has to be distinct in a codebook."""
    varied = [entry.varied for entry in entries]
    return [[entry.class_id for entry in entries], [entry.code for entry in entries], *varied]


def encoder_pair(query: str, item: str) -> str:
    """Return the key of a table for codes of these encoders."""
    return f"{query}:{item}"


def manifest_digest(data: bytes) -> bytes:
    """Return the digest that names a release: SHA-256 of the exact manifest bytes, 32 bytes."""
    return hashlib.sha256(data).digest()


def parse_manifest(data: bytes) -> Manifest:
    """Parse manifest bytes whose signature was verified.

    Raises:
        ReleaseRefused: RELEASE_SCHEMA (a higher major, or a critical key, a kind of network or another closed word that
            this software does not know), or RELEASE_MALFORMED.
    """
    try:
        raw = json.loads(data)
        major = int(str(raw["schema"]).split(".")[0])
        unknown = set(raw.get("critical", ())) - {f.alias or n for n, f in Manifest.model_fields.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReleaseRefused("the release's manifest is not readable", reason="RELEASE_MALFORMED") from error
    if major > SCHEMA_MAJOR or unknown:
        raise ReleaseRefused(
            f"the release has manifest schema {raw['schema']}; this software reads {SCHEMA_MAJOR}.x: update rsfed",
            reason="RELEASE_SCHEMA",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        if first["type"] in _UNKNOWN_WORD:
            raise ReleaseRefused(
                f"newer software made the release: this one does not know what {where} says; update rsfed",
                reason="RELEASE_SCHEMA",
            ) from error
        raise ReleaseRefused(f"the release's manifest is wrong at {where}", reason="RELEASE_MALFORMED") from error
