"""Every image that will not do is refused with what is wrong and what to do, and nothing else ever comes out."""

from __future__ import annotations

import os
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image
from raster_makers import REFLECTANCE, UTM, bomb, look, photo, raw_png, raw_tiff, reflectance, spec, write_image

from rsfed.errors import RasterRejected
from rsfed.raster import limits
from rsfed.raster.inspect import inspect
from rsfed.raster.modality import modality
from rsfed.raster.reader import read_image

DAMAGED = "truncated or damaged; copy it again"


def _text(path, content):
    path.write_bytes(content)
    return path


def _picture(path, mode, **options):
    bands = {"RGB": 3, "L": 1, "P": 1, "LA": 2, "CMYK": 4}[mode]
    values = photo(bands=bands).transpose(1, 2, 0).squeeze()
    (Image.fromarray(values).convert("P") if mode == "P" else Image.fromarray(values, mode)).save(path, **options)
    return path


def _pages(path, count):
    pages = [Image.fromarray(photo(seed).transpose(1, 2, 0)) for seed in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def _link(path, target):
    path.symlink_to(target)
    return path


def _fifo(path):
    os.mkfifo(path)
    return path


BAD = {
    "empty file": ("rgb", lambda d: _text(d / "a.tif", b""), "it is empty; copy it again"),
    "text": ("rgb", lambda d: _text(d / "a.jpg", b"hello"), "not a GeoTIFF, JPEG, PNG or JPEG 2000 image; convert it"),
    "four bytes": ("rgb", lambda d: _text(d / "a.tif", b"II*\0"), DAMAGED),
    "pages": ("rgb", lambda d: _pages(d / "a.tif", 3), "it has 3 pages, of which one would be read; write each as"),
    "gif": ("rgb", lambda d: _text(d / "a.tif", b"GIF89a" + bytes(99)), "not a GeoTIFF"),
    "netcdf": ("rgb", lambda d: _text(d / "a.tif", b"CDF\x01" + bytes(99)), "not a GeoTIFF"),
    "zip": ("rgb", lambda d: _text(d / "a.tif", b"PK\x03\x04" + bytes(99)), "not a GeoTIFF"),
    "vrt": ("rgb", lambda d: _text(d / "a.tif", b'\n<VRTDataset rasterXSize="1">'), "VRT or XML); give the images"),
    "xml": ("rgb", lambda d: _text(d / "a.tif", b"<?xml version='1.0'?><GDAL_WMS/>"), "VRT or XML); give the images"),
    "folder": ("rgb", lambda d: d, "not a regular file"),
    "pipe": ("rgb", lambda d: _fifo(d / "a.tif"), "not a regular file"),
    "missing": ("rgb", lambda d: d / "a.tif", "there is no such file"),
    "remote name": ("rgb", lambda d: d / "/vsicurl/http://127.0.0.1/a.tif", "there is no such file"),
    "name with zero byte": ("rgb", lambda d: d / "a\0.tif", "no possible file name; rename it"),
    "name too long": ("rgb", lambda d: d / ("a" * 300), "file name too long; check"),
    "link out of the archive": ("rgb", lambda d: _link(d / "a.tif", "/etc/hostname"), "link out of the archive; copy"),
    "link to itself": ("rgb", lambda d: _link(d / "a.tif", d / "a.tif"), "leads to itself; remove the link"),
    "100,000 pixels wide": (
        "panchromatic",
        lambda d: raw_tiff(d / "a.tif", width=100_000, height=1),
        "100,000 pixels long, the limit is 65,535; cut it",
    ),
    "wide PNG": ("rgb", lambda d: raw_png(d / "a.png", width=100_000, height=1), "100,000 pixels long"),
    "2^31 dimensions": (
        "panchromatic",
        lambda d: raw_tiff(d / "a.tif", width=2**31 - 1, height=2**31 - 1),
        "the limit",
    ),
    "2^31 PNG": ("rgb", lambda d: raw_png(d / "a.png", width=2**31 - 1, height=2**31 - 1), DAMAGED),
    "too many pixels": (
        "panchromatic",
        lambda d: raw_tiff(d / "a.tif", width=60_000, height=60_000),
        "the limit is 536",
    ),
    "zero width": ("panchromatic", lambda d: raw_tiff(d / "a.tif", width=0), DAMAGED),
    "zero height": ("panchromatic", lambda d: raw_tiff(d / "a.tif", height=0, rows_per_strip=1), DAMAGED),
    "zero PNG": ("rgb", lambda d: raw_png(d / "a.png", width=0, height=9), DAMAGED),
    "lying size": ("panchromatic", lambda d: raw_tiff(d / "a.tif", width=64, height=64), DAMAGED),
    "lying PNG": ("rgb", lambda d: raw_png(d / "a.png", width=64, height=64), DAMAGED),
    "lying large size": (
        "panchromatic",
        lambda d: raw_tiff(d / "a.tif", width=11_000, height=11_000),
        "promises 115 MiB of pixels and the file holds 1 KiB",
    ),
    "bomb": (REFLECTANCE, lambda d: bomb(d / "a.tif"), "promises 923 MiB"),
    "huge block": (
        REFLECTANCE,
        lambda d: bomb(d / "a.tif", size=32, blockxsize=8192, blockysize=8192),
        "blocks are too large to be read piece by piece; write it again in tiles",
    ),
    "0 bands": ("panchromatic", lambda d: raw_tiff(d / "a.tif", bands=0), DAMAGED),
    "17 bands": (
        "panchromatic",
        lambda d: raw_tiff(d / "a.tif", bands=17),
        "it has 17 bands and modality panchromatic",
    ),
    "65,535 bands": ("panchromatic", lambda d: raw_tiff(d / "a.tif", bands=65_535), "it has 65535 bands"),
    "one band too few": (
        "rgb",
        lambda d: _picture(d / "a.png", "L"),
        "it has 1 band and modality rgb has 3; convert it",
    ),
    "unknown compression": ("panchromatic", lambda d: raw_tiff(d / "a.tif", compression=65_000), DAMAGED),
    "colour table": ("panchromatic", lambda d: _picture(d / "a.png", "P"), "indices of a colour table; expand"),
    "complex": (
        "float32-1",
        lambda d: write_image(d / "a.tif", np.ones((1, 32, 32), np.complex64)),
        "complex numbers; convert",
    ),
    "double": (
        "float32-1",
        lambda d: write_image(d / "a.tif", np.ones((1, 32, 32))),
        "its samples are float64 and modality float32-1 takes float32",
    ),
    "wrong type": (
        "rgb",
        lambda d: write_image(d / "a.tif", reflectance(bands=3)),
        "its samples are uint16 and modality rgb takes uint8; convert it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_image_is_refused_with_reason_and_remedy(tmp_path, name, capfd):
    kind, make, words = BAD[name]
    path = make(tmp_path)
    with pytest.raises(RasterRejected) as refused:
        look(path, kind, root=tmp_path)
    assert words in refused.value.public
    assert ";" in refused.value.public, "a reason goes with a remedy"
    assert "\n" not in refused.value.public
    assert str(tmp_path) not in refused.value.public, "the public text names no path"
    assert refused.value.detail == str(path)
    assert capfd.readouterr() == ("", ""), "decoders print nothing"


@pytest.mark.parametrize("form", ["plain", "deflate", "jpeg", "png"])
def test_image_truncated_anywhere_in_its_pixels_is_refused(tmp_path, form):
    kind = REFLECTANCE if form in {"plain", "deflate"} else "rgb"
    whole = {
        "plain": lambda path: write_image(path, reflectance(size=64), **UTM),
        "deflate": lambda path: write_image(path, reflectance(size=64), **UTM, compress="deflate", tiled=True),
        "jpeg": lambda path: write_image(path, photo(size=64), driver="JPEG"),
        "png": lambda path: write_image(path, photo(size=64), driver="PNG"),
    }[form](tmp_path / "whole").read_bytes()
    # The last bytes of JPEG and PNG are end marks: without them every pixel is still there.
    for length in np.linspace(1, len(whole) - 24, 60).astype(int):
        path = tmp_path / f"{length}.img"
        path.write_bytes(whole[:length])
        with pytest.raises(RasterRejected):
            look(path, kind)


def test_damaged_png_is_refused_wherever_the_damage_is(tmp_path):
    whole = write_image(tmp_path / "whole.png", photo(size=48), driver="PNG").read_bytes()
    for place in range(40, len(whole) - 16, 101):
        path = tmp_path / "a.png"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(RasterRejected):
            look(path)


def test_image_that_no_one_may_read_is_refused(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", photo())

    def forbidden(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", forbidden)
    with pytest.raises(RasterRejected, match="no permission; let this user read it"):
        look(path)


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError("too large"), UnicodeDecodeError("utf-8", b"", 0, 1, "")]
)
def test_whatever_a_decoder_raises_comes_out_as_a_refusal(tmp_path, monkeypatch, error):
    path = write_image(tmp_path / "a.tif", photo())

    def failing(*_):
        raise error

    monkeypatch.setattr("rsfed.raster.pixels._read", failing)
    with pytest.raises(RasterRejected):
        look(path)
    with pytest.raises(RasterRejected):
        read_image(path, modality("rgb"), spec("red green blue"))


def test_link_inside_the_archive_is_followed_and_dots_do_not_lead_out(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    outside = write_image(tmp_path / "outside.tif", photo())
    write_image(archive / "a.tif", photo())
    (archive / "b.tif").symlink_to(archive / "a.tif")
    assert look(archive / "b.tif", root=archive).width == 32
    with pytest.raises(RasterRejected, match="link out of the archive"):
        look(archive / ".." / "outside.tif", root=archive)
    assert look(outside).width == 32, "an image that the user named may lie anywhere"


def test_archive_reached_through_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    write_image(tmp_path / "real" / "a.tif", photo())
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert look(tmp_path / "alias" / "a.tif", root=tmp_path / "alias").width == 32


@pytest.fixture
def doorbell():
    """A server that counts who connects."""
    rung = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def listen():
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                rung.append(1)
                connection.close()

        listener = threading.Thread(target=listen)
        listener.start()
        yield server.getsockname()[1], rung
        time.sleep(0.2)
        stop.set()
        listener.join()


def test_no_image_makes_this_machine_call_another(tmp_path, doorbell):
    port, rung = doorbell
    url = f"http://127.0.0.1:{port}/a.tif"
    vrt = (
        '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">/vsicurl/{url}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "a.vrt").write_text(vrt)
    (tmp_path / "b.tif").write_text(vrt)
    (tmp_path / "c.tif").write_text(f"<GDAL_WMS><Service><ServerUrl>{url}</ServerUrl></Service></GDAL_WMS>")
    (tmp_path / "d.tif").write_text(url)
    write_image(tmp_path / "e.tif", photo(bands=1))
    (tmp_path / "e.tif.aux.xml").write_text(f"<PAMDataset><SRS>{url}</SRS></PAMDataset>")
    (tmp_path / "e.tif.ovr").write_text(vrt)
    (tmp_path / "e.tif.msk").write_text(vrt)
    names = ["a.vrt", "b.tif", "c.tif", "d.tif", f"/vsicurl/{url}", url, f"/vsizip/vsicurl/{url}", "e.tif"]
    for name in names:
        try:
            look(tmp_path / name, "panchromatic")
        except RasterRejected:
            assert name != "e.tif"
    assert not rung


def test_side_cars_change_nothing(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(), **UTM)
    before = look(path, REFLECTANCE)
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><Metadata><MDI key='ACQUISITION'>forged</MDI></Metadata>"
        "<PAMRasterBand band='1'><NoDataValue>1</NoDataValue></PAMRasterBand></PAMDataset>"
    )
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    write_image(tmp_path / "a.tif.msk", np.zeros((1, 32, 32), np.uint8), tags={"INTERNAL_MASK_FLAGS_1": "2"})
    assert look(path, REFLECTANCE) == before


def test_size_is_refused_before_a_pixel_is_read(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", photo(size=64))
    monkeypatch.setattr(limits, "MAX_SIDE", 63)
    monkeypatch.setattr("rsfed.raster.pixels._read", lambda *_: pytest.fail("a pixel was read"))
    with pytest.raises(RasterRejected, match="64 pixels long"):
        look(path)


def test_file_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", photo(size=64))
    with path.open("ab") as file:
        file.truncate(5 << 30)  # sparse
    with pytest.raises(RasterRejected, match="larger than 4 GiB; cut it"):
        look(path)


def test_image_much_smaller_or_coarser_than_a_patch_is_refused(tmp_path):
    path = write_image(tmp_path / "a.tif", reflectance(size=32), **UTM)
    bands = "red green blue nir"
    kind = modality(REFLECTANCE)
    for fit in ("crop", "tile"):
        with pytest.raises(RasterRejected, match=r"32 x 32 pixels and the encoder takes 80 x 80; use larger images"):
            inspect(path, root=None, modality=kind, spec=spec(bands, size=80, fit=fit, gsd=10))
        with pytest.raises(RasterRejected, match=r"10 m wide and the encoder looks at 1 m; use images of a finer"):
            inspect(path, root=None, modality=kind, spec=spec(bands, size=16, fit=fit, gsd=1))
    for shape in ((39, 80), (80, 39)):
        narrow = write_image(tmp_path / "b.tif", np.ones((4, *shape), np.uint16), **UTM)
        with pytest.raises(RasterRejected, match="use larger images"):
            inspect(narrow, root=None, modality=kind, spec=spec(bands, size=80, fit="crop", gsd=10))


def test_source_that_makes_too_many_patches_is_refused(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", photo(size=64))
    monkeypatch.setattr(limits, "MAX_PATCHES", 15)
    with pytest.raises(RasterRejected, match="more than 15 patches; cut it"):
        look(path, "rgb", spec("red green blue", size=16, fit="tile"))


def test_encoder_that_wants_an_unknown_band_is_refused(tmp_path):
    path = write_image(tmp_path / "a.tif", photo())
    with pytest.raises(RasterRejected, match="modality rgb has no band nir"):
        next(read_image(path, modality("rgb"), spec("red nir"))[1])
