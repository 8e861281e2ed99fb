"""Mutated images are read or refused; nothing else may happen."""

from __future__ import annotations

import numpy as np
import pytest
from raster_makers import REFLECTANCE, UTM, look, photo, reflectance, spec, write_image

from rsfed.errors import RasterRejected
from rsfed.raster.modality import modality
from rsfed.raster.reader import read_image

MUTANTS = 120  # of each form
FORMS = {
    "tiff": (REFLECTANCE, {**UTM, "tags": {"ACQUISITION": "a", "ACQUIRED": "2024-05-01"}, "nodata": 7}),
    "tiled deflate with mask": (
        REFLECTANCE,
        {**UTM, "compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
    ),
    "float lzw": ("float32-2", {"compress": "lzw", "nodata": -9999.0}),
    "jpeg": ("rgb", {"driver": "JPEG"}),
    "png": ("rgb", {"driver": "PNG"}),
    "jpeg 2000": ("rgb", {"driver": "JP2OpenJPEG"}),
}


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    mutant = bytearray(data)
    choice = rng.integers(5)
    if choice == 0:
        return bytes(mutant[: rng.integers(len(mutant))])
    if choice == 1:
        start, length = rng.integers(len(mutant)), rng.integers(1, 64)
        return bytes(mutant[:start] + mutant[start + length :])
    # Headers decide more than pixels do, so most are hurt there, or at the end, where TIFFs keep theirs.
    reach = [len(mutant), 300, 300][rng.integers(3)]
    for _ in range(rng.integers(1, 9)):
        place = int(rng.integers(min(reach, len(mutant))))
        place = len(mutant) - 1 - place if choice == 2 else place
        mutant[place] = [0, 255, 128, int(rng.integers(256))][rng.integers(4)]
    return bytes(mutant)


@pytest.mark.parametrize("form", FORMS)
def test_mutated_image_is_read_or_refused(tmp_path, form, capfd):
    kind, options = FORMS[form]
    values = reflectance() if kind == REFLECTANCE else photo()
    if kind == "float32-2":
        values = np.random.default_rng(1).normal(size=(2, 32, 32)).astype(np.float32)
    mask = values[0] > 900 if "mask" in form else None
    whole = write_image(tmp_path / "whole", values, mask=mask, **options).read_bytes()
    known, rng = modality(kind), np.random.default_rng(len(form))
    wanted = spec(" ".join(known.bands), size=16, gsd=10, fit="tile", max_nodata=1.0)
    outcomes = set()
    for number in range(MUTANTS):
        path = tmp_path / f"S2A_MSIL2A_20170613T101031_{number}.img"
        path.write_bytes(_mutated(whole, rng))
        try:
            info = look(path, kind, wanted)
            contents = list(read_image(path, known, wanted)[1])
        except RasterRejected:
            outcomes.add("refused")
        else:
            outcomes.add("read")
            assert len(contents) == len(info.windows)
            assert all(np.isfinite(content["all"]).all() for content in contents)
        path.unlink()
    assert outcomes == {"read", "refused"}
    printed, said = capfd.readouterr()
    assert not printed
    assert "S2A_MSIL2A" not in said, "no decoder tells the name of a file"
