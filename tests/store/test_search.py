"""The text index: what it holds, when it is made, and what happens where it cannot be."""

from __future__ import annotations

import itertools
import pickle
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.span import Chunk, Outcome, Payload, Span
from clearstone.store import database, schema, search, texts
from clearstone.store.base import SpanQuery
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.store.memory import MemoryTraceStore

T = "7" * 32
_numbers = itertools.count(1)


def a_span(value: object, **fields: Any) -> Span:
    number = next(_numbers)
    made = {"trace_id": T, "span_id": f"{number:016x}", "end_ns": number + 1, **fields}
    return Span(parent_id=None, name="ask", start_ns=number, input=Payload("pickle", pickle.dumps(value, 5)), **made)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteTraceStore]:
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as made:
        yield made


def found(store: SQLiteTraceStore | MemoryTraceStore, text: str) -> list[str]:
    return [span.span_id for span in store.spans(SpanQuery(text=text))]


def count(store: SQLiteTraceStore, table: str) -> int:
    with closing(sqlite3.connect(store.path)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - a table's name


def has_index(store: SQLiteTraceStore) -> bool:
    with closing(sqlite3.connect(store.path)) as db:
        return search.is_there(db)


# --- the index -------------------------------------------------------------------------------------------------------


def test_recording_makes_no_index_and_notes_nothing_before_the_first_search(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span("one word")]))
    assert (has_index(store), count(store, "texts"), count(store, "unindexed")) == (False, 0, 0)
    assert len(found(store, "word")) == 1
    assert (has_index(store), count(store, "texts"), count(store, "unindexed")) == (True, 1, 0)


def test_a_repeated_history_is_indexed_once(store: SQLiteTraceStore) -> None:
    history = [{"role": "user", "content": f"message number {n}"} for n in range(30)]
    store.apply(batch_of([a_span(history[:n]) for n in range(1, 31)]))
    assert len(found(store, '"number 0"')) == 30
    assert count(store, "texts") == 30 + 3  # the messages; role, user and content


def test_a_batch_after_the_first_search_notes_the_ids_of_what_ended_as_few_ranges(store: SQLiteTraceStore) -> None:
    found(store, "word")
    spans = [a_span("some word") for _ in range(200)]
    store.apply(batch_of([*spans, a_span("open", end_ns=None)]))
    with closing(sqlite3.connect(store.path)) as db:
        ((first, last),) = db.execute("SELECT first, last FROM unindexed").fetchall()
    assert (first, last) == (int(spans[0].span_id, 16), int(spans[-1].span_id, 16))
    assert len(found(store, "word")) == 200
    assert count(store, "unindexed") == 0


