"""What a STAC endpoint lists: the items of its catalogues, collections and pages, each told once.

Only documents are fetched here. Whatever is wrong with one of them costs what it lists, and is told with its address.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote

from rsfed.errors import ArchiveError, RasterRejected
from rsfed.hosts import Hosts, address, shown
from rsfed.raster.layout import Skipped
from rsfed.raster.stac import assets_of
from rsfed.raster.stac_documents import Document, is_catalogue, is_item, links, needs_post, parsed, slim

Fetch = Callable[[str], tuple[bytes, str]]
"""Returns what an address holds, and where it was found in the end."""

MAX_DOCUMENTS = 100_000  # of one endpoint; pages are documents
MAX_ITEMS = 100_000
_MAX_NAME = 200  # characters


class Listed(NamedTuple):
    """An item, and the address that its links start from.

    Attributes:
        item: What is read of it, as JSON: many of them are held.
        base: The address.
    """

    item: bytes
    base: str


@dataclass(slots=True)
class Listing:
    """What an endpoint lists.

    Attributes:
        items: Its items by the name of their folder, `<collection>/<id>`.
        problems: What is left out.
        whole: Everything was seen, so that an item that is not listed is no more.
    """

    items: dict[str, Listed] = field(default_factory=dict)
    problems: list[Skipped] = field(default_factory=list)
    whole: bool = True

    def tell(self, url: str, reason: str, *, whole: bool = False) -> None:
        """Note that something is left out, and whether everything was seen all the same."""
        self.problems.append(Skipped(shown(url), reason))
        self.whole = self.whole and whole


class _Link(NamedTuple):
    url: str
    item: bool


def list_items(start: str, hosts: Hosts, fetch: Fetch) -> Listing:
    """List the items of an endpoint.

    Args:
        start: The address of a catalogue, collection, ItemCollection or item, or of a page of an API.
        hosts: The hosts that links are followed to.
        fetch: Fetches a document.

    Raises:
        ArchiveError: ARCHIVE_UNREACHABLE, it cannot be had, or is nothing of this.
    """
    listing = Listing()
    first = _Link(address(start), item=False)
    waiting, seen = deque([first]), {first.url}
    while waiting:
        if len(seen) > MAX_DOCUMENTS or len(listing.items) + len(listing.problems) > MAX_ITEMS:
            most = f"{MAX_DOCUMENTS:,} documents or {MAX_ITEMS:,} items"
            listing.tell(start, f"it has more than {most}; divide it, or name a part of it in archive.stac")
            break
        link = waiting.popleft()
        try:
            document, base = _document(link.url, fetch)
        except RasterRejected as error:
            if link is first:
                words = f"the archive cannot be listed: {error.public}"
                raise ArchiveError(words, reason="ARCHIVE_UNREACHABLE") from None
            # An item that is gone is no more; what a catalogue that is gone would list may be there again.
            listing.tell(link.url, error.public, whole=link.item and error.reason != "UNREADABLE")
            continue
        for found in _items(document):
            _take(found, base, listing)
        if needs_post(document):
            listing.tell(link.url, "its next page has to be posted for; name an address whose pages can be got")
        new = {each.url: each for each in _further(document, base) if each.url not in seen}
        new = dict(islice(new.items(), MAX_DOCUMENTS + 1))
        seen |= new.keys()
        waiting += _allowed(link.url, new.values(), hosts, listing)
    return listing


def _allowed(url: str, further: Iterable[_Link], hosts: Hosts, listing: Listing) -> list[_Link]:
    """Return those links of a document that may be followed; how many others there are is told once."""
    refusals = [(each, hosts.refusal(each.url)) for each in further]
    told = [reason for _, reason in refusals if reason]
    if told:
        words = f"{len(told):,} of its links are not followed; of the first one: {told[0]}"
        listing.tell(url, words, whole=True)
    return [each for each, reason in refusals if not reason]


def _document(url: str, fetch: Fetch) -> tuple[Document, str]:
    content, base = fetch(url)
    found = parsed(content)
    if found is None:
        raise RasterRejected("it is no STAC document; correct the link to it", reason="UNREADABLE")
    return found, base


def _items(document: Document) -> Iterator[Document]:
    """Yield the items that a document is or lists; whatever else a page lists is none."""
    for found in document["features"] if document.get("type") == "FeatureCollection" else (document,):
        if isinstance(found, dict) and is_item(found):
            yield found


def _further(document: Document, base: str) -> Iterator[_Link]:
    """Yield where else items are: children, items one by one, pages of an API."""
    relations = ("item", "child", "items") if is_catalogue(document) else () if is_item(document) else ("next",)
    for relation in relations:
        for href in links(document, relation):
            yield _Link(address(href, base), relation == "item")


def _take(found: Document, base: str, listing: Listing) -> None:
    item = slim(found)
    bands = {id(asset) for _, asset in assets_of(item)}
    item = {**item, "assets": {key: asset for key, asset in item["assets"].items() if id(asset) in bands}}
    name = f"{_folder(item['collection'] or 'none')}/{_folder(item['id'])}"
    listed = Listed(json.dumps(item, sort_keys=True).encode(), base)
    if not isinstance(item["id"], str) or max(map(len, name.split("/"))) > _MAX_NAME:
        listing.problems.append(Skipped(name[:_MAX_NAME], "its id cannot be the name of a folder; give it another"))
    elif listing.items.setdefault(name, listed).item != listed.item:
        listing.problems.append(Skipped(name, "another item has its id; give each item its own"))


def _folder(name: object) -> str:
    """Return a name that is one for a folder: visible, and without anything that means something in a path."""
    quoted = quote(str(name), safe="", errors="replace") or "none"
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted
