"""Products: sources whose bands lie in files of their own, a folder or an item of a STAC document.

Which these are say the layouts (`rsfed.raster.layouts`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rsfed.raster.image import Source
from rsfed.raster.item import Declared
from rsfed.raster.modality import Modality

OpenBand = Callable[[Path, Modality], Source]
"""Opens one file as a source of one band."""


class Classes(NamedTuple):
    """A file that says what each pixel shows, clouds and shadows included.

    Attributes:
        kind: How it says it: one of those that `rsfed.raster.clouds` knows.
        path: The file.
    """

    kind: str
    path: Path


@dataclass(frozen=True, slots=True)
class Product:
    """Files that are the bands of one source.

    Attributes:
        layout: Name of its layout.
        folder: The folder that they lie in or below.
        bands: File of each band, in an order that is fixed for the layout; none where it is nothing to search.
        tags: Returns its metadata, as `rsfed.raster.metadata` reads them.
        opens: Opens it: takes itself, what its archive holds, what opens one of its files, and what was declared.
        companions: Files that say something of it and hold no pixels.
        problem: Why it is none after all and what to do; None where it is one.
        decides: Files that decide what its pixels mean, so that it is another product where one of them is another.
        says: What decides that, too, and lies in a file with other things.
        bands_told: Whether its names tell which bands the files are; else that is known when it is opened.
        name: Its own name, so that another one of that name is a copy; None where it has none.
        classes: What says where clouds and their shadows are; None where nothing does.
    """

    layout: str
    folder: Path
    bands: Mapping[str, Path]
    tags: Callable[[], Mapping[str, str]]
    opens: Callable[[Product, Modality, OpenBand, Declared], Source]
    companions: tuple[Path, ...] = ()
    problem: str | None = None
    decides: tuple[Path, ...] = ()
    says: bytes = b""
    bands_told: bool = True
    name: str | None = None
    classes: Classes | None = None

    def stamp(self) -> tuple[int, int]:
        """Return the bytes of all its files, and a number that changes with the size or time of any of them.

        Raises:
            OSError: one of them is gone or cannot be looked at.
        """
        classes = () if self.classes is None else (self.classes.path,)
        states = [path.stat() for path in (*self.bands.values(), *self.companions, *self.decides, *classes)]
        told = repr([(each.st_size, each.st_mtime_ns) for each in states])
        return sum(each.st_size for each in states), int.from_bytes(
            hashlib.sha256(told.encode() + self.says).digest()[:7]
        )
