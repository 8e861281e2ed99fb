"""Catalogues on disk: what a STAC Catalog or Collection links to, itself or through others.

Only relative links are followed, and none out of the archive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster.stac_documents import Document, ItemCollection, is_catalogue, links, path_of, read_document

_MAX_DOCUMENTS = 100_000  # of one catalogue


@dataclass(slots=True)
class Tree:
    """What a catalogue links to.

    Attributes:
        documents: The catalogues in it.
        items: The JSON of its items.
        problems: Why links are not followed, by where they lead, or by the catalogue that has them.
        whole: All catalogues in it could be read, so that what is not linked is not in it.
    """

    documents: set[Path] = field(default_factory=set)
    items: set[Path] = field(default_factory=set)
    problems: dict[Path, str] = field(default_factory=dict)
    whole: bool = True

    @property
    def decides(self) -> bool:
        """Whether it says which items there are: one whose links all lead to other hosts does not."""
        return self.whole and bool(self.items or len(self.documents) > 1)


def tree_of(start: Path, root: Path) -> Tree:
    """Follow the links of a catalogue.

    Args:
        start: Its JSON.
        root: The archive, with no link in it.

    Raises:
        OSError: a catalogue cannot be read just now.
    """
    tree = Tree()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in tree.documents:
            continue
        found = read_document(path)
        if found is None or isinstance(found, ItemCollection) or not is_catalogue(found):
            tree.problems[path] = "a catalogue links to it and it is none; copy it again from its origin"
            tree.whole = False
        elif len(tree.documents) == _MAX_DOCUMENTS:
            tree.problems[start] = f"it has more than {_MAX_DOCUMENTS:,} catalogues in it; divide it"
            tree.whole = False
            return tree
        else:
            tree.documents.add(path)
            waiting += _followed(path, found, root, tree)
    return tree


def _followed(path: Path, document: Document, root: Path, tree: Tree) -> list[Path]:
    """Take up the items that a catalogue links to, and return the catalogues."""
    foreign = 0
    children = []
    for relation in ("item", "child"):
        for href in links(document, relation):
            try:
                target = _target(href, path.parent, root)
            except RasterRejected as error:
                tree.problems[path] = error.public
                continue
            if target is None:
                foreign += 1
            elif not target.is_file():
                tree.problems[target] = "a catalogue links to it and it is not there; copy it, or take out the link"
                tree.whole = tree.whole and relation == "item"
            elif relation == "item":
                tree.items.add(target)
            else:
                children.append(target)
    if foreign:
        tree.problems[path] = (
            f"{foreign:,} of its links lead to other places and are not followed; make them relative, or read the "
            "catalogue there by archive.stac"
        )
    return children


def _target(href: str, folder: Path, root: Path) -> Path | None:
    """Return where a link leads; None for an address, which is no relative path.

    Raises:
        RasterRejected: it leads out of the archive.
    """
    told = path_of(href)
    if told is None or not told[1]:
        return None
    target = Path(os.path.normpath(folder / told[0]))
    # `realpath` takes a link that leads to itself as it is, where `resolve` fails.
    if not target.is_relative_to(root) or not Path(os.path.realpath(target)).is_relative_to(root):
        raise RasterRejected("one of its links leads out of the archive and is not followed; correct or remove it")
    return target
