"""The store that is a SQLite file (write-ahead log, so that readers never wait for the writer).

Idea: one connection, one lock. Reading is rare beside writing, and a batch is one transaction.

Invariant: a file that is not ours, or from a newer version, is refused before anything is written to it; `sqlite3`
errors leave this file as `StoreError` only.

Refused: a connection per thread (each would have to be found and closed at exit, and across a fork).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone.errors import StoreError, TraceNotFoundError
from clearstone.span import Span, Status, StatusCode, Trace
from clearstone.store import rows, schema
from clearstone.store.base import TraceSummary, choose_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUSY_SECONDS = 10.0
_inherited: list[sqlite3.Connection] = []  # after a fork: neither used nor closed, as SQLite asks


class SQLiteTraceStore:
    """Keeps spans in one SQLite file (see `TraceStore`).

    Args:
        path: the file; it and its folder are created when the store is first used.
        create: False to refuse a file that does not exist (a reader creates nothing).

    Raises:
        StoreError: on first use: the file cannot be opened, is not a trace database, or is a newer version's.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path = Path(path)
        self._create = create
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file now instead of on first use.

        Raises:
            StoreError: it cannot be used.
        """
        with self._database():
            return

    def write(self, spans: Sequence[Span]) -> None:
        """Store `spans` in one transaction (see `TraceStore.write`)."""
        with self._database() as db, db:
            db.executemany(schema.WRITE_SPAN, [rows.span_row(span) for span in spans])
            db.executemany(schema.WRITE_PAYLOAD, [row for span in spans for row in rows.payload_rows(span)])

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`)."""
        with self._database() as db:
            found = db.execute(schema.READ_SPANS, (trace_id,)).fetchall()
            payloads = db.execute(schema.READ_PAYLOADS, (trace_id,)).fetchall()
        if not found:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.path}; 'clearstone traces' lists what is there")
        return Trace(trace_id, tuple(rows.spans_of(found, payloads)))

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self._database() as db:
            found = db.execute(schema.READ_SUMMARIES, (-1 if limit is None else limit,)).fetchall()
        return [
            TraceSummary(
                trace_id, name, start, None if unfinished else end, spans, unfinished, Status(StatusCode(status), text)
            )
            for trace_id, name, start, end, spans, unfinished, status, text in found
        ]

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        with self._database() as db:
            return choose_trace(reference, [trace_id for (trace_id,) in db.execute(schema.READ_IDS)])

    def close(self) -> None:
        """Close the connection; the log is merged into the file. Using the store again opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def forget_connection(self) -> None:
        """In a forked child: let go of the parent's connection and lock without touching either."""
        self._lock = threading.RLock()
        if self._db is not None:
            _inherited.append(self._db)
            self._db = None

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._db is None:
                    self._db = self._open()
                yield self._db
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} cannot be used as a trace database: {error}") from error

    def _open(self) -> sqlite3.Connection:
        self._check_place()
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_place(self) -> None:
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a directory; give the trace database's file, such as traces.db")
        if self.path.exists():
            return
        if not self._create:
            raise StoreError(f"there is no trace database {self.path}; run an agent first, or give --home or --db")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        except OSError as error:
            raise StoreError(f"the trace database {self.path} cannot be created: {error}") from error

    def _prepare(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != schema.APPLICATION_ID:
            raise StoreError(f"{self.path} is a SQLite database of another program; give another file with --db")
        if version > schema.VERSION:
            raise StoreError(
                f"{self.path} was written by a newer Clearstone (schema {version}, this one reads up to "
                f"{schema.VERSION}); upgrade with 'pip install -U clearstone'"
            )
        if not tables:
            self._create_tables(db)
        db.execute("PRAGMA synchronous = NORMAL")

    def _create_tables(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        with contextlib.suppress(_AlreadyThereError), _exclusively(db):
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            for statement in schema.TABLES.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {schema.VERSION}")


class _AlreadyThereError(Exception):
    """Another process created the tables while this one waited for the lock."""


@contextlib.contextmanager
def _exclusively(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN EXCLUSIVE")
    try:
        _refuse_existing(db)
        yield
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _refuse_existing(db: sqlite3.Connection) -> None:
    if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise _AlreadyThereError
