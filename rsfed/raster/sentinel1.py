"""Sentinel-1 GRD products in the SAFE layout: which files their polarisations are, when, and how they are calibrated.

| what | where it is |
|---|---|
| polarisation, acquisition, time, pass | `annotation/*.xml`, one for each polarisation, whatever the files are called |
| samples | `measurement/*.tif*` of the same name |
| sigma nought | `annotation/calibration/calibration-*.xml` of the same name |
| thermal noise | `annotation/calibration/noise-*.xml` of the same name, range and azimuth |
| swaths | `swathMerge` of the annotation |

The acquisition is mission, absolute orbit and datatake, as in the product's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from rsfed.errors import RasterRejected
from rsfed.raster.backscatter import Block, Calibration, Table, table
from rsfed.raster.image import Pixels, Source
from rsfed.raster.item import Declared, Window
from rsfed.raster.listing import listed
from rsfed.raster.modality import MODALITIES, Modality
from rsfed.raster.product import OpenBand, Product
from rsfed.raster.xml_document import Document, child, local, read_document

LAYOUT = "sentinel-1-grd"
MODALITY = "sentinel-1-grd-db"
_RANGE_NOISE = (("noiseRangeVector", "noiseRangeLut"), ("noiseVector", "noiseLut"))  # since 2018, and before
_IMAGES = (".tif", ".tiff")
_COG = "-cog"


@dataclass(frozen=True, slots=True)
class Channel:
    """One polarisation of a scene.

    Attributes:
        samples: File of the amplitudes.
        calibration: How they become backscatter.
    """

    samples: Path
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Scene:
    """What a product says of itself.

    Attributes:
        channels: In the order of the modality's bands.
        spacing: Pixel size across and down in metres.
        tags: Its metadata, as `rsfed.raster.metadata` reads them; also PASS.
    """

    channels: tuple[Channel, ...]
    spacing: tuple[float, float]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Backscatter(Source):
    """The open polarisations of a scene; their amplitudes become decibels.

    Attributes:
        members: A source of amplitudes for each band of the modality.
        scene: What the product says of itself.
    """

    members: tuple[Source, ...]
    scene: Scene

    def read(self, places: Sequence[int], window: Window) -> Pixels:
        """Decode some bands in a window."""
        layers, all_valid = [], np.ones((window.height, window.width), bool)
        for place in places:
            values, valid = self.members[place].read([0], window)
            decibels, known = self.scene.channels[place].calibration.decibels(values[0], window)
            layers.append(decibels)
            all_valid &= known if valid is None else known & valid
        return np.stack(layers), None if all_valid.all() else all_valid

    def tags(self) -> Mapping[str, str]:
        """Return the metadata of the product."""
        return self.scene.tags

    def close(self) -> None:
        """Close all files."""
        for member in self.members:
            member.close()


def product(folder: Path, names: Collection[str]) -> Product | None:
    """Return the product that a folder is, as far as its names tell; None for any other folder."""
    if not {"measurement", "annotation"} <= set(names):
        return None
    samples = _measurements(folder)
    annotations = sorted([*_documents(folder / "annotation"), *_documents(folder / "annotation" / "calibration")])
    return Product(
        layout=LAYOUT,
        folder=folder,
        bands={str(number): path for number, path in enumerate(samples, 1)},
        tags=partial(_tags, folder),
        opens=open_product,
        decides=tuple(annotations),
        bands_told=False,
        name=folder.name if folder.suffix.lower() == ".safe" else None,
        problem=None if samples else "its measurement files are missing; copy the product again from its origin",
    )


def open_product(product: Product, modality: Modality, open_band: OpenBand, _declared: Declared) -> Source:
    """Open a product.

    Args:
        product: The product.
        modality: What its archive holds.
        open_band: Opens one of its files.
        _declared: Nothing: its own annotation says what its values are.

    Raises:
        RasterRejected: it is no GRD, lacks a polarisation or an annotation, or its XML will not do.
    """
    scene = _scene_of(product.folder, modality, product.stamp())
    with ExitStack() as opened:
        members: list[Source] = []
        for band, channel in zip(modality.bands, scene.channels, strict=True):
            alone = replace(modality, bands=(band,), offset=(0.0,), scale=(1.0,), dtypes=("uint16",))
            members.append(open_band(channel.samples, alone))
            opened.callback(members[-1].close)
            if (members[-1].width, members[-1].height) != (channel.calibration.width, channel.calibration.height):
                raise RasterRejected(f"{band} has another size than its annotation says; copy the product again")
        source = _backscatter(product.folder, tuple(members), scene)
        opened.pop_all()
    return source


def _backscatter(folder: Path, members: tuple[Source, ...], scene: Scene) -> Backscatter:
    first = members[0]
    if any((each.width, each.height) != (first.width, first.height) for each in members):
        raise RasterRejected("its polarisations differ in size; copy the product again from its origin")
    return Backscatter(
        path=folder,
        width=first.width,
        height=first.height,
        dtype="float32",
        nodata=(None,) * len(members),
        location=first.location.with_resolution(scene.spacing),
        block_rows=max(each.block_rows for each in members),
        row_bytes=4 * first.width * len(members),
        overview=1,
        members=members,
        scene=scene,
    )


@lru_cache(maxsize=8)
def _scene_of(folder: Path, modality: Modality, _stamp: tuple[int, int]) -> Scene:
    """Read a scene's annotations, some MiB, once for all its patches; `_stamp` changes with any of its files."""
    return read_scene(folder, modality)


