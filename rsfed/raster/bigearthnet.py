"""BigEarthNet on disk, both versions: one folder for each patch, with a file for each band.

| patch | folder and files | acquisition | time | place |
|---|---|---|---|---|
| Sentinel-2 | `<name>/<name>_B02.tif` and 11 more | platform and sensing start of the datatake, in the name | of the label file, else of the name | tile of the grid and patch number |
| Sentinel-1 | `<name>/<name>_VV.tif`, `_VH.tif` | mission and absolute orbit, of the product that the label file names, else worked out from the time in the name | as above | as above |

Version 1 has labels beside the bands (`<name>_labels_metadata.json`) and names without tile, in whose times a leading zero
is missing; version 2 has one table for all patches (`rsfed.raster.bigearthnet_records`).
"""  # noqa: E501 - a table

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rsfed.errors import RasterRejected
from rsfed.raster import metadata
from rsfed.raster.declared import as_declared
from rsfed.raster.image import Source
from rsfed.raster.item import Declared
from rsfed.raster.modality import Modality
from rsfed.raster.product import OpenBand, Product
from rsfed.raster.small_file import read_small
from rsfed.raster.stack import Stack

LAYOUT = "bigearthnet"
OPTICAL_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
RADAR_BANDS = ("VV", "VH")
_OPTICAL = re.compile(r"(S2[A-D])_MSIL2A_(\d{8})T(\d{5,6})(?:_N\d{4}_R\d{3}_T(\d\d[A-Z]{3}))?_(\d{1,3})_(\d{1,3})")
_RADAR = re.compile(r"(S1[A-D])_IW_GRDH_1SDV_(\d{8})T(\d{6})_(\d\d[A-Z]{3})_(\d{1,3})_(\d{1,3})")
_BAND_FILE = re.compile(r"(S[12][A-D]_.*)_(B\d[\dA]|VV|VH|reference_map)\.tif")
_SOURCE_TILE = re.compile(r"_T(\d\d[A-Z]{3})_")
_MOST_BYTES = 1 << 16  # of a label file

_ORBIT_SECONDS = 12 * 86_400 / 175  # Sentinel-1 is over the same ground after 175 orbits, 12 days
_FIRST_SECONDS = {  # an orbit of each mission, and when it began at the equator
    "S1A": (17_018, datetime(2017, 6, 13, 16, 37, 20, tzinfo=UTC)),
    "S1B": (6_122, datetime(2017, 6, 19, 16, 36, 40, tzinfo=UTC)),
}


def product(folder: Path, names: Collection[str]) -> Product | None:
    """Return the patch that a folder is, without bands where it holds a reference map alone; None for other folders."""
    held = [match for name in names if (match := _BAND_FILE.fullmatch(name))]
    if not held or len({match[1] for match in held}) > 1:
        return None
    patch = held[0][1]
    if not (_OPTICAL.fullmatch(patch) or _RADAR.fullmatch(patch)):
        return None
    problem = None
    if folder.name != patch:
        if len(held) == 1:
            return None
        problem = "its folder has another name than its files; give it theirs again"
    found = {match[2]: folder / match[0] for match in held}
    label_file = folder / f"{patch}_labels_metadata.json"
    return Product(
        layout=LAYOUT,
        folder=folder,
        bands={band: found[band] for band in (*OPTICAL_BANDS, *RADAR_BANDS) if band in found},
        tags=lambda: _tags(patch, read_label_file(label_file)),
        opens=open_product,
        companions=(label_file,) if label_file.name in names else (),
        name=folder.name,
        problem=problem,
    )


def open_product(product: Product, modality: Modality, open_band: OpenBand, declared: Declared) -> Source:
    """Open a patch.

    Args:
        product: The patch.
        modality: What its archive holds.
        open_band: Opens one of its files.
        declared: What the operator says of its values.

    Raises:
        RasterRejected: it lacks a band, or its bands do not lie on one grid.
    """
    return as_declared(Stack.open(product, modality, open_band), modality, declared)


def read_label_file(path: Path) -> Mapping[str, Any]:
    """Return what the label file of a patch of version 1 says; nothing where there is none.

    Raises:
        RasterRejected: it is damaged, or a link.
        OSError: it cannot be read.
    """
    try:
        told = json.loads(read_small(path, _MOST_BYTES, "its label file"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise RasterRejected("its label file is damaged; copy it again from its origin") from error
    if not isinstance(told, dict):
        raise RasterRejected("its label file is not that of a patch; copy it again from its origin")
    return told


def _tags(patch: str, told: Mapping[str, Any]) -> dict[str, str]:
    """Return acquisition, time and place of a patch by its name and its label file."""
    if match := _OPTICAL.fullmatch(patch):
        platform, day, time, tile, col, row = match.groups()
        moment = f"{day}T{time:0>6}"
        acquisition = f"{platform}:{moment}"
        tile = tile or _found(_SOURCE_TILE, told.get("tile_source"))
    elif match := _RADAR.fullmatch(patch):
        mission, day, time, tile, col, row = match.groups()
        moment = f"{day}T{time}"
        scene = metadata.acquisition({}, _text(told.get("scene_source")))
        # Without the datatake, which nothing but a label file tells: so it is one whether there is one or not.
        acquisition = scene.rpartition(":")[0] if scene else _orbit(mission, moment)
    else:
        raise RasterRejected("its name is not that of a patch; give it its name again")
    acquired = _text(told.get("acquisition_date")) or _text(told.get("acquisition_time")) or moment
    tags = {"ACQUISITION": acquisition, "ACQUIRED": acquired}
    return tags | ({"PLACE": f"{tile}_{int(col)}_{int(row)}"} if tile else {})


def _orbit(mission: str, moment: str) -> str:
    """Return the overpass of a Sentinel-1 image whose orbit nobody tells: the same for all slices of it.

    The beginning of an orbit at the equator is known to about a minute.
    """
    try:
        number, first = _FIRST_SECONDS[mission]
        passed = (datetime.fromisoformat(moment).replace(tzinfo=UTC) - first).total_seconds()
    except (KeyError, ValueError):
        return f"{mission}:{moment}"
    return f"{mission}:{number + int(passed // _ORBIT_SECONDS):06}"


def _found(pattern: re.Pattern[str], value: object) -> str | None:
    match = pattern.search(_text(value))
    return match[1] if match else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
