"""Archives made on the fly: real files of every kind, good and bad."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from members import World
from PIL import Image

from node.ingest import Listener, Report, ingest
from node.setup import Choices, init_node
from rsfed.home import Home
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.modality import modality
from rsfed.raster.writer import Grid, write_geotiff
from rsfed.trust.manifest import FederationClass, Nomenclature
from rsfed.trust.release_store import ReleaseStore


def make_node(folder: Path, *, kind: str = "rgb") -> tuple[Home, Path]:
    """Return the home of a new node and its empty archive."""
    archive = folder / "images"
    archive.mkdir()
    home = Home(folder / "home")
    init_node(home, Choices(archive, kind, "127.0.0.1:7443", "127.0.0.1:7443"))
    return home, archive


def configure(home: Home, old: str, new: str) -> None:
    path = home.path / "node.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def run(home: Home, **options) -> tuple[Report, dict[str, str]]:
    """Ingest, and return the report with the reasons of what was skipped, by name."""
    skipped: dict[str, str] = {}
    listener = Listener(lambda done, total: None, lambda problem: skipped.update({problem.name: problem.reason}))
    return ingest(home, listener, **options), skipped


def give_release(
    home: Home,
    *classes: str,
    world: World | None = None,
    version: int = 1,
    encoder: tuple[str, InputSpec] | None = None,
) -> None:
    """Have a node admit a release whose nomenclature has these classes, with ids from 1, and one encoder."""
    world = world or World()
    entries = tuple(FederationClass(id=number, name=name) for number, name in enumerate(classes, 1))
    kind, spec = encoder or ("rgb", default_spec(modality("rgb"), 64))
    entry = world.release(weights=b"w").manifest.encoders["rgb"].model_copy(update={"modality": kind, "input": spec})
    release = world.release(version, weights=b"w", encoders={"one": entry}, nomenclature=Nomenclature(classes=entries))
    ReleaseStore(home.releases).admit(
        release.header, [release.weights], world.bundle(), federation=world.name, now=world.clock()
    )


def png(path: Path, seed: int = 0, *, size: tuple[int, int] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def scene(path: Path, seed: int = 0, *, side: int = 64, empty: float = 0.0, **tags: str) -> Path:
    """Write four bands of reflectance at 10 m with CRS and tags; the share `empty` of the rows is nodata (NaN)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).uniform(100, 4000, (4, side, side)).astype(np.float32)
    values[:, : round(empty * side)] = np.nan
    write_geotiff(path, values, Grid(32632, 600_000.0, 5_200_000.0, 10.0), tags)
    return path


def bad_files(archive: Path) -> dict[str, str]:
    """Put one bad file of every kind into an archive; returns name -> a word of the reason to expect."""
    outside = png(archive.parent / "outside.png")
    good = png(archive.parent / "good.png", size=(64, 64)).read_bytes()
    words = {}

    def put(name: str, data: bytes, word: str) -> None:
        (archive / name).write_bytes(data)
        words[name] = word

    put("truncated.png", good[: len(good) // 2], "truncated")
    put("empty.png", b"", "empty")
    put("text.png", b"this is no image at all", "not a GeoTIFF")
    put("readme.pdf", b"%PDF", "not an image")
    put("zero.png", _png_header(0, 0), "")
    put("wide.png", _png_header(100_000, 10), "100,000")
    put("lying.png", _png_header(11_000, 11_000), "promises")
    put("list.vrt", b"<VRTDataset></VRTDataset>", "VRT")
    put(
        "list.tif",
        b"<VRTDataset><SourceFilename>/vsicurl/http://example.org/x.tif</SourceFilename></VRTDataset>",
        "VRT",
    )
    put("Twin.png", good, "")
    put("twin.png", good, "upper and lower case")
    del words["Twin.png"]
    (archive / "leak.png").symlink_to(outside)
    words["leak.png"] = "out of the archive"
    (archive / "nowhere.png").symlink_to(archive / "missing.png")
    words["nowhere.png"] = "leads nowhere"
    Image.new("L", (32, 32)).save(archive / "grey.png")
    words["grey.png"] = "1 band"
    values = np.zeros((3, 32, 32), np.uint16)
    write_geotiff(archive / "deep.tif", values, Grid(32632, 0.0, 0.0, 10.0), {})
    words["deep.tif"] = "uint16"
    return words


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )
