"""Archives of STAC items: what goes in, what a changed catalogue changes, and what leaves of an item."""

from __future__ import annotations

import json

from node_archives import make_node, run
from raster_makers import REFLECTANCE, UTM, write_image
from safe_makers import COMMON, RASTER, scene, stac_item

from node.catalogue import Catalogue
from node.delivery import deliver
from node.requests import Want

SIDE = 64


def put_listed(archive, **seeds):
    """Write an ItemCollection of an item for each name."""
    features = []
    for name, seed in seeds.items():
        made = scene(seed, size=SIDE)
        for band in COMMON:
            if not (path := archive / f"{name}_{band}.tif").exists():
                write_image(path, made[band][None], **UTM)
        assets = {COMMON[band]: {"href": f"{name}_{band}.tif", "raster:bands": RASTER} for band in COMMON}
        features.append(stac_item(assets) | {"id": name})
    (archive / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def present(home):
    """Return what is searched, and what lies at the same place of the same acquisition and stands behind it."""
    with Catalogue(home) as catalogue:
        items = [item for state in ("present", "recorded") for item in catalogue.items(REFLECTANCE, state)]
    return {item.path.name: item for item in items}


def test_items_of_an_item_collection_come_and_go_one_by_one(tmp_path):
    home, archive = make_node(tmp_path, kind=REFLECTANCE)
    put_listed(archive, one=1, two=2)
    report, skipped = run(home)
    before = present(home)
    assert (set(before), skipped) == ({"one", "two"}, {})
    put_listed(archive, one=1, three=3)
    for path in archive.glob("two_*"):
        path.unlink()
    report, skipped = run(home)
    after = present(home)
    assert (report.read, report.withdrawn, skipped) == (1, 1, {})
    assert set(after) == {"one", "three"}
    assert after["one"] == before["one"]
    assert run(home)[0].read == 0
    driver, content = deliver(after["one"], Want.FILE, most=1 << 20)
    assert driver == "GTiff"
    assert content.startswith(b"II")
