"""Features of a frozen trunk stand in for pixels, and are made once."""

import json

import numpy as np
import pytest
from onnx_maker import tiny_trunk
from PIL import Image

from rsfed.cli import run
from rsfed.errors import UsageError
from rsfed.hashing.trunk import Trunk
from rsfed.lab.evaluate import methods
from rsfed.lab.evaluate.data import find, read


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("field", "lake"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def trunk(folder, **changes):
    path = folder.parent / "trunk.onnx"
    path.write_bytes(tiny_trunk(**changes))
    return path


def features(images):
    return np.stack([patch[0] for patch in images.patches])


def test_features_are_made_once_and_again_where_the_file_is_damaged_or_the_trunk_is_another(folder, monkeypatch):
    made = []
    real = Trunk.features
    monkeypatch.setattr(Trunk, "features", lambda self, patches: made.append(1) or real(self, patches))
    cache = folder.parent / "cache"
    first = features(read(find(folder), trunk(folder), cache))
    assert len(made) == 10
    assert (features(read(find(folder), trunk(folder), cache)) == first).all()
    assert len(made) == 10
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert (features(read(find(folder), trunk(folder), cache)) == first).all()
    assert len(made) == 20
    with np.load(kept) as held:
        np.savez(kept, digests=held["digests"], features=held["features"][1:])
    assert (features(read(find(folder), trunk(folder), cache)) == first).all()
    assert len(made) == 30
    read(find(folder), trunk(folder, features=7), cache)
    assert len(made) == 40


def test_without_a_folder_to_keep_them_in_nothing_is_written(folder):
    before = set(folder.parent.rglob("*"))
    read(find(folder), path := trunk(folder))
    assert set(folder.parent.rglob("*")) == before | {path}


def test_every_kind_of_method_stands_on_the_trunk(folder, capsys):
    options = ["--methods", "lsh,float,centres", "--bits", "16", "--epochs", "1", "--k", "3", "--output", "json"]
    assert run(["evaluate", str(folder), "--trunk", str(trunk(folder)), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in result["methods"]] == ["lsh", "float", "centres"]
    assert "frozen trunk" in result["protocol"]["features"]


def test_a_damaged_trunk_is_a_wrong_call_that_names_it(folder, tmp_path, capsys):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    assert run(["evaluate", str(folder), "--trunk", str(path), "--methods", "lsh"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert str(path) in told
    assert "give the ONNX file of a feature extractor" in told
    assert "[TRUNK_UNFIT]" in told


def test_a_trunk_for_other_images_is_refused(folder):
    with pytest.raises(UsageError, match="takes 4 bands and the images have 3"):
        read(find(folder), trunk(folder, bands=4))


def test_on_a_trunk_milan_trains_as_its_authors_do_and_others_by_epochs(folder, monkeypatch, capsys):
    asked = []
    real = methods.train_steps

    def recording(*given, **settings):
        asked.append((settings["steps"], settings["batch"], settings["learning_rate"]))
        return real(*given, **settings | {"steps": 1})

    monkeypatch.setattr(methods, "train_steps", recording)
    options = ["--bits", "16", "--epochs", "5", "--split", "random"]
    assert run(["evaluate", str(folder), "--trunk", str(trunk(folder)), "--methods", "milan", *options]) == 0
    assert asked == [(10_000, 90, 1e-4)]
    assert "10,000 steps of 90 patches at 0.0001 of its authors" in " ".join(capsys.readouterr().out.split())
    asked.clear()
    assert run(["evaluate", str(folder), "--trunk", str(trunk(folder)), "--methods", "pairwise", *options]) == 0
    assert len(asked) == 4
    assert {batch for _, batch, _ in asked} == {64}
    assert sorted({rate for *_, rate in asked}, reverse=True) == [rate for *_, rate in asked], "slower and slower"