def read_scene(folder: Path, modality: Modality) -> Scene:
    """Read what a product says of itself; no pixel is read.

    Args:
        folder: The product.
        modality: What its archive holds.

    Raises:
        RasterRejected: it is no GRD, lacks a polarisation or an annotation, or its XML will not do.
    """
    annotations = _annotations(folder)
    if modality.name != MODALITY:
        raise RasterRejected(
            f"it is a Sentinel-1 GRD product and the archive holds {modality.name}; "
            f"move it to an archive of modality {MODALITY}"
        )
    if missing := [band for band in modality.bands if band not in annotations]:
        held = " and ".join(sorted(annotations))
        raise RasterRejected(f"it holds {held} and modality {modality.name} needs {missing[0]}; leave it out")
    chosen = [annotations[band] for band in modality.bands]
    documents = [document for _, document in chosen]
    return Scene(
        channels=tuple(Channel(_samples(folder, path), _calibration(folder, path, each)) for path, each in chosen),
        spacing=_spacing(documents),
        tags={
            "ACQUISITION": _acquisition(documents),
            "ACQUIRED": f"{documents[0].text('startTime')}Z/{documents[0].text('stopTime')}Z",
            "PASS": _same(documents, "pass").lower(),
        },
    )


def _tags(folder: Path) -> Mapping[str, str]:
    return read_scene(folder, MODALITIES[MODALITY]).tags


def _calibration(folder: Path, annotation: Path, document: Document) -> Calibration:
    tables = folder / "annotation" / "calibration"
    calibration, noise = (
        read_document(tables / f"{kind}-{annotation.name}", f"{kind} annotation") for kind in ("calibration", "noise")
    )
    return calibration_of(document, calibration, noise)


def calibration_of(annotation: Document, calibration: Document, noise: Document) -> Calibration:
    """Return how amplitudes become backscatter.

    Args:
        annotation: The polarisation's product annotation.
        calibration: Its calibration annotation.
        noise: Its noise annotation.

    Raises:
        RasterRejected: a table is missing or makes no sense.
    """
    removed = (annotation.text("thermalNoiseCorrectionPerformed") or "false").lower() == "true"
    sigma = _table(calibration, "calibrationVector", "sigmaNought")
    if any((values <= 0).any() for values in sigma.values):
        raise calibration.refusal("has a sigma nought that is not positive")
    return Calibration(
        width=_positive(annotation, "numberOfSamples"),
        height=_positive(annotation, "numberOfLines"),
        sigma=sigma,
        noise=None if removed else _range_noise(noise),
        azimuth=() if removed else tuple(_azimuth(noise, each) for each in noise.elements("noiseAzimuthVector")),
        swaths=tuple(_block(annotation, each) for each in annotation.elements("swathBounds")),
    )


