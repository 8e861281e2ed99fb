"""From query images to codes, on the analyst's machine; few patches are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsfed.codes import Codes
from rsfed.errors import RasterRejected

if TYPE_CHECKING:
    from rsfed.hashing.encoder import Encoder
    from rsfed.raster.reader import Content
    from rsfed.trust.manifest import EncoderEntry

OnRefused = Callable[[Path, RasterRejected], None]


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """Codes of query images.

    Attributes:
        codes: Packed codes, uint8, shape (n, bits // 8).
        images: Position of the image that each code was made from; an image that is cut into tiles has several.
    """

    codes: Codes
    images: tuple[int, ...]


def encode_images(
    images: Sequence[Path], entry: EncoderEntry, encoder: Encoder, on_refused: OnRefused | None
) -> EncodedImages:
    """Make the codes of images.

    Args:
        images: The images.
        entry: What the release says of the encoder.
        encoder: The encoder.
        on_refused: Told of each image that will not do, which then has no code; without it the first such image is an
            error.

    Raises:
        RasterRejected: an image will not do, and `on_refused` was not given.
    """
    from rsfed.raster.modality import modality  # noqa: PLC0415 - loaded only when used
    from rsfed.raster.reader import read_image  # noqa: PLC0415 - loaded only when used

    kind = modality(entry.modality)
    origins: list[int] = []
    refused: set[int] = set()

    def contents() -> Iterator[Content]:
        for position, image in enumerate(images):
            try:
                for content in read_image(image, kind, entry.input)[1]:
                    origins.append(position)
                    yield content
            except RasterRejected as error:
                if on_refused is None:
                    raise
                refused.add(position)
                on_refused(image, error)

    codes = encoder.encode(contents())
    # A scene may be refused after some of its tiles were hashed: all of it is left out.
    kept = [row for row, position in enumerate(origins) if position not in refused]
    return EncodedImages(codes[kept], tuple(origins[row] for row in kept))
