import pytest
from founded import founded, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def federation(template, tmp_path):
    """A federation of one test's own."""
    with founded(template, tmp_path / "c") as opened:
        yield opened
