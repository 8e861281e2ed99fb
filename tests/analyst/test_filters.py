"""The options that narrow a search: what they mean, and what is said of those that make no sense."""

import re

import pytest
from members import World

from rsfed.analyst.filters import Filters, parse_filters
from rsfed.errors import UsageError
from rsfed.trust.manifest import FederationClass, Nomenclature

DAY = 86_400_000
MAY = 1_714_521_600_000  # 2024-05-01
MANIFEST = World().release(nomenclature=Nomenclature(classes=(FederationClass(id=4, name="forest"),))).manifest


def parsed(**options):
    return parse_filters(**{"after": None, "before": None, "bbox": None, "modality": None, "labels": ()} | options)


def test_without_options_nothing_is_filtered():
    assert parsed() == Filters()
    assert parsed().message(MANIFEST) is None
    assert parsed().as_json() is None


def test_dates_take_in_their_whole_days_in_utc():
    message = parsed(after="2024-05-01", before="2024-05-02").message(MANIFEST)
    assert (message.after, message.before) == (MAY, MAY + 2 * DAY - 1)
    assert parsed(before="20240502").before == parsed(before="2024-05-02").before
    message = parsed(after="2024-05-01T02:00:00+02:00", before="2024-05-01T00:00:01Z").message(MANIFEST)
    assert (message.after, message.before) == (MAY, MAY + 1000)


def test_a_box_may_cross_the_antimeridian():
    box = parsed(bbox="170, -10.5,-170,10").message(MANIFEST).bbox
    assert (box.west, box.south, box.east, box.north) == (1_700_000_000, -105_000_000, -1_700_000_000, 100_000_000)


def test_labels_travel_as_the_numbers_of_the_federations_classes():
    filters = parsed(labels=["forest", "forest"], modality="rgb")
    message = filters.message(MANIFEST)
    assert (list(message.labels), message.modality) == ([4], "rgb")
    assert filters.fields == ("modality", "label")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"after": "2024-06-01", "before": "2024-05-31"}, "--after lies behind --before"),
        ({"after": "yesterday"}, "--after 'yesterday' is no date"),
        ({"before": "2024-02-30"}, "--before '2024-02-30' is no date"),
        ({"after": "0001-01-01T00:00:00+10:00"}, "--after"),
        ({"before": "9999-12-31T23:00:00-10:00"}, "--before"),
        ({"bbox": "1,2,3"}, "west,south,east,north"),
        ({"bbox": "1,2,3,x"}, "west,south,east,north"),
        ({"bbox": "181,0,10,1"}, "longitudes"),
        ({"bbox": "nan,0,10,1"}, "longitudes"),
        ({"bbox": "0,10,1,9"}, "latitudes"),
        ({"bbox": "0,0,1,91"}, "latitudes"),
        ({"bbox": "0,nan,1,2"}, "latitudes"),
        ({"labels": ["forst"]}, "no class 'forst'; its classes: forest"),
        ({"modality": "rgbx"}, "no 'rgbx'; name one of: rgb"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_remedy(options, said):
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        parsed(**options).message(MANIFEST)
    assert refused.value.reason == "FILTER"
