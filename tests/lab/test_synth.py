"""The synthetic archive: real files, hard for colour, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsfed.cli import run
from rsfed.errors import UsageError
from rsfed.hashing.colour import NearestMeanColour
from rsfed.lab.landcover import CLASSES, Canvas
from rsfed.lab.synth import LEAST_CLASSES, MODALITY, _acquisition, _grid, assign, generate, visits
from rsfed.raster.input_spec import default_spec
from rsfed.raster.inspect import inspect
from rsfed.raster.item import Item
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.modality import modality
from rsfed.raster.reader import read

KIND = modality(MODALITY)
SPEC = default_spec(KIND, 48)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive, and what inspection and reading make of it."""
    root = tmp_path_factory.mktemp("synth")
    generate(root, patches=480, seed=3)
    candidates = list(walk(root))
    assert all(isinstance(each, Candidate) for each in candidates)
    infos = [inspect(each.path, root=root, modality=KIND, spec=SPEC) for each in candidates]
    return candidates, infos


def _contents(candidates, infos):
    items = (
        Item(1, c.path, i.windows[0].window, MODALITY, i.windows[0].digest)
        for c, i in zip(candidates, infos, strict=True)
    )
    return np.stack([read(item, SPEC)["all"] for item in items])


def _digests(root):
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).digest() for p in sorted(root.rglob("*.tif"))}


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, patches=48, size=24, seed=seed)
    first, second, third = (_digests(tmp_path / name) for name in "abc")
    assert first == second
    assert len(first) == 48
    assert not set(first.values()) & set(third.values())


def test_patches_have_place_time_and_acquisition(archive):
    _, infos = archive
    acquisitions = defaultdict(list)
    for info in infos:
        assert (info.width, info.height, info.bands, info.dtype, info.gsd) == (48, 48, 4, "uint16", 10)
        assert info.crs.startswith("EPSG:326")
        assert info.acquired[0] < info.acquired[1]
        assert info.windows[0].nodata == 0
        acquisitions[info.acquisition].append(info)
    assert len(acquisitions) == 30
    assert {len(each) for each in acquisitions.values()} == {16}
    assert all(len({info.acquired for info in each}) == 1 for each in acquisitions.values())