def _annotations(folder: Path) -> dict[str, tuple[Path, Document]]:
    """Return the product annotation of each polarisation."""
    found: dict[str, tuple[Path, Document]] = {}
    for path in _documents(folder / "annotation"):
        document = read_document(path, "product annotation")
        if (kind := document.text("productType")) != "GRD":
            raise RasterRejected(f"it is a Sentinel-1 product of type {kind or 'unknown'}, not GRD; leave it out")
        polarisation = document.required("polarisation").upper()
        if polarisation in found:
            raise RasterRejected(f"it has two annotations of {polarisation}; remove the one that is not of the product")
        found[polarisation] = path, document
    if not found:
        raise RasterRejected("its product annotation is missing; copy the product again from its origin")
    return found


def _samples(folder: Path, annotation: Path) -> Path:
    """Return the file of amplitudes, also where it was made a COG, whose name ends on `-cog`."""
    for path in _measurements(folder):
        if path.stem.removesuffix(_COG) == annotation.stem.removesuffix(_COG):
            return path
    raise RasterRejected("a measurement file is missing; copy the product again from its origin")


def _measurements(folder: Path) -> list[Path]:
    return [path for path in listed(folder / "measurement") if path.suffix.lower() in _IMAGES]


def _documents(folder: Path) -> list[Path]:
    return [path for path in listed(folder) if path.suffix == ".xml"]


def _same(documents: Sequence[Document], name: str) -> str:
    values = {document.required(name) for document in documents}
    if len(values) > 1:
        raise documents[0].refusal(f"has another {name} than that of the other polarisation")
    return values.pop()


def _acquisition(documents: Sequence[Document]) -> str:
    mission, orbit, take = (
        _same(documents, name) for name in ("missionId", "absoluteOrbitNumber", "missionDataTakeId")
    )
    try:
        return f"{mission}:{int(orbit):06d}:{int(take):06X}"
    except ValueError as error:
        raise documents[0].refusal("has an orbit or datatake that is no number") from error


def _spacing(documents: Sequence[Document]) -> tuple[float, float]:
    try:
        across, down = (float(_same(documents, f"{axis}PixelSpacing")) for axis in ("range", "azimuth"))
    except ValueError as error:
        raise documents[0].refusal("has a pixel spacing that is no number") from error
    if not (0.1 <= across <= 1000 and 0.1 <= down <= 1000):
        raise documents[0].refusal("has a pixel spacing that is impossible")
    return across, down


def _positive(document: Document, name: str) -> int:
    try:
        value = int(document.required(name))
    except ValueError as error:
        raise document.refusal(f"has a {name} that is no number") from error
    if value < 1:
        raise document.refusal(f"has a {name} that is not positive")
    return value


def _range_noise(noise: Document) -> Table:
    for vector, values in _RANGE_NOISE:
        if noise.elements(vector):
            return _table(noise, vector, values)
    raise noise.refusal("has no range noise")


def _table(document: Document, vector: str, name: str) -> Table:
    lines: dict[float, tuple[float, list[float], list[float]]] = {}
    for element in document.elements(vector):
        line = _numbers(document, element, "line")
        pixels, values = _numbers(document, element, "pixel"), _numbers(document, element, name)
        if len(line) != 1:
            raise document.refusal(f"has a {vector} without a line")
        lines[line[0]] = line[0], pixels, values
    try:
        return table([lines[line] for line in sorted(lines)])
    except ValueError as error:
        raise document.refusal(f"has no usable table of {name}") from error


def _azimuth(noise: Document, vector: Element) -> Block:
    """Return a block with its azimuth noise."""
    lines, values = _numbers(noise, vector, "line"), _numbers(noise, vector, "noiseAzimuthLut")
    try:
        table([(0, lines, values)])
    except ValueError as error:
        raise noise.refusal("has no usable table of noiseAzimuthLut") from error
    bounds = _block(noise, vector)
    return Block(bounds.top, bounds.left, bounds.bottom, bounds.right, tuple(lines), tuple(values))


def _block(document: Document, element: Element) -> Block:
    names = ("firstAzimuthLine", "firstRangeSample", "lastAzimuthLine", "lastRangeSample")
    try:
        top, left, bottom, right = (int(child(element, name)) for name in names)
    except ValueError as error:
        raise document.refusal(f"has a {local(element)} without its edges") from error
    return Block(top, left, bottom, right)


def _numbers(document: Document, element: Element, name: str) -> list[float]:
    try:
        return [float(each) for each in child(element, name).split()]
    except ValueError as error:
        raise document.refusal(f"has a {name} that is no number") from error
