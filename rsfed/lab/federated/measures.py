"""Mean average precision over the galleries of several nodes: of one encoder for all, and of one for each node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming
from rsfed.hashing.evaluation.counts import HammingSearch, Search, graded_histograms
from rsfed.hashing.evaluation.expected import Values, expected_average_precision
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.division import Division
from rsfed.lab.federated.partition import Positions

CodesByNode = NDArray[np.uint8]
"""Codes of all images by the encoder of each node, shape (nodes, images, bits // 8)."""


@dataclass(frozen=True, slots=True)
class MergedSearch:
    """Every node hashes the query by its own encoder and searches its own gallery; answers are merged by distance.

    Attributes:
        queries: Codes of the queries by each node, shape (nodes, queries, bits // 8).
        gallery: Codes of what is searched, each by the node that holds it, shape (gallery, bits // 8).
        holder: That node, shape (gallery,).
    """

    queries: CodesByNode
    gallery: Codes
    holder: Positions

    @property
    def levels(self) -> int:
        """The distances 0 to bits."""
        return int(self.gallery.shape[1]) * 8 + 1

    def ranked(self, rows: slice) -> NDArray[np.integer]:
        """Return the distances of these queries, shape (queries of rows, gallery)."""
        distances = np.zeros((len(self.queries[0, rows]), len(self.gallery)), np.uint16)
        for node, codes in enumerate(self.queries):
            held = self.holder == node
            distances[:, held] = hamming(codes[rows], self.gallery[held])
        return distances

    def only(self, rows: slice) -> Self:
        """Return the search of these queries alone."""
        return replace(self, queries=self.queries[:, rows])


def union(images: ImageSet, division: Division, codes: Codes, k: int) -> Values:
    """Search the galleries of all nodes by one encoder, whose codes of all images these are.

    Returns:
        The average precision (`map_found`) of each query.
    """
    search = HammingSearch(codes[division.queries], codes[division.gallery])
    return _precisions(images, division, search, k)


def merged(images: ImageSet, division: Division, codes: CodesByNode, holder: Positions, k: int) -> float:
    """Search the galleries of all nodes, each by its own encoder.

    Args:
        images: All images.
        division: What is searched and what searches.
        codes: Codes of all images by each node.
        holder: Node of each image.
        k: Cut-off.
    """
    held = holder[division.gallery]
    search = MergedSearch(codes[:, division.queries], codes[held, division.gallery], held)
    return float(_precisions(images, division, search, k).mean())


def own_galleries(images: ImageSet, division: Division, codes: CodesByNode, holder: Positions, k: int) -> float:
    """Search by each query the gallery of its own node alone, by that node's encoder; arguments as of `merged`."""
    found = []
    for node in np.unique(holder[division.queries]):
        part = _at(division, holder, node)
        search = HammingSearch(codes[node, part.queries], codes[node, part.gallery])
        found.append(_precisions(images, part, search, k))
    return float(np.concatenate(found).mean())


def _at(division: Division, holder: Positions, node: int) -> Division:
    """Return the part of a division that is at one node."""
    asked, searched = holder[division.queries] == node, holder[division.gallery] == node
    place = np.append(np.where(searched, np.cumsum(searched) - 1, -1), -1)  # by place in the whole gallery; -1 stays
    return Division(division.train, division.gallery[searched], division.queries[asked], place[division.own[asked]])


def _precisions(images: ImageSet, division: Division, search: Search, k: int) -> Values:
    """Return the average precision (`map_found`) of each query."""
    wanted, searched = images.labels[division.queries], images.labels[division.gallery]
    counts = graded_histograms(search, wanted, searched, own=division.own)
    return expected_average_precision(counts.binary(), k, "found")
