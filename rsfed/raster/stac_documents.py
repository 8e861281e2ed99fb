"""STAC documents: what a JSON is, and what it links to.

Of an item only what this software reads is kept, so that many of them can be held, and so that a catalogue may change
what means nothing here (`updated`, a thumbnail, links) without its patches becoming others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rsfed.errors import RasterRejected
from rsfed.raster.small_file import read_small

Document = Mapping[str, Any]

MAX_BYTES = 32 << 20  # of a document; an ItemCollection of a thousand large items
BAD_ID = "its id cannot be the name of a file; give it another"
_MAX_ID = 200  # characters
_MAX_NAME = 255  # bytes of a file's name
_MAX_PATH = 1024  # bytes of a path in an address; with the archive's own it stays within what systems take
_PROPERTIES = (
    *("s2:datatake_id", "s2:product_uri", "s2:product_type", "processing:level", "platform", "eo:bands"),
    *("datetime", "start_datetime", "end_datetime", "sat:orbit_state"),
    *("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied"),
)
_OF_ASSETS = (
    *("href", "type", "eo:bands", "bands", "raster:bands", "scale", "offset", "raster:scale", "raster:offset"),
    "file:checksum",
)


@dataclass(frozen=True, slots=True)
class ItemCollection:
    """The items of an ItemCollection.

    Attributes:
        items: What is read of each, by its id.
        problems: Why others will not do, by what they are called.
    """

    items: Mapping[str, Document]
    problems: Mapping[str, str]

    @classmethod
    def of(cls, features: Iterable[object]) -> ItemCollection:
        """Return those features that are items; others are none of ours."""
        items: dict[str, Document] = {}
        problems: dict[str, str] = {}
        for feature in features:
            if not (isinstance(feature, dict) and is_item(feature)):
                continue
            number = feature.get("id")
            if not (isinstance(number, str) and is_part_of_path(number)):
                problems[ascii(number)[:_MAX_ID]] = BAD_ID
            elif items.setdefault(number, found := slim(feature)) != found:
                problems[number] = "its ItemCollection lists another item of the same id; give each its own"
        return cls(items, problems)


def read_document(path: Path) -> Document | ItemCollection | None:
    """Return what a JSON is: an item (what is read of it), a catalogue, an ItemCollection; None for anything else.

    Raises:
        OSError: it cannot be read just now.
    """
    try:
        status = path.lstat()
        return _read(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=2)  # a source asks for its document several times
def _read(path: Path, _size: int, _modified_ns: int, _inode: int) -> Document | ItemCollection | None:
    try:
        content = read_small(path, MAX_BYTES, "its JSON")
    except RasterRejected:
        return None
    # Most JSON beside images is none, and is not worth the time.
    found = parsed(content) if b'"stac_version"' in content else None
    if found is None or is_catalogue(found):
        return found
    return slim(found) if is_item(found) else ItemCollection.of(found["features"])


def parsed(content: bytes) -> Document | None:
    """Return a STAC item, catalogue, collection or ItemCollection; None for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(found, dict) and (is_catalogue(found) or is_item(found) or is_collection(found))
    return found if sound else None


def is_catalogue(document: Document) -> bool:
    """Return whether a document links to others: a Catalog or Collection."""
    return document.get("type") in {"Catalog", "Collection"} and "stac_version" in document


def is_item(document: Document) -> bool:
    """Return whether a document is an item."""
    sound = document.get("type") == "Feature" and "stac_version" in document
    return sound and isinstance(document.get("assets"), dict)


def is_collection(document: Document) -> bool:
    """Return whether a document is an ItemCollection."""
    return document.get("type") == "FeatureCollection" and isinstance(document.get("features"), list)


def is_part_of_path(text: str) -> bool:
    """Return whether an id can be the last part of a path."""
    return text.isprintable() and "/" not in text and text not in {"", ".", ".."} and len(text) <= _MAX_ID


def links(document: Document, *relations: str) -> Iterator[str]:
    """Yield where the links of some relations lead, as they are spelt; those that have to be posted are none."""
    listed = document.get("links")
    for link in listed if isinstance(listed, list) else ():
        if isinstance(link, dict) and link.get("rel") in relations and link.get("method", "GET") == "GET":
            href = link.get("href")
            if isinstance(href, str):
                yield href


def needs_post(document: Document) -> bool:
    """Return whether the next page of a document has to be posted for."""
    listed = document.get("links")
    return any(
        isinstance(link, dict) and link.get("rel") == "next" and link.get("method", "GET") != "GET"
        for link in (listed if isinstance(listed, list) else ())
    )


def path_of(href: object) -> tuple[PurePosixPath, bool] | None:
    """Return the path in an address, and whether it is relative to its document; None where it can be no path."""
    try:
        parts = urlsplit(href) if isinstance(href, str) else None
    except ValueError:
        return None
    if parts is None or not (told := unquote(parts.path)).isprintable() or len(told.encode()) > _MAX_PATH:
        return None
    path = PurePosixPath(told)
    if any(len(part.encode()) > _MAX_NAME for part in path.parts):
        return None
    return path, not (parts.scheme or parts.netloc or path.is_absolute())


def slim(item: Document) -> Document:
    """Return what is read of an item."""
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    return {
        "type": "Feature",
        "stac_version": item["stac_version"],
        "id": item.get("id"),
        "collection": item.get("collection"),
        "properties": {key: properties[key] for key in _PROPERTIES if key in properties},
        "assets": {
            key: {name: asset[name] for name in _OF_ASSETS if name in asset}
            for key, asset in item["assets"].items()
            if isinstance(asset, dict)
        },
    }


def name_of(item: Document) -> str:
    """Return the name of an item: its id is unique in its collection."""
    return f"{item.get('collection') or ''}/{item.get('id')}"


def digest_of(item: Document) -> bytes:
    """Return the SHA-256 of what is read of an item, 32 bytes."""
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).digest()
