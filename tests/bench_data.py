"""A folder of test data like the real one, with few and small images."""

import csv
import io
import zipfile

import numpy as np
from onnx_maker import tiny_trunk
from PIL import Image

UCM = {"airplane": ("airplane", "pavement"), "beach": ("sand", "sea"), "forest": ("trees",), "harbor": ("sea", "ship")}
LABELS = sorted({label for labels in UCM.values() for label in labels} | {"grass"})
EUROSAT = ("Forest", "Highway", "River")
PER_CLASS = 10


def write_data(folder):
    """Write archives by the names of the real ones; every fourth UC Merced image also shows grass."""
    folder.mkdir()
    (folder / "mobilenet_v2_imagenet_features.onnx").write_bytes(tiny_trunk(size=32, features=24))
    rng = np.random.default_rng(0)
    _images(
        folder / "ucmerced_jpeg.zip",
        "ucmerced_jpeg",
        {f"{c}/{c}{n:02}.jpg": c for c in UCM for n in range(PER_CLASS)},
        rng,
    )
    tiles = {f"{name}/{name}_{n}.jpg": name for name in EUROSAT for n in range(PER_CLASS)}
    _images(folder / "eurosat_rgb_15k.zip", "eurosat_rgb", tiles, rng)
    roles = ("train", "train", "train", "val", "query")
    rows = [("path", "label", "split"), *((path, name, roles[n % 5]) for n, (path, name) in enumerate(tiles.items()))]
    with zipfile.ZipFile(folder / "labels_captions_splits.zip", "w") as file:
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        file.writestr("splits/eurosat_rgb_15k.csv", text.getvalue())
        file.writestr("ucm_multilabel/LandUse_Multilabeled.txt", "\r\n".join(_table()) + "\r\n")


def _table():
    yield "\t".join(["IMAGE\\LABEL", *LABELS])
    for name, labels in UCM.items():
        for number in range(PER_CLASS):
            own = {*labels, *(["grass"] * (number % 4 == 0))}
            yield "\t".join([f"{name}{number:02}", *("1" if label in own else "0" for label in LABELS)])


def _images(path, root, names, rng):
    """Write images whose colour tells something of their class, and not all."""
    colours = {name: rng.integers(80, 180, 3) for name in sorted(set(names.values()))}
    with zipfile.ZipFile(path, "w") as file:
        for name, kind in names.items():
            pixels = np.clip(colours[kind] + rng.integers(-60, 60, 3) + rng.integers(-30, 30, (32, 32, 3)), 0, 255)
            image = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(image, "JPEG")
            file.writestr(f"{root}/{name}", image.getvalue())
