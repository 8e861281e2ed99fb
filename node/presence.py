"""Which patches are in the archive, read again only after the catalogue changed."""

from __future__ import annotations

import sqlite3

import numpy as np

from rsfed.index.buckets import Ids


class Presence:
    """The ids of the present patches.

    Args:
        connection: A connection to the node's database through which no patch is added or withdrawn.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version: object = None
        self._mark: object = None
        self._ids: dict[str, Ids] = {}

    def changed(self) -> bool:
        """Say whether patches came or went since this was last asked; their number and the sums of their ids tell."""
        version = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return False
        self._version = version
        # The sum of whole ids might be more than SQLite's integers hold: ids jump far at a restore.
        query = """
            SELECT modality, count(*), sum(id >> 32), sum(id & 0xffffffff) FROM item
            WHERE state = 'present' GROUP BY modality
        """
        mark = self._connection.execute(query).fetchall()
        if mark == self._mark:
            return False
        self._mark, self._ids = mark, {}
        return True

    def ids(self, modality: str) -> Ids:
        """Return the ids of the present patches of a modality in rising order, as of the last change seen."""
        if modality not in self._ids:
            query = "SELECT id FROM item WHERE state = 'present' AND modality = ? ORDER BY id"
            rows = self._connection.execute(query, (modality,)).fetchall()
            self._ids[modality] = np.array(rows, np.int64).reshape(-1)
        return self._ids[modality]
