"""Handles say nothing without the node's key, and never the same thing twice."""

import secrets

import numpy as np
import pytest

from node.handles import Handles
from node.keys import handle_key, tie_key
from rsfed.errors import StateError, UnknownHandle
from rsfed.home import Home

IDS = np.array([1, 2, 3, 2**40, -1, -(2**40)])


def cut(column):
    return [column[start : start + 16] for start in range(0, len(column), 16)]


def test_only_the_key_opens_a_handle():
    handles, salt = Handles(b"k" * 32), secrets.token_bytes(8)
    sealed = cut(handles.seal(IDS, salt))
    assert [handles.open(handle) for handle in sealed] == [(int(item), salt) for item in IDS]
    assert all(Handles(b"K" * 32).open(handle) != (int(item), salt) for handle, item in zip(sealed, IDS, strict=True))


def test_the_same_patch_has_another_handle_in_every_query():
    handles = Handles(b"k" * 32)
    sealed = [handle for _ in range(50) for handle in cut(handles.seal(IDS, secrets.token_bytes(8)))]
    assert len(set(sealed)) == 50 * len(IDS)


def test_no_byte_of_a_handle_shows_the_order_of_the_ids():
    handles = np.frombuffer(Handles(b"k" * 32).seal(np.arange(1, 5001), b"saltsalt"), np.uint8).reshape(-1, 16)
    for column in handles.T.astype(float):
        assert abs(np.corrcoef(column, np.arange(5000))[0, 1]) < 0.07


@pytest.mark.parametrize("handle", [b"", b"x" * 15, b"x" * 17])
def test_a_handle_of_another_length_is_refused(handle):
    with pytest.raises(UnknownHandle):
        Handles(b"k" * 32).open(handle)


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path):
    home = Home(tmp_path)
    first = handle_key(home), tie_key(home)
    assert (handle_key(home), tie_key(home)) == first
    assert first[0] != first[1]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}


def test_a_damaged_key_is_not_replaced(tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/handle.key").write_bytes(b"short")
    with pytest.raises(StateError):
        handle_key(Home(tmp_path))
    assert (tmp_path / "secrets/handle.key").read_bytes() == b"short"
