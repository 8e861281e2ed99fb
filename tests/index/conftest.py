"""Tests of the index, like users, do not wait for kernels to be compiled."""

import pytest

from rsfed.index.warm import warm


@pytest.fixture(scope="session", autouse=True)
def _warm():
    warm()
