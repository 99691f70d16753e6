"""The machine's key and the names it gives."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.codec import keys
from clearstone.codec.keys import Key, key_file, machine_key

ONE, OTHER, NONE = Key(b"1" * 32), Key(b"2" * 32), Key(b"")


@given(st.integers(0, 255), st.binary(max_size=6000))
def test_a_name_follows_from_form_and_bytes_and_only_the_key_that_gave_it_vouches_for_it(
    form: int, data: bytes
) -> None:
    name = ONE.name(form, data)
    assert len(name) == keys.NAME_SIZE
    assert name == Key(b"1" * 32).name(form, data)
    assert ONE.vouches(name, form, data)
    assert not OTHER.vouches(name, form, data)
    assert not ONE.vouches(name, (form + 1) % 256, data)
    assert not ONE.vouches(name, form, data + b"x")


def test_without_a_secret_a_name_is_an_address_that_proves_nothing() -> None:
    assert NONE.name(0, b"x") == Key(b"").name(0, b"x")
    assert not NONE.vouches(NONE.name(0, b"x"), 0, b"x")


def test_the_key_is_made_once_for_its_owner_alone() -> None:
    first = machine_key()
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    keys._kept.cache_clear()
    assert machine_key().secret == first.secret
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]


def test_a_key_in_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARSTONE_KEY", "a text of mine")
    assert machine_key().secret == machine_key().secret != b""
    assert not key_file().exists()
    monkeypatch.setenv("CLEARSTONE_KEY", "another text")
    other = machine_key().secret
    monkeypatch.setenv("CLEARSTONE_KEY", "a text of mine")
    assert machine_key().secret != other


@pytest.mark.parametrize("text", ["not hexadecimal", "ab", ""])
def test_a_key_file_that_holds_no_key_is_said_once_and_left_alone(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file().parent.mkdir(parents=True)
    key_file().write_text(text)
    assert machine_key().secret == machine_key().secret == b""
    told = capsys.readouterr().err
    assert told.count("records are not signed") == 1
    assert str(key_file()) in told
    assert key_file().read_text() == text


def test_where_no_key_can_be_kept_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "a file"))
    assert machine_key().secret == b""
    assert "CLEARSTONE_KEY" in capsys.readouterr().err


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    code = "from clearstone.codec.keys import machine_key; print(machine_key().secret.hex())"
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "shared")}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    made = {process.communicate()[0].strip() for process in started}
    assert len(made) == 1
    assert len(made.pop()) == 64


def test_hex_digits_are_a_key_themselves_and_commas_alone_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = machine_key().secret
    monkeypatch.setenv("CLEARSTONE_KEY", f"theirs, {kept.hex()}")
    assert keys.trusted_keys()[1].secret == kept
    for text in (",", " , ", " "):
        monkeypatch.setenv("CLEARSTONE_KEY", text)
        assert machine_key().secret == kept


def test_with_a_key_in_the_environment_those_of_the_file_are_trusted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = machine_key().secret
    monkeypatch.setenv("CLEARSTONE_KEY", "theirs")
    assert [key.secret for key in keys.trusted_keys()][1:] == [kept]
    assert machine_key().secret != kept


def test_to_ask_what_is_trusted_makes_no_key() -> None:
    assert keys.trusted_keys() == ()
    assert not key_file().exists()


def test_the_line_of_a_key_file_that_is_no_key_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    kept = machine_key().secret
    with key_file().open("a", encoding="ascii") as file:
        file.write("theirs\n")
    keys._kept.cache_clear()
    assert machine_key().secret == b"" != kept
    assert "its line 2 is no key of 64 hex digits" in capsys.readouterr().err
