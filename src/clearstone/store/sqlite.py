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

from clearstone.codec import payload
from clearstone.errors import StoreError, TraceNotFoundError, UnstorableSpanError
from clearstone.span import Chunk, Status, StatusCode, Trace
from clearstone.store import blobs, rows, schema
from clearstone.store.base import SiteRow, SpanRow, TraceSummary, choose_trace
from clearstone.store.database import Database
from clearstone.store.payloads import Packer, PayloadReader, PayloadWriter, in_blocks

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.span import Payload, Span
    from clearstone.store.base import Batch, RawPayload
    from clearstone.store.payloads import Column

UNSTORABLE = (TypeError, ValueError, AttributeError, OverflowError, sqlite3.DataError, sqlite3.ProgrammingError)
"""A field of another type, a number beyond 64 bits, a value beyond SQLite's limit of a gigabyte."""

_PROPER = len(SpanRow._fields)
_SPAN_PAYLOADS = ("input", "output", "error", "effects")


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

    def open(self) -> None:
        """Open the file now instead of on first use.

        Raises:
            StoreError: it cannot be used.
        """
        with self.database.using():
            return

    def apply(self, batch: Batch) -> None:
        """Store a batch in one transaction (see `TraceStore.apply`)."""
        try:
            with self.database.writing() as db:
                columns = self._payloads.columns(db, _with_places(batch))
                process, sites = _process(db, batch), [_site(db, row) for row in batch.sites]
                in_blocks(db, schema.WRITE_SPANS, list(_span_values(batch, process, sites, columns)))
                in_blocks(db, schema.WRITE_ENDS, [(*row[:12], *map(columns.get, row[12:])) for row in batch.ends])
                chunks = [(*row[:3], columns[row[3]]) for row in batch.chunks]
                in_blocks(db, schema.WRITE_CHUNKS, chunks)
        except UNSTORABLE as error:
            told = f"rows cannot be stored in {self.path}: {type(error).__name__}: {error}"
            raise UnstorableSpanError(told) from error

    def interrupt(self, token: str) -> int:
        """Mark the open spans of a process (see `TraceStore.interrupt`)."""
        with self.database.writing() as db:
            return db.execute(schema.INTERRUPT, (token,)).rowcount

    def tidy(self, seconds: float) -> bool:
        """Compress payloads, and give back the room (see `TraceStore.tidy`)."""
        return Packer(self.database, self.blobs).pack(seconds)

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`)."""
        with self.database.reading() as db, self._understanding():
            with contextlib.suppress(ValueError):
                found = tuple(_spans(db, self.blobs, schema.READ_SPANS, (bytes.fromhex(trace_id),)))
                if found:
                    return Trace(trace_id, found)
        raise TraceNotFoundError(f"no trace {trace_id!r} in {self.path}; 'clearstone traces' lists what is there")

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self.database.reading() as db:
            found = db.execute(schema.READ_SUMMARIES, (-1 if limit is None else limit,)).fetchall()
        with self._understanding():
            return [_summary(*row) for row in found]

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        with self.database.reading() as db:
            return choose_trace(reference, [trace_id for (trace_id,) in db.execute(schema.READ_IDS)])

    def close(self) -> None:
        """Close the connection (see `TraceStore.close`)."""
        self.database.close()

    def forget_connection(self) -> None:
        """In a forked child: let go of the parent's connection and lock without touching either."""
        self.database.forget_connection()
        self._payloads = PayloadWriter(self.blobs)

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise StoreError(f"{self.path} is damaged: a row makes no span ({error})") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def _with_places(batch: Batch) -> Iterator[tuple[Any, RawPayload]]:
    """Yield each payload with the place it came from, which says what it may resemble."""
    for row in batch.spans:
        site = batch.sites[row.site]
        for place, raw in enumerate(row[-4:]):
            if raw is not None:
                yield (site, place), raw
    for end in batch.ends:
        for place, raw in enumerate(end[12:]):
            if raw is not None:
                yield place, raw
    for chunk in batch.chunks:
        yield "chunk", chunk.value


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
    batch: Batch, process: int, sites: list[int], columns: dict[RawPayload, Column]
) -> Iterator[tuple[Any, ...]]:
    column = columns.get
    for row in batch.spans:
        taken, gave, error, effects = row[-4:]
        yield (
            *row[:3], process, sites[row[3]], *row[4:-4],
            column(taken), column(gave), column(error), column(effects),  # type: ignore[arg-type]  # None: no column
        )  # fmt: skip


# --- reading ---------------------------------------------------------------------------------------------------------


def _spans(db: sqlite3.Connection, folder: Path, query: str, values: tuple[Any, ...]) -> Iterator[Span]:
    reader = PayloadReader(db, folder)
    for found in db.execute(query, values):
        row, site = SpanRow._make(found[:_PROPER]), SiteRow._make(found[_PROPER:-1])
        given = rows.Payloads(*(_payload(reader, column) for column in row[-4:]))
        chunks = (
            Chunk(at_ns, _payload(reader, column))  # type: ignore[arg-type]  # a chunk has a value
            for at_ns, column in db.execute(schema.READ_CHUNKS, (row.span_id,))
        )
        yield rows.span_of(row, site, given, chunks, interrupted=bool(found[-1]))


def _payload(reader: PayloadReader, column: Any) -> Payload | None:
    found = reader.raw(column)
    if found is None:
        return None
    name, form, data = found
    return payload.of_raw(form, data, name=name)


def _summary(
    trace_id: str, name: str, start: int, end: int, spans: int, without_end: int, interrupted: int, status: str, text: str
) -> TraceSummary:
    return TraceSummary(
        trace_id=trace_id.lower(),
        name=name,
        start_ns=start,
        end_ns=None if without_end else end,
        spans=spans,
        open_spans=without_end - interrupted,
        interrupted=interrupted,
        status=Status(StatusCode(status), text),
    )
