"""Reading a SQLite store: queries as SQL, and rows as spans.

Idea: whatever is asked, rows come from one cursor, one by one, and each is made a span before the next is read. What a
query asks of metadata is answered by indexes and columns; payloads are read where they are asked for.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from clearstone.codec import payload
from clearstone.codec.keys import NAME_SIZE
from clearstone.errors import StoreError
from clearstone.span import FORK_PARENT, Chunk, Status, StatusCode
from clearstone.store import rows, schema, texts
from clearstone.store.base import MOST_LISTED, TraceSummary, chosen
from clearstone.store.batch import SiteRow, SpanRow

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from clearstone.span import Payload, Span
    from clearstone.store.base import SpanQuery
    from clearstone.store.payloads import PayloadReader
    from clearstone.store.texts import Term

_PROPER = len(SpanRow._fields)
_TRACE_ID_DIGITS = 32
_MOST = (1 << 63) - 1

UNNAMED = bytes(NAME_SIZE)
"""In place of a name that is not there: without one, a payload would pass for this process's own."""

Hits = tuple[str, list[str]]


# --- spans -----------------------------------------------------------------------------------------------------------


def whole_spans(
    db: sqlite3.Connection, reader: PayloadReader, conditions: str, values: Sequence[Any]
) -> Iterator[Span]:
    """Yield spans with their payloads.

    Args:
        db: the connection, in a transaction.
        reader: of the same connection.
        conditions: what follows the table in `schema.READ_SPANS`.
        values: for its question marks.

    Raises:
        StoreError: a payload is damaged.
    """
    for found in db.execute(f"{schema.READ_SPANS} {conditions}", values):
        yield _whole(db, reader, found)


def spans_of_query(
    db: sqlite3.Connection, reader: PayloadReader, query: SpanQuery, hits: Hits | None, *, payloads: bool
) -> Iterator[Span]:
    """Yield the spans that meet a query.

    Args:
        db: the connection, in a transaction.
        reader: of the same connection.
        query: what is asked.
        hits: a SELECT of the ids of spans among which those that hold its text are, and its values; None for no index.
        payloads: whether to read payloads.

    Raises:
        StoreError: a payload is damaged.
    """
    wanted = texts.terms(query.text) if query.text else []
    exact = hits is not None and all(len(term) == 1 for term in wanted)
    limit = -1 if query.limit is None else min(query.limit, _MOST)
    if query.text and not wanted:
        return  # no word is in no text
    conditions, values = _conditions(query, hits)
    order = schema.LAST_FIRST if query.newest_first else schema.FIRST_FIRST
    found = db.execute(f"{schema.READ_SPANS} {conditions} {order} LIMIT ?", (*values, -1 if wanted else limit))
    met = (row for row in found if not wanted or _meets(db, reader, row, wanted, exact=exact))
    for row in itertools.islice(met, None if limit < 0 else limit):
        yield _whole(db, reader, row) if payloads else _bare(row)


def _conditions(query: SpanQuery, hits: Hits | None) -> tuple[str, list[Any]]:
    asked: list[tuple[str, Any]] = [
        ("s.trace_id = ?", trace_bytes(query.trace_id) if query.trace_id is not None else None),
        ("t.name = ?", query.name),
        ("t.span_type = ?", query.span_type),
        ("s.status = ?", query.status),
        ("s.interrupted = ?", query.interrupted),
        ("s.start_ns >= ?", _in_64_bits(query.since_ns)),
        ("s.start_ns < ?", _in_64_bits(query.until_ns)),
    ]
    asked = [(condition, value) for condition, value in asked if value is not None]
    conditions, values = [condition for condition, _ in asked], [value for _, value in asked]
    if hits is not None:
        conditions.append(f"s.span_id IN ({hits[0]})")
        values += hits[1]
    return f"WHERE {' AND '.join(conditions)}" if conditions else "", values


def _in_64_bits(number: int | None) -> int | None:
    return max(-_MOST - 1, min(number, _MOST)) if number is not None else None


def _meets(
    db: sqlite3.Connection, reader: PayloadReader, row: tuple[Any, ...], wanted: Sequence[Term], *, exact: bool
) -> bool:
    """An index knows which words stand in one string, not in which order, and nothing of spans that have not ended."""
    if exact and row[schema.END_NS] is not None:
        return True
    return texts.matches(searchable(db, reader, row), wanted)


