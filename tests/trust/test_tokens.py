"""Invitation tokens."""

import base64
import io
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import Authority

from rsfed.cli import run
from rsfed.errors import ExitCode, NotAdmitted
from rsfed.trust.certificates import to_pem
from rsfed.trust.names import MemberId, Role
from rsfed.trust.tokens import Token, decode_token, read_token

OLD, NEW = Authority.new(), Authority.new()
TOKEN = Token(
    address="coordinator.example:7441",
    server_name="coordinator.coordinator.alps.rsfed.internal",
    ca_pem=to_pem([OLD.cert]),
    federation="alps",
    role=Role.NODE,
    name="dlr",
    invitation="7f3a",
    secret=bytes(range(32)),
    expires=datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC),
)


def refused(text):
    with pytest.raises(NotAdmitted) as caught:
        decode_token(text)
    assert caught.value.reason == "BAD_TOKEN"


def packed(text):
    return "rsfed1." + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_token_survives_pasting_with_line_breaks():
    text = TOKEN.encode()
    assert decode_token(text) == TOKEN
    assert decode_token("\n  " + "\n".join(text[i : i + 60] for i in range(0, len(text), 60)) + " \n") == TOKEN
    assert TOKEN.member == MemberId("alps", Role.NODE, "dlr")


def test_a_token_carries_both_cas_while_the_key_is_being_changed():
    token = replace(TOKEN, ca_pem=to_pem([OLD.cert, NEW.cert]))
    assert decode_token(token.encode()) == token


def test_a_token_is_one_word_for_the_shell():
    assert set(TOKEN.encode()) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_the_secret_does_not_show_when_a_token_is_printed():
    assert "secret" not in repr(TOKEN)


def test_a_token_that_is_cut_short_anywhere_is_refused():
    text = TOKEN.encode()
    for length in range(0, len(text) - 1, 7):
        refused(text[:length])


@given(st.text(max_size=200) | st.text(max_size=200).map(lambda t: "rsfed1." + t))
def test_other_text_is_refused(text):
    refused(text)


@pytest.mark.parametrize(
    "payload",
    [
        "[]",
        "{}",
        "1",
        '{"address":1}',
        '{"address":"a:1","server":"s","ca":[],"federation":"alps","role":"node","name":"n","invitation":"i","secret":"","expires":1}',
        '{"address":"a:1","server":"s","ca":["AAAA"],"federation":"alps","role":"node","name":"n","invitation":"i","secret":"","expires":1}',
        "[" * 5000 + "]" * 5000,
    ],
    ids=range(7),
)
def test_well_packed_nonsense_is_refused(payload):
    refused(packed(payload))


def fields_of(token):
    word = token.encode().removeprefix("rsfed1.")
    return json.loads(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)))


def test_a_token_of_a_later_version_with_more_fields_is_read_and_an_endless_one_refused():
    assert decode_token(packed(json.dumps({**fields_of(TOKEN), "hint": "x"}))) == TOKEN
    refused(packed(json.dumps({**fields_of(TOKEN), "hint": "x" * 20_000})))


@pytest.mark.parametrize("change", [{"role": "admin"}, {"name": "../x"}, {"federation": "ALPS"}, {"expires": 1e30}])
def test_tokens_with_impossible_fields_are_refused(change):
    refused(packed(json.dumps({**fields_of(TOKEN), **change})))


def piped(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))


def test_a_token_is_read_from_one_line_of_standard_input(monkeypatch):
    piped(monkeypatch, TOKEN.encode().encode() + b"\r\nwhat comes after it\n")
    assert read_token("-") == TOKEN
    assert read_token(TOKEN.encode()) == TOKEN


@pytest.mark.parametrize("data", [b"", b"\n", b"-\n", b"\xff\xfe", b"\n" + TOKEN.encode().encode()])
def test_standard_input_without_a_token_in_its_first_line_is_refused(monkeypatch, data):
    piped(monkeypatch, data)
    with pytest.raises(NotAdmitted) as caught:
        read_token("-")
    assert caught.value.reason == "BAD_TOKEN"


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n"])
def test_empty_standard_input_is_called_so(monkeypatch, data):
    piped(monkeypatch, data)
    with pytest.raises(NotAdmitted, match="standard input held no token"):
        read_token("-")


def test_standard_input_that_is_closed_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(NotAdmitted):
        read_token("-")


@pytest.mark.parametrize(("role", "other"), [("analyst", Role.NODE), ("node", Role.ANALYST)])
def test_both_commands_take_the_token_from_standard_input(tmp_path, monkeypatch, capsys, role, other):
    home = str(tmp_path / "home")
    assert run([role, "init", "--home", home]) == ExitCode.DONE
    piped(monkeypatch, replace(TOKEN, role=other).encode().encode())
    assert run([role, "join", "-", "--home", home]) == ExitCode.NOT_ADMITTED
    assert f"the invitation is for the role {other}" in capsys.readouterr().err
