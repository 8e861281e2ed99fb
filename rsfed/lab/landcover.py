"""Land cover painted from noise: classes that share their colours and differ in how they are arranged. Pure numpy.

Every class is built from the same few materials, whose colour follows the season, the acquisition's light and chance,
so that mean colour says little; what tells classes apart is texture and shape: rows, lattices, blocks, bands, mosaics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BANDS = ("red", "green", "blue", "nir")

# Reflectance in red, green, blue and near infrared, of the size that Sentinel-2 sees it.
_MATERIALS: dict[str, tuple[float, float, float, float]] = {
    "water": (0.045, 0.060, 0.065, 0.030),
    "tree": (0.035, 0.056, 0.032, 0.280),
    "green": (0.062, 0.092, 0.050, 0.360),
    "dry": (0.170, 0.150, 0.100, 0.270),
    "soil": (0.170, 0.130, 0.095, 0.230),
    "sand": (0.270, 0.230, 0.170, 0.330),
    "asphalt": (0.105, 0.105, 0.105, 0.130),
    "concrete": (0.210, 0.205, 0.195, 0.240),
    "roof": (0.230, 0.150, 0.115, 0.230),
}


@dataclass(frozen=True, slots=True)
class Canvas:
    """A batch of patches of one class while it is painted.

    Attributes:
        rng: Source of chance.
        season: How green the vegetation is, 0 to 1, shape (n,).
        size: Width and height in pixels.
    """

    rng: np.random.Generator
    season: Floats
    size: int

    def draw(self, low: float, high: float) -> Floats:
        """Draw one number for each patch, shape (n, 1, 1)."""
        return self.rng.uniform(low, high, (len(self.season), 1, 1)).astype(np.float32)

    def material(self, name: str) -> Floats:
        """Return a material, shape (n, 4, 1, 1): in each patch of another brightness and a slightly other hue."""
        spectrum = np.array(_MATERIALS[name], np.float32)
        own = np.exp(self.rng.normal(0, 0.12, (len(self.season), 1)) + self.rng.normal(0, 0.04, (len(self.season), 4)))
        return (spectrum * own).astype(np.float32)[:, :, None, None]

    def vegetation(self) -> Floats:
        """Return grass or crop, shape (n, 4, 1, 1): green in the growing season, dry outside of it."""
        share = np.clip(self.season + self.rng.normal(0, 0.22, self.season.shape), 0, 1).astype(np.float32)
        share = share[:, None, None, None]
        return share * self.material("green") + (1 - share) * self.material("dry")

    def noise(self, scale: float | Floats) -> Floats:
        """Return smooth noise of mean 0 and deviation 1, shape (n, size, size); scale is its grain in pixels."""
        white = self.rng.standard_normal((len(self.season), self.size, self.size), dtype=np.float32)
        down, across = np.fft.fftfreq(self.size)[:, None], np.fft.rfftfreq(self.size)[None, :]
        keep = np.exp(-2 * (np.pi * np.asarray(scale)) ** 2 * (down**2 + across**2))
        smooth = np.fft.irfft2(np.fft.rfft2(white) * keep, s=(self.size, self.size))
        smooth -= smooth.mean(axis=(1, 2), keepdims=True)
        return np.asarray(smooth / (smooth.std(axis=(1, 2), keepdims=True) + 1e-6), np.float32)

    def lottery(self, column: Floats, row: Floats) -> Floats:
        """Return a number from 0 to 1 for each cell of a grid, the same for all its pixels; all (n, size, size)."""
        table = self.rng.random((len(self.season), 64, 64), dtype=np.float32)
        which = np.arange(len(self.season))[:, None, None]
        return table[which, column.astype(np.int64) % 64, row.astype(np.int64) % 64]

    def axes(self) -> tuple[Floats, Floats]:
        """Return coordinates in pixels along and across a direction of each patch's own, each (n, size, size)."""
        y, x = np.mgrid[: self.size, : self.size].astype(np.float32) - np.float32((self.size - 1) / 2)
        angle = self.draw(0, np.pi)
        along = x * np.cos(angle) + y * np.sin(angle) + self.draw(-20, 20)
        across = y * np.cos(angle) - x * np.sin(angle)
        return along, across


def edge(distance: Floats) -> Floats:
    """Return cover for a distance in pixels, positive inside: 1 inside, 0 outside, a soft step of a pixel between."""
    return np.asarray(np.clip(distance + np.float32(0.5), 0, 1), np.float32)


