"""A picture of some patches of every class of an archive."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rsfed.lab.synth import MODALITY
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.modality import modality
from rsfed.raster.preview import preview

_TILE, _GAP, _NAMES = 96, 4, 110  # pixels
_PER_CLASS = 10
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def draw_classes(archive: Path, out: Path) -> None:
    """Draw a row of patches for every class folder of a synthetic archive."""
    known = modality(MODALITY)
    rows: dict[str, list[Path]] = defaultdict(list)
    for entry in walk(archive):
        if isinstance(entry, Candidate):
            rows["".join(entry.own_labels)].append(entry.path)
    step = _TILE + _GAP
    sheet = Image.new("RGB", (_NAMES + step * _PER_CLASS, step * len(rows)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for row, (name, paths) in enumerate(sorted(rows.items())):
        pen.text((8, row * step + _TILE // 2), name, fill=_INK, font=font, anchor="lm")
        chosen = paths[:: max(1, len(paths) // _PER_CLASS)][:_PER_CLASS]
        for column, path in enumerate(chosen):
            tile = Image.fromarray(preview(path, known, _TILE))
            sheet.paste(tile, (_NAMES + column * step, row * step + _GAP // 2))
    sheet.save(out, format="PNG")
