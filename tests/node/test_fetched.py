"""Archives behind a STAC endpoint: what is fetched from where, what not, and what stays when something goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time

import numpy as np
import pytest
from node_archives import configure, make_node, run
from raster_makers import REFLECTANCE, UTM, spec, write_image
from safe_makers import COMMON, RASTER, scene, stac_item
from stac_server import certified, serving

import node.endpoint.listing
import node.endpoint.mirror
import node.endpoint.web
from node.audit import lines
from node.catalogue import Catalogue
from node.recipe import reading_of
from node.recognition import recognise
from node.state import open_state
from rsfed.config import NodeConfig, load_config
from rsfed.errors import ArchiveError, ConfigError
from rsfed.hosts import Hosts, shown
from rsfed.raster.reader import read

SIDE = 64
START = "/catalog.json"
COLOURS = spec("red green blue nir", size=SIDE, gsd=10.0, fit="crop")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The bytes of each band, by seed."""
    folder, made = tmp_path_factory.mktemp("images"), {}
    for seed in range(3):
        values = scene(seed, size=SIDE)
        for band in COMMON:
            path = write_image(folder / f"{seed}{band}.tif", values[band][None], **UTM)
            made[seed, band] = path.read_bytes()
    return made


@pytest.fixture
def server():
    with serving() as served:
        yield served


def put_item(server, images, name, seed=0, *, href="./{}.tif", listed=True, **more):
    """Have a server give an item and its files, and list it in the one catalogue."""
    assets = {COMMON[band]: {"href": href.format(band), "raster:bands": RASTER} for band in COMMON}
    for band in COMMON:
        server.files[f"/{name}/{band}.tif"] = images[seed, band]
    item = stac_item(assets) | {"id": name, "links": []} | more
    server.put_json(f"/{name}/item.json", item)
    if listed:
        link(server, f"./{name}/item.json")
    return item


def link(server, href, relation="item"):
    document = json.loads(server.files.get(START, b'{"type": "Catalog", "stac_version": "1.0.0", "links": []}'))
    document["links"].append({"rel": relation, "href": href})
    server.put_json(START, document)


def unlink(server, name):
    document = json.loads(server.files[START])
    document["links"] = [each for each in document["links"] if name not in each["href"]]
    server.put_json(START, document)


def node_of(tmp_path, url, *more):
    home, archive = make_node(tmp_path, kind=REFLECTANCE)
    path = home.path / "node.toml"
    words = "\n".join([f'stac = "{url}"', *more])
    path.write_text(re.sub(r"(?m)^path = .*$", lambda _: words, path.read_text()))
    archive.rmdir()
    return home


def present(home):
    """Return what is searched, and what lies at the same place of the same acquisition and stands behind it."""
    with Catalogue(home) as catalogue:
        items = [item for state in ("present", "recorded") for item in catalogue.items(REFLECTANCE, state)]
    return {item.path.name: item for item in items}


def test_items_are_fetched_once_and_read_again_without_their_host(tmp_path, images):
    with serving() as server:
        put_item(server, images, "one", 1)
        put_item(server, images, "two", 2)
        home = node_of(tmp_path, server.url + START)
        report, skipped = run(home)
        assert (report.read, skipped) == (2, {})
        assert len(server.images()) == 8
        before = present(home)
        assert run(home)[0].read == 0
        assert len(server.images()) == 8
    assert before["one"].acquisition == "S2A:20240531T103021"
    for seed, name in enumerate(("one", "two"), 1):
        content = read(before[name], COLOURS)["all"]
        np.testing.assert_array_equal(content[0], np.maximum(scene(seed, size=SIDE)["B04"], 1000) - 1000)


def test_what_changes_is_fetched_again_and_what_is_listed_no_more_goes_at_once_and_is_noted(tmp_path, server, images):
    for seed, name in enumerate(("one", "two")):
        put_item(server, images, name, seed)
    home = node_of(tmp_path, server.url + START)
    run(home)
    before = present(home)
    server.asked.clear()
    item = put_item(server, images, "two", 1, listed=False, collection="sentinel-2-l2a")
    item["assets"]["red"]["file:checksum"] = "1220" + hashlib.sha256(images[2, "B04"]).hexdigest()
    server.put_json("/two/item.json", item)
    server.files["/two/B04.tif"] = images[2, "B04"]
    unlink(server, "one")
    report, skipped = run(home)
    assert (report.read, report.withdrawn, skipped) == (1, 1, {})
    assert sorted(server.images()) == [f"/two/{band}.tif" for band in sorted(COMMON)]
    after = present(home)
    assert set(after) == {"two"}
    assert after["two"].id not in {each.id for each in before.values()}
    assert not before["one"].path.exists()
    connection = open_state(home)
    (noted,) = [each.data for each in lines(home, connection, last=9) if each.kind == "archive.withdrawn"]
    connection.close()
    assert noted == {"sources": 1, "patches": 1}


