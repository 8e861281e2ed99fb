"""How the archive is read: as the release, or without one its modality, and the operator say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from node.catalogue import archive_root
from rsfed.config import NodeConfig
from rsfed.config_images import ArchiveSection
from rsfed.errors import StateError
from rsfed.home import Home
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.item import Declared
from rsfed.raster.modality import Modality, modality
from rsfed.trust.manifest import Nomenclature
from rsfed.trust.release_store import Release, ReleaseStore

_DEFAULT_SIZE = 64  # pixels, while there is no release to say it


@dataclass(frozen=True, slots=True)
class Reading:
    """How the archive is read.

    Attributes:
        root: The archive's folder, with no link in it.
        modality: What the images are.
        spec: How the encoder of this modality takes its input.
        release: Version of the release that says so; None while the node has none, and defaults are used.
        nomenclature: The federation's classes; None as above.
        radiometry: What the operator declared of the archive's values.
        stride: Step in metres of the grid that scenes are cut along; None where the encoder alone decides.
        max_cloud: Largest share of clouds and shadows that a searched patch may have, where something tells it.
    """

    root: Path
    modality: Modality
    spec: InputSpec
    release: int | None
    nomenclature: Nomenclature | None
    radiometry: Declared = None
    stride: float | None = None
    max_cloud: float = ArchiveSection().max_cloud


def reading_of(home: Home, config: NodeConfig) -> Reading:
    """Return how the archive is read: as the current release says, else by the defaults of its modality.

    Raises:
        StateError: RELEASE_DAMAGED, there is a release, and it cannot be read.
    """
    root, kind = archive_root(home, config).resolve(), modality(config.archive.modality)
    own = {name: getattr(config.archive, name) for name in ("radiometry", "stride", "max_cloud")}
    store = ReleaseStore(home.releases)
    release = store.current()
    if release is None and store.history().highest:
        # Going on by defaults would take the class from every patch and perhaps cut all of them anew.
        raise StateError(
            "the release on disk is damaged; `rsfed node serve` fetches it again", reason="RELEASE_DAMAGED"
        )
    if release is None:
        return Reading(root, kind, spec_of(kind, None), None, None, **own)
    manifest = release.manifest
    return Reading(root, kind, spec_of(kind, release), manifest.version, manifest.nomenclature, **own)


def spec_of(kind: Modality, release: Release | None) -> InputSpec:
    """Return how a release's encoder of a modality takes its input; the default without one."""
    encoders = sorted(release.manifest.encoders.items()) if release else []
    fitting = (encoder.input for _, encoder in encoders if encoder.modality == kind.name)
    return next(fitting, default_spec(kind, _DEFAULT_SIZE))


def recipe(reading: Reading) -> str:
    """Return a name for all that decides windows and states; how values are normalised is no part of that."""
    geometry = reading.spec.model_dump_json(
        exclude={"resampling": True, "fill": True, "groups": {"__all__": {"offset", "scale"}}}
    )
    said = "" if reading.radiometry is None else f" radiometry {reading.radiometry}"
    said += "" if reading.stride is None else f" stride {reading.stride:g}"
    said += "" if reading.max_cloud == ArchiveSection().max_cloud else f" cloud {reading.max_cloud:g}"
    return hashlib.sha256(f"{reading.modality.name} {geometry}{said}".encode()).hexdigest()[:16]
