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
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone.errors import StoreError, TraceNotFoundError, UnstorableSpanError
from clearstone.span import Span, Status, StatusCode, Trace
from clearstone.store import rows, schema
from clearstone.store.base import TraceSummary, choose_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUSY_SECONDS = 10.0
RETRY_SECONDS = 0.01
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
        self._db: sqlite3.Connection | None = None
        self.path = Path(path).absolute()  # it opens itself again, perhaps after the program changed its folder
        self._create = create
        self._lock = threading.RLock()

    def open(self) -> None:
        """Open the file now instead of on first use.

        Raises:
            StoreError: it cannot be used.
        """
        with self._database():
            return

    def write(self, spans: Sequence[Span]) -> None:
        """Store `spans` in one transaction (see `TraceStore.write`)."""
        try:
            with self._database() as db, db:
                for span in spans:
                    if db.execute(schema.WRITE_SPAN, rows.span_row(span)).rowcount:  # 0: its ended self is there
                        db.execute(schema.REMOVE_PAYLOADS, (span.span_id,))
                        db.executemany(schema.WRITE_PAYLOAD, rows.payload_rows(span))
        except (
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ) as error:  # a field of another type, a number beyond 64 bits
            raise UnstorableSpanError(
                f"a span cannot be stored in {self.path}: {type(error).__name__}: {error}"
            ) from error

    def get_trace(self, trace_id: str) -> Trace:
        """Return one trace (see `TraceStore.get_trace`)."""
        with self._reading() as db:
            found = db.execute(schema.READ_SPANS, (trace_id,)).fetchall()
            payloads = db.execute(schema.READ_PAYLOADS, (trace_id,)).fetchall()
        if not found:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {self.path}; 'clearstone traces' lists what is there")
        with self._understanding():
            return Trace(trace_id, tuple(rows.spans_of(found, payloads)))

    def traces(self, limit: int | None = None) -> list[TraceSummary]:
        """Return summaries, newest first (see `TraceStore.traces`)."""
        with self._reading() as db:
            found = db.execute(schema.READ_SUMMARIES, (-1 if limit is None else limit,)).fetchall()
        with self._understanding():
            return [
                TraceSummary(
                    trace_id,
                    name,
                    start,
                    None if unfinished else end,
                    spans,
                    unfinished,
                    Status(StatusCode(status), text),
                )
                for trace_id, name, start, end, spans, unfinished, status, text in found
            ]

    def find(self, reference: str) -> str:
        """Return the trace id that `reference` means (see `TraceStore.find`)."""
        with self._reading() as db:
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

    def __del__(self) -> None:
        """Close what was opened again after `close`; Python 3.13 warns of connections that nobody closes."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._db is None:
                    self._db = self._open()
                yield self._db
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} cannot be used as a trace database: {error}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Read beside a writer that waits for another process: on a connection of its own, for the moment."""
        if self._lock.acquire(blocking=False):
            try:
                with self._database() as db:
                    yield db
            finally:
                self._lock.release()
            return
        try:
            with contextlib.closing(self._open()) as db:
                yield db
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be used as a trace database: {error}") from error

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise StoreError(f"{self.path} is damaged: a row makes no span ({error})") from error

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
        try:
            is_there, is_folder = self.path.exists(), self.path.is_dir()
        except OSError as error:
            raise StoreError(f"the trace database {self.path} cannot be reached: {error}") from error
        if is_folder:
            raise StoreError(f"{self.path} is a directory; give the trace database's file, such as traces.db")
        if is_there:
            return
        if not self._create:
            raise StoreError(f"there is no trace database {self.path}; run an agent first, or give --home or --db")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        except (OSError, ValueError) as error:
            raise StoreError(f"the trace database {self.path} cannot be created: {error}") from error

    def _prepare(self, db: sqlite3.Connection) -> None:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # first: another process may be at it
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        if tables and application != schema.APPLICATION_ID:
            raise StoreError(f"{self.path} is a SQLite database of another program; give another file with --db")
        if version > schema.VERSION:
            raise StoreError(
                f"{self.path} was written by a newer Clearstone (schema {version}, this one reads up to "
                f"{schema.VERSION}); upgrade with 'pip install -U clearstone'"
            )
        if not tables and not self._create:
            raise StoreError(f"{self.path} is empty; run an agent first, or give --home or --db")
        if not tables:
            self._create_tables(db)
        db.execute("PRAGMA synchronous = NORMAL")

    def _create_tables(self, db: sqlite3.Connection) -> None:
        _use_write_ahead_log(db)
        with contextlib.suppress(_AlreadyThereError), _exclusively(db):
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            for statement in schema.TABLES.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {schema.VERSION}")


def _use_write_ahead_log(db: sqlite3.Connection) -> None:
    """Switch to the log; where other processes do the same just now SQLite does not wait for them by itself."""
    for left in reversed(range(int(BUSY_SECONDS / RETRY_SECONDS) + 1)):
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


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
