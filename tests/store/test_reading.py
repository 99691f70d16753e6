"""Reading a SQLite store: along its indexes, and one by one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from clearstone.errors import StoreError
from clearstone.span import Span
from clearstone.store import schema
from clearstone.store.base import SpanQuery
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteTraceStore]:
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as made:
        numbers = range(1, 30)
        made.apply(batch_of([Span(f"{n:032x}", f"{n:016x}", None, f"name{n % 3}", n, n + 1) for n in numbers]))
        yield made


def plan(store: SQLiteTraceStore, query: str, *values: object) -> str:
    with closing(sqlite3.connect(store.path)) as db:
        return "; ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values))


def test_the_newest_traces_are_found_along_an_index_without_sorting_them_all(store: SQLiteTraceStore) -> None:
    told = plan(store, schema.READ_NEWEST, 20)
    assert "SCAN s USING INDEX top_spans_by_time" in told
    assert "SEARCH f USING INDEX spans_by_trace" in told
    assert "USE TEMP B-TREE FOR ORDER BY" not in told


def test_a_summary_searches_its_trace_alone(store: SQLiteTraceStore) -> None:
    assert "SCAN spans" not in plan(store, schema.READ_SUMMARY, bytes(16), bytes(16))


@pytest.mark.parametrize("order", [schema.FIRST_FIRST, schema.LAST_FIRST])
def test_spans_in_the_order_they_started_are_not_sorted_before_the_first_is_given(
    store: SQLiteTraceStore, order: str
) -> None:
    told = plan(store, f"{schema.READ_SPANS} {order} LIMIT ?", 20)
    assert "USING INDEX spans_by_time" in told
    assert "USE TEMP B-TREE FOR ORDER BY" not in told


def test_spans_are_read_one_by_one(store: SQLiteTraceStore) -> None:
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE spans SET attributes = 'no json' WHERE start_ns = 5")
    spans = store.spans()
    assert [next(spans).start_ns for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(StoreError, match="damaged"):
        next(spans)
    assert next(store.spans(SpanQuery(newest_first=True))).start_ns == 29


def test_an_iterator_that_is_let_go_of_closes_its_connection(store: SQLiteTraceStore) -> None:
    spans = store.spans()
    next(spans)
    del spans
    store.close()
    assert [path.name for path in store.path.parent.glob("traces.db*")] == ["traces.db"]
