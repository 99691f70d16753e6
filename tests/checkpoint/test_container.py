"""The file is whole or absent, and whatever was done to it is noticed before any of it is used."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.checkpoint import container
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.sections import ALIGNMENT, Listed
from clearstone.codec.keys import Key
from clearstone.errors import CheckpointDamagedError, CheckpointNotFoundError, UntrustedCheckpointError
from clearstone.span import Span, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = {"id": "ckpt_1", "metadata": {"\u00fc": [1, None]}}
SECTIONS = {"state": b"the state", "empty": b"", "trace": bytes(range(40)), "long": b"a text " * 100}
KEY = Key(b"k" * 32)
FIELDS = container._FIELDS.size
SIGNATURE = slice(FIELDS + 32, FIELDS + 64)
UNREADABLE = (CheckpointDamagedError, CheckpointNotFoundError)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.ckpt"
    container.write(path, HEADER, SECTIONS, KEY)
    return path


def header_end(data: bytes) -> int:
    return container._PREFIX.size + int.from_bytes(data[12:16], "little")


def forged(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Change the header of a file as a forger does who has no key: its digest is made anew."""
    end = header_end(data)
    summary, _, details = data[container._PREFIX.size : end].partition(b"\n")
    header = json.loads(details)
    change(header)
    body = summary + b"\n" + json.dumps(header).encode()
    body += b" " * (-(container._PREFIX.size + len(body)) % ALIGNMENT)
    fields = data[:12] + len(body).to_bytes(4, "little") + data[16:FIELDS]
    return fields + hashlib.sha256(fields + body).digest() + data[SIGNATURE] + body + data[end:]


# --- whole -----------------------------------------------------------------------------------------------------------


def test_header_and_sections_come_back(file: Path) -> None:
    header, sections = container.read(file)
    assert {name: header.content[name] for name in HEADER} == HEADER
    assert sections == SECTIONS
    assert container.read_header(file) == header
    assert header.is_signed
    assert header.is_by(KEY)
    assert not header.is_by(Key(b"x" * 32))


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text().filter(lambda name: name != "summary"), st.integers() | st.text(st.characters(codec=None))
    ),
    st.dictionaries(st.text(st.characters(codec=None)), st.binary()),
)
def test_any_header_and_sections_come_back(header: dict[str, Any], sections: dict[str, bytes]) -> None:
    path = Path(os.environ["CLEARSTONE_HOME"]).parent / "any.ckpt"
    container.write(path, header, sections, KEY)
    found, read = container.read(path)
    assert found.content | {"sections": None} == {"summary": {}} | header | {"sections": None}
    assert read == sections


def test_the_file_is_its_owners_alone(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_is_there_is_replaced(file: Path) -> None:
    container.write(file, {"id": "other"}, {}, KEY)
    assert container.read(file)[0].content["id"] == "other"
    assert list(file.parent.iterdir()) == [file]


def test_the_header_is_read_without_the_rest(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: header_end(data)])
    assert container.read_header(file).content["id"] == "ckpt_1"
    with pytest.raises(CheckpointDamagedError, match="section 'state' does not match its digest"):
        container.read(file)


# --- altered ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_a_flipped_bit_of_any_byte_is_noticed(file: Path, bits: int) -> None:
    data = file.read_bytes()
    for offset, more in itertools.product(range(len(data)), range(bits)):
        bit = (offset + more) % 8
        file.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << bit)]) + data[offset + 1 :])
        if SIGNATURE.start <= offset < SIGNATURE.stop:  # it is there for who asks whose file it is
            assert not container.read(file)[0].is_by(KEY)
            continue
        with pytest.raises(UNREADABLE, match=str(file)):
            container.read(file)


def test_every_flipped_bit_before_the_sections_is_noticed_by_who_reads_the_header_alone(file: Path) -> None:
    data = file.read_bytes()
    for offset in range(header_end(data)):
        file.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        if SIGNATURE.start <= offset < SIGNATURE.stop:
            assert not container.read_header(file).is_by(KEY)
            continue
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
    container.write(other, HEADER, {**SECTIONS, "state": b"ANOTHER STATE"[: len(SECTIONS["state"])]}, KEY)
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
        with pytest.raises((*UNREADABLE, UntrustedCheckpointError)):
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
        patch.setattr(container, "FORMAT", (5, 0))
        container.write(path, HEADER, SECTIONS, KEY)


def an_older_major(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "FORMAT", (3, 0))
        container.write(path, HEADER, SECTIONS, KEY)


def no_json(path: Path) -> None:
    container.write(path, HEADER, {}, KEY)
    data = path.read_bytes()
    body = b"{" + data[container._PREFIX.size + 1 :].replace(b"}", b" ")
    path.write_bytes(data[:FIELDS] + hashlib.sha256(data[:FIELDS] + body).digest() + data[SIGNATURE] + body)


def no_object(path: Path) -> None:
    container.write(path, HEADER, {}, KEY)
    data = path.read_bytes()
    body = b"[]".ljust(len(data) - container._PREFIX.size)
    path.write_bytes(data[:FIELDS] + hashlib.sha256(data[:FIELDS] + body).digest() + data[SIGNATURE] + body)


