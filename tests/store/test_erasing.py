"""Erasing from a SQLite store: what goes, what stays, and what must be stored anew first."""

from __future__ import annotations

import itertools
import os
import pickle
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.errors import StoreError
from clearstone.span import BLOB, Payload, Span
from clearstone.store import blobs, database, erasing
from clearstone.store.batch import Batch, ChunkRow, RawPayload
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE, TWO, THREE = (digit * 32 for digit in "123")
_numbers = itertools.count(1)


def a_span(data: bytes, trace_id: str = ONE, **fields: Any) -> Span:
    number = next(_numbers)
    made = {"name": "ask", "end_ns": number + 1, "input": Payload("pickle", data), **fields}
    return Span(trace_id=trace_id, span_id=f"{number:016x}", parent_id=None, start_ns=number, order=number, **made)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteTraceStore]:
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as made:
        yield made


def read(store: SQLiteTraceStore, trace_id: str) -> list[bytes]:
    return [span.input.data for span in store.get_trace(trace_id) if span.input is not None]


def rows(store: SQLiteTraceStore, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store.path)) as db, db:
        return db.execute(query).fetchall()


def with_a_file(store: SQLiteTraceStore, data: bytes, trace_id: str) -> Path:
    name = blobs.write(store.blobs, data)
    batch = batch_of([a_span(b"", trace_id)])
    span = batch.spans[0]._replace(input=RawPayload(BLOB, name))
    store.apply(Batch(batch.process, batch.sites, [span]))
    return store.blobs / os.fsdecode(name)


def histories(number: int) -> list[bytes]:
    messages = [f"message {n}: {os.urandom(100).hex()}" for n in range(number + 5)]
    return [pickle.dumps(messages[: n + 5], 5) for n in range(number)]


# --- forgetting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tidied", [True, False])
@pytest.mark.parametrize("gone", [{0}, {1}, {0, 1}, {2, 3}, {1, 3}, {0, 1, 2, 3, 4}])
def test_payloads_that_rest_on_erased_ones_read_as_before(
    store: SQLiteTraceStore, gone: set[int], *, tidied: bool
) -> None:
    data = histories(6)
    for number, each in enumerate(data):
        store.apply(batch_of([a_span(each, ONE if number in gone else TWO)]))
    if tidied:
        store.tidy(60)
        assert rows(store, "SELECT count(*) FROM payloads WHERE base IS NOT NULL") == [(5,)]
    erased = store.forget(ONE)
    assert (erased.spans, erased.payloads) == (len(gone), len(gone))
    kept = [each for number, each in enumerate(data) if number not in gone]
    assert read(store, TWO) == kept
    store.tidy(60)
    assert read(store, TWO) == kept
    left = "SELECT count(*) FROM payloads WHERE base NOT IN (SELECT id FROM payloads)"
    assert rows(store, left) == [(0,)]


def test_a_payload_others_refer_to_stays(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(b"x" * 1000, ONE), a_span(b"x" * 1000, TWO), a_span(b"y" * 1000, ONE)]))
    assert store.forget(ONE).payloads == 1
    assert read(store, TWO) == [b"x" * 1000]


def test_nothing_of_a_forgotten_trace_is_left_in_its_files(store: SQLiteTraceStore) -> None:
    secret = b"the secret word " * 40
    span = a_span(secret, name="secret name", attributes={"secret": "secret attribute"})
    store.apply(batch_of([span, a_span(b"another", TWO)]))
    path = with_a_file(store, b"secret in a file", ONE)
    store.forget(ONE)
    store.close()
    assert not path.exists()
    assert b"secret" not in store.path.read_bytes()
    assert not store.path.with_name("traces.db-wal").exists()
    assert rows(store, "SELECT name FROM sites") == [("ask",)]


def test_the_bytes_given_back_are_told(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(os.urandom(50_000)), a_span(b"small", TWO)]))
    with_a_file(store, bytes(10_000), ONE)
    store.database.empty_log()
    before = store.path.stat().st_size
    erased = store.forget(ONE)
    assert (erased.spans, erased.payloads, erased.blobs) == (2, 1, 1)
    assert erased.bytes == before - store.path.stat().st_size + 10_000
    assert erased.bytes > 50_000


