"""What users rely on when the labels of an archive become classes of the federation."""

from __future__ import annotations

import pytest

from node.labels import map_labels
from rsfed.errors import ConfigError, ExitCode
from rsfed.trust.manifest import FederationClass, Nomenclature


def nomenclature(*names: str) -> Nomenclature:
    return Nomenclature(classes=tuple(FederationClass(id=10 + i, name=name) for i, name in enumerate(names)))


LAND = nomenclature("Annual Crop", "Forest", "Sea_Lake", "River")


def test_equal_names_map_whatever_their_case_spaces_underscores_and_hyphens():
    found = map_labels(["annual-crop", "FOREST", "sea lake"], {}, LAND)
    assert found.classes == {"annual-crop": (10,), "FOREST": (11,), "sea lake": (12,)}
    assert not found.unmapped
    assert not found.ambiguous


def test_a_label_without_a_class_is_counted_and_left_unlabelled():
    found = map_labels(["Forest", "Clouds"], {}, LAND)
    assert found.classes == {"Forest": (11,)}
    assert found.unmapped == ("Clouds",)


def test_the_map_gives_one_class_several_or_none():
    chosen = {"park": ["Forest", "River"], "corn": "annual crop", "Forest": "none", "reef": []}
    found = map_labels(["park", "corn", "Forest", "reef"], chosen, LAND)
    assert found.classes == {"park": (11, 13), "corn": (10,)}
    assert found.unmapped == ("Forest", "reef")


def test_a_label_that_reads_like_several_classes_is_ambiguous_until_the_map_decides():
    alike = nomenclature("Sea Lake", "sea-lake", "Forest")
    found = map_labels(["SeaLake", "Forest"], {}, alike)
    assert found.ambiguous == {"SeaLake": ("Sea Lake", "sea-lake")}
    assert found.classes == {"Forest": (12,)}
    assert not found.unmapped
    assert map_labels(["SeaLake"], {"SeaLake": "sea-lake"}, alike).classes == {"SeaLake": (11,)}


def test_a_label_that_equals_a_class_exactly_is_that_class_although_others_read_alike():
    alike = nomenclature("Sea Lake", "sea-lake")
    assert map_labels(["sea-lake"], {}, alike).classes == {"sea-lake": (11,)}


@pytest.mark.parametrize("value", ["Marsh", ["Forest", "Marsh"], "", ["none", "Forest"]])
def test_a_map_that_names_an_unknown_class_stops_with_the_known_ones(value):
    with pytest.raises(ConfigError, match="Annual Crop, Forest") as refused:
        map_labels([], {"bog": value}, LAND)
    assert refused.value.reason == "UNKNOWN_CLASS"
    assert refused.value.exit_code == ExitCode.CONFIGURATION


def test_a_map_entry_that_could_mean_two_classes_is_refused():
    with pytest.raises(ConfigError):
        map_labels([], {"water": "SEALAKE"}, nomenclature("Sea Lake", "sea-lake"))


def test_a_map_entry_for_a_label_that_is_not_there_is_pointed_out():
    assert map_labels(["Forest"], {"Forrest": "Forest"}, LAND).unused == ("Forrest",)


def test_without_a_release_every_label_is_unmapped():
    found = map_labels(["Forest"], {"bog": "Marsh"}, None)
    assert found.unmapped == ("Forest",)
    assert not found.classes
