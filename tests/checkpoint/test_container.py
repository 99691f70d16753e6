"""The file is whole or absent, and whatever was done to it is noticed before any of it is used."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.checkpoint import container
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.errors import CheckpointDamagedError, CheckpointNotFoundError
from clearstone.span import Span, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = {"id": "ckpt_1", "metadata": {"\u00fc": [1, None]}}
SECTIONS = {"state": b"the state", "empty": b"", "trace": bytes(range(40))}
UNREADABLE = (CheckpointDamagedError, CheckpointNotFoundError)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.ckpt"
    container.write(path, HEADER, SECTIONS)
    return path


def header_end(data: bytes) -> int:
    return container._PREFIX.size + int.from_bytes(data[12:16], "little")


# --- whole -----------------------------------------------------------------------------------------------------------


def test_header_and_sections_come_back(file: Path) -> None:
    header, sections = container.read(file)
    assert {name: header[name] for name in HEADER} == HEADER
    assert sections == SECTIONS
    assert container.read_header(file) == header


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.text(), st.integers() | st.text(st.characters(codec=None))),
    st.dictionaries(st.text(st.characters(codec=None)), st.binary()),
)
def test_any_header_and_sections_come_back(header: dict[str, Any], sections: dict[str, bytes]) -> None:
    path = Path(os.environ["CLEARSTONE_HOME"]).parent / "any.ckpt"
    container.write(path, header, sections)
    found, read = container.read(path)
    assert found | {"sections": None} == header | {"sections": None}
    assert read == sections


def test_the_file_is_its_owners_alone(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_is_there_is_replaced(file: Path) -> None:
    container.write(file, {"id": "other"}, {})
    assert container.read(file)[0]["id"] == "other"
    assert list(file.parent.iterdir()) == [file]


def test_the_header_is_read_without_the_rest(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: header_end(data)])
    assert container.read_header(file)["id"] == "ckpt_1"
    with pytest.raises(CheckpointDamagedError, match="section 'state' does not match its digest"):
        container.read(file)


# --- altered ---------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for offset in range(len(data)):
        for bit in range(8):
            file.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << bit)]) + data[offset + 1 :])
            with pytest.raises(UNREADABLE, match=str(file)):
                container.read(file)


def test_every_flipped_bit_before_the_sections_is_noticed_by_who_reads_the_header_alone(file: Path) -> None:
    data = file.read_bytes()
    for offset in range(header_end(data)):
        file.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        with pytest.raises(UNREADABLE, match=str(file)):
            container.read_header(file)


def test_every_truncation_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointDamagedError, match=str(file)):
            container.read(file)


@pytest.mark.parametrize("more", [b"\0", b"CLRSTONE", bytes(10_000)])
def test_appended_bytes_are_noticed(file: Path, more: bytes) -> None:
    file.write_bytes(file.read_bytes() + more)
    with pytest.raises(CheckpointDamagedError, match="has bytes after its last section"):
        container.read(file)


def test_sections_of_another_file_are_noticed(file: Path) -> None:
    other = file.with_name("b.ckpt")
    container.write(other, HEADER, {**SECTIONS, "state": b"ANOTHER STATE"[: len(SECTIONS["state"])]})
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(one[: header_end(one)] + two[header_end(two) :])
    with pytest.raises(CheckpointDamagedError, match="section 'state' does not match its digest"):
        container.read(file)


def test_flips_in_a_real_checkpoint_never_load(tmp_path: Path) -> None:
    here, there = "a" * 32, "b" * 16
    trace = Trace(here, (Span(trace_id=here, span_id=there, parent_id=None, name="n", start_ns=1, end_ns=2),))
    manager = CheckpointManager(tmp_path)
    file = manager.save_checkpoint(manager.create_checkpoint(object(), trace, there))
    data = file.read_bytes()
    for offset in range(0, len(data), 7):
        file.write_bytes(data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :])
        with pytest.raises(UNREADABLE):
            manager.load_checkpoint(file)
        manager.list_checkpoints()
    file.write_bytes(data)
    assert manager.load_checkpoint(file).span_id == there


# --- not a checkpoint ------------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.touch()


def a_text(path: Path) -> None:
    path.write_text("these are notes")


def a_long_text(path: Path) -> None:
    path.write_text("these are notes " * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_newer_major(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "FORMAT", (3, 0))
        container.write(path, HEADER, SECTIONS)


def a_header_beyond_the_file(path: Path) -> None:
    path.write_bytes(container._PREFIX.pack(container.MAGIC, *container.FORMAT, 2**32 - 1, bytes(32)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (empty, "is empty; take another one from 'clearstone checkpoints'"),
        (a_text, "is not a checkpoint; take another one"),
        (a_long_text, "is not a checkpoint; take another one"),
        (a_folder, "is a directory; give the checkpoint's file, which ends in .ckpt"),
        (a_newer_major, "has format 3, and this Clearstone reads format 2; upgrade it"),
        (a_header_beyond_the_file, "is torn or altered"),
    ],
)
def test_what_is_no_checkpoint_is_said_with_the_next_step(
    tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    path = tmp_path / "x.ckpt"
    make(path)
    for read in (container.read, container.read_header):
        with pytest.raises(CheckpointDamagedError, match=sentence) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_said_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"there is no file .*x\.ckpt; 'clearstone checkpoints' lists"):
        container.read(tmp_path / "x.ckpt")


@pytest.mark.parametrize("path", ["x" * 300, "no\0name", "file.txt/x.ckpt"])
def test_a_path_that_cannot_be_a_file_is_an_error_of_ours(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(UNREADABLE):
        container.read(tmp_path / path)


def test_a_newer_minor_format_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "FORMAT", (2, 7))
    container.write(file, {**HEADER, "added later": 1}, {**SECTIONS, "added later": b"x"})
    monkeypatch.undo()
    assert container.read(file)[1] == {**SECTIONS, "added later": b"x"}


# --- writing that fails ----------------------------------------------------------------------------------------------


class Disk:
    """Lets so many calls of `os.fsync` through, then raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException, good: int = 0) -> None:
        self._error, self._good, self._sync = error, good, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        if self._good <= 0:
            raise self._error
        self._good -= 1
        self._sync(descriptor)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    Disk(monkeypatch, error)
    with pytest.raises(type(error)):
        container.write(tmp_path / "a.ckpt", HEADER, SECTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_that_was_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise FULL

    monkeypatch.setattr(os if where == "fsync" else Path, where, refuse)
    with pytest.raises(OSError, match="No space"):
        container.write(file, {"id": "other"}, {})
    monkeypatch.undo()
    assert container.read_header(file)["id"] == "ckpt_1"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_synced_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, OSError(errno.EINVAL, "not here"), good=1)
    container.write(tmp_path / "a.ckpt", HEADER, SECTIONS)
    assert container.read(tmp_path / "a.ckpt")[1] == SECTIONS


def test_a_header_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        container.write(tmp_path / "a.ckpt", {"x": object()}, {})
    assert list(tmp_path.iterdir()) == []
