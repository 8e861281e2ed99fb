"""Feeds mutated files of every format to the reader: `make soak-formats` takes 2,000 of each, test_fuzz.py a few.

They are read by a process of its own whose memory is limited, which is this file with `--child`. A mutant has to be
read or refused with RasterRejected, within two seconds of processor time; whatever else happens is a finding. The
pixels of an image are then those that rasterio alone reads of the mutant; those of a product have to be finite. Mutants
follow from format and number, so a finding is looked at again by `--form FORMAT --first NUMBER --count 1`.

A mutant whose header promises a scene is one, and may take as long as a scene of so many patches does; those that took
more than two seconds so are told as `scenes`, with their patches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import rasterio.shutil
from raster_makers import (
    PATCH,
    REFLECTANCE,
    UTM,
    optical_patch,
    photo,
    reflectance,
    spec,
    write_band,
    write_image,
)
from safe_makers import COMMON, GRD, amplitudes, offset_list, product_xml, scene, swath, write_item, write_s1, write_s2

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item, Window
from rsfed.raster.layout import Skipped, walk
from rsfed.raster.modality import modality
from rsfed.raster.reader import read_many
from rsfed.raster.source import opened

MEMORY = 1 << 30  # bytes that the process may take beyond what it has when it begins
SECONDS = 2.0  # of processor time that a mutant may take
A_PATCH = 1e-3  # seconds more for each patch that is cut from it
_HANGS = 120  # seconds after which a mutant is given up
_NAME = "S2A_MSIL2A_20170613T101031_{}.img"  # of a mutated image
_NUMBERS = (b"0", b"-1", b"1e999", b"nan", b"9" * 40, b"0x1", b"", b"1 2", b"null", b"[]", b"{}", b'"a"')


@dataclass(frozen=True)
class Form:
    """A format.

    Attributes:
        kind: Modality that it is read as.
        make: Writes a sound source into a folder and returns the file to mutate, which is the source where `image`.
        image: The file is an image by itself; else it belongs to a product.
    """

    kind: str
    make: Callable[[Path], Path]
    image: bool = True


def _image(values: np.ndarray, **options: object) -> Callable[[Path], Path]:
    return lambda folder: write_image(folder / "whole", values, **options)


def _cog(folder: Path) -> Path:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        plain = write_image(folder / "plain.tif", reflectance(size=160), **UTM)
        rasterio.shutil.copy(plain, folder / "whole", driver="COG", BLOCKSIZE=128, COMPRESS="DEFLATE", OVERVIEW_COUNT=1)
    plain.unlink()
    return folder / "whole"


def _sentinel_2(folder: Path) -> Path:
    xml = product_xml(offsets=offset_list("L2A", -1000))
    return write_s2(folder / "a.SAFE", {name: scene(size=48)[name] for name in COMMON}, xml=xml) / "MTD_MSIL2A.xml"


def _sentinel_1(pattern: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_s1(folder / GRD, amplitudes(width=80, height=64), swaths=swath(0, 0, 63, 79))
        return min((folder / GRD / "annotation").glob(pattern))

    return make


def _labels(folder: Path) -> Path:
    optical_patch(folder)
    told = {"labels": ["Rice fields", "Airports"], "coordinates": {"ulx": 1, "uly": 2}, "tile_source": "S2A_T33UUP_"}
    path = folder / PATCH / f"{PATCH}_labels_metadata.json"
    path.write_text(json.dumps(told | {"acquisition_date": "2017-06-13 10:10:31", "projection": "PROJCS[]"}))
    return path


def _stac(folder: Path) -> Path:
    return write_item(folder / "a", {name: scene(size=48)[name] for name in COMMON}) / "a.json"


_BLOCKS = {"tiled": True, "blockxsize": 16, "blockysize": 16}
_RADAR = "sentinel-1-grd-db"
FORMS = {
    "plain tiff": Form("uint16-1", lambda folder: write_band(folder / "whole", reflectance()[0], gsd=10, nodata=0)),
    "tiff": Form(
        REFLECTANCE,
        _image(reflectance(), **UTM, tags={"ACQUISITION": "a", "ACQUIRED": "2024-05-01"}, nodata=7),
    ),
    "tiff with mask": Form(
        REFLECTANCE, _image(reflectance(), **UTM, compress="deflate", mask=reflectance()[0] > 900, **_BLOCKS)
    ),
    "float tiff": Form(
        "float32-2",
        _image(np.random.default_rng(1).normal(size=(2, 32, 32)).astype(np.float32), compress="lzw", nodata=-9999.0),
    ),
    "cog": Form(REFLECTANCE, _cog),
    "jpeg": Form("rgb", _image(photo(), driver="JPEG")),
    "png": Form("rgb", _image(photo(), driver="PNG")),
    "jpeg 2000": Form("rgb", _image(photo(), driver="JP2OpenJPEG")),
    "sentinel-2 xml": Form(REFLECTANCE, _sentinel_2, image=False),
    "sentinel-1 annotation": Form(_RADAR, _sentinel_1("*.xml"), image=False),
    "sentinel-1 calibration": Form(_RADAR, _sentinel_1("calibration/calibration-*.xml"), image=False),
    "sentinel-1 noise": Form(_RADAR, _sentinel_1("calibration/noise-*.xml"), image=False),
    "bigearthnet labels": Form("sentinel-2-l2a", _labels, image=False),
    "stac item": Form(REFLECTANCE, _stac, image=False),
}


def mutated(data: bytes, rng: np.random.Generator, *, text: bool) -> bytes:
    """Return data with some bytes changed, cut, left out, repeated or, in a text, a number replaced."""
    mutant = bytearray(data)
    choice = rng.integers(7 if text else 6)
    start, length = int(rng.integers(len(mutant))), int(rng.integers(1, 64))
    if choice == 0:
        return bytes(mutant[:start])
    if choice == 1:
        return bytes(mutant[:start] + mutant[start + length :])
    if choice == 2:
        place = int(rng.integers(len(mutant)))
        return bytes(mutant[:place] + mutant[start : start + length] + mutant[place:])
    if choice == 6:
        digits = [place for place, byte in enumerate(mutant) if chr(byte).isdigit()]
        place = digits[rng.integers(len(digits))]
        end = next((each for each in range(place, len(mutant)) if chr(mutant[each]) not in "0123456789."), len(mutant))
        return bytes(mutant[:place] + _NUMBERS[rng.integers(len(_NUMBERS))] + mutant[end:])
    # Headers decide more than pixels do, so most are hurt there, or at the end, where TIFFs keep theirs.
    reach = len(mutant) if text else [len(mutant), 300, 300][rng.integers(3)]
    for _ in range(rng.integers(1, 9)):
        place = int(rng.integers(min(reach, len(mutant))))
        place = len(mutant) - 1 - place if choice == 3 else place
        mutant[place] = [0, 255, 128, int(rng.integers(256))][rng.integers(4)]
    return bytes(mutant)


class Reader:
    """Reads the mutants of a format.

    Args:
        name: The format.
        folder: An empty folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder, self._form = name, folder, FORMS[name]
        folder.mkdir()
        self.patches = 0  # that were cut from the last mutant
        self._path = self._form.make(folder)
        self._whole = self._path.read_bytes()
        known = modality(self._form.kind)
        fit = "tile" if self._form.image else "crop"
        self._spec = spec(" ".join(known.bands), size=16, gsd=10.0, fit=fit, max_nodata=1.0)
        if not self._read():
            raise ValueError(f"{name}: the sound source is not read")

    def outcome(self, number: int) -> str:
        """Return "read" or "refused"; whatever else becomes of a mutant is raised."""
        rng = np.random.default_rng([zlib.crc32(self._name.encode()), number])
        mutant = mutated(self._whole, rng, text=not self._form.image)
        if self._form.image:
            self._path.unlink(missing_ok=True)
            self._path = self._folder / _NAME.format(number)
        self._path.write_bytes(mutant)
        os.utime(self._path, ns=(number, number))  # within a tick of the clock another one would look like the last
        try:
            read = self._read()
        except RasterRejected as error:
            if "\n" in error.public or ";" not in error.public:
                raise ValueError(f"no line with a remedy: {error.public}") from error
            return "refused"
        return "read" if read else "refused"

    def _read(self) -> bool:
        known, read = modality(self._form.kind), False
        self.patches = 0
        for path in [self._path] if self._form.image else self._products():
            info = inspect(path, root=self._folder, modality=known, spec=self._spec)
            items = [Item(place, path, each.window, known.name, each.digest) for place, each in enumerate(info.windows)]
            for _, content in read_many(items, self._spec):
                if isinstance(content, RasterRejected):
                    raise content
                if not np.isfinite(content["all"]).all():
                    raise ValueError("a pixel is not finite")
                self.patches += 1
            read = True
        if self._form.image:
            self._compare()
        return read

    def _products(self) -> Iterator[Path]:
        for entry in walk(self._folder):
            if not isinstance(entry, Skipped) and entry.product is not None:
                yield entry.path

    def _compare(self) -> None:
        """Compare all pixels of an image with those that rasterio alone reads."""
        known = modality(self._form.kind)
        bands = range(len(known.bands))
        with opened(self._path, known) as source:
            values, _ = source.read(bands, Window(0, 0, source.width, source.height))
        driver = limits.driver_for(self._path.read_bytes()[: limits.MAGIC_BYTES])
        # The faster way of GDAL to read a PNG gives unset memory where the end of the file is damaged.
        options = {"GDAL_PAM_ENABLED": False, "GDAL_PNG_WHOLE_IMAGE_OPTIM": False}
        with rasterio.Env(**options), rasterio.open(self._path, driver=driver) as plain:
            wanted = plain.read([band + 1 for band in bands])
        if values.tobytes() != wanted.tobytes():
            raise ValueError("pixels are not those of the file")


