"""A STAC endpoint as files: each item that it lists has a folder in the node's home, as `rsfed.raster.stac` takes it.

Of an item only the bands of the archive's modality are fetched, and the classes that tell clouds. They stay: training,
other releases and delivered crops read them again. An item that its endpoint lists no more, or whose files are gone
there, loses its folder. Files are asked for again only where what the endpoint says of their item has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from node.endpoint.listing import Listed, Listing, list_items
from node.endpoint.web import Fetched, TooLarge, Web
from rsfed.config_images import ArchiveSection
from rsfed.errors import RasterRejected
from rsfed.hosts import address, shown
from rsfed.raster.layout import Skipped
from rsfed.raster.limits import IMAGE_SUFFIXES, MAX_BYTES
from rsfed.raster.modality import Modality
from rsfed.raster.stac import CLASSES, assets_of, check_level, names_of
from rsfed.raster.stac_documents import MAX_BYTES as DOCUMENT_BYTES
from rsfed.raster.stac_documents import Document
from rsfed.trust.identity import write_atomically

_STATE = ".fetched.json"
_PART = ".part"
_SUFFIXES = {"image/tiff": ".tif", "image/jp2": ".jp2", "image/png": ".png", "image/jpeg": ".jpg"}
_SHA256 = re.compile(r"1220([0-9a-f]{64})")  # as a multihash


class _Wanted(NamedTuple):
    asset: Document
    url: str
    name: str  # of its file


class Mirror:
    """The files of an endpoint.

    Args:
        root: Where they lie.
        archive: Where the endpoint is, which hosts are fetched from, and how much.
        modality: What the archive holds.
    """

    def __init__(self, root: Path, archive: ArchiveSection, modality: Modality) -> None:
        self._root = root
        self._start = archive.stac or ""
        self._hosts = archive.allowed
        self._web = Web(self._hosts)
        self._modality = modality
        self._most = round(archive.fetch_gib * 2**30)  # bytes
        self._room = self._most

    @property
    def name(self) -> str:
        """The endpoint's address, as it may be printed."""
        return shown(self._start)

    def listing(self) -> Listing:
        """List the items of the endpoint.

        Raises:
            ArchiveError: ARCHIVE_UNREACHABLE.
        """
        return list_items(self._start, self._hosts, partial(self._web.document, most=DOCUMENT_BYTES))

    def held(self) -> set[str]:
        """Return the names of the items that have a folder."""
        return {path.relative_to(self._root).as_posix() for path in self._root.glob("*/*") if path.is_dir()}

    def drop(self, names: Iterable[str]) -> None:
        """Remove items."""
        for name in names:
            shutil.rmtree(self._root / name, ignore_errors=True)
            with suppress(OSError):  # another item of the collection is still there
                (self._root / name).parent.rmdir()

    def refusal(self, listed: Listed) -> str | None:
        """Return why an item will not do, as far as that is known before anything of it is fetched."""
        try:
            self._wanted(json.loads(listed.item), listed.base)
        except RasterRejected as error:
            return error.public
        return None

    def fetch(self, listing: Listing, progressed: Callable[[int, int], None]) -> list[Skipped]:
        """Bring the files in line with what is listed; return what will not do, or cannot be had just now."""
        problems = []
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._room = self._most - _bytes(self._root)
        for done, (name, listed) in enumerate(listing.items.items()):
            progressed(done, len(listing.items))
            folder = self._root / name
            try:
                self._bring(folder, json.loads(listed.item), listed.base)
            except OSError as error:
                waiting = len(listing.items) - done
                what = f"it cannot be written ({error.strerror}); make room on the disk of the node's home"
                problems.append(Skipped(name, f"{what}; {waiting:,} items wait for that", passing=True))
                break
            except RasterRejected as error:
                passing = error.reason == "UNREADABLE"
                problems.append(Skipped(name, error.public, passing=passing))
                if not passing:
                    self._room += _bytes(folder)
                    self.drop([name])
        progressed(len(listing.items), len(listing.items))
        return problems

    def _bring(self, folder: Path, item: Document, base: str) -> None:
        wanted = self._wanted(item, base)
        kept = {**item, "assets": {band: {**each.asset, "href": each.name} for band, each in wanted.items()}}
        told = hashlib.sha256(json.dumps([kept, [_bare(each.url) for each in wanted.values()]]).encode()).hexdigest()
        state = _state(folder)
        names = {each.name for each in wanted.values()}
        if state.get("told") == told and all((folder / name).is_file() for name in names):
            return
        before = _bytes(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            versions = self._replace(folder, wanted, state.get("versions", {}))
            document = f"{folder.name}.json"
            for path in folder.iterdir():  # of bands that it had once
                if path.name not in {*names, document, _STATE}:
                    path.unlink()
            write_atomically(folder / document, json.dumps(kept).encode())
            write_atomically(folder / _STATE, json.dumps({"told": told, "versions": versions}).encode())
        finally:
            self._room -= _bytes(folder) - before

    def _replace(self, folder: Path, wanted: Mapping[str, _Wanted], known: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch what is new or has changed, then put all of it in place; return the version of each file."""
        versions: dict[str, Any] = {}
        fetched: list[tuple[Path, Path]] = []
        room = self._room
        try:
            for each in wanted.values():
                path, part = folder / each.name, folder / f".{each.name}{_PART}"
                before = known.get(each.name, {}) if path.is_file() else {}
                version = before.get("version", {}) if _still(each, before) else {}
                kept = {"url": _bare(each.url), "version": version, "sha256": before.get("sha256")}
                if (found := self._file(each, part, room, version)) is not None:
                    fetched.append((part, path))
                    room -= found.size
                    kept |= {"version": dict(found.version), "sha256": found.sha256}
                versions[each.name] = kept
            for part, path in fetched:
                part.replace(path)
        finally:
            for part in folder.glob(f".*{_PART}"):
                part.unlink()
        return versions

    def _file(self, wanted: _Wanted, part: Path, room: int, version: Mapping[str, str]) -> Fetched | None:
        """Fetch a file; None where it still is the same.

        Raises:
            RasterRejected: it is gone or cannot be had, there is no room, or it is not what its catalogue says.
        """
        try:
            found = self._web.file(wanted.url, part, min(room, MAX_BYTES), version)
        except TooLarge:
            if room >= MAX_BYTES:
                raise
            words = f"with it more than {self._most / 2**30:g} GiB would be held; raise archive.fetch_gib or list less"
            raise RasterRejected(words, reason="UNREADABLE") from None
        if found and _checksum(wanted) not in {None, found.sha256}:
            words = "its bytes are not those of its file:checksum; let whoever keeps the catalogue correct it"
            raise RasterRejected(words, reason="UNREADABLE")
        return found

    def _wanted(self, item: Document, base: str) -> dict[str, _Wanted]:
        """Return the files to fetch by the bands that they are.

        Raises:
            RasterRejected: it is of another level, lacks a band, or a band lies where nothing is fetched from.
        """
        check_level(item, self._modality)
        assets: dict[str, list[Document]] = {}
        for band, asset in assets_of(item):
            assets.setdefault(band, []).append(asset)
        alternatives = [names_of(band) for band in self._modality.bands]
        bands = [next((each for each in names if each in assets), "") for names in alternatives]
        if missing := [names[0] for names, band in zip(alternatives, bands, strict=True) if not band]:
            raise RasterRejected(f"it has no asset of band {', '.join(missing)}; take it out of the catalogue")
        classes = [each for each in CLASSES if each in assets][:1]
        return {band: self._chosen(band, assets[band], base) for band in [*bands, *classes]}

    def _chosen(self, band: str, assets: Collection[Document], base: str) -> _Wanted:
        """Return the first asset of a band that may be fetched."""
        refusals = []
        for asset in assets:
            url = address(str(asset.get("href")), base)
            suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
            suffix = suffix if suffix in IMAGE_SUFFIXES else _SUFFIXES.get(str(asset.get("type")).partition(";")[0], "")
            reason = self._hosts.refusal(url)
            if suffix and not reason:
                return _Wanted(asset, url, f"{band}{suffix}")
            refusals.append(reason or "it is no image")
        raise RasterRejected(f"band {band}: {refusals[0]}")


def _still(wanted: _Wanted, before: Mapping[str, Any]) -> bool:
    """Return whether a file may be as it was fetched before: its host may say so of one that its catalogue changed."""
    return before.get("url") == _bare(wanted.url) and _checksum(wanted) in {None, before.get("sha256")}


def _checksum(wanted: _Wanted) -> str | None:
    """Return the SHA-256 that a catalogue tells of a file; None where it tells none."""
    found = _SHA256.fullmatch(str(wanted.asset.get("file:checksum")))
    return found[1] if found else None


def _bare(url: str) -> str:
    """Return an address without what may be signed anew each time."""
    return url.partition("?")[0]


def _state(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _STATE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