def searchable(db: sqlite3.Connection, reader: PayloadReader, row: tuple[Any, ...]) -> Span:
    """Return the span of a row of `schema.READ_SPANS`; one whose payloads are damaged without them."""
    try:
        return _whole(db, reader, row)
    except (StoreError, ValueError):
        return _bare(row)


def _whole(db: sqlite3.Connection, reader: PayloadReader, found: tuple[Any, ...]) -> Span:
    row, site = SpanRow._make(found[:_PROPER]), SiteRow._make(found[_PROPER:-1])
    given = rows.Payloads(*(_payload(reader, column) for column in row[-4:]))
    chunks = (
        Chunk(at_ns, _payload(reader, column))  # type: ignore[arg-type]  # a chunk has a value
        for at_ns, column in db.execute(schema.READ_CHUNKS, (row.span_id,))
    )
    return rows.span_of(row, site, given, chunks, interrupted=bool(found[-1]))


def _bare(found: tuple[Any, ...]) -> Span:
    row, site = SpanRow._make(found[:_PROPER]), SiteRow._make(found[_PROPER:-1])
    return rows.bare_span_of(row, site, interrupted=bool(found[-1]))


def _payload(reader: PayloadReader, column: Any) -> Payload | None:
    found = reader.raw(column)
    if found is None:
        return None
    name, form, data = found
    if reader.pile is not None and name:
        return reader.pile.payload(form, data, name)
    return payload.of_raw(form, data, name=name or UNNAMED)


# --- traces ----------------------------------------------------------------------------------------------------------


def summaries(db: sqlite3.Connection, limit: int | None) -> list[TraceSummary]:
    """Return summaries, newest first (see `TraceStore.traces`)."""
    return [_summary(trace_id, *db.execute(schema.READ_SUMMARY, (trace_id, trace_id)).fetchone())
            for trace_id in _newest_first(db, limit)]  # fmt: skip


def _newest_first(db: sqlite3.Connection, limit: int | None) -> list[bytes]:
    most = -1 if limit is None else min(limit, _MOST)
    found = [trace_id for (trace_id,) in db.execute(schema.READ_NEWEST, (most,))]
    if limit is None or len(found) < limit:
        found += [trace_id for (trace_id,) in db.execute(schema.READ_TOPLESS, (max(most - len(found), -1),))]
    return found


def _summary(  # noqa: PLR0917 - the columns of `READ_SUMMARY`
    trace_id: bytes,
    name: str,
    start: int,
    end: int,
    spans: int,
    without_end: int,
    interrupted: int,
    status: str,
    text: str,
    attributes: str | None,
) -> TraceSummary:
    return TraceSummary(
        trace_id=trace_id.hex(),
        name=name,
        start_ns=start,
        end_ns=None if without_end else end,
        spans=spans,
        open_spans=without_end - interrupted,
        interrupted=interrupted,
        status=Status(StatusCode(status), text),
        parent=str(json.loads(attributes).get(FORK_PARENT, "")) if attributes and FORK_PARENT in attributes else "",
    )


def find(db: sqlite3.Connection, reference: str) -> str:
    """Return the trace id that `reference` means (see `TraceStore.find`)."""
    found = _newest_first(db, 1) if reference.lower() == "latest" else _beginning(db, reference)
    empty = not found and db.execute("SELECT 1 FROM spans LIMIT 1").fetchone() is None
    return chosen(reference, [trace_id.hex() for trace_id in found], empty=empty)


def _beginning(db: sqlite3.Connection, digits: str) -> list[bytes]:
    if not digits or len(digits) > _TRACE_ID_DIGITS or set(digits.lower()) - set("0123456789abcdef"):
        return []
    between = (bytes.fromhex(digits.ljust(_TRACE_ID_DIGITS, fill)) for fill in "0f")
    return [trace_id for (trace_id,) in db.execute(schema.FIND_TRACES, (*between, MOST_LISTED + 1))]


def trace_bytes(trace_id: str) -> bytes:
    """Return a trace id as the database holds it; what is none as no bytes, which no trace has."""
    try:
        return bytes.fromhex(trace_id)
    except ValueError:
        return b""
