"""From the filter of a signed query to that of the index, if the node's policy lets queries be filtered so."""

from __future__ import annotations

from collections.abc import Collection

from rsfed.errors import EnvelopeRefused, UsageError
from rsfed.index.filters import Filter
from rsfed.trust.envelope import filtered_fields
from rsfed.trust.manifest import Manifest
from rsfed.v1.envelope_pb2 import QueryEnvelope, QueryFilter

_UNFILTERABLE = {
    "time": "UNFILTERABLE_TIME",
    "bbox": "UNFILTERABLE_BBOX",
    "modality": "UNFILTERABLE_MODALITY",
    "label": "UNFILTERABLE_LABEL",
}


def filter_of(envelope: QueryEnvelope, manifest: Manifest, unfilterable: Collection[str]) -> Filter | None:
    """Return which items count for a query; None where all do.

    Args:
        envelope: The query.
        manifest: That of the release that is served.
        unfilterable: Fields that the node's policy keeps out of filters.

    Raises:
        EnvelopeRefused: UNFILTERABLE_..., of the first of the fields of the filter that the policy keeps to itself.
        UsageError: FILTER, the filter makes no sense, or names a class or modality that the release does not have.
    """
    fields = filtered_fields(envelope)
    if kept := tuple(field for field in fields if field in unfilterable):
        raise EnvelopeRefused(
            f"this node does not let queries be filtered by {' or '.join(kept)}; ask again without that",
            reason=_UNFILTERABLE[kept[0]],
            fields=kept,
        )
    return _filter(envelope.filter, manifest) if fields else None


def _filter(wanted: QueryFilter, manifest: Manifest) -> Filter:
    modality = wanted.modality if wanted.HasField("modality") else None
    if modality is not None and modality not in {each.modality for each in manifest.encoders.values()}:
        raise UsageError("no encoder of the release reads the modality of the filter; name another", reason="FILTER")
    if not {entry.id for entry in manifest.nomenclature.classes}.issuperset(wanted.labels):
        raise UsageError("the release has no class of a number that the filter names; ask by name", reason="FILTER")
    box = wanted.bbox
    return Filter(
        after=wanted.after if wanted.HasField("after") else None,
        before=wanted.before if wanted.HasField("before") else None,
        box=(box.west, box.south, box.east, box.north) if wanted.HasField("bbox") else None,
        modality=modality,
        labels=frozenset(map(str, wanted.labels)) or None,
    )