def paint(ground: Floats, cover: Floats, material: Floats) -> Floats:
    """Lay a material over the ground: cover is (n, size, size), the others have bands on axis 1."""
    return ground + cover[:, None] * (material - ground)


def stripes(position: Floats, period: Floats, share: Floats) -> Floats:
    """Return cover of parallel stripes: they take `share` of each period, all in pixels."""
    phase = np.abs(position / period - np.floor(position / period) - np.float32(0.5))
    return edge((share / 2 - phase) * period)


def _fields(c: Canvas) -> Floats:
    """Quiet farmland: a few parcels of vegetation and soil, the ground of several classes."""
    along, across = c.axes()
    ground = paint(c.vegetation() + 0 * along[:, None], edge(along), c.vegetation())
    bare = edge(across - c.draw(-12, 12)) * (c.draw(0, 1) > 0.45)
    ground = paint(ground, bare, c.material("soil"))
    return ground * (1 + np.float32(0.05) * c.noise(4.0))[:, None]


def crop_rows(c: Canvas) -> Floats:
    """Two or three parcels of parallel rows, each with its own direction and spacing."""
    ground = c.material("soil") * (1 + np.float32(0.06) * c.noise(2.0))[:, None]
    for parcel in range(3):
        _, across = c.axes()
        rows = paint(c.material("soil"), stripes(across, c.draw(3.2, 8), c.draw(0.4, 0.65)), c.vegetation())
        border, _ = c.axes()
        ground = paint(ground, edge(border) if parcel else np.ones_like(border), rows)
    return ground


def orchard(c: Canvas) -> Floats:
    """Round crowns on a square lattice over soil or grass."""
    along, across = c.axes()
    spacing = c.draw(5.0, 8.5)
    near = [np.abs(axis / spacing - np.round(axis / spacing)) * spacing for axis in (along, across)]
    crowns = edge(spacing * c.draw(0.27, 0.40) - np.hypot(*near)) * (c.noise(0.8) > -1.7)
    bare = c.draw(0, 1)[:, None]
    ground = bare * c.material("soil") + (1 - bare) * c.vegetation()
    ground = ground * (1 + np.float32(0.08) * c.noise(3.0))[:, None]
    return paint(ground, crowns, c.material("tree"))


def forest(c: Canvas) -> Floats:
    """A rough canopy of fine grain with dark gaps and some clearings."""
    crowns = c.material("tree") * np.exp(np.float32(0.22) * c.noise(c.draw(0.7, 1.3)))[:, None]
    crowns = crowns * (1 + np.float32(0.10) * c.noise(6.0))[:, None]
    return paint(crowns, edge(3 * (c.noise(5.0) - c.draw(0.5, 2.2))), c.vegetation())


def pasture(c: Canvas) -> Floats:
    """Smooth grass in soft patches, with single trees and a hedge."""
    worn = 0.5 + 0.5 * np.tanh(c.noise(c.draw(4, 9)) + c.draw(-1.0, 0.6))
    ground = paint(c.vegetation(), worn * np.float32(0.8), c.material("soil"))
    along, across = c.axes()
    hedge = edge(c.draw(0.3, 0.9) - np.abs(across + 2 * np.sin(along / 9) + c.draw(-14, 14)))
    trees = edge(4 * (c.noise(1.2) - 2.5))
    return paint(ground, np.maximum(hedge, trees), c.material("tree"))


def town(c: Canvas) -> Floats:
    """Houses in rows along a grid of streets, with gardens and trees between them."""
    along, across = c.axes()
    plot, block = c.draw(2.6, 3.8), np.round(c.draw(2.5, 4.5))
    column, row = np.floor(along / plot), np.floor(across / plot)
    x, y = along - (column + np.float32(0.5)) * plot, across - (row + np.float32(0.5)) * plot
    built, bright = c.lottery(column, row), c.lottery(column, row)
    house = edge(plot * c.draw(0.30, 0.42) - np.maximum(np.abs(x), np.abs(y))) * (built < c.draw(0.5, 0.9))
    gardens = paint(c.vegetation(), edge(2 * (c.noise(1.0) - c.draw(-0.2, 0.8))), c.material("tree"))
    roofs = c.material("roof") + bright[:, None] ** 2 * (c.material("concrete") - c.material("roof"))
    streets = np.maximum(stripes(along, plot * block, 1.5 / (plot * block)), stripes(across, plot * 2, 0.6 / plot))
    return paint(paint(gardens, streets, c.material("asphalt")), house, roofs)


