"""Whether the federation has an encoder for what an archive holds; a node without one would look healthy otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from rsfed.trust.manifest import Manifest
from rsfed.trust.release_store import Release

REMEDY = "set archive.modality in node.toml and ingest again"


def searched(manifest: Manifest) -> list[str]:
    """Return the modalities that a release can search, in the order of their names."""
    return sorted({encoder.modality for encoder in manifest.encoders.values()})


def mismatch(modality: str, manifest: Manifest) -> str:
    """Say that the federation does not search archives of a modality; "" where it does."""
    known = searched(manifest)
    return "" if modality in known else f"this archive is {modality}, the federation searches {', '.join(known)}"


def unsearchable(patches: Mapping[str, int], manifest: Manifest) -> int:
    """Return how many patches, counted by modality, no encoder of a release reads."""
    return sum(count for modality, count in patches.items() if mismatch(modality, manifest))


def finding(patches: Mapping[str, int], manifest: Manifest) -> str:
    """Say of patches, counted by modality, that nobody can find them; "" where all can be found."""
    why = "; ".join(filter(None, (mismatch(modality, manifest) for modality in sorted(patches))))
    lost = unsearchable(patches, manifest)
    return f"none of these {lost} patches can be searched: {why}" if lost else ""


def warning(patches: Mapping[str, int], release: Release | None) -> str:
    """Say the same with what to do; "" also where there is no release yet."""
    found = finding(patches, release.manifest) if release else ""
    return found and f"{found}; {REMEDY}"