def test_pages_are_followed_and_end_even_if_they_lead_in_a_circle(tmp_path, server, images):
    items = [put_item(server, images, name, listed=False, href=f"../{name}/{{}}.tif") for name in ("a", "b", "c")]
    for page, item in enumerate(items):
        following = {"rel": "next", "href": f"/p{(page + 1) % 3}/items?token=1"}
        server.put_json(f"/p{page}/items", {"type": "FeatureCollection", "features": [item], "links": [following]})
    server.put_json(
        "/c", {"type": "Collection", "stac_version": "1.0.0", "links": [{"rel": "items", "href": "p0/items"}]}
    )
    link(server, "/c", "child")
    home = node_of(tmp_path, server.url + START)
    report, skipped = run(home)
    assert (report.read, skipped) == (3, {})
    assert len(server.asked) < 20
    server.put_json("/p0/items", {"type": "FeatureCollection", "features": [], "links": []})
    server.put_json("/p1/items", {"type": "FeatureCollection", "features": [], "links": []})
    link(server, "/p2/posted", "child")
    posted = {"rel": "next", "method": "POST", "href": "/search"}
    server.put_json("/p2/posted", {"type": "FeatureCollection", "features": items[:1], "links": [posted]})
    report, skipped = run(home)
    assert report.withdrawn == 0
    assert any("has to be posted for" in reason for reason in skipped.values())


def test_whatever_will_not_do_is_told_and_the_rest_goes_in(tmp_path, server, images):
    with serving() as other:
        put_item(other, images, "elsewhere")
        put_item(server, images, "good", 1)
        put_item(server, images, "gone")
        del server.files["/gone/B03.tif"]
        put_item(server, images, "outside", href=other.url + "/elsewhere/{}.tif")
        put_item(server, images, "redirected")
        server.files["/redirected/B02.tif"] = (302, {"Location": other.url + "/elsewhere/B02.tif"}, b"")
        put_item(server, images, "local", href="file:///etc/{}.tif")
        put_item(server, images, "bucket", href="s3://bucket/{}.tif")
        put_item(server, images, "user", href=server.url.replace("//", "//me:secret@") + "/user/{}.tif")
        put_item(server, images, "half", href="\ud800/{}.tif")
        link(server, "\ud800.json")
        put_item(server, images, "top", properties={"processing:level": "L1C"})
        less = put_item(server, images, "less")
        del less["assets"]["nir"]
        server.put_json("/less/item.json", less)
        twin = put_item(server, images, "twin", 2)
        server.put_json("/twin2/item.json", twin | {"properties": {"datetime": "2020-01-01T00:00:00Z"}})
        link(server, "twin2/item.json")
        put_item(server, images, "long", id="x" * 300)
        put_item(server, images, "up", id="../../up", href="/up/{}.tif")
        link(server, "nothing.json")
        link(server, other.url + "/elsewhere/item.json")
        link(server, "/catalog.html", "child")
        server.files["/catalog.html"] = b"<html>"
        sent = images[0, "B02"]
        put_item(server, images, "cut")
        server.files["/cut/B02.tif"] = (200, {"Content-Length": str(len(sent) + 9)}, sent)
        put_item(server, images, "broken")
        server.files["/broken/B02.tif"] = (503, {}, b"")
        home = node_of(tmp_path, server.url + START)
        _, skipped = run(home)
        assert other.asked == [], "no other host is asked"
    assert set(present(home)) == {"good", "twin", "..%2F..%2Fup".replace("..", "%2E.", 1)}
    words = {
        "sentinel-2-l2a/gone": "B03.tif is gone (HTTP 404)",
        "sentinel-2-l2a/outside": f"{other.host} in archive.hosts",
        "sentinel-2-l2a/redirected": "redirects: it leads to",
        "sentinel-2-l2a/local": "no address over HTTPS",
        "sentinel-2-l2a/bucket": "no address over HTTPS",
        "sentinel-2-l2a/user": "no address over HTTPS",
        "sentinel-2-l2a/half": "is gone (HTTP 404)",
        f"{server.url}/%5Cud800.json": "is gone (HTTP 404)",
        "sentinel-2-l2a/top": "of level 1C",
        "sentinel-2-l2a/less": "no asset of band B08",
        "sentinel-2-l2a/twin": "another item has its id",
        "sentinel-2-l2a/cut": "was cut off after",
        "sentinel-2-l2a/broken": "HTTP 503",
        f"{server.url}/nothing.json": "is gone",
        f"{server.url}/catalog.json": "1 of its links are not followed; of the first one: it leads to",
        f"{server.url}/catalog.html": "it is no STAC document",
    }
    for name, word in words.items():
        assert word in skipped.pop(name), name
    (reason,) = skipped.values()
    assert "cannot be the name of a folder" in reason
    assert not list(home.path.rglob("*.part"))