def test_help_says_how_many_images_an_acquisition_has(capsys):
    assert run(["synth", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "An acquisition has 16 images" in said
    assert "960 images are of 60 acquisitions" in said
    assert set(Counter(visits(960)[2].tolist()).values()) == {16}
    assert len(set(visits(960)[2].tolist())) == 60


def _by_place(archive):
    looks = defaultdict(list)
    for candidate, info in zip(*archive, strict=True):
        looks[info.place].append((candidate, info))
    return looks


def test_every_place_is_looked_at_twice_at_different_dates_and_keeps_its_footprint_and_class(archive):
    places = _by_place(archive)
    assert len(places) == 240
    for looks in places.values():
        (first, then), (again, later) = sorted(looks, key=lambda look: look[1].acquired)
        assert later.acquired[0] - then.acquired[0] > timedelta(days=30)
        assert later.acquisition != then.acquisition
        assert later.footprint == then.footprint
        assert first.own_labels == again.own_labels
    scenes = {tuple(sorted({info.acquisition for _, info in looks})) for looks in places.values()}
    assert len(scenes) == 15, "the same two acquisitions look at all places of a scene"


def test_a_second_look_is_no_twin_of_the_first(archive):
    """No more like it than two patches of its class are: else a query would find its place, not its class."""
    candidates, infos = archive
    contents = _contents(candidates, infos)
    flat = (contents - contents.mean(axis=(2, 3), keepdims=True)).reshape(len(contents), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    likeness = np.abs(flat @ flat.T)
    place = np.array([info.place for info in infos])
    label = np.array([each.own_labels[0] for each in candidates])
    twins = (place[:, None] == place) & ~np.eye(len(place), dtype=bool)
    others = (label[:, None] == label) & (place[:, None] != place)
    assert likeness[twins].mean() < likeness[others].mean() + 0.02
    assert likeness[twins].max() < 0.95


@given(st.integers(LEAST_CLASSES * 2, 5000))
def test_visits_share_out_all_patches_whatever_their_number(patches):
    places, place, owner = visits(patches)
    looks = defaultdict(list)
    for where, acquisition in zip(place.tolist(), owner.tolist(), strict=True):
        looks[where].append(acquisition)
    assert sorted(looks) == list(range(places))
    assert sum(len(each) != 2 for each in looks.values()) == patches % 2
    assert all(len(set(each)) == len(each) for each in looks.values())
    assert max(Counter(owner.tolist()).values()) <= 16
    assert (np.diff(owner) >= 0).all()
    assert set(owner.tolist()) == set(range(owner[-1] + 1))


def test_no_two_places_show_the_same_ground(archive):
    infos = [looks[0][1] for looks in _by_place(archive).values()]
    west, south, east, north = np.array([info.footprint for info in infos]).T
    shared_across = np.minimum(east[:, None], east) - np.maximum(west[:, None], west)
    shared_down = np.minimum(north[:, None], north) - np.maximum(south[:, None], south)
    overlapping = (shared_across > 5e-4) & (shared_down > 5e-4)  # boxes in degrees stand a little over their patches
    assert overlapping.sum() == len(infos), "each overlaps with itself alone"


def test_largest_archive_has_no_two_places_on_one_ground():
    assert len({_grid(place, 256) for place in range(50_000)}) == 50_000


def test_acquisitions_differ_in_light_haze_and_season():
    rng = np.random.default_rng(0)
    drawn = [_acquisition(number, rng) for number in range(40)]
    assert np.std([each.gain.mean() for each in drawn]) > 0.1
    assert np.std([each.season for each in drawn]) > 0.2
    assert np.ptp([each.haze[2] for each in drawn]) > 0.03
    assert len({each.id for each in drawn}) == len({each.start for each in drawn}) == 40


def test_classes_are_even_and_acquisitions_are_mostly_of_one(archive):
    candidates, infos = archive
    labels = [each.own_labels[0] for each in candidates]
    counts = Counter(labels)
    assert set(counts) == set(CLASSES)
    assert max(counts.values()) - min(counts.values()) in {0, 2}, "a place more is two patches more"
    mixes = defaultdict(Counter)
    for label, info in zip(labels, infos, strict=True):
        mixes[info.acquisition][label] += 1
    main = [mix.most_common(1)[0][1] for mix in mixes.values()]
    assert np.mean(main) >= 8
    assert np.mean([len(mix) for mix in mixes.values()]) > 4


def test_file_names_tell_nothing(archive):
    candidates, _ = archive
    by_class = defaultdict(list)
    for each in candidates:
        by_class[each.own_labels[0]].append(int(each.path.stem[1:]))
    spans = [(max(numbers) - min(numbers)) for numbers in by_class.values()]
    assert min(spans) > 300, "numbers of every class run through the whole archive"


def test_colour_alone_does_not_tell_the_classes(archive):
    candidates, infos = archive
    colours = _contents(candidates, infos).mean(axis=(2, 3))
    names = sorted(CLASSES)
    classes = np.array([names.index(each.own_labels[0]) for each in candidates])
    acquisitions = np.array([info.acquisition for info in infos])
    held = np.isin(acquisitions, np.unique(acquisitions)[::4])
    accuracy = NearestMeanColour.fit(colours[~held], classes[~held]).accuracy(colours[held], classes[held])
    assert 1 / len(names) < accuracy <= 0.6


@pytest.mark.parametrize("name", CLASSES)
def test_patches_of_a_class_vary_and_are_reflectances(name):
    rng = np.random.default_rng(5)
    ground = CLASSES[name](Canvas(rng, rng.random(12).astype(np.float32), 40))
    assert ground.shape == (12, 4, 40, 40)
    assert ground.dtype == np.float32
    assert np.isfinite(ground).all()
    assert np.quantile(ground, 0.001) > 0
    assert np.quantile(ground, 0.999) < 1
    assert ground.std(axis=(2, 3)).min() > 0.002, "no patch is flat"
    assert ground.mean(axis=(2, 3)).std(axis=0).min() > 0.004, "no two patches are of one colour"


@pytest.mark.parametrize(("places", "classes"), [(11, 11), (16, 8), (17, 11), (960, 9)])
def test_every_class_occurs_whatever_the_numbers(places, classes):
    labels = assign(places, classes, np.random.default_rng(0))
    assert labels.min() >= 0
    counts = np.bincount(labels, minlength=classes)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("numbers", [{"classes": 7}, {"classes": 99}, {"size": 8}, {"patches": 21}, {"patches": 10**6}])
def test_impossible_numbers_are_refused_and_nothing_is_written(tmp_path, numbers):
    with pytest.raises(UsageError):
        generate(tmp_path / "new", **numbers)
    assert not (tmp_path / "new").exists()


def test_folder_in_use_is_never_written_into(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["synth", str(tmp_path), "--patches", "22"]) == 2
    assert "not empty; name a new one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_command_prints_one_object_and_draws_the_classes(tmp_path, capsys):
    out, picture = tmp_path / "new", tmp_path / "classes.png"
    arguments = ["--patches", "40", "--size", "32", "--classes", "8", "--preview", str(picture), "--output", "json"]
    assert run(["synth", str(out), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["patches"] == sum(printed["classes"].values()) == len(list(out.rglob("*.tif"))) == 40
    assert len(printed["classes"]) == 8
    assert (printed["places"], printed["acquisitions"]) == (20, 4)
    assert printed["modality"] == MODALITY
    assert printed["bytes"] == sum(path.stat().st_size for path in out.rglob("*.tif"))
    drawn = np.asarray(Image.open(picture))
    assert drawn.shape[0] == 8 * 100
    assert all(drawn[row * 100 : row * 100 + 96, 110:].std() > 10 for row in range(8))


def test_picture_that_cannot_be_written_is_told(tmp_path, capsys):
    assert run(["synth", str(tmp_path / "new"), "--patches", "22", "--preview", str(tmp_path / "no" / "a.png")]) == 2
    assert "--preview" in capsys.readouterr().err
