"""Every real sample file is taken up or refused for a reason that a person agrees with: see docs/archives.md."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest
from node_archives import make_node, run

from node.catalogue import Catalogue
from node.recipe import reading_of
from node.recognition import recognise
from rsfed.config import NodeConfig, load_config

DATA = Path(os.environ.get("RSFED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
PAGE = Path(__file__).parents[2] / "docs" / "archives.md"
HEAD = "| files | | layout | modality | become |\n|---|---|---|---|---|"
GROUPS = {  # an archive each, with its modality
    "bigearthnet_v1_examples/S1/*": "sentinel-1-rtc-db",
    "bigearthnet_v1_examples/S2/*": "sentinel-2-l2a",
    "bigearthnet_v1_examples/s1s2_stacks_12ch/*": "float32-12",
    "bigearthnet_v1_examples/labels_ben_v2.csv": "sentinel-2-l2a",
    "sen1_2_pairs/s1/*": "panchromatic",
    "sen1_2_pairs/s2/*": "rgb",
    "geo_samples/landsat8_c2l2_001062/*": "rgbn-reflectance",
    "geo_samples/rasterio/*": "rgb",
    "geo_samples/s2_jp2_19UDP_20170729/*_B0?.jp2": "uint16-1",
    "geo_samples/s2_jp2_19UDP_20170729/*_TCI.jp2": "rgb",
    "geo_samples/s2_jp2_19UDP_20170729/L2A_SCL_*.jp2": "uint8-1",
}


def row(folder: Path, packed: zipfile.ZipFile, names: list[str], pattern: str, kind: str) -> str:
    """Take up some files as an archive of their own and say what they become."""
    folder.mkdir()
    home, archive = make_node(folder, kind=kind)
    for name in names:
        packed.extract(name, archive)
    config = load_config(NodeConfig, home.path)
    layouts = recognise(reading_of(home, config), config).layouts
    _, skipped = run(home)
    with Catalogue(home) as catalogue:
        counts = {"searched": catalogue.count(), "recorded": catalogue.count(state="recorded")}
    become = [f"{count} {what}" for what, count in counts.items() if count]
    become += [f"{count} refused: {reason}" for reason, count in Counter(skipped.values()).items()]
    told = ", ".join(f"{layout.sources} {name}" for name, layout in layouts.items())
    return f"| `{pattern}` | {len(names)} | {told or 'none'} | `{kind}` | {'; '.join(become)} |"


def test_the_page_says_what_becomes_of_every_real_sample_file(tmp_path):
    path = DATA / "s1s2_pairs.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {DATA}: set RSFED_TEST_DATA to the shared test data")
    with zipfile.ZipFile(path) as packed:
        files = [name for name in packed.namelist() if not name.endswith("/")]
        held = {pattern: [name for name in files if fnmatch(name, pattern)] for pattern in GROUPS}
        assert sorted(files) == sorted(name for names in held.values() for name in names), "each is in one group"
        rows = [
            row(tmp_path / str(number), packed, held[pattern], pattern, kind)
            for number, (pattern, kind) in enumerate(GROUPS.items())
        ]
    table = "\n".join((HEAD, *rows))
    assert table in PAGE.read_text(), f"write this into {PAGE.name}:\n{table}"
