"""A database of an earlier version is read like a new one: every span comes back, and more can be recorded into it."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.codec.keys import machine_key
from clearstone.errors import StoreError
from clearstone.span import Chunk, Event, Failure, Outcome, Payload, Span, SpanKind, Status, StatusCode
from clearstone.store import migrations, schema
from clearstone.store.base import SpanQuery
from clearstone.store.memory import MemoryTraceStore
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VERSION_1 = """
CREATE TABLE spans (
    span_id TEXT PRIMARY KEY, trace_id TEXT NOT NULL, parent_id TEXT, name TEXT NOT NULL, start_ns INTEGER NOT NULL,
    end_ns INTEGER, start_order INTEGER NOT NULL, kind TEXT NOT NULL, span_type TEXT NOT NULL, site TEXT NOT NULL,
    replay TEXT NOT NULL, tracer_name TEXT NOT NULL, tracer_version TEXT NOT NULL, status TEXT NOT NULL,
    status_text TEXT NOT NULL, attributes TEXT NOT NULL, events TEXT NOT NULL, outcome TEXT, complete INTEGER NOT NULL,
    error_type TEXT, error_message TEXT, error_traceback TEXT, error_raised_at TEXT
);
CREATE INDEX spans_by_trace ON spans (trace_id, start_ns, start_order);
CREATE INDEX roots_by_time ON spans (start_ns) WHERE parent_id IS NULL;
CREATE TABLE payloads (
    span_id TEXT NOT NULL, role TEXT NOT NULL, number INTEGER NOT NULL, at_ns INTEGER NOT NULL, codec TEXT NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (span_id, role, number)
) WITHOUT ROWID;
PRAGMA application_id = 1129075540;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""

texts = st.text(st.characters(codec="utf-8"), max_size=6)
moments = st.integers(0, 2**62)
payloads = st.builds(Payload, st.sampled_from(["pickle", "cloudpickle", "stand-in"]), st.binary(max_size=400))
attributes = st.dictionaries(texts, texts | st.integers() | st.lists(st.booleans()), max_size=2)
failures = st.builds(Failure, texts, texts, texts, texts, payloads)
outcomes = st.one_of(
    st.none(),
    st.builds(Outcome, st.just("returned"), st.none() | payloads),
    st.builds(Outcome, st.just("raised"), failure=failures),
    st.builds(
        Outcome,
        st.just("streamed"),
        st.none() | payloads,
        st.none() | failures,
        st.lists(st.builds(Chunk, moments, payloads), max_size=3).map(tuple),
        st.booleans(),
    ),
)


@st.composite
def old_spans(draw: st.DrawFn) -> list[Span]:
    return [
        Span(
            trace_id=f"{number % 2:032x}",
            span_id=f"{draw(st.integers(0, 2**56 - 1)) * 256 + number:016x}",
            parent_id=draw(st.none() | st.integers(0, 2**64 - 1).map("{:016x}".format)),
            name=draw(texts),
            start_ns=draw(moments),
            end_ns=draw(moments),
            order=number,
            kind=draw(st.sampled_from(SpanKind)),
            span_type=draw(texts),
            site=draw(texts),
            replay=draw(st.sampled_from(["serve", "run"])),
            tracer_name=draw(texts),
            status=draw(st.builds(Status, st.sampled_from(StatusCode), texts)),
            attributes=draw(attributes),
            events=draw(st.lists(st.builds(Event, texts, moments, attributes), max_size=2).map(tuple)),
            input=draw(st.none() | payloads),
            outcome=draw(outcomes),
        )
        for number in range(draw(st.integers(0, 5)))
    ]