def halls(c: Canvas) -> Floats:
    """Large flat roofs of different brightness on a paved yard in farmland, all in line."""
    along, across = c.axes()
    yard = np.minimum(c.draw(10, 24) - np.abs(along - c.draw(-8, 8)), c.draw(10, 24) - np.abs(across - c.draw(-8, 8)))
    ground = paint(_fields(c), edge(yard), c.material("asphalt") * (1 + np.float32(0.06) * c.noise(1.5))[:, None])
    for _ in range(6):
        x, y = along - c.draw(-20, 20), across - c.draw(-20, 20)
        inside = np.minimum(c.draw(3, 7) - np.abs(x), c.draw(3, 7) - np.abs(y))
        bright = c.draw(0, 1)[:, None]
        ground = paint(ground, edge(inside), bright * c.material("concrete") + (1 - bright) * c.material("roof"))
    return ground


def dunes(c: Canvas) -> Floats:
    """Bare ground in winding ridges, lit from one side."""
    _, across = c.axes()
    bend = across + c.draw(1.5, 4) * c.noise(c.draw(5, 9))
    ridge = np.sin(2 * np.pi * bend / c.draw(6, 12))
    pale = c.draw(0, 1)[:, None]
    ground = pale * c.material("sand") + (1 - pale) * c.material("soil")
    ground = ground * (1 + c.draw(0.12, 0.28) * ridge + np.float32(0.03) * c.noise(0.8))[:, None]
    return paint(ground, edge(3 * (c.noise(2.0) - c.draw(0.6, 2.4))), c.vegetation())


def wetland(c: Canvas) -> Floats:
    """A mosaic of pools of many sizes, each within a belt of reed, in wet grass."""
    level = (c.noise(c.draw(1.3, 2.2)) + c.noise(c.draw(3.5, 6))) / np.float32(1.4) - c.draw(0.1, 0.7)
    reed = np.float32(0.5) * (c.material("tree") + c.vegetation())
    ground = c.vegetation() * (1 + np.float32(0.07) * c.noise(0.9))[:, None]
    ground = paint(ground, edge(2 * (level + c.draw(0.4, 1.0))), reed * (1 + np.float32(0.12) * c.noise(0.7))[:, None])
    return paint(ground, edge(3 * level), c.material("water"))


def lake(c: Canvas) -> Floats:
    """One body of still water with a winding shore."""
    along, _ = c.axes()
    shore = along + c.draw(-6, 10) + 3 * c.noise(6.0)
    beach = edge(c.draw(0.2, 1.5) - np.abs(shore))
    return paint(paint(_fields(c), beach, c.material("sand")), edge(shore), c.material("water"))


def river(c: Canvas) -> Floats:
    """A winding band of water through farmland, with trees along its banks."""
    along, across = c.axes()
    middle = across + c.draw(2, 7) * np.sin(2 * np.pi * along / c.draw(24, 55)) + c.draw(-7, 7)
    width = c.draw(1.6, 4.2)
    trees = edge(width + c.draw(1.0, 2.6) - np.abs(middle)) * (c.noise(1.4) > -0.3)
    return paint(paint(_fields(c), trees, c.material("tree")), edge(width - np.abs(middle)), c.material("water"))


def motorway(c: Canvas) -> Floats:
    """Two carriageways with a green strip between them, nearly straight, through farmland, crossed by a small road."""
    along, across = c.axes()
    middle = np.abs(across + along**2 / c.draw(500, 3000) + c.draw(-9, 9))
    half = c.draw(1.3, 2.0)
    lanes = edge(half * np.float32(0.75) - np.abs(middle - half))
    crossing = edge(np.float32(0.6) - np.abs(along - across * c.draw(-0.6, 0.6) + c.draw(-15, 15)))
    verge = edge(2.4 * half - middle)
    ground = paint(paint(_fields(c), crossing, c.material("asphalt")), verge, c.vegetation())
    return paint(ground, lanes, c.material("concrete"))


CLASSES: dict[str, Callable[[Canvas], Floats]] = {
    "crop-rows": crop_rows,
    "dunes": dunes,
    "forest": forest,
    "halls": halls,
    "lake": lake,
    "motorway": motorway,
    "orchard": orchard,
    "pasture": pasture,
    "river": river,
    "town": town,
    "wetland": wetland,
}
