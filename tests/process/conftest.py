"""One running federation of three archives for the tests that do not break it for good."""

import pytest
from federation import Federation, write_images

CLASSES = {"stripes-a": 8, "stripes-b": 8, "stripes-c": 8}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Coordinator, the nodes alps, coast and north with 24 images each, and the analyst ada."""
    made = Federation(tmp_path_factory.mktemp("federation"))
    try:
        made.create(classes=",".join(CLASSES))
        for seed, name in enumerate(("alps", "coast", "north")):
            write_images(made.folder / f"images-{name}", CLASSES, seed=seed)
            made.add_node(name, made.folder / f"images-{name}")
        made.add_analyst("ada")
        write_images(made.folder / "queries", dict.fromkeys(CLASSES, 2), seed=99)
        made.wait_serving("alps", "coast", "north")
        yield made
    finally:
        made.close()


@pytest.fixture
def image(federation):
    """An image that no archive holds."""
    return next((federation.folder / "queries").rglob("*.png"))
