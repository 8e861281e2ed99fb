"""XML of products: what is never read."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safe_makers import AZIMUTH, NOISE, SIGMA, annotation_xml, offset_list, product_xml, swath

from rsfed.errors import RasterRejected
from rsfed.raster import xml_document
from rsfed.raster.item import Window
from rsfed.raster.reflectance import of_product
from rsfed.raster.sentinel1 import calibration_of
from rsfed.raster.xml_document import read_document

LAUGHS = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><a>&y;</a>'


@pytest.fixture
def document(tmp_path):
    def read(content):
        (tmp_path / "a.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_document(tmp_path / "a.xml", "product XML")

    return read


def test_elements_are_found_by_their_names_without_namespace(document):
    found = document('<n:a xmlns:n="urn:x"><n:b><c i="1"> 2 </c></n:b><c>3</c><d/></n:a>')
    assert found.texts("c") == ["2", "3"]
    assert found.texts("b", "c") == ["2"]
    assert (found.text("c"), found.text("d"), found.text("e")) == ("2", None, None)
    with pytest.raises(RasterRejected, match="its product XML has no e; copy the product again"):
        found.required("e")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (LAUGHS, "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        ("<a><b></a>", "truncated or no XML"),
        ("<a>", "truncated or no XML"),
        ("", "truncated or no XML"),
        (b"\xff\xfe\x00", "truncated or no XML"),
        ('<?xml version="1.0" encoding="no-such"?><a/>', "truncated or no XML"),
        ("<a>&nothing;</a>", "truncated or no XML"),
        ("<a>" * 65 + "</a>" * 65, "more or deeper elements"),
    ],
)
def test_what_no_product_has_is_refused_in_one_line(document, content, problem):
    with pytest.raises(RasterRejected, match=problem):
        document(content)


def test_large_and_missing_documents_are_refused(document, tmp_path, monkeypatch):
    monkeypatch.setattr(xml_document, "MAX_BYTES", 1 << 20)
    with pytest.raises(RasterRejected, match="larger than 1 MiB"):
        document(b"<a>" + b" " * (1 << 21))
    monkeypatch.setattr(xml_document, "_MAX_ELEMENTS", 100)
    with pytest.raises(RasterRejected, match="more or deeper"):
        document("<a>" + "<b/>" * 100 + "</a>")
    with pytest.raises(RasterRejected, match="its calibration annotation is missing"):
        read_document(tmp_path / "b.xml", "calibration annotation")


DOCUMENTS = [product_xml(offsets=offset_list("L2A", -1000)).encode(), annotation_xml(swaths=swath(0, 0, 9, 9)).encode()]
TABLES = [f"<calibration>{SIGMA}</calibration>".encode(), f"<noise>{NOISE}{AZIMUTH}</noise>".encode()]


@given(st.data())
def test_documents_with_changed_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.xml"

    def mutated(content):
        content = bytearray(content)
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[place] = data.draw(st.sampled_from(b'0<>/"&-9a\x00\xff'))
        path.write_bytes(content[: data.draw(st.sampled_from([None, None, len(content) // 2]))])
        return read_document(path, "XML")

    with suppress(RasterRejected):
        of_product(mutated(DOCUMENTS[0]), "L2A", ["B02"], None)
    with suppress(RasterRejected):
        calibration = calibration_of(mutated(DOCUMENTS[1]), *map(mutated, TABLES))
        calibration.decibels(np.ones((4, 4)), Window(2, 2, 4, 4))
