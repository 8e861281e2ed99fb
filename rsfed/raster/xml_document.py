"""Reading the XML of a product: of bounded size and depth, without a document type, so without entities of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from rsfed.errors import RasterRejected

MAX_BYTES = 32 << 20  # bytes; the noise vectors of a Sentinel-1 scene take 4 MiB
_MAX_DEPTH = 64
_MAX_ELEMENTS = 500_000  # a tree of them takes some 100 MiB
_CHUNK = 1 << 18  # bytes parsed at a time


class Document:
    """A parsed document, whose elements are looked up by their names without namespace.

    Args:
        root: Its outermost element.
        name: What it is, for messages, which name no file.
    """

    def __init__(self, root: Element, name: str) -> None:
        self._root = root
        self._name = name

    def texts(self, *path: str) -> list[str]:
        """Return the texts of all elements that lie on a path, as `elements` takes it."""
        return [(element.text or "").strip() for element in self.elements(*path)]

    def text(self, *path: str) -> str | None:
        """Return the text of the first element on a path; None where there is none or it is empty."""
        return next(iter(self.texts(*path)), "") or None

    def required(self, *path: str) -> str:
        """Return the text of the first element on a path.

        Raises:
            RasterRejected: there is no such element, or it is empty.
        """
        if (found := self.text(*path)) is None:
            raise self.refusal(f"has no {path[-1]}")
        return found

    def elements(self, *path: str) -> list[Element]:
        """Return the elements on a path: the first name anywhere below the root, each further one anywhere below."""
        found = [self._root]
        for name in path:
            found = [
                each for element in found for each in element.iter() if each is not element and local(each) == name
            ]
        return found

    def refusal(self, problem: str) -> RasterRejected:
        """Return the refusal of the document for a problem that follows its name in a sentence."""
        return RasterRejected(f"its {self._name} {problem}; copy the product again from its origin")


def read_document(path: Path, name: str) -> Document:
    """Read an XML file.

    Args:
        path: The file.
        name: What it is in its product, for example "product XML".

    Raises:
        RasterRejected: it is missing, cannot be read, is too large or too deep, is no well-formed XML, or has a
            document type.
    """
    if not path.is_file():
        raise RasterRejected(f"its {name} is missing; copy the product again from its origin")
    tree = _Tree(name)
    parser = XMLParser(target=tree)  # noqa: S314 - the target stops at a document type, before any entity
    try:
        for chunk in _chunks(path, name):
            parser.feed(chunk)
        return Document(parser.close(), name)
    except (ParseError, LookupError, ValueError) as error:  # the latter two: encodings that do not exist
        raise RasterRejected(f"its {name} is truncated or no XML; copy the product again from its origin") from error


def local(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def child(element: Element, name: str) -> str:
    """Return the text of the first element of this name below an element; empty where there is none."""
    return next(((each.text or "").strip() for each in element.iter() if local(each) == name), "")


def _chunks(path: Path, name: str) -> Iterator[bytes]:
    taken = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            taken += len(chunk)
            if taken > MAX_BYTES:
                raise RasterRejected(
                    f"its {name} is larger than {MAX_BYTES >> 20} MiB; copy the product again from its origin"
                )
            yield chunk


class _Tree(TreeBuilder):
    """Builds the tree, and stops at what no product has."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._depth = 0
        self._count = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse a document type: it may define entities that grow without bound or lead elsewhere."""
        del name, pubid, system
        raise RasterRejected(f"its {self._name} has a document type, as no product's; copy it again from its origin")

    def start(self, tag: str, attrs: dict[str, str]) -> Element:
        self._depth += 1
        self._count += 1
        if self._depth > _MAX_DEPTH or self._count > _MAX_ELEMENTS:
            raise RasterRejected(
                f"its {self._name} has more or deeper elements than any product's; copy it again from its origin"
            )
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        self._depth -= 1
        return super().end(tag)