def test_redirects_to_listed_hosts_are_followed_and_links_start_from_there(tmp_path, server, images):
    with serving() as other:
        put_item(other, images, "one", 1)
        server.files[START] = (301, {"Location": other.url + START}, b"moved")
        home = node_of(tmp_path, server.url + START, f'hosts = ["{other.host}"]')
        assert run(home)[0].read == 1


def test_what_cannot_be_had_just_now_keeps_what_is_there(tmp_path, server, images):
    for seed, name in enumerate(("one", "two")):
        put_item(server, images, name, seed)
    home = node_of(tmp_path, server.url + START)
    run(home)
    whole = dict(server.files)
    for broken in ({START: (500, {}, b"")}, {START: b"<html>"}, {START: (200, {}, b"{")}):
        server.files |= broken
        with pytest.raises(ArchiveError, match="the archive cannot be listed") as caught:
            run(home)
        assert caught.value.reason == "ARCHIVE_UNREACHABLE"
    server.put_json(START, {"type": "Catalog", "stac_version": "1.0.0", "links": []})
    with pytest.raises(ArchiveError) as caught:
        run(home)
    assert caught.value.reason == "ARCHIVE_EMPTY"
    link(server, "gone.json", "child")
    with pytest.raises(ArchiveError, match=r"nothing of the archive is seen just now; http.*/gone.json:") as caught:
        run(home)
    assert caught.value.reason == "ARCHIVE_UNREACHABLE"
    link(server, "./one/item.json")
    item = put_item(server, images, "one", 2, listed=False)
    item["assets"]["red"]["type"] = "image/tiff"
    server.put_json("/one/item.json", item)
    server.files["/one/B08.tif"] = (503, {}, b"")
    report, skipped = run(home)
    assert (report.withdrawn, set(present(home))) == (0, {"one", "two"})
    assert "1 items are not listed, and stay" in skipped[server.url + START]
    server.files = whole
    assert run(home)[1] == {}


def test_a_redirect_to_a_host_that_is_not_listed_takes_nothing_away(tmp_path, server, images):
    put_item(server, images, "one")
    put_item(server, images, "two", 1)
    home = node_of(tmp_path, server.url + START)
    run(home)
    server.files["/one/item.json"] = (302, {"Location": "https://login.example.org/"}, b"")
    report, skipped = run(home)
    assert (report.withdrawn, set(present(home))) == (0, {"one", "two"})
    assert "redirects: it leads to https://login.example.org/" in skipped[f"{server.url}/one/item.json"]


def _lines_for_ever(start, line):
    def sent(write):
        write(start)
        while True:
            write(line * 1000)

    return sent


@pytest.mark.parametrize(
    "sent",
    [
        _lines_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        _lines_for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", b"X: y\r\n"),
        _lines_for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 900 + b"\r\n{\r\n"),
    ],
)
def test_an_answer_without_end_ends(tmp_path, server, images, monkeypatch, sent):
    monkeypatch.setattr(node.endpoint.mirror, "DOCUMENT_BYTES", 1 << 20)
    put_item(server, images, "good")
    server.files["/bad.json"] = sent
    link(server, "/bad.json")
    report, skipped = run(node_of(tmp_path, server.url + START))
    assert report.read == 1
    assert "does not come to an end" in skipped[f"{server.url}/bad.json"]


