"""What the node has published of its archive, by cells and as a catalogue, and when it publishes anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from node.bucketed import Bucketed
from node.cataloguing import Cataloguer
from node.published import Published
from node.publishing import Items, Publisher
from rsfed.trust.release_store import Release


class Epochs:
    """What is published of the release that is served.

    Args:
        connection: To the node's database.
        publisher: Publishes items where answers go by cells; None where none does.
        cataloguer: Publishes a catalogue where no query is answered; None where they are.
    """

    def __init__(
        self, connection: sqlite3.Connection, publisher: Publisher | None, cataloguer: Cataloguer | None
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._cataloguer = cataloguer
        self.items: dict[str, Published] = {}
        """What answers by cells speak of, by encoder."""
        self.catalogue = b""
        """The signed catalogue; b"" where there is none."""
        self.bucketed: Bucketed | None = None
        """The items behind it that refine may list; None where there are none."""

    def take(self, release: Release) -> None:
        """Go on with what was published of a release."""
        self.items, self.catalogue, self.bucketed = {}, b"", None
        if self._publisher is not None:
            found = {
                name: self._publisher.current(self._connection, release, name) for name in release.manifest.encoders
            }
            self.items = {name: each for name, each in found.items() if each is not None}
        if self._cataloguer is not None:
            self.catalogue = self._cataloguer.current(self._connection, release)
            self.bucketed = self._cataloguer.bucketed(self._connection, release)

    def begin(self, release: Release, items: Mapping[str, Items]) -> tuple[bool, bool]:
        """Publish anew where it is time.

        Args:
            release: What is served.
            items: Gives the items of each encoder.

        Returns:
            Whether anything changed, and whether more may, by and by.
        """
        done: list[bool | None] = []
        if self._publisher is not None:
            done += [self._publisher.carry(self._connection, release, name, each) for name, each in items.items()]
            done += [self._publisher.publish(self._connection, release, name, each) for name, each in items.items()]
        if self._cataloguer is not None:
            done.append(self._cataloguer.publish(self._connection, release, items))
        if any(done):
            self.take(release)
        return any(done), any(done) or None in done
