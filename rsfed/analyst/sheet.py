"""Contact sheet: each query picture with its ranked hits as tiles, coloured by node.

Images of an archive stay in their archive, so a hit is a tile of what the answer discloses: node, distance, handle,
coarse date and place. Who owns the archives passes the pictures in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rsfed.analyst.results import Box, Hit, Interval, SearchResult, when

MARGIN, GAP = 28, 12  # pixels
COLUMNS = 7
MAX_TILES = 10 * COLUMNS  # of one section; more would make a picture that nobody can open
TILE = 132  # side of a tile's picture
CAPTION = 52  # height of the three lines below it
_DIGITS, _DIGIT, _HANDLE_LINE = 16, 7.5, 14  # of a handle: digits in a line; pixels of a digit and from line to line
QUERY = 264  # side of the query picture
_POINT_DEGREES = 3.0  # width up to which a place is named by its middle
LEGEND = 52  # height of the line of nodes above each ranking
WIDTH = 2 * MARGIN + QUERY + 2 * GAP + COLUMNS * (TILE + GAP) - GAP

_PAPER, _INK, _MUTED, _LINE = "#fbfaf7", "#1c1f23", "#5c636b", "#d9d6cf"
# Okabe and Ito's colours, told apart by colour-blind readers; names are always written beside them.
NODE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#444444")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to draw: uint8, shape (h, w, 3), with a word to write below it."""

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One query on a sheet.

    Attributes:
        name: How the user calls the query picture.
        query: The query picture.
        result: Its ranking.
        pictures: Pictures of hits by node and handle, from whoever owns the archives; others are drawn as tiles.
    """

    name: str
    query: Picture
    result: SearchResult
    pictures: Mapping[tuple[str, str], Picture] = field(default_factory=dict)


def contact_sheet(sections: Sequence[Section]) -> Image.Image:
    """Draw one sheet with a section for each query and at most `MAX_TILES` hits in each.

    Returns:
        An RGB image, `WIDTH` pixels wide, as high as its sections need.
    """
    sections = [replace(section, result=section.result.first(MAX_TILES)) for section in sections]
    nodes = sorted({outcome.node for section in sections for outcome in section.result.outcomes})
    colours = {node: NODE_COLOURS[position % len(NODE_COLOURS)] for position, node in enumerate(nodes)}
    heights = [section_height(len(section.result.hits)) for section in sections]
    sheet = Image.new("RGB", (WIDTH, MARGIN + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for position, (section, height) in enumerate(zip(sections, heights, strict=True)):
        if position:
            draw.line((MARGIN, top - MARGIN // 2, WIDTH - MARGIN, top - MARGIN // 2), fill=_LINE)
        _draw_section(sheet, section, top, colours)
        top += height
    return sheet


def section_height(hits: int) -> int:
    """Return the height in pixels of a section with so many hits, its margin below included."""
    rows = -(-hits // COLUMNS)
    return max(QUERY + 72, LEGEND + rows * (TILE + CAPTION + GAP)) + MARGIN


def tile_corner(position: int, top: int) -> tuple[int, int]:
    """Return the left upper corner of a tile by its position, from 0, in a section that starts at top."""
    row, column = divmod(position, COLUMNS)
    left = MARGIN + QUERY + 2 * GAP + column * (TILE + GAP)
    return left, top + LEGEND + row * (TILE + CAPTION + GAP)


def _draw_section(sheet: Image.Image, section: Section, top: int, colours: Mapping[str, str]) -> None:
    draw, result = ImageDraw.Draw(sheet), section.result
    sheet.paste(_fit(section.query.pixels, QUERY), (MARGIN, top))
    draw.rectangle((MARGIN, top, MARGIN + QUERY - 1, top + QUERY - 1), outline=_INK, width=2)
    _write(draw, (MARGIN, top + QUERY + 8), section.name, _Pen(18, _INK), QUERY)
    _write(draw, (MARGIN, top + QUERY + 34), section.query.caption, _Pen(13, _MUTED), QUERY)
    if any(hit.relevance is not None for hit in result.hits):
        _write(draw, (MARGIN, top + QUERY + 52), "%: measured relevance of the distance", _Pen(13, _MUTED), QUERY)
    _draw_legend(draw, section, top, colours)
    for position, hit in enumerate(result.hits):
        corner = tile_corner(position, top)
        picture = section.pictures.get((hit.node, hit.handle))
        if picture is None:
            _draw_label(draw, hit, corner, colours[hit.node])
        else:
            sheet.paste(_fit(picture.pixels, TILE), corner)
        _draw_frame(draw, hit, corner, colours[hit.node], picture.caption if picture else "")


def _draw_legend(draw: ImageDraw.ImageDraw, section: Section, top: int, colours: Mapping[str, str]) -> None:
    """Write every node with its colour, outcome and number of hits, as far as they fit in one line."""
    left = MARGIN + QUERY + 2 * GAP
    for outcome in section.result.outcomes:
        hits = sum(hit.node == outcome.node for hit in section.result.hits)
        state = f"{hits} hits" if outcome.status == "COMPLETE" else outcome.status.lower().replace("_", " ")
        width = 40 + int(max(_font(16).getlength(outcome.node), _font(13).getlength(state)))
        if left + width > WIDTH - MARGIN:
            break
        draw.rounded_rectangle((left, top + 4, left + 12, top + 34), 4, fill=colours[outcome.node])
        _write(draw, (left + 20, top), outcome.node, _Pen(16, _INK))
        _write(draw, (left + 20, top + 21), state, _Pen(13, _MUTED))
        left += width


def _draw_label(draw: ImageDraw.ImageDraw, hit: Hit, corner: tuple[int, int], colour: str) -> None:
    """Fill a tile with what the answer says of a hit."""
    left, top = corner
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), fill=_mix(colour, "#ffffff", 0.84))
    known = [time_name(hit.acquired)] if hit.acquired else []
    known += place_names(hit.footprint) if hit.footprint else []
    first, step = (102, 17) if len(known) < 3 else (91, 15)  # what the tile has room for
    middle, number = left + TILE // 2, top + first - (44 if not known else 52)
    draw.text((middle, number), str(hit.distance), font=_font(46), fill=_dark(colour), anchor="mm")
    draw.text((middle, number + 32), _bits(hit.distance).split()[1], font=_font(13), fill=_MUTED, anchor="mm")
    for line, text in enumerate(known):
        draw.text((middle, top + first + step * line), text, font=_font(13), fill=_INK, anchor="mm")


def time_name(acquired: Interval) -> str:
    """Return when a hit was taken; a span of days by its months, which fit the tile."""
    told = when(acquired).split("/")
    return told[0] if len(told) == 1 else "/".join(dict.fromkeys(each[: len("2024-05")] for each in told))


def _draw_frame(draw: ImageDraw.ImageDraw, hit: Hit, corner: tuple[int, int], colour: str, caption: str) -> None:
    """Draw the rank of a hit on its tile and its node, distance and caption, or else whole handle, around it."""
    left, top = corner
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline=colour, width=3)
    width = int(_font(13).getlength(str(hit.rank))) + 10
    draw.rectangle((left, top, left + width, top + 19), fill=_dark(colour))
    draw.text((left + width // 2, top + 10), str(hit.rank), font=_font(13), fill="#ffffff", anchor="mm")
    if hit.relevance is not None:
        _draw_relevance(draw, hit.relevance, corner)
    distance = _bits(hit.distance)
    room = TILE - int(_font(14).getlength(distance)) - 6
    _write(draw, (left, top + TILE + 4), hit.node, _Pen(14, _dark(colour)), room)
    draw.text((left + TILE, top + TILE + 4), distance, font=_font(14), fill=_INK, anchor="ra")
    if caption:
        _write(draw, (left, top + TILE + 21), caption, _Pen(12, _MUTED), TILE)
    else:
        _draw_handle(draw, hit.handle, (left, top + TILE + 21))


def _draw_relevance(draw: ImageDraw.ImageDraw, relevance: float, corner: tuple[int, int]) -> None:
    """Draw in the right upper corner of a tile how likely it is relevant."""
    left, top = corner
    words = f"{relevance:.0%}"
    width = int(_font(13).getlength(words)) + 10
    draw.rectangle((left + TILE - 1 - width, top, left + TILE - 1, top + 19), fill=_PAPER, outline=_LINE)
    draw.text((left + TILE - 1 - width // 2, top + 10), words, font=_font(13), fill=_INK, anchor="mm")


def _draw_handle(draw: ImageDraw.ImageDraw, handle: str, corner: tuple[int, int]) -> None:
    """Write all digits of a handle, for people to type: in lines as wide as a tile, evenly spaced in fours."""
    left, top = corner
    space = (TILE - _DIGITS * _DIGIT) / (_DIGITS // 4 - 1)
    for place, digit in enumerate(handle):
        line, column = divmod(place, _DIGITS)
        middle = left + (column + 0.5) * _DIGIT + column // 4 * space
        draw.text((middle, top + line * _HANDLE_LINE), digit, font=_font(12), fill=_INK, anchor="ma")


def _bits(distance: int) -> str:
    return f"{distance} bit" if distance == 1 else f"{distance} bits"


def place_names(box: Box) -> list[str]:
    """Return a box in words: its middle, as "47.1°N 8.3°E", or of a large one both its reaches in whole degrees.

    The middle of a large box says nothing: that of a country may lie in another one.
    """
    west, south, east, north = box
    east += 360 * (east < west)
    if max(east - west, north - south) <= _POINT_DEGREES:
        return [f"{_latitude((south + north) / 2, 1)} {_longitude((west + east) / 2, 1)}"]
    return [
        f"{_latitude(floor(south))} to {_latitude(ceil(north))}",
        f"{_longitude(floor(west))} to {_longitude(ceil(east))}",
    ]


def _latitude(degrees: float, digits: int = 0) -> str:
    return f"{abs(degrees):.{digits}f}°{'N' if degrees >= 0 else 'S'}"


def _longitude(degrees: float, digits: int = 0) -> str:
    degrees = degrees - 360 if degrees > 180 else degrees
    return f"{abs(degrees):.{digits}f}°{'E' if degrees >= 0 else 'W'}"


def _fit(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Scale a picture to cover a square, cutting what sticks out; small ones keep their pixels visible."""
    image = Image.fromarray(pixels)
    scale = side / min(image.size)
    size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC if scale < 4 else Image.Resampling.NEAREST)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@dataclass(frozen=True, slots=True)
class _Pen:
    size: int  # pixels
    colour: str


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, pen: _Pen, room: int | None = None) -> None:
    """Write one line, shortened with an ellipsis to the room in pixels; the built-in font knows ASCII letters only."""
    known = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    font = _font(pen.size)
    if room is not None and font.getlength(known) > room:
        while known and font.getlength(known + "…") > room:
            known = known[:-1]
        known += "…"
    draw.text(at, known, font=font, fill=pen.colour)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType; install a wheel of Pillow that has it")
    return font


def _dark(colour: str) -> str:
    """Return a shade of a colour that is legible on paper and below white."""
    return _mix(colour, _INK, 0.35)


def _mix(colour: str, other: str, share: float) -> str:
    """Return a colour with a share, 0 to 1, of another one."""
    pairs = [(int(colour[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
