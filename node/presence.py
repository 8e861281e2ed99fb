"""Which patches are in the archive and whether their classes changed, read again only after the catalogue changed."""

from __future__ import annotations

import sqlite3

import numpy as np

from node.state import RELABELLED, get_meta
from rsfed.codes import Ids


class Presence:
    """The ids of the present patches.

    Args:
        connection: A connection to the node's database.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen: object = self  # equal to no number of changes
        self._seen_labels: object = self
        self._ids: dict[str, Ids] = {}

    def changed(self) -> bool:
        """Say whether patches may have come or gone since this was last asked."""
        changes = get_meta(self._connection, "changes")
        if changes == self._seen:
            return False
        self._seen, self._ids = changes, {}
        return True

    def relabelled(self) -> bool:
        """Say whether patches that were there may have got other classes since this was last asked."""
        changes = get_meta(self._connection, RELABELLED)
        changed = changes != self._seen_labels
        self._seen_labels = changes
        return changed

    def ids(self, modality: str) -> Ids:
        """Return the ids of the present patches of a modality in rising order, as of the last change seen."""
        if modality not in self._ids:
            query = "SELECT id FROM item WHERE state = 'present' AND modality = ? ORDER BY id"
            rows = self._connection.execute(query, (modality,)).fetchall()
            self._ids[modality] = np.array(rows, np.int64).reshape(-1)
        return self._ids[modality]
