"""Plain features of a patch: per-band mean, deviation and 16-bin histogram. What the baselines see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 16
_TAIL = 1.0  # per cent of the pixels of a band that may lie beyond either end of its histogram

Patches = NDArray[np.floating]
"""Patches, float, shape (n, bands, height, width)."""


def band_ranges(patches: Patches) -> NDArray[np.float64]:
    """Return the range that the histogram of each band spans: its 1st to 99th percentile.

    Args:
        patches: float, shape (n, bands, height, width), n >= 1; the archive, never the queries.

    Returns:
        Lower and upper end, float64, shape (bands, 2).
    """
    per_band = np.moveaxis(patches, 1, 0).reshape(patches.shape[1], -1)
    return np.percentile(per_band.astype(np.float32), [_TAIL, 100 - _TAIL], axis=1).T.astype(np.float64)


def plain_features(patches: Patches, ranges: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return mean, deviation and histogram of every band of every patch.

    Args:
        patches: float, shape (n, bands, height, width).
        ranges: Ends of the histograms, shape (bands, 2), as `band_ranges` returns; values beyond go to the end bins.

    Returns:
        float32, shape (n, bands * 18): all means, all deviations, then the histograms as shares of the pixels.
    """
    wide = patches.astype(np.float32)
    means, deviations = wide.mean(axis=(2, 3)), wide.std(axis=(2, 3))
    histograms = [_histogram(wide[:, band], *ends) for band, ends in enumerate(ranges)]
    return np.concatenate([means, deviations, *histograms], axis=1, dtype=np.float32)


def _histogram(band: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Shares of the pixels in `BINS` equal bins, shape (n, BINS); band has shape (n, height, width)."""
    width = (high - low) / BINS or 1.0  # a constant band fills one bin
    bins = np.clip(np.floor((band - low) / width), 0, BINS - 1).astype(np.int64).reshape(len(band), -1)
    flat = bins + np.arange(len(band))[:, None] * BINS
    counts = np.bincount(flat.ravel(), minlength=len(band) * BINS).reshape(len(band), BINS)
    shares: NDArray[np.float32] = (counts / bins.shape[1]).astype(np.float32)
    return shares