def version_1(path: Path, spans: Iterable[Span]) -> Path:
    """Write a database as version 1 did."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(VERSION_1)
        for span in spans:
            row, given = as_version_1(span)
            db.execute(f"INSERT INTO spans VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - question marks
            for role, number, at_ns, payload in given:
                values = (span.span_id, role, number, at_ns, payload.codec, payload.data)
                db.execute("INSERT INTO payloads VALUES (?, ?, ?, ?, ?, ?)", values)
    return path


def as_version_1(span: Span) -> tuple[tuple[Any, ...], list[tuple[str, int, int, Payload]]]:
    outcome = span.outcome
    failure = outcome.failure if outcome is not None else None
    told = (failure.type_name, failure.message, failure.traceback, failure.raised_at) if failure else (None,) * 4
    events = [{"name": each.name, "at_ns": each.at_ns, "attributes": each.attributes} for each in span.events]
    row = (
        span.span_id, span.trace_id, span.parent_id, span.name, span.start_ns, span.end_ns, span.order, span.kind,
        span.span_type, span.site, span.replay, span.tracer_name, span.tracer_version, span.status.code,
        span.status.description, json.dumps(span.attributes), json.dumps(events),
        outcome.kind if outcome else None, outcome is None or outcome.complete, *told,
    )  # fmt: skip
    values = {
        "input": span.input,
        "output": outcome.value if outcome else None,
        "error": failure.value if failure else None,
    }
    given = [(role, 0, 0, payload) for role, payload in values.items() if payload is not None]
    chunks = outcome.chunks if outcome is not None else ()
    return row, [*given, *(("chunk", number, each.at_ns, each.value) for number, each in enumerate(chunks))]


@settings(deadline=None, max_examples=40)
@given(spans=old_spans())
def test_every_span_of_version_1_comes_back(tmp_path_factory: pytest.TempPathFactory, spans: list[Span]) -> None:
    path = version_1(tmp_path_factory.mktemp("old") / "traces.db", spans)
    expected = MemoryTraceStore()
    expected.apply(batch_of(spans))
    with closing(SQLiteTraceStore(path, create=False)) as store:
        assert store.traces() == expected.traces()
        for each in expected.traces():
            assert store.get_trace(each.trace_id) == expected.get_trace(each.trace_id)


SPAN = Span("7" * 32, "5" * 16, None, "ask", 1, 2, input=Payload("pickle", b"\x8c\x06refund."))


def test_after_the_migration_it_is_a_database_of_this_version(tmp_path: Path) -> None:
    path = version_1(tmp_path / "traces.db", [SPAN])
    with closing(SQLiteTraceStore(path)) as store:
        store.apply(batch_of([replace(SPAN, span_id="6" * 16, start_ns=3)]))
        assert len(store.get_trace("7" * 32)) == 2
        assert len(list(store.spans(SpanQuery(text="refund")))) == 2
        assert store.tidy(60) is False
        assert store.forget("7" * 32).spans == 2
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL")}
    assert {statement.split()[2] for statement in schema.statements()} <= names
    assert not {name for name in names if "old" in name}


def test_a_payload_of_version_1_does_not_pass_for_one_that_this_machine_recorded(tmp_path: Path) -> None:
    chunk = Chunk(1, Payload("pickle", b"chunk"))
    given = replace(SPAN, outcome=Outcome("streamed", Payload("pickle", b"output"), chunks=(chunk,)))
    path = version_1(tmp_path / "traces.db", [given])
    with closing(SQLiteTraceStore(path)) as store:
        (span,) = store.get_trace("7" * 32)
    assert span.outcome is not None
    found = [span.input, span.outcome.value, span.outcome.chunks[0].value]
    assert [machine_key().vouches(each.name, 0, each.data) for each in found if each is not None] == [False] * 3


def test_an_open_span_of_version_1_is_interrupted(tmp_path: Path) -> None:
    path = version_1(tmp_path / "traces.db", [replace(SPAN, end_ns=None)])
    with closing(SQLiteTraceStore(path)) as store:
        (span,) = store.get_trace("7" * 32)
        assert (span.interrupted, span.end_ns) == (True, None)


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = version_1(tmp_path / "traces.db", [SPAN])
    monkeypatch.setattr(migrations, "_COPIES_1", (*migrations._COPIES_1, "SELECT no_such_function()"))
    with pytest.raises(StoreError, match="no_such_function"):
        SQLiteTraceStore(path).open()
    monkeypatch.undo()
    with closing(SQLiteTraceStore(path)) as store:
        assert store.get_trace("7" * 32).spans == (SPAN,)


def test_several_may_open_an_old_database_at_once(tmp_path: Path) -> None:
    path = version_1(tmp_path / "traces.db", [replace(SPAN, span_id=f"{n:016x}") for n in range(500)])
    seen: list[int] = []

    def look() -> None:
        with closing(SQLiteTraceStore(path)) as store:
            seen.append(len(store.get_trace("7" * 32)))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [500] * 4


# --- version 2 -------------------------------------------------------------------------------------------------------

SITES_2 = """
CREATE TABLE sites (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, name TEXT NOT NULL, span_type TEXT NOT NULL, replay TEXT NOT NULL,
    kind TEXT NOT NULL, tracer_name TEXT NOT NULL, tracer_version TEXT NOT NULL,
    UNIQUE (key, name, span_type, replay, kind, tracer_name, tracer_version)
)
"""
"""What version 3 has another table for; all others are the same."""


def version_2(path: Path, spans: Iterable[Span]) -> Path:
    """Write a database as version 2 did."""
    with closing(SQLiteTraceStore(path)) as store:
        store.apply(batch_of(spans))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE sites RENAME TO new_sites")
        db.execute(SITES_2)
        columns = "id, key, name, span_type, replay, kind, tracer_name, tracer_version"
        db.execute(f"INSERT INTO sites SELECT {columns} FROM new_sites")  # noqa: S608 - constants
        db.execute("DROP TABLE new_sites")
        db.execute("PRAGMA user_version = 2")
    return path


@settings(deadline=None, max_examples=20)
@given(spans=old_spans())
def test_every_span_of_version_2_comes_back(tmp_path_factory: pytest.TempPathFactory, spans: list[Span]) -> None:
    path = version_2(tmp_path_factory.mktemp("old") / "traces.db", spans)
    expected = MemoryTraceStore()
    expected.apply(batch_of(spans))
    with closing(SQLiteTraceStore(path, create=False)) as store:
        for each in expected.traces():
            found, known = store.get_trace(each.trace_id), expected.get_trace(each.trace_id)
            assert [replace(span, observed_ns=0) for span in found] == [replace(span, observed_ns=0) for span in known]


def test_a_database_of_version_2_takes_the_places_of_calls_from_then_on(tmp_path: Path) -> None:
    path = version_2(tmp_path / "traces.db", [SPAN])
    more = replace(SPAN, span_id="6" * 16, start_ns=3, called_at="agent.py:7")
    with closing(SQLiteTraceStore(path)) as store:
        store.apply(batch_of([more]))
        assert store.get_trace("7" * 32).spans == (SPAN, more)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        tables = "SELECT sql FROM sqlite_schema WHERE name LIKE '%sites%' AND sql IS NOT NULL"
        (made,) = db.execute(tables).fetchone()
    assert made == next(each for each in schema.statements() if "TABLE sites" in each)
