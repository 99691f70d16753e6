"""Payloads in a SQLite store: shared, compressed against each other, read back whatever became of their neighbours."""

from __future__ import annotations

import itertools
import os
import pickle
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.codec.keys import machine_key
from clearstone.errors import StoreError
from clearstone.span import BLOB, Payload, Span
from clearstone.store import blobs, payloads
from clearstone.store.batch import Batch, ProcessRow, RawPayload, SiteRow, SpanRow
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = "7" * 32
_numbers = itertools.count(1)


def a_span(data: bytes, *, trace_id: str = T, **fields: Any) -> Span:
    number = next(_numbers)
    given = Payload("pickle", data)
    return Span(trace_id, f"{number:016x}", None, "ask", number, number + 1, order=number, input=given, **fields)


def message(number: int) -> str:
    return f"message {number}: " + os.urandom(60).hex()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteTraceStore]:
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as made:
        yield made


def read(store: SQLiteTraceStore, trace_id: str = T) -> list[bytes]:
    return [span.input.data for span in store.get_trace(trace_id) if span.input is not None]


def rows(store: SQLiteTraceStore, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store.path)) as db, db:
        return db.execute(query).fetchall()


def held(store: SQLiteTraceStore) -> int:
    held = "SELECT data FROM raw_data UNION ALL SELECT data FROM packed_data"
    return int(rows(store, f"SELECT sum(length(data)) FROM ({held})")[0][0])  # noqa: S608 - constants


# --- sharing and compressing -----------------------------------------------------------------------------------------


def test_a_growing_history_costs_about_its_messages(store: SQLiteTraceStore) -> None:
    messages = [message(n) for n in range(60)]
    histories = [pickle.dumps(messages[: n + 1], 5) for n in range(60)]
    for history in histories:
        store.apply(batch_of([a_span(history)]))
    assert store.tidy(60) is False
    assert read(store) == histories
    assert held(store) < 3 * sum(map(len, messages))


def test_a_window_that_slides_over_a_history_costs_about_its_messages(store: SQLiteTraceStore) -> None:
    messages = [message(n) for n in range(60)]
    windows = [pickle.dumps(messages[n : n + 20], 5) for n in range(40)]
    store.apply(batch_of(map(a_span, windows)))
    store.tidy(60)
    assert read(store) == windows
    assert held(store) < 3 * sum(map(len, messages))


def test_equal_payloads_are_one_row(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(b"x" * 1000) for _ in range(5)]))
    store.apply(batch_of([a_span(b"x" * 1000)]))
    assert len(rows(store, "SELECT id FROM payloads")) == 1


def test_the_same_bytes_of_another_form_are_another_payload(store: SQLiteTraceStore) -> None:
    site, process = SiteRow("", "n", "", "run", "INTERNAL", "", ""), ProcessRow("t", 1, "", "", 1)
    raws = [RawPayload(form, b"x" * 1000) for form in (0, 0x20, 0, 0x20)]
    spans = [
        SpanRow(n, bytes(16), None, 0, True, n, n, None, n, "OK", "", None, True, *(None,) * 6, raw, None, None, None)
        for n, raw in enumerate(raws)
    ]
    store.apply(Batch(process, [site], spans))
    found = [span.input for span in store.get_trace("0" * 32)]
    assert [one.redacted for one in found if one is not None] == [False, True, False, True]


def test_a_chain_ends_at_its_deepest_and_another_begins(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "DEEPEST", 5)
    messages = [message(n) for n in range(18)]
    histories = [pickle.dumps(messages[: n + 1], 5) for n in range(1, 18)]
    for history in histories:
        store.apply(batch_of([a_span(history)]))
    store.tidy(60)
    assert rows(store, "SELECT max(depth) FROM payloads") == [(4,)]
    assert len(rows(store, "SELECT id FROM payloads WHERE base IS NULL")) >= 3
    assert read(store) == histories


def test_tidying_stops_when_its_time_is_over_and_goes_on_where_it_stopped(store: SQLiteTraceStore) -> None:
    data = [b"%d" % n + b"x" * 1000 for n in range(100)]
    store.apply(batch_of(map(a_span, data)))
    left = [len(rows(store, "SELECT id FROM raw_data"))]
    while store.tidy(0):
        left.append(len(rows(store, "SELECT id FROM raw_data")))
    assert left[0] == 100
    assert left == sorted(set(left), reverse=True)
    assert rows(store, "SELECT id FROM raw_data") == []
    assert read(store) == data