def test_a_database_made_without_incremental_vacuum_shrinks_too(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(os.urandom(50_000)), a_span(b"small", TWO)]))
    store.close()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("VACUUM")
        db.execute("PRAGMA journal_mode = WAL")
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    assert store.tidy(60) is False
    assert store.forget(ONE).bytes > 40_000


def test_what_a_running_process_still_records_of_a_forgotten_trace_is_dropped_or_stored_again(
    store: SQLiteTraceStore,
) -> None:
    opened = a_span(b"first", end_ns=None)
    store.apply(batch_of([opened]))
    store.forget(ONE)
    whole = batch_of([a_span(b"later")])
    chunk = ChunkRow(int(opened.span_id, 16), 0, 5, RawPayload(0, b"c" * 1000))
    store.apply(Batch(whole.process, whole.sites, whole.spans, (), [chunk]))
    assert read(store, ONE) == [b"later"]
    assert rows(store, "SELECT count(*) FROM chunks") == [(0,)]
    store.collect(0)
    assert rows(store, "SELECT count(*) FROM payloads") == [(0,)]


def test_forgetting_while_another_process_writes_says_so_and_erases_nothing(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(batch_of([a_span(b"data")]))
    path = with_a_file(store, b"file", ONE)
    store.close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process is writing it"):
            store.forget(ONE)
    assert path.exists()
    assert len(store.get_trace(ONE)) == 2


def test_a_store_that_goes_on_recording_after_its_trace_was_forgotten_elsewhere(store: SQLiteTraceStore) -> None:
    data = histories(4)
    store.apply(batch_of([a_span(data[0]), a_span(data[1])]))
    with closing(SQLiteTraceStore(store.path)) as another:
        another.forget(ONE)
    store.apply(batch_of([a_span(data[1], TWO), a_span(data[2], TWO)]))
    store.tidy(60)
    assert read(store, TWO) == data[1:3]


def test_a_damaged_payload_does_not_keep_another_trace_from_being_forgotten(store: SQLiteTraceStore) -> None:
    data = histories(3)
    for number, each in enumerate(data):
        store.apply(batch_of([a_span(each, (ONE, TWO, THREE)[number])]))
    store.tidy(60)
    rows(store, "UPDATE packed_data SET data = x'00' WHERE id = 2")
    assert store.forget(ONE).spans == 1
    assert {each.trace_id for each in store.traces()} == {TWO, THREE}


# --- collecting ------------------------------------------------------------------------------------------------------


def test_collecting_removes_payloads_nobody_refers_to(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(b"x" * 1000)]))
    rows(store, "UPDATE spans SET input = NULL")
    assert store.collect(0).traces == 0
    assert rows(store, "SELECT count(*) FROM payloads") == [(0,)]


def test_collecting_removes_files_that_nobody_names_and_that_are_no_longer_new(store: SQLiteTraceStore) -> None:
    named = with_a_file(store, b"named", ONE)
    new, old = (store.blobs / os.fsdecode(blobs.write(store.blobs, bytes(5000))) for _ in range(2))
    users = store.blobs / "notes.txt"
    users.write_text("mine")
    long_ago = time.time() - erasing.ABANDONED_SECONDS - 10
    for path in (named, old, users):
        os.utime(path, (long_ago, long_ago))
    assert store.collect(0, dry_run=True).bytes >= 5000
    assert old.exists()
    assert store.collect(0).bytes >= 5000
    assert (named.exists(), new.exists(), users.exists(), old.exists()) == (True, True, True, False)


def test_a_dry_run_changes_no_byte_of_the_database(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(os.urandom(20_000)) for _ in range(10)]))
    path = with_a_file(store, b"file", ONE)
    store.close()
    before = store.path.read_bytes()
    told = store.collect(10**18, dry_run=True)
    assert (told.traces, told.spans) == (1, 11)
    store.close()
    assert store.path.read_bytes() == before
    assert path.exists()
    done = store.collect(10**18)
    assert (done.traces, done.spans) == (1, 11)
    assert told.bytes == pytest.approx(done.bytes, rel=0.2)
    assert not path.exists()


def test_a_trace_is_as_old_as_the_last_thing_that_happened_in_it(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(b"", ONE, end_ns=10**6), a_span(b"", TWO, end_ns=None), a_span(b"", TWO)]))
    assert store.collect(10**6).traces == 1
    assert [each.trace_id for each in store.traces()] == [ONE]
