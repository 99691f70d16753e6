"""The store that is a SQLite file.

Idea: a batch is one transaction of a few statements with many rows each: each statement hands the interpreter to other
threads, and a busy program gives it back only after milliseconds.

Invariant: see `clearstone.store.base`; `sqlite3` errors leave this file as `StoreError` only.

Refused: ``executemany`` (one hand-over a row: 3 thousand rows a second beside a busy program, against 34 thousand).
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

from clearstone.codec.spilled import Pile
from clearstone.errors import StoreError, TraceNotFoundError, UnstorableSpanError
from clearstone.span import Trace
from clearstone.store import blobs, reading, schema, search, texts
from clearstone.store.base import EVERY_SPAN
from clearstone.store.batch import SpanRow
from clearstone.store.database import Database
from clearstone.store.erasing import Eraser
from clearstone.store.payloads import INLINE, Packer, PayloadReader, PayloadWriter, in_blocks
from clearstone.store.search import TextIndex

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from clearstone.span import Span
    from clearstone.store.base import Collected, Erased, SpanQuery, TraceSummary
    from clearstone.store.batch import Batch, RawPayload, SiteRow
    from clearstone.store.payloads import Column

AT_PAYLOADS = SpanRow._fields.index("input")

UNSTORABLE = (
    TypeError, ValueError, AttributeError, IndexError, OverflowError,
    sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.IntegrityError,
)  # fmt: skip
"""A field of another type or None, a number beyond 64 bits, a value beyond SQLite's limit of a gigabyte."""