def test_the_room_that_compressing_frees_is_given_back(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(b"%d" % n + b"x" * 20_000) for n in range(50)]))
    store.close()
    before = store.path.stat().st_size
    store.tidy(60)
    store.close()
    assert store.path.stat().st_size < before // 3
    assert rows(store, "PRAGMA freelist_count") == [(0,)]


@settings(deadline=None, max_examples=25)
@given(
    data=st.lists(st.binary(max_size=8).map(lambda seed: seed * 100), min_size=1, max_size=12), cut=st.integers(0, 12)
)
def test_whatever_is_stored_comes_back_before_and_after_tidying(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes], cut: int
) -> None:
    with closing(SQLiteTraceStore(tmp_path_factory.mktemp("store") / "traces.db")) as store:
        for part in (data[:cut], data[cut:]):
            store.apply(batch_of(map(a_span, part)))
            store.tidy(60)
        store.apply(batch_of([a_span(b"last")]))
        assert read(store) == [*data, b"last"]


def test_what_was_rolled_back_is_no_base(store: SQLiteTraceStore) -> None:
    lost, kept = (b"%d" % n + b"x" * 1000 for n in range(2))
    bad = batch_of([a_span(lost)])
    with pytest.raises(StoreError):
        store.apply(Batch(bad.process, bad.sites, [bad.spans[0]._replace(start_ns=2**70)]))
    store.apply(batch_of([a_span(kept), a_span(lost)]))
    store.tidy(60)
    assert read(store) == [kept, lost]


def test_ids_of_erased_payloads_are_not_given_again(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span(b"a" * 1000)]))
    ((first,),) = rows(store, "SELECT id FROM payloads")
    store.forget(T)
    store.apply(batch_of([a_span(b"b" * 1000)]))
    ((second,),) = rows(store, "SELECT id FROM payloads")
    assert second > first


def test_a_packer_whose_base_was_erased_meanwhile_packs_without_it(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [message(n) for n in range(20)]
    older, newer = pickle.dumps(messages, 5), pickle.dumps([*messages, "more"], 5)
    store.apply(batch_of([a_span(older, trace_id="8" * 32)]))
    store.apply(batch_of([a_span(newer)]))
    with closing(SQLiteTraceStore(store.path)) as another:
        read_some = another._packer._some_packed
        packed = iter([read_some()])
        store.forget("8" * 32)
        monkeypatch.setattr(another._packer, "_some_packed", lambda: next(packed, None) or read_some())
        assert another.tidy(60) is False
    assert read(store) == [newer]
    assert rows(store, "SELECT base FROM payloads") == [(None,)]


# --- another file in the place of the first --------------------------------------------------------------------------


def remove(store: SQLiteTraceStore) -> None:
    for path in (store.path, *store.path.parent.glob(f"{store.path.name}-*")):
        path.unlink()


def words(number: int, count: int = 800) -> list[str]:
    return [f"{number}{os.urandom(3).hex()}" for _ in range(count)]


def test_payloads_of_a_new_file_are_not_compressed_against_those_of_the_one_that_was_removed(
    store: SQLiteTraceStore,
) -> None:
    kept, moved, other = words(1), words(2, 40), words(3, 40)
    old = [*kept[:100], *moved, *kept[100:]]
    for history in (old, [*old, "grown"]):
        store.apply(batch_of([a_span(pickle.dumps(history, 5))]))
    store.tidy(60)
    remove(store)
    new = [*kept[:100], *other, *kept[100:]]
    histories = [pickle.dumps(history, 5) for history in (new, [*new, *moved])]
    for data in histories:
        store.apply(batch_of([a_span(data)]))
    store.tidy(60)
    assert rows(store, "SELECT count(*) FROM payloads WHERE base IS NOT NULL") == [(1,)]
    with closing(SQLiteTraceStore(store.path)) as another:
        assert read(another) == histories


def test_what_was_compressed_for_a_file_that_was_replaced_meanwhile_is_not_written_into_the_new_one(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(batch_of([a_span(b"old" * 1000)]))
    read_some = store._packer._some_packed
    packed = iter([read_some()])
    remove(store)
    store.apply(batch_of([a_span(b"new" * 1000)]))
    monkeypatch.setattr(store._packer, "_some_packed", lambda: next(packed, None) or read_some())
    assert store.tidy(60) is False
    assert read(store) == [b"new" * 1000]


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("DELETE FROM payloads WHERE id = 1", "rests on 1, which is not there|is not in the database"),
        ("UPDATE packed_data SET data = x'0011' WHERE id = 2", "cannot be decompressed"),
        ("UPDATE payloads SET base = 3 WHERE id = 2", "damaged"),
        ("UPDATE payloads SET base = NULL WHERE id = 2", "cannot be decompressed"),
        ("UPDATE spans SET input = 99", "payload 99 is not in the database"),
        ("UPDATE spans SET input = CAST('sixteen letters.@../../etc/passwd' AS BLOB)", "no blob file's name"),
        ("UPDATE spans SET input = x'00'", "damaged"),
        ("UPDATE spans SET input = 'text'", "damaged"),
        ("UPDATE spans SET input = 1.5", "damaged|not in the database"),
    ],
)
def test_a_damaged_payload_is_an_error_in_a_sentence(store: SQLiteTraceStore, damage: str, sentence: str) -> None:
    messages = [message(n) for n in range(10)]
    for n in range(5, 8):
        store.apply(batch_of([a_span(pickle.dumps(messages[:n], 5))]))
    store.tidy(60)
    assert rows(store, "SELECT count(*) FROM payloads WHERE base IS NOT NULL") == [(2,)]
    rows(store, damage)
    with pytest.raises(StoreError, match=sentence):
        store.get_trace(T)
    assert len(store.traces()) == len(list(store.spans())) // 3 == 1


