"""Makers of small Sentinel-1 and Sentinel-2 products, laid out as agencies ship them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from raster_makers import UTM, write_image
from rasterio import Affine
from rasterio.control import GroundControlPoint

COMMON = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
RASTER = [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]
GRANULE = "L2A_T33UUP_A046705_20240531T103021"
BANDS = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}
BAND_IDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
SIZE = 96  # pixels of 10 m; 60 m bands have 16
GRD = "S1A_IW_GRDH_1SDV_20240531T165043_20240531T165108_054117_069480_7EEC.SAFE"
STEM = "s1a-iw-grd-{}-20240531t165043-20240531t165108-054117-069480-00{}"


def scene(seed=0, size=SIZE, least=1, most=4000) -> dict[str, np.ndarray]:
    """Return reflectance times 10,000 of every band, each at its own pixel size."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(least, most, (size * 10 // gsd, size * 10 // gsd)).astype(np.uint16)
        for name, gsd in BANDS.items()
    }


def offset_list(level: str, offset: float, leave_out=()) -> str:
    name = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}[level]
    return "".join(
        f'<{name} band_id="{number}">{offset}</{name}>' for number, band in enumerate(BAND_IDS) if band not in leave_out
    )


def product_xml(level="L2A", baseline="05.10", offsets="", quantification="10000", tile="T33UUP") -> str:
    unit = {"L1C": "QUANTIFICATION_VALUE", "L2A": "BOA_QUANTIFICATION_VALUE"}[level]
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level[1:]}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level[1:]}.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2024-05-31T10:30:21.024Z</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>2024-05-31T10:30:25.024Z</PRODUCT_STOP_TIME>
      <PRODUCT_URI>S2A_MSI{level}_20240531T103021_N0510_R108_{tile}_20240531T150000.SAFE</PRODUCT_URI>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <Datatake datatakeIdentifier="GS2A_20240531T103021_046705_N{baseline}">
        <SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
        <DATATAKE_SENSING_START>2024-05-31T10:30:21.024Z</DATATAKE_SENSING_START>
      </Datatake>
    </Product_Info>
    <Product_Image_Characteristics>
      <{unit} unit="none">{quantification}</{unit}>
      {offsets}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level[1:]}_User_Product>
"""


def write_s2(  # everything that a test may want otherwise
    folder: Path,
    stored: dict[str, np.ndarray],
    *,
    level="L2A",
    xml: str | None = None,
    classes: np.ndarray | None = None,
    classes_gsd: int = 20,
    mask: np.ndarray | None = None,
    tile="T33UUP",
    corner=(600_000.0, 5_400_000.0),
) -> Path:
    """Write a Sentinel-2 product.

    Args:
        folder: Its folder, `*.SAFE` or renamed.
        stored: Values of each band that is written, at its pixel size.
        level: "L1C" or "L2A".
        xml: Its product XML; one of baseline 03.01, without offsets, when left out.
        classes: Scene classification.
        classes_gsd: Its pixel size in metres.
        mask: Classification mask at 60 m: opaque clouds, cirrus, snow.
        tile: Part of the file names.
        corner: Upper left corner in UTM zone 33.
    """
    (folder / "GRANULE").mkdir(parents=True)
    (folder / f"MTD_MSI{level}.xml").write_text(xml or product_xml(level, "03.01"))
    images = folder / "GRANULE" / GRANULE.replace("L2A", level) / "IMG_DATA"
    layers = {(name, BANDS[name]): values for name, values in stored.items() if level == "L1C" or name != "B10"}
    if classes is not None:
        layers["SCL", classes_gsd] = classes
    if mask is not None:
        path = images.parent / "QI_DATA" / "MSK_CLASSI_B00.jp2"
        path.parent.mkdir(parents=True)
        write_jp2(path, mask, 60, corner)
    for (name, gsd), values in layers.items():
        start = f"{tile}_20240531T103021_{name}"
        path = images / f"{start}.jp2" if level == "L1C" else images / f"R{gsd}m" / f"{start}_{gsd}m.jp2"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jp2(path, values[None], gsd, corner)
    return folder


def write_jp2(path: Path, values: np.ndarray, gsd: float, corner=(600_000.0, 5_400_000.0), epsg=32633) -> Path:
    """Write JPEG 2000 without loss, of samples of shape (bands, rows, columns)."""
    where = {"crs": f"EPSG:{epsg}", "transform": Affine(gsd, 0, corner[0], 0, -gsd, corner[1])}
    return write_image(path, values, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", **where)


def vectors(name: str, values: str, lines: list[tuple[int, list[int], list[float]]]) -> str:
    """Return calibration or noise vectors as XML."""
    return "".join(
        f"<{name}><line>{line}</line><pixel>{' '.join(map(str, pixels))}</pixel>"
        f"<{values}>{' '.join(map(str, known))}</{values}></{name}>"
        for line, pixels, known in lines
    )


def annotation_xml(polarisation="VV", size=(200, 160), direction="Descending", swaths="", kind="GRD") -> str:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<product><adsHeader><missionId>S1A</missionId><productType>{kind}</productType>
<polarisation>{polarisation}</polarisation><mode>IW</mode><swath>IW</swath>
<startTime>2024-05-31T16:50:43.120000</startTime><stopTime>2024-05-31T16:51:08.120000</stopTime>
<absoluteOrbitNumber>54117</absoluteOrbitNumber><missionDataTakeId>{0x069480}</missionDataTakeId></adsHeader>
<generalAnnotation><productInformation><pass>{direction}</pass></productInformation></generalAnnotation>
<imageAnnotation><imageInformation><rangePixelSpacing>1.000000e+01</rangePixelSpacing>
<azimuthPixelSpacing>1.000000e+01</azimuthPixelSpacing><numberOfSamples>{size[0]}</numberOfSamples>
<numberOfLines>{size[1]}</numberOfLines></imageInformation></imageAnnotation>
<swathMerging><swathMergeList>{swaths}</swathMergeList></swathMerging></product>"""