def test_more_spans_than_one_transaction_takes_are_all_indexed(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SPANS_AT_ONCE", 7)
    store.apply(batch_of([a_span(f"word number{n}") for n in range(50)]))
    assert len(found(store, "word")) == 50
    monkeypatch.setattr(search, "MOST_CHARACTERS", 10)
    store.apply(batch_of([a_span(f"word number{n}") for n in range(50)]))
    assert len(found(store, "word")) == 100
    assert len(found(store, "number49")) == 2


def test_an_index_that_was_left_half_made_is_finished_by_the_next_search(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(batch_of([a_span("word") for _ in range(30)]))
    monkeypatch.setattr(search, "SPANS_AT_ONCE", 7)
    parts = iter([True, True])
    index = store._index._index_some
    with pytest.raises(StopIteration), monkeypatch.context() as patch:
        patch.setattr(store._index, "_index_some", lambda until: next(parts) and index(until))
        store._index.hits([("word",)])
    assert 0 < count(store, "text_spans") < 30
    store.close()
    with closing(SQLiteTraceStore(store.path)) as another:
        assert len(found(another, "word")) == 30


def test_several_searches_at_once_make_one_index(store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SPANS_AT_ONCE", 5)
    store.apply(batch_of([a_span(f"word number{n}") for n in range(60)]))
    results: list[int] = []

    def look() -> None:
        with closing(SQLiteTraceStore(store.path)) as mine:
            results.append(len(found(mine, "word")))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(60, 80):
        store.apply(batch_of([a_span(f"word number{n}")]))
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert min(results) >= 60
    assert len(found(store, "word")) == 80
    assert count(store, "texts") == 80


def test_a_damaged_payload_costs_its_own_words_alone(store: SQLiteTraceStore) -> None:
    long = " ".join(f"word{n}" for n in range(200))
    store.apply(batch_of([a_span(long, attributes={"note": "noted"}), a_span("another word0")]))
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE payloads SET packed = 1")
        db.execute("INSERT INTO packed_data SELECT id, x'00' FROM raw_data")
    assert len(found(store, "word0")) == 1
    assert len(found(store, "noted")) == 1


def test_forgetting_takes_the_words_out_of_the_file(store: SQLiteTraceStore) -> None:
    store.apply(batch_of([a_span("the secretword of mine"), a_span("the secretword of mine", trace_id="8" * 32)]))
    store.apply(batch_of([a_span("anotherword altogether", trace_id="8" * 32)]))
    assert len(found(store, "secretword")) == 2
    store.forget(T)
    assert len(found(store, "secretword")) == 1
    store.forget("8" * 32)
    assert found(store, "secretword") == found(store, "anotherword") == []
    assert (count(store, "texts"), count(store, "text_spans")) == (0, 0)
    store.close()
    assert b"secretword" not in store.path.read_bytes()


def test_where_the_words_to_take_out_are_lost_the_index_is_made_anew(store: SQLiteTraceStore) -> None:
    long = " ".join(f"word{n}" for n in range(200))
    store.apply(batch_of([a_span(long), a_span("kept", trace_id="8" * 32)]))
    assert len(found(store, "word7")) == 1
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE payloads SET packed = 1")
        db.execute("INSERT INTO packed_data SELECT id, x'00' FROM raw_data")
    store.forget(T)
    assert not has_index(store)
    assert found(store, "word7") == []
    assert len(found(store, "kept")) == 1


# --- without it ------------------------------------------------------------------------------------------------------


def some_spans() -> list[Span]:
    return [a_span(f"word number{n % 3}") for n in range(9)] + [a_span("word open", end_ns=None)]


def test_where_sqlite_lacks_fts5_the_same_is_found(store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "TEXT_INDEX", "CREATE VIRTUAL TABLE text_words USING no_such_module (words)")
    store.apply(batch_of(some_spans()))
    assert (len(found(store, "word")), len(found(store, '"word number1"')), len(found(store, "open"))) == (10, 3, 1)
    assert not has_index(store)


def test_a_search_beside_a_writer_that_does_not_end_finds_the_same(
    store: SQLiteTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(batch_of(some_spans()))
    store.close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert (len(found(store, "word")), len(found(store, "number1"))) == (10, 3)


# --- words -----------------------------------------------------------------------------------------------------------


@given(st.text())
def test_words_are_found_in_their_own_text_and_need_no_escape(text: str) -> None:
    words = texts.words(text)
    assert all(word and not {" ", '"', "\0"} & set(word) for word in words)
    assert texts.words(" ".join(words)) == words
    assert texts.terms(f'"{text}"'.replace('""', "")) is not None


@given(st.lists(st.text(min_size=3), min_size=1, max_size=4), st.text(max_size=8))
def test_a_scan_finds_each_word_of_a_span(values: list[str], wanted: str) -> None:
    span = a_span(values)
    for value in values:
        for word in texts.words(value):
            assert texts.matches(span, texts.terms(word))
    assert texts.matches(span, texts.terms(wanted)) in {True, False}


def test_short_strings_the_rest_of_long_ones_and_of_long_words_are_not_searched() -> None:
    long = "x " * (texts.LONGEST_TEXT // 2) + "beyond"
    span = a_span(["ab", long, "y" * 100])
    assert not texts.matches(span, [("ab",)])
    assert not texts.matches(span, [("beyond",)])
    assert texts.matches(span, texts.terms("y" * 90))
    assert not texts.matches(span, texts.terms("y" * 10))


def test_a_text_cut_in_pieces_by_a_stream_is_searched_as_one() -> None:
    chunks = tuple(Chunk(n, Payload("pickle", pickle.dumps(part))) for n, part in enumerate(["Hel", "lo", " there"]))
    assert texts.matches(a_span(None, outcome=Outcome("streamed", chunks=chunks)), texts.terms('"hello there"'))


def test_a_stand_in_that_is_no_json_is_passed_over() -> None:
    span = a_span("some word", outcome=Outcome("returned", Payload("stand-in", b"{")))
    assert texts.matches(span, texts.terms("word"))
    assert not texts.matches(span, texts.terms("another"))


def test_looking_for_text_executes_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "sprung"), "w"))

    span = a_span([Trap(), "word"])
    assert texts.matches(span, texts.terms("word"))
    assert not (tmp_path / "sprung").exists()