@dataclass
class Result:
    """What became of the mutants of a format.

    Attributes:
        outcomes: How many were read and refused.
        slowest: Most processor seconds that one took, but for scenes.
        scenes: Processor seconds and patches of those that took long because there are many, by number.
        findings: What else became of others, by number.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    scenes: dict[int, tuple[float, int]] = field(default_factory=dict)
    findings: dict[int, str] = field(default_factory=dict)


@dataclass
class Soak:
    """Mutants of some formats.

    Attributes:
        forms: The formats.
        first: Number of the first mutant of each.
        count: How many mutants of each.
        seconds: Processor time that one may take.
        results: What became of them.
        said: What the processes said on standard error.
    """

    forms: Sequence[str]
    first: int
    count: int
    seconds: float = SECONDS
    results: dict[str, Result] = field(default_factory=dict)
    said: str = ""

    def run(self) -> None:
        """Read all of them; a process that ends costs the mutant that it had, and the next goes on behind it."""
        self.results = {form: Result() for form in self.forms}
        left = [(form, number) for form in self.forms for number in range(self.first, self.first + self.count)]
        while left:
            left = left[self._process(left) :]

    def _process(self, left: Sequence[tuple[str, int]]) -> int:
        """Have a process read mutants; return how many it is done with."""
        with TemporaryDirectory() as folder, (Path(folder) / "said").open("w+b") as said:
            command = [sys.executable, __file__, "--child", folder]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as process:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(list(left)).encode())
                    process.stdin.close()
                done = self._listen(process, left)
            said.seek(0)
            self.said += said.read().decode(errors="replace")
        return done

    def _listen(self, process: subprocess.Popen[bytes], left: Sequence[tuple[str, int]]) -> int:
        assert process.stdout is not None
        for done, (form, number) in enumerate(left):
            line = process.stdout.readline()
            if not line:
                self.results[form].findings[number] = f"ended the process ({process.wait()})"
                return done + 1
            self._note(form, number, *json.loads(line))
        return len(left)

    def _note(self, form: str, number: int, outcome: str, seconds: float, patches: int) -> None:
        result = self.results[form]
        if outcome not in ("read", "refused"):
            result.findings[number] = outcome
        elif seconds > self.seconds + A_PATCH * patches:
            result.findings[number] = f"{outcome} after {seconds:.1f} s"
        else:
            result.outcomes[outcome] += 1
        if result.findings.get(number) is None and seconds > self.seconds:
            result.scenes[number] = round(seconds, 1), patches
        else:
            result.slowest = max(result.slowest, seconds)
        if number == self.first + self.count - 1:
            print(f"{form}: {dict(result.outcomes)}, {len(result.findings)} findings", file=sys.stderr, flush=True)


def child(folder: Path) -> None:
    """Read the mutants that standard input lists, and say a line for each."""
    asked = [(form, number) for form, number in json.load(sys.stdin)]
    readers: dict[str, Reader] = {}
    for form, _ in asked:
        if form not in readers:
            readers[form] = Reader(form, folder / form.replace(" ", "-"))
    status = Path("/proc/self/statm").read_text().split()
    most = int(status[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for form, number in asked:
        begin = time.process_time()
        signal.alarm(_HANGS)  # which ends the process
        try:
            outcome = readers[form].outcome(number)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            outcome = f"{type(error).__name__}: {error}"
        print(json.dumps([outcome, time.process_time() - begin, readers[form].patches]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="mutants of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--form", choices=FORMS, action="append", help="one format; all when left out")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    soak = Soak(options.form or list(FORMS), options.first, options.count)
    soak.run()
    told = {
        form: {
            **result.outcomes,
            "slowest_s": round(result.slowest, 3),
            "scenes": result.scenes,
            "findings": result.findings,
        }
        for form, result in soak.results.items()
    }
    found = sum(len(result.findings) for result in soak.results.values())
    print(json.dumps({"mutants": options.count, "formats": told, "findings": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