def test_a_base_of_the_same_length_and_other_bytes_is_noticed(store: SQLiteTraceStore) -> None:
    base = pickle.dumps(words(1), 5)
    store.apply(batch_of([a_span(base), a_span(pickle.dumps([*pickle.loads(base), "more"], 5))]))
    store.tidy(60)
    assert rows(store, "SELECT base FROM payloads WHERE id = 2") == [(1,)]
    other = base[:1000] + bytes(2000) + base[3000:]
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(other)
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE packed_data SET data = ? WHERE id = 1", (packed,))
    with pytest.raises(StoreError, match="cannot be decompressed"):
        store.get_trace(T)


# --- files -----------------------------------------------------------------------------------------------------------


def with_a_file(store: SQLiteTraceStore, data: bytes, trace_id: str = T) -> tuple[Batch, Path]:
    name = blobs.write(store.blobs, data)
    batch = batch_of([a_span(b"", trace_id=trace_id)])
    span = batch.spans[0]._replace(input=RawPayload(BLOB, name))
    return Batch(batch.process, batch.sites, [span]), store.blobs / os.fsdecode(name)


def test_a_payload_in_a_file_comes_back_with_its_name_and_proof(store: SQLiteTraceStore) -> None:
    data = os.urandom(100_000)
    batch, path = with_a_file(store, data)
    store.apply(batch)
    (span,) = store.get_trace(T)
    assert span.input == Payload("pickle", data)
    assert any(span.input.name)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("trusted", [True, False])
def test_only_a_trusted_batch_gets_names_that_prove_its_origin(store: SQLiteTraceStore, *, trusted: bool) -> None:
    of_file, _ = with_a_file(store, b"in a file")
    large, small = (batch_of([a_span(data)]).spans[0] for data in (b"large" * 1000, b"small"))
    store.apply(Batch(of_file.process, of_file.sites, [*of_file.spans, large, small], trusted=trusted))
    found = [span.input for span in store.get_trace(T) if span.input is not None]
    assert [machine_key().vouches(each.name, 0, each.data) for each in found] == [trusted] * 3


def test_a_file_that_is_gone_is_an_error_of_its_payload_alone(store: SQLiteTraceStore) -> None:
    batch, path = with_a_file(store, b"data")
    path.unlink()
    store.apply(batch)
    with pytest.raises(StoreError, match="cannot be read"):
        store.get_trace(T)
    assert len(list(store.spans())) == 1
