"""What `rsfed evaluate` makes of a folder and a split file."""

import numpy as np
import pytest

from rsfed.errors import UsageError
from rsfed.lab.evaluate.data import find, read
from rsfed.lab.synth import generate


@pytest.fixture
def folder(tmp_path):
    """Two classes with four RGB images each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("field", "lake"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def splits(folder, *rows, header="path,label,split"):
    path = folder.parent / "splits.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_images_are_read_with_their_classes(folder):
    images = read(find(folder))
    assert images.classes == ("field", "lake")
    assert images.labels.sum(axis=0).tolist() == [4, 4]
    assert images.patches[0][0].shape == (3, 16, 16)
    assert (images.skipped, images.multi_label, images.listing.modality.name) == (0, False, "rgb")


def test_damaged_images_are_skipped_and_counted(folder):
    (folder / "lake" / "0.png").write_bytes((folder / "lake" / "0.png").read_bytes()[:90])
    images = read(find(folder))
    assert (len(images), images.skipped) == (7, 1)
    assert "lake/0.png" not in {entry.name for entry in images.entries}


def test_several_labels_come_from_a_file_and_unlabelled_images_are_counted(folder):
    (folder / "labels.csv").write_text("path,label\nfield/0.png,green;dry\nfield/1.png,green\nlake/0.png,wet\n")
    images = read(find(folder, "labels.csv"))
    assert images.classes == ("dry", "green", "wet")
    assert images.multi_label
    assert images.listing.unlabelled == 5


def test_a_split_file_gives_roles_and_labels_and_leaves_the_rest_out(folder):
    rows = ["field/0.png,meadow,train", "field/1.png,,val", "lake/0.png,lake,query"]
    listing = find(folder, splits=splits(folder, *rows))
    assert [(entry.name, entry.labels, entry.role) for entry in listing.entries] == [
        ("field/0.png", ("meadow",), "train"),
        ("field/1.png", ("field",), "val"),
        ("lake/0.png", ("lake",), "query"),
    ]
    assert listing.unlabelled == 5


def test_a_path_of_a_split_file_may_have_blanks_around_it_and_so_may_a_name(folder):
    (folder / "field").rename(folder / " field")
    rows = [" field/0.png,,train", " lake/0.png ,,query", "./lake/1.png,,train"]
    listing = find(folder, splits=splits(folder, *rows))
    assert [entry.name for entry in listing.entries] == [" field/0.png", "lake/0.png", "lake/1.png"]


def test_places_and_acquisitions_are_those_of_the_files(tmp_path):
    generate(tmp_path / "images", patches=16, size=16, classes=8, seed=1)
    images = read(find(tmp_path / "images"))
    assert all(each.place and each.footprint and each.acquisition for each in images.whereabouts)


def test_a_split_file_that_names_missing_images_is_refused_with_the_first(folder):
    with pytest.raises(UsageError, match=r"names 2 images that are not in the folder.*first field/7\.png"):
        find(folder, splits=splits(folder, "lake/9.png,lake,train", "field/7.png,field,query", "lake/0.png,lake,train"))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["a.png,b,train"], "path,class,split", "columns path, label and split"),
        ([], "path,label,split", "and rows"),
        (["lake/0.png,lake,train"], "path,label,split", r"calls no image query.*splits\.csv"),
        (["lake/0.png,lake,query"], "path,label,split", r"calls no image train.*splits\.csv"),
        (
            ["lake/0.png,lake,train", "lake/0.png,lake,query"],
            "path,label,split",
            r"twice, as train and as query.*lake/0\.png",
        ),
        (["lake/0.png,lake,test"], "path,label,split", "'test'; use one of train, val, query"),
    ],
)
def test_a_split_file_of_another_form_is_refused(folder, rows, header, message):
    with pytest.raises(UsageError, match=message):
        find(folder, splits=splits(folder, *rows, header=header))


def test_one_class_no_class_no_image_and_no_folder_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, labels, message in [
        (tmp_path / "empty", "folders", "holds no images"),
        (folder / "lake", "folders", "there are no classes"),
        (folder, "none", "there are no classes"),
        (folder, "one.csv", "there is one class"),
    ]:
        (folder / "one.csv").write_text("path,label\nlake/0.png,wet\nlake/1.png,wet\n")
        with pytest.raises(UsageError, match=message):
            find(place, labels)
    with pytest.raises(UsageError, match="no archive folder"):
        find(tmp_path / "nowhere")


def test_labels_of_a_split_file_and_of_a_label_file_are_not_mixed(folder):
    (folder / "labels.csv").write_text("path,label\nfield/0.png,dry\nlake/0.png,wet\n")
    both = splits(folder, "field/0.png,meadow,train", "lake/0.png,,query")
    with pytest.raises(UsageError, match="the split file gives labels and so does --labels"):
        find(folder, "labels.csv", both)
    assert set(find(folder, "none", splits(folder, "field/0.png,a,train", "lake/0.png,b,query")).counts) == {"a", "b"}
    listing = find(folder, "labels.csv", splits(folder, "field/0.png,,train", "lake/0.png,,query"))
    assert set(listing.counts) == {"dry", "wet"}


def test_what_is_left_out_and_labels_that_differ_are_told_apart(folder):
    rows = ["field/0.png,meadow,train", "field/1.png,field,train", "lake/0.png,,query"]
    assert find(folder, splits=splits(folder, *rows)).notes == (
        "1 images have another label in the split file than their folder; that of the split file counts",
        "5 images are not in the split file and left out",
    )
    (folder / "labels.csv").write_text("path,label\nfield/0.png,dry\nlake/0.png,wet\n")
    assert find(folder, "labels.csv").notes == ("6 images have no label and are left out",)
    assert find(folder).notes == ()


def test_a_label_file_that_is_missing_or_names_no_image_says_so(folder):
    with pytest.raises(UsageError, match=r"there is no such label file.*labels\.csv"):
        find(folder, "labels.csv")
    (folder / "labels.csv").write_text("path,label\nimages/field/0.png,dry\nimages/lake/0.png,wet\n")
    with pytest.raises(UsageError, match=r"none of 2 paths in it exists.*first images/field/0\.png"):
        find(folder, "labels.csv")


def test_files_that_are_no_images_are_called_so(folder):
    for path in folder.rglob("*.png"):
        path.write_text("not pixels")
    with pytest.raises(UsageError, match=r"can be read as an image: it is not a GeoTIFF.*field/0\.png"):
        find(folder)


def test_damaged_images_are_named_but_no_more_than_twenty(folder):
    sound = (folder / "lake" / "0.png").read_bytes()
    (folder / "lake" / "0.png").write_bytes(sound[:90])
    assert read(find(folder)).damaged == ["lake/0.png is damaged and left out"]
    for number in range(10, 33):
        (folder / "lake" / f"{number}.png").write_bytes(sound[:90])
    told = read(find(folder)).damaged
    assert len(told) == 21
    assert told[-1] == "and 4 more damaged images are left out"
