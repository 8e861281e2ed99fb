"""Walking an archive's folder: which files are images, which folders are products, and what their owner calls them."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rsfed.errors import ArchiveError
from rsfed.raster.bigearthnet_records import FILES as METADATA_FILES
from rsfed.raster.bigearthnet_records import NOMENCLATURES, Records
from rsfed.raster.layouts import product_of
from rsfed.raster.limits import IMAGE_SUFFIXES
from rsfed.raster.product import Product
from rsfed.raster.stac import Described, described
from rsfed.raster.stac_tree import tree_of

_SIDECARS = (
    *(".aux.xml", ".json", ".geojson", ".txt", ".xml", ".ovr", ".msk", ".prj", ".md"),
    *(".wld", ".tfw", ".tifw", ".jgw", ".pgw", ".j2w", ".sha256"),
)
_WORDS = frozenset({"folders", "none", *NOMENCLATURES})  # whatever else is the name of a label file
NOT_THERE = "the label file names it and it is not there; correct the label file"
_UNLINKED = "no catalogue above it links to it; link it, or take it out"
_MAX_DEPTH = 32  # folders below the archive
Labels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that looks like an image, or a product.

    Attributes:
        path: Its absolute path.
        name: Its path relative to the archive, with forward slashes.
        own_labels: What its owner calls it; nothing where it is unlabelled.
        product: What it is; None for an image.
        covered: Its data set says that clouds, shadow or snow cover it.
    """

    path: Path
    name: str
    own_labels: tuple[str, ...]
    product: Product | None = None
    covered: bool = False

    def stamp(self) -> tuple[int, int]:
        """Return bytes and time of the last change in nanoseconds, by which a source is known again without reading it.

        Of a product the second is a number that stands for sizes and times of all its files, and for `covered`.

        Raises:
            OSError: it is gone or cannot be looked at.
        """
        if self.product is not None:
            size, number = self.product.stamp()
            return size, number ^ self.covered
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in the archive or its label file that is left out.

    Attributes:
        name: Its path relative to the archive, with forward slashes, safe to print.
        reason: What is wrong with it and what to do, in one line.
        passing: It cannot be read just now, which says nothing of what is there.
    """

    name: str
    reason: str
    passing: bool = False


def walk(root: Path, labels: str = "folders", known: Collection[str] = frozenset()) -> Iterator[Candidate | Skipped]:
    """List the images of an archive, folder by folder: those that are known first, then in the order of their names.

    Hidden files and known side-cars are passed over without a word; whatever else is no image is reported.

    Args:
        root: The archive.
        labels: `folders` takes the name of the folder that a file lies in, of a product what was published with it;
            `bigearthnet-19` and `bigearthnet-43` take what was published in this nomenclature; `none` gives no labels;
            anything else is the name of a CSV file in the archive with the columns `path` and `label`, where a file
            may have several labels, separated by semicolons or in several rows.
        known: Names, as those of candidates, that were taken up before; of two files whose names differ only in case
            the known one stays.

    Raises:
        ArchiveError: there is no such folder, it cannot be listed, or the label file or metadata of products cannot be
            read.
        ConfigError: EXTRA_MISSING, metadata need a package that is not installed.
    """
    try:
        os.scandir(root).close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveError("there is no archive folder; check [archive] path", detail=str(root)) from error
    except OSError as error:
        raise ArchiveError("the archive folder cannot be listed; let this user read it", detail=str(root)) from error
    root = root.resolve()
    listed: Labels | None = None
    if labels not in _WORDS:
        listed, problems = _read_labels(root, labels)
        yield from problems
    seen: set[str] = set()
    once = _Once(root, known)
    records = Records(root, labels)
    passed_over = {labels, *METADATA_FILES} if listed is not None else METADATA_FILES
    for entry in _Walk(root, passed_over, known).folder(root):
        if listed is not None:
            seen.add(entry.name)
        if isinstance(entry, Skipped):
            yield entry
        elif reason := once.refused(entry):
            yield Skipped(entry.name, reason)
        else:
            yield _labelled(entry, labels, listed, records)
    for name in sorted(set(listed or ()) - seen):
        yield Skipped(_printable(name), NOT_THERE)


def _labelled(found: Candidate, labels: str, listed: Labels | None, records: Records) -> Candidate:
    if found.product is not None:
        found = replace(found, covered=records.covered(found.product))
    if listed is not None:
        return replace(found, own_labels=listed.get(found.name, ()))
    if labels == "none":
        return found
    if found.product is not None:
        return replace(found, own_labels=records.labels(found.product))
    return replace(found, own_labels=tuple(found.name.split("/")[-2:-1]) if labels == "folders" else ())


class _Once:
    """Sees to it that no product is taken up twice: products have names of their own wherever they lie.

    Args:
        root: The archive.
        known: Names that were taken up before; where such a folder still is there, it is the one that stays.
    """

    def __init__(self, root: Path, known: Collection[str]) -> None:
        self._root = root
        self._known = {name.rsplit("/", 1)[-1]: name for name in known}
        self._taken: dict[str, str] = {}

    def refused(self, found: Candidate) -> str | None:
        """Return why a product is not taken up, None for the first of its name and for files."""
        if found.product is None:
            return None
        name = found.product.name
        if found.product.problem or name is None:
            return found.product.problem
        first = self._known.get(name)
        if first is None or not (self._root / first).is_dir():
            first = found.name
        taken = self._taken.setdefault(name, first)
        return None if taken == found.name else f"it is a copy of {taken}; take one of them out"


class _Walk:
    """Lists what lies in folders and below, known files first; labels are not looked up yet.

    Args:
        root: The archive.
        passed_over: Names that are neither images nor problems.
        known: Names that were taken up before.
    """

    def __init__(self, root: Path, passed_over: Collection[str], known: Collection[str]) -> None:
        self._root = root
        self._passed_over = passed_over
        self._known = known
        self._catalogues: set[Path] = set()  # whose links were followed

    def folder(
        self, folder: Path, linked: frozenset[Path] | None = None, named: frozenset[Path] = frozenset()
    ) -> Iterator[Candidate | Skipped]:
        """Yield what lies in a folder and below.

        Args:
            folder: The folder.
            linked: The items that the catalogues above it link to; None where there are none.
            named: Files that belong to items above it.
        """
        root = folder == self._root
        inside = "" if root else f"{folder.relative_to(self._root).as_posix()}/"
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: (inside + entry.name not in self._known, entry.name))
            names = {entry.name for entry in entries}
            product = None if root else product_of(folder, names)
            found = Described() if product else described(folder, names, whole=not root)
            linked, problems = self._governed(found.catalogues, linked)
        except OSError:
            yield Skipped(
                _relative(folder, self._root),
                "it or a folder in it cannot be read; let this user read it",
                passing=True,
            )
            return
        if product:
            yield from [Candidate(folder, inside[:-1], (), product)] * bool(product.bands or product.problem)
            return
        yield from problems
        yield from _items(found, folder, inside, linked)
        yield from self._entries(entries, inside, linked, named | found.files if found.files else named)

    def _governed(
        self, catalogues: Collection[Path], linked: frozenset[Path] | None
    ) -> tuple[frozenset[Path] | None, list[Skipped]]:
        """Return the items that the catalogues above and in a folder link to, and what is wrong with their links."""
        problems = []
        for path in catalogues:
            if path in self._catalogues:
                continue
            if linked is not None:
                problems.append(Skipped(_relative(path, self._root), _UNLINKED))
                continue
            tree = tree_of(path, self._root)
            self._catalogues |= tree.documents
            problems += [Skipped(_relative(each, self._root), reason) for each, reason in tree.problems.items()]
            linked = frozenset(tree.items) if tree.decides else None
        return linked, problems

    def _entries(
        self,
        entries: Collection[os.DirEntry[str]],
        inside: str,
        linked: frozenset[Path] | None,
        named: frozenset[Path],
    ) -> Iterator[Candidate | Skipped]:
        folded: dict[str, str] = {}  # names that differ only in case are the same file on some systems
        for entry in entries:
            path = Path(entry.path)
            name = inside + entry.name
            if entry.name.startswith(".") or name in self._passed_over or (path in named and entry.is_file()):
                continue
            if reason := _refused(entry, name, self._root):
                yield Skipped(_printable(name), reason)
            elif entry.is_dir():
                yield from self.folder(path, linked, named)
            elif (twin := folded.setdefault(entry.name.casefold(), entry.name)) != entry.name:
                yield Skipped(name, f"its name differs from {twin} only in upper and lower case; rename one of them")
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield Candidate(path, name, ())
            elif not entry.name.lower().endswith(_SIDECARS):
                yield Skipped(name, _not_an_image(path))


def _items(
    found: Described, folder: Path, inside: str, linked: frozenset[Path] | None
) -> Iterator[Candidate | Skipped]:
    """Yield what the STAC documents of a folder describe."""
    for name, reason in found.problems.items():
        yield Skipped(_printable(inside + name), reason)
    for name, item in found.items.items():
        called = _printable(inside + name if name else inside[:-1])
        listed = "/" in name  # by an ItemCollection, which no catalogue has to link to
        if linked is not None and not listed and item.decides[0] not in linked:
            yield Skipped(called, _UNLINKED)
        else:
            yield Candidate(folder / name, called, (), item)


def _refused(entry: os.DirEntry[str], name: str, root: Path) -> str | None:
    """Return why an entry is not looked at at all; None for one that is."""
    if not entry.name.isprintable():
        return "its name has characters that cannot be printed; rename it"
    if name.count("/") >= _MAX_DEPTH:
        return "it lies too many folders deep; move it up"
    return _refused_link(Path(entry.path), root) if entry.is_symlink() else None


def _refused_link(path: Path, root: Path) -> str | None:
    """Return why a symbolic link is not followed; None for one to a file of the archive."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # 3.11 raises RuntimeError for a loop
        return "it is a link that leads nowhere; remove the link"
    if not real.is_relative_to(root):
        return "it is a link out of the archive; copy what it points to into the archive"
    return "it is a link to another folder of the archive; remove the link" if real.is_dir() else None