class SQLiteTraceStore:
    """Keeps spans in one SQLite file (see `TraceStore`).

    Args:
        path: the file; it and its folder are created when the store is first used.
        create: False to refuse a file that does not exist (a reader creates nothing).

    Raises:
        StoreError: on first use: the file cannot be opened, is not a trace database, or is a newer version's.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.database = Database(path, create=create)
        self.path = self.database.path
        self.blobs: Path = blobs.folder_of(self.path)
        self._payloads = PayloadWriter(self.blobs)
        self._packer = Packer(self.database, self.blobs)
        self._index = TextIndex(self.database, self.blobs)
        self._eraser = Eraser(self.database, self.blobs)

    def open(self) -> None:
        """Open the file now instead of on first use.

        Raises:
            StoreError: it cannot be used.
        """
        with self.database.using():
            return

    def apply(self, batch: Batch) -> None:
        """Store a batch in one transaction (see `TraceStore.apply`)."""
        with self.database.writing() as db, self._storing():
            column = self._payloads.columns(db, _large(batch), trusted=batch.trusted).of
            process, sites = _process(db, batch), [_site(db, row) for row in batch.sites]
            plain, others = _span_values(batch, process, sites, column)
            if in_blocks(db, schema.ADD_PLAIN_SPANS, plain) < len(plain):
                in_blocks(db, schema.WRITE_SPANS, list(map(schema.whole, plain)))
            if in_blocks(db, schema.ADD_SPANS, others) < len(others):
                in_blocks(db, schema.WRITE_SPANS, others)
            in_blocks(db, schema.WRITE_ENDS, list(_end_values(batch, column)))
            in_blocks(db, schema.WRITE_CHUNKS, [(*row[:3], column(row[3])) for row in batch.chunks])
            search.note(db, batch)

    def interrupt(self, token: str) -> int:
        """Mark the open spans of a process (see `TraceStore.interrupt`)."""
        with self.database.writing() as db:
            return db.execute(schema.INTERRUPT, (token,)).rowcount

    def tidy(self, seconds: float) -> bool:
        """Compress payloads, and give back the room (see `TraceStore.tidy`)."""
        return self._packer.pack(seconds)

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`)."""
        with self.database.reading() as db, self._understanding():
            reader, wanted = PayloadReader(db, self.blobs, pile=Pile()), (reading.trace_bytes(trace_id),)
            of_trace = f"WHERE s.trace_id = ? {schema.FIRST_FIRST}"
            found = tuple(reading.whole_spans(db, reader, of_trace, wanted))
        if not found:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.path}; 'clearstone traces' lists what is there")
        return Trace(trace_id, found)

    def spans(self, query: SpanQuery = EVERY_SPAN, *, payloads: bool = False) -> Generator[Span, None, None]:
        """Yield spans from a connection of their own (see `TraceStore.spans`).

        A search for text first brings the text index up to date, which takes a while the first time. Where that is not
        possible (a read-only or locked file, no FTS5), every span that meets the other conditions is read instead.
        """
        wanted = texts.terms(query.text) if query.text else []
        hits = self._index.hits(wanted) if wanted else None
        with self.database.apart() as db, self._understanding():
            yield from reading.spans_of_query(db, PayloadReader(db, self.blobs), query, hits, payloads=payloads)

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self.database.reading() as db, self._understanding():
            return reading.summaries(db, limit)

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        with self.database.reading() as db:
            return reading.find(db, reference)

    def forget(self, trace_id: str) -> Erased:
        """Erase a trace (see `TraceStore.forget`)."""
        return self._eraser.forget(trace_id)

    def collect(self, older_than_ns: int, *, keep_failed: bool = False, dry_run: bool = False) -> Collected:
        """Erase old traces (see `TraceStore.collect`)."""
        return self._eraser.collect(older_than_ns, keep_failed=keep_failed, dry_run=dry_run)

    def close(self) -> None:
        """Close the connection (see `TraceStore.close`)."""
        self.database.close()

    def forget_connection(self) -> None:
        """In a forked child: let go of the parent's connection and lock without touching either."""
        self.database.forget_connection()
        self._payloads = PayloadWriter(self.blobs)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Tell what no store can take from what this file cannot take now."""
        try:
            yield
        except UNSTORABLE as error:
            if isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorname != "SQLITE_CONSTRAINT_NOTNULL":
                raise
            told = f"rows cannot be stored in {self.path}: {type(error).__name__}: {error}"
            raise UnstorableSpanError(told) from error

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise StoreError(f"{self.path} is damaged: a row makes no span ({error})") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def _large(batch: Batch) -> Iterator[tuple[Any, RawPayload]]:
    """Yield each payload that needs a row with the place it came from, which says what it may resemble."""
    for row in batch.spans:
        for place, raw in enumerate((row.input, row.output, row.error, row.effects)):
            if raw is not None and len(raw.data) > INLINE:
                yield (batch.sites[row.site], place), raw
    for end in batch.ends:
        for place, raw in enumerate(end[12:]):
            if raw is not None and len(raw.data) > INLINE:
                yield place, raw
    for chunk in batch.chunks:
        if len(chunk.value.data) > INLINE:
            yield "chunk", chunk.value


def _end_values(batch: Batch, column: Callable[[RawPayload | None], Column]) -> Iterator[tuple[Any, ...]]:
    """Of two ends of one span the first counts, as it would in two batches."""
    first = {row.span_id: row for row in reversed(batch.ends)}
    for row in first.values():
        yield (*row[:12], *map(column, row[12:]))


def _process(db: sqlite3.Connection, batch: Batch) -> int:
    found = db.execute(schema.FIND_PROCESS, (batch.process.token,)).fetchone()
    return int(found[0]) if found else _added(db, schema.ADD_PROCESS, batch.process)


def _site(db: sqlite3.Connection, row: SiteRow) -> int:
    found = db.execute(schema.FIND_SITE, row).fetchone()
    return int(found[0]) if found else _added(db, schema.ADD_SITE, row)


def _added(db: sqlite3.Connection, statement: str, row: tuple[Any, ...]) -> int:
    number = db.execute(statement, row).lastrowid
    assert number is not None  # noqa: S101 - it was an INSERT
    return number


def _span_values(
    batch: Batch, process: int, sites: list[int], column: Callable[[RawPayload | None], Column]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the values of plain spans (see `schema.PLAIN`), which are written first, and of the others.

    Where a batch holds a span as both its rows must be written in their order: then none is plain.
    """

    def whole(row: SpanRow) -> tuple[Any, ...]:
        payloads = map(column, (row.input, row.output, row.error, row.effects))
        return (*row[:3], process, sites[row.site], *row[4:AT_PAYLOADS], *payloads)

    plain, others = [], []
    for row in batch.spans:
        (
            span, trace, parent, site, top, start_ns, order, instance, end_ns, *_, given, gave, error, effects,
        ) = row  # fmt: skip
        if error is None and effects is None and end_ns is not None and row[9:AT_PAYLOADS] == schema.PLAIN:
            plain.append((
                span, trace, parent, process, sites[site], top, start_ns, order, instance, end_ns, column(given),
                column(gave),
            ))  # fmt: skip
        else:
            others.append(whole(row))
    if plain and others and not {values[0] for values in plain}.isdisjoint(values[0] for values in others):
        return [], list(map(whole, batch.spans))
    return plain, others
