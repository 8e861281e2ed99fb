"""What a node serves, in the form in which it changes; `node.served` is what queries see of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.served import Facts
from rsfed.codes import Ids
from rsfed.index.writer import IndexWriter
from rsfed.trust.release_store import Release


@dataclass(slots=True)
class Active:
    """The indexes of a release, and what is known of their items."""

    release: Release
    indexes: dict[str, IndexWriter]
    facts: Facts

    def close(self) -> None:
        """Let go of the indexes."""
        for index in self.indexes.values():
            index.close()

    def modality(self, encoder_id: str) -> str:
        """Return what an encoder reads."""
        return self.release.manifest.encoders[encoder_id].modality

    def listed(self) -> Ids:
        """Return the ids of all items that are served, in rising order."""
        return np.unique(np.concatenate([index.view.item_ids for index in self.indexes.values()]))

    def forget_gone(self) -> None:
        """Drop the facts of items that are served no more: a node runs for years, and patches come and go."""
        self.facts = self.facts.of(np.intersect1d(self.facts.ids, self.listed(), assume_unique=True))