def _not_an_image(path: Path) -> str:
    if path.suffix.lower() == ".vrt":
        return "a VRT points to other files; give the images themselves"
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    return f"it is not an image ({known}); convert it, rename it or take it out of the archive"


def _read_labels(root: Path, name: str) -> tuple[dict[str, tuple[str, ...]], list[Skipped]]:
    """Return the labels of each file, and rows that will not do."""
    path = root / name
    problems: list[Skipped] = []
    found: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise ArchiveError(
                    "the label file needs a first line with the columns path and label", detail=str(path)
                )
            for row in reader:
                _add_row(found, problems, row["path"] or "", row["label"] or "")
    except FileNotFoundError as error:
        raise ArchiveError(
            "there is no such label file; put it into the folder of the images or correct its name", detail=str(path)
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError("the label file cannot be read; it must be a CSV file in UTF-8", detail=str(path)) from error
    return {each: tuple(labels) for each, labels in found.items()}, problems


def _add_row(found: dict[str, list[str]], problems: list[Skipped], name: str, label: str) -> None:
    name = name.strip().removeprefix("./")
    if not name or name.startswith("/") or ".." in name.split("/"):
        problems.append(Skipped(_printable(name), "the label file names it outside of the archive; correct the path"))
        return
    labels = found.setdefault(name, [])
    for each in filter(None, (part.strip() for part in label.split(";"))):
        if each in labels:
            problems.append(Skipped(_printable(name), "the label file gives it the same label twice; it counts once"))
        else:
            labels.append(each)


def _relative(path: Path, root: Path) -> str:
    return _printable(path.relative_to(root).as_posix())


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