def a_header_beyond_the_file(path: Path) -> None:
    path.write_bytes(container._PREFIX.pack(container.MAGIC, *container.FORMAT, 2**32 - 1, 0, bytes(32), bytes(32)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (empty, "is empty; take another one from 'clearstone checkpoints'"),
        (a_text, "is not a checkpoint; take another one"),
        (a_long_text, "is not a checkpoint; take another one"),
        (a_folder, "is a directory; give the checkpoint's file, which ends in .ckpt"),
        (a_newer_major, "has format 5, and this Clearstone reads format 4: upgrade Clearstone"),
        (an_older_major, "has format 3, and this Clearstone reads format 4: made by an earlier Clearstone"),
        (no_json, "has a header that is no JSON"),
        (no_object, "has a header that is no JSON object"),
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
    monkeypatch.setattr(container, "FORMAT", (4, 7))
    container.write(file, {**HEADER, "added later": 1}, {**SECTIONS, "added later": b"x"}, KEY)
    monkeypatch.undo()
    assert container.read(file)[1] == {**SECTIONS, "added later": b"x"}
    with pytest.raises(CheckpointDamagedError, match="a section 'added later' that this Clearstone does not know"):
        container.read(file, SECTIONS)
    file.write_bytes(forged(file.read_bytes(), lambda header: header["sections"][-1].__setitem__(-1, False)))
    assert container.read(file, SECTIONS)[1] == SECTIONS


# --- packed ----------------------------------------------------------------------------------------------------------


def test_what_packs_well_is_packed_and_what_does_not_is_stored_as_it_is(tmp_path: Path) -> None:
    sections = {"text": b"the same again " * 10_000, "noise": os.urandom(100_000), "short": b"a" * 200}
    container.write(tmp_path / "a.ckpt", {}, sections, KEY)
    header, read = container.read(tmp_path / "a.ckpt")
    assert read == sections
    listed = {each[0]: Listed(*each) for each in header.content["sections"]}
    assert {name: each.codec for name, each in listed.items()} == {"text": "zstd", "noise": "none", "short": "none"}
    assert listed["text"].length < 1000
    assert all((header.end + each.offset) % ALIGNMENT == 0 for each in listed.values())


_, OFFSET, LENGTH, RAW, CODEC, SHA256, _ = range(7)


def of_another_length(entry: list[Any]) -> None:
    entry[RAW] -= 1


def of_another_codec(entry: list[Any]) -> None:
    entry[CODEC] = "gzip"


def of_a_huge_length(entry: list[Any]) -> None:
    entry[RAW] = 1 << 50


def not_packed_at_all(entry: list[Any]) -> None:
    entry[CODEC] = "zstd"


def elsewhere(entry: list[Any]) -> None:
    entry[OFFSET] += 64


def before_the_file(entry: list[Any]) -> None:
    entry[OFFSET] = -(1 << 40)


def of_no_length(entry: list[Any]) -> None:
    entry[LENGTH] = -1


def of_odd_type(entry: list[Any]) -> None:
    entry[LENGTH] = "7"


def without_a_digest(entry: list[Any]) -> None:
    del entry[SHA256]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("long", of_another_length), ("long", of_another_codec), ("long", of_a_huge_length),
        ("trace", not_packed_at_all), ("trace", elsewhere), ("trace", before_the_file), ("trace", of_no_length),
        ("trace", of_odd_type), ("trace", without_a_digest),
    ],
)  # fmt: skip
def test_a_forged_list_of_sections_is_refused(file: Path, name: str, change: Callable[[list[Any]], None]) -> None:
    def forge(header: dict[str, Any]) -> None:
        change(next(each for each in header["sections"] if each[0] == name))

    file.write_bytes(forged(file.read_bytes(), forge))
    with pytest.raises(CheckpointDamagedError, match=str(file)):
        container.read(file)


def test_a_list_of_sections_that_is_no_list_is_refused(file: Path) -> None:
    file.write_bytes(forged(file.read_bytes(), lambda header: header.update(sections=3)))
    with pytest.raises(CheckpointDamagedError, match="as no version does"):
        container.read(file)


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
        container.write(tmp_path / "a.ckpt", HEADER, SECTIONS, KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_that_was_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise FULL

    monkeypatch.setattr(os if where == "fsync" else Path, where, refuse)
    with pytest.raises(OSError, match="No space"):
        container.write(file, {"id": "other"}, {}, KEY)
    monkeypatch.undo()
    assert container.read_header(file).content["id"] == "ckpt_1"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_cannot_be_synced_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, OSError(errno.EINVAL, "not here"), good=1)
    container.write(tmp_path / "a.ckpt", HEADER, SECTIONS, KEY)
    assert container.read(tmp_path / "a.ckpt")[1] == SECTIONS


def test_a_header_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        container.write(tmp_path / "a.ckpt", {"x": object()}, {}, KEY)
    assert list(tmp_path.iterdir()) == []