def swath(top: int, left: int, bottom: int, right: int) -> str:
    return (
        f"<swathBounds><firstAzimuthLine>{top}</firstAzimuthLine><firstRangeSample>{left}</firstRangeSample>"
        f"<lastAzimuthLine>{bottom}</lastAzimuthLine><lastRangeSample>{right}</lastRangeSample></swathBounds>"
    )


SIGMA = vectors("calibrationVector", "sigmaNought", [(0, [0, 200], [400.0, 500.0]), (160, [0, 200], [600.0, 700.0])])
NOISE = vectors("noiseRangeVector", "noiseRangeLut", [(0, [0, 200], [100.0, 200.0]), (160, [0, 200], [100.0, 200.0])])
AZIMUTH = (
    "<noiseAzimuthVector><swath>IW1</swath><firstAzimuthLine>0</firstAzimuthLine><firstRangeSample>0</firstRangeSample>"
    "<lastAzimuthLine>159</lastAzimuthLine><lastRangeSample>99</lastRangeSample><line>0 160</line>"
    "<noiseAzimuthLut>1.0 3.0</noiseAzimuthLut></noiseAzimuthVector>"
)


def points(width: int, height: int) -> list[GroundControlPoint]:
    """Return a grid of control points as a descending pass has it: slanted, and curved along the range."""
    found = []
    for row in np.linspace(0, height, 5):
        for col in np.linspace(0, width, 5):
            lon = 13.0 + 1.3e-4 * col - 2e-5 * row + 4e-9 * col**2
            found.append(GroundControlPoint(row, col, lon, 48.0 - 2e-5 * col - 9e-5 * row, 0.0))
    return found


def write_s1(  # everything that a test may want otherwise
    folder: Path,
    amplitudes: dict[str, np.ndarray],
    *,
    sigma: str = SIGMA,
    noise: str = NOISE + AZIMUTH,
    direction: dict[str, str] | None = None,
    swaths="",
    kind="GRD",
) -> Path:
    """Write a Sentinel-1 product: amplitudes of each polarisation, shape (rows, columns), and its annotations."""
    tables = folder / "annotation" / "calibration"
    tables.mkdir(parents=True)
    (folder / "measurement").mkdir()
    (folder / "manifest.safe").write_text("<manifest/>")
    for number, (polarisation, values) in enumerate(amplitudes.items(), 1):
        stem = STEM.format(polarisation.lower(), number)
        height, width = values.shape
        along = (direction or {}).get(polarisation, "Descending")
        xml = annotation_xml(polarisation, (width, height), along, swaths, kind)
        (folder / "annotation" / f"{stem}.xml").write_text(xml)
        (tables / f"calibration-{stem}.xml").write_text(f"<calibration>{sigma}</calibration>")
        (tables / f"noise-{stem}.xml").write_text(f"<noise>{noise}</noise>")
        write_measurement(folder / "measurement" / f"{stem}.tiff", values)
    return folder


def write_measurement(path: Path, values: np.ndarray) -> Path:
    height, width = values.shape
    form = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": values.dtype.name}
    with rasterio.open(path, "w", **form, gcps=points(width, height), crs="EPSG:4326") as dataset:
        dataset.write(values, 1)
    return path


def amplitudes(seed=0, width=200, height=160) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(60, 900, (height, width)).astype(np.uint16) for name in ("VV", "VH")}


def stac_item(assets, **properties):
    told = {"datetime": "2024-05-31T10:30:23Z", "s2:datatake_id": "GS2A_20240531T103021_046705_N05.10"}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_33UUP_20240531_0_L2A",
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "properties": told | properties,
        "assets": assets,
    }


def write_item(folder, values, *, name=None, href="./{}.tif", raster=RASTER, **properties):
    """Write an item and its assets; keys are common names where a band has one."""
    folder.mkdir(parents=True)
    assets = {}
    for band, stored in values.items():
        where = UTM | {"transform": UTM["transform"] @ Affine.scale(BANDS[band] / 10)}
        write_image(folder / f"{band}.tif", stored[None], **where)
        assets[COMMON.get(band, band)] = {"href": href.format(band), "raster:bands": raster}
    (folder / f"{name or folder.name}.json").write_text(json.dumps(stac_item(assets, **properties)))
    return folder