def test_an_answer_whose_headers_drip_ends(tmp_path, server, images, monkeypatch):
    monkeypatch.setattr(node.endpoint.web, "_PATIENCE_S", 0.05)

    def sent(write):
        write(b"HTTP/1.1 200 OK\r\n")
        while True:
            write(b"X")
            time.sleep(0.01)

    put_item(server, images, "good")
    server.files["/bad.json"] = sent
    link(server, "/bad.json")
    _, skipped = run(node_of(tmp_path, server.url + START))
    assert "comes too slowly" in skipped[f"{server.url}/bad.json"]


def test_a_host_that_does_not_answer_is_not_waited_for_file_by_file(tmp_path, server, images, monkeypatch):
    monkeypatch.setattr(node.endpoint.web, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as dead:
        host = f"127.0.0.1:{dead.getsockname()[1]}"
        for number in range(5):
            put_item(server, images, str(number), href=f"http://{host}/{{}}.tif")
        _, skipped = run(node_of(tmp_path, server.url + START, f'hosts = ["{host}"]'))
        reasons = [skipped[f"sentinel-2-l2a/{number}"] for number in range(5)]
    assert ["does not answer" in each for each in reasons] == [True] * 3 + [False] * 2
    assert all("did not answer 3 times in a row" in each for each in reasons[3:])


def test_no_more_is_held_than_allowed(tmp_path, server, images):
    for seed, name in enumerate(("one", "two")):
        put_item(server, images, name, seed)
    most = 6 * len(images[0, "B02"]) / 2**30
    home = node_of(tmp_path, server.url + START, f"fetch_gib = {most!r}")
    report, skipped = run(home)
    assert (report.read, list(skipped)) == (1, ["sentinel-2-l2a/two"])
    assert "raise archive.fetch_gib" in skipped["sentinel-2-l2a/two"]
    held = sum(path.stat().st_size for path in (home.path / "fetched").rglob("*") if path.is_file())
    assert held < most * 2**30
    configure(home, f"fetch_gib = {most!r}", "fetch_gib = 1")
    assert run(home)[0].read == 1


def test_an_asset_of_other_bytes_than_its_checksum_is_not_taken(tmp_path, server, images):
    item = put_item(server, images, "one")
    item["assets"]["red"]["file:checksum"] = "1220" + "0" * 64
    server.put_json("/one/item.json", item)
    _, skipped = run(node_of(tmp_path, server.url + START))
    assert "not those of its file:checksum" in skipped["sentinel-2-l2a/one"]


def test_a_checksum_that_changed_is_believed_before_a_host_that_says_that_nothing_did(tmp_path, server, images):
    item = put_item(server, images, "one")
    for band in COMMON:
        server.files[f"/one/{band}.tif"] = (200, {"ETag": '"same"'}, images[0, band])
    home = node_of(tmp_path, server.url + START)
    run(home)
    item["assets"]["red"]["file:checksum"] = "1220" + hashlib.sha256(images[1, "B04"]).hexdigest()
    server.put_json("/one/item.json", item)
    server.files["/one/B04.tif"] = lambda write: write(
        b"HTTP/1.1 304 Not Modified\r\n\r\n"
        if "If-None-Match" in server.headers
        else b"HTTP/1.1 200 OK\r\n\r\n" + images[1, "B04"]
    )
    assert run(home)[0].read == 1
    content = read(present(home)["one"], COLOURS)["all"]
    np.testing.assert_array_equal(content[0], np.maximum(scene(1, size=SIDE)["B04"], 1000) - 1000)


def test_a_full_disk_ends_the_fetching_and_takes_nothing_away(tmp_path, server, images):
    put_item(server, images, "one")
    home = node_of(tmp_path, server.url + START)
    run(home)
    full = home.path / "fetched" / "sentinel-2-l2a" / "two"
    full.mkdir()
    (full / ".B04.tif.part").symlink_to("/dev/full")
    for name in ("two", "three"):
        put_item(server, images, name, 1)
    report, skipped = run(home)
    assert (report.withdrawn, set(present(home))) == (0, {"one"})
    (reason,) = skipped.values()
    assert "No space left on device" in reason
    assert "2 items wait" in reason
    assert run(home)[0].read == 2


def test_a_catalogue_of_more_than_can_be_held_is_followed_no_further(tmp_path, server, images, monkeypatch):
    monkeypatch.setattr(node.endpoint.listing, "MAX_DOCUMENTS", 20)
    put_item(server, images, "one")
    for number in range(100):
        link(server, f"https://example.org/{number}", "child")
    report, skipped = run(node_of(tmp_path, server.url + START))
    assert "more than 20 documents" in skipped[server.url + START]
    assert sum(report.skipped.values()) == 2, "one line for all links elsewhere"


def test_signatures_of_addresses_are_neither_printed_nor_kept(tmp_path, server, images):
    put_item(server, images, "one", href="/one/{}.tif?sig=SECRET")
    put_item(server, images, "two", href="https://example.org/two/{}.tif?sig=SECRET#SECRET")
    home = node_of(tmp_path, server.url + START)
    _, skipped = run(home)
    assert set(present(home)) == {"one"}
    assert "SECRET" not in str(skipped)
    assert not [path for path in home.path.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
    server.asked.clear()
    put_item(server, images, "one", listed=False, href="/one/{}.tif?sig=OTHER")
    assert run(home)[0].read == 0
    assert server.images() == []


def test_https_needs_somebody_known_to_vouch_for_the_host(tmp_path, images, monkeypatch):
    tls, authority = certified(tmp_path)
    with serving(tls) as server:
        put_item(server, images, "one")
        home = node_of(tmp_path, server.url + START)
        with pytest.raises(ArchiveError, match="SSL_CERT_FILE"):
            run(home)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert run(home)[0].read == 1


def test_a_dry_run_lists_an_endpoint_and_fetches_no_image(tmp_path, server, images):
    put_item(server, images, "one")
    put_item(server, images, "two", href="https://example.org/{}.tif")
    home = node_of(tmp_path, server.url + START)
    config = load_config(NodeConfig, home.path)
    found = recognise(reading_of(home, config), config)
    assert (found.layouts["stac"].sources, found.unlabelled) == (1, 1)
    assert [found.examples[reason] for reason in found.problems] == ["sentinel-2-l2a/two"]
    assert server.images() == []


@pytest.mark.parametrize(
    ("url", "hosts", "allowed"),
    [
        ("https://a.org/x", ["a.org"], True),
        ("https://A.org:443/x", ["a.org"], True),
        ("https://a.org:8443/x", ["a.org"], False),
        ("https://a.org:8443/x", ["a.org:8443"], True),
        ("http://a.org/x", ["a.org", "a.org:80"], False),
        ("http://a.org/x", ["http://a.org"], True),
        ("https://a.org/x", ["http://a.org"], False),
        ("http://localhost:80/x", ["localhost:80"], True),
        ("http://127.0.0.1/x", ["127.0.0.1:443"], False),
        ("http://[::1]:9/x", ["[::1]:9"], True),
        ("https://a.org.evil.org/x", ["a.org"], False),
        ("https://a.org@evil.org/x", ["a.org", "evil.org"], False),
        ("https://a.org:80:443/x", ["a.org", "a.org:80"], False),
        ("ftp://a.org/x", ["a.org"], False),
        ("/x", ["a.org"], False),
        ("https://[/x", ["a.org"], False),
    ],
)
def test_only_what_is_listed_is_fetched(url, hosts, allowed):
    assert (Hosts(hosts).refusal(url) is None) == allowed


def test_an_address_is_printed_without_what_proves_a_right_to_read_it():
    assert shown("https://me:secret@a.org:8443/x/y.tif?sig=secret#secret") == "https://a.org:8443/x/y.tif"


@pytest.mark.parametrize(
    ("lines_", "problem"),
    [
        ('stac = "http://example.org/c.json"', "list http://example.org:80 in archive.hosts"),
        ('stac = "ftp://example.org/c.json"', "no address over HTTPS"),
        ('stac = "https://example.org/c.json"\npath = "x"', "path and stac are two archives"),
        ('stac = "https://example.org/c.json"\nhosts = ["https://a b"]', "write host, host:port"),
        ('hosts = ["a.org"]', "which is not set"),
    ],
)
def test_a_configuration_that_names_no_sound_endpoint_is_refused(tmp_path, lines_, problem):
    home, _ = make_node(tmp_path)
    path = home.path / "node.toml"
    path.write_text(re.sub(r"(?m)^path = .*$", lambda _: lines_, path.read_text()))
    with pytest.raises(ConfigError, match=problem):
        load_config(NodeConfig, home.path)
