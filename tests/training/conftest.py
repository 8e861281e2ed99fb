"""What tests of training start from: a coordinator's home and database, and members with the key of their releases."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from training_fakes import make_members

from coordinator.state import State
from rsfed.home import Home


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def state(home):
    state = State(home)
    yield state
    state.close()


@pytest.fixture(scope="module")
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def members(key):
    return make_members("a", release_key=key)
