"""Erasing traces from a SQLite store.

Idea: the spans of the traces go first; then whatever nothing refers to any more, found by looking at everything that
is left. So what an erased trace shared with others stays, and what a dropped record left behind goes too.

Invariant: a payload that rests on an erased one is stored anew first, so it reads as before. All or nothing is erased,
in one transaction; the files of large payloads are deleted after it, and one that a crash leaves is found by the next
collection. What is erased is overwritten (``PRAGMA secure_delete``).

Refused: counting references (every batch would pay for what is rarely asked).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from clearstone.errors import StoreError, TraceNotFoundError
from clearstone.span import StatusCode
from clearstone.store import blobs, reading, search
from clearstone.store.base import Collected, Erased
from clearstone.store.payloads import RAW, PayloadReader, blob_file, packed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from clearstone.store.database import Database

ABANDONED_SECONDS = 24 * 3600
"""A blob file nobody names is younger than this where its span is still on its way."""

_COLUMNS = ("input", "output", "error", "effects")
_DOOMED = "SELECT span_id FROM spans WHERE trace_id IN (SELECT trace_id FROM doomed)"
_REFERRED = " UNION ALL ".join(
    [
        *(f"SELECT {column} FROM spans WHERE typeof({column}) = 'integer'" for column in _COLUMNS),  # noqa: S608
        "SELECT value FROM chunks WHERE typeof(value) = 'integer'",
    ]
)
_BLOB_SIZE = 17 + blobs.NAME_SIZE
_IN_FILES = [
    *(f"SELECT {column} FROM spans WHERE length({column}) = {_BLOB_SIZE}" for column in _COLUMNS),  # noqa: S608
    f"SELECT value FROM chunks WHERE length(value) = {_BLOB_SIZE}",  # noqa: S608
]


class Eraser:
    """Erases traces.

    Args:
        database: the file.
        folder: where blob files are.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def forget(self, trace_id: str) -> Erased:
        """Erase one trace (see `TraceStore.forget`)."""
        before = self._measure()
        with self._erasing() as db:
            db.execute("INSERT INTO doomed VALUES (?)", (reading.trace_bytes(trace_id),))
            search.forget(db, PayloadReader(db, self._folder), _DOOMED)
            spans, payloads, files = self._erase(db)
            if not spans:
                raise TraceNotFoundError(
                    f"no trace {trace_id!r} in {self._database.path}; 'clearstone traces' lists what is there"
                )
        size = self._delete_files(files)
        self._database.shrink()
        return Erased(spans, payloads, len(files), before - self._database.size() + size)

    def collect(self, older_than_ns: int, *, keep_failed: bool, dry_run: bool) -> Collected:
        """Erase old traces (see `TraceStore.collect`)."""
        if dry_run:
            return self._rehearse(older_than_ns, keep_failed=keep_failed)
        before = self._measure()
        with self._erasing() as db:
            traces = _choose(db, older_than_ns, keep_failed=keep_failed)
            search.forget(db, PayloadReader(db, self._folder), _DOOMED)
            spans, _, files = self._erase(db)
        with self._database.reading() as db:
            files |= self._abandoned(db)
        size = self._delete_files(files)
        self._database.shrink()
        return Collected(traces, spans, before - self._database.size() + size)

    def _rehearse(self, older_than_ns: int, *, keep_failed: bool) -> Collected:
        """Erase, see what becomes free, and take it back."""
        with self._database.reading() as db:
            size = sum(map(self._size_of, self._abandoned(db)))
        with contextlib.suppress(_TakenBackError), self._erasing() as db:
            free = _free_bytes(db)
            traces = _choose(db, older_than_ns, keep_failed=keep_failed)
            spans, _, files = self._erase(db)
            size += _free_bytes(db) - free + sum(map(self._size_of, files))
            raise _TakenBackError
        return Collected(traces, spans, size)

    def _measure(self) -> int:
        self._database.empty_log()  # it would shrink anyway
        return self._database.size()

    @contextlib.contextmanager
    def _erasing(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that overwrites what it deletes, with an empty table of the traces to erase."""
        with self._database.writing() as db:
            db.execute("PRAGMA secure_delete = ON").fetchall()
            db.execute("CREATE TEMP TABLE doomed (trace_id BLOB PRIMARY KEY)")
            yield db
            db.execute("DROP TABLE doomed")

    def _erase(self, db: sqlite3.Connection) -> tuple[int, int, set[bytes]]:
        """Erase the traces of the table; return how many spans and payload rows, and which files are left."""
        files = _files(db, f"AND span_id IN ({_DOOMED})")
        spans = db.execute("DELETE FROM spans WHERE trace_id IN (SELECT trace_id FROM doomed)").rowcount
        db.execute("DELETE FROM chunks WHERE span_id NOT IN (SELECT span_id FROM spans)")
        payloads = _sweep(db, PayloadReader(db, self._folder))
        db.execute("DELETE FROM sites WHERE id NOT IN (SELECT site FROM spans)")
        db.execute("DELETE FROM processes WHERE id NOT IN (SELECT process FROM spans)")
        return spans, payloads, files - _files(db) if files else files

    def _abandoned(self, db: sqlite3.Connection) -> set[bytes]:
        """Return the names of old blob files that no row has."""
        if not self._folder.is_dir():
            return set()
        until = time.time() - ABANDONED_SECONDS
        old = {os.fsencode(path.name) for path in self._folder.glob(f"*{blobs.SUFFIX}") if _changed(path) < until}
        return old - _files(db) if old else set()

    def _size_of(self, name: bytes) -> int:
        try:
            return (self._folder / os.fsdecode(name)).stat().st_size
        except OSError:
            return 0

    def _delete_files(self, names: Iterable[bytes]) -> int:
        size = 0
        for name in names:
            size += self._size_of(name)
            blobs.delete(self._folder, name)
        return size


class _TakenBackError(Exception):
    """Ends a rehearsal."""


def _choose(db: sqlite3.Connection, older_than_ns: int, *, keep_failed: bool) -> int:
    failed = f"AND NOT max(interrupted OR status = '{StatusCode.ERROR}')" if keep_failed else ""
    return db.execute(
        "INSERT INTO doomed SELECT trace_id FROM spans GROUP BY trace_id "  # noqa: S608 - constants
        f"HAVING max(max(start_ns, coalesce(end_ns, 0))) < ? {failed}",
        (older_than_ns,),
    ).rowcount


def _files(db: sqlite3.Connection, condition: str = "") -> set[bytes]:
    found = (column for query in _IN_FILES for (column,) in db.execute(f"{query} {condition}"))
    return {name for column in found if (name := blob_file(column)) is not None}


def _sweep(db: sqlite3.Connection, reader: PayloadReader) -> int:
    """Delete the payloads nothing refers to; return how many."""
    db.execute("CREATE TEMP TABLE unused (id INTEGER PRIMARY KEY)")
    db.execute(f"INSERT INTO unused SELECT id FROM payloads WHERE id NOT IN ({_REFERRED})")  # noqa: S608 - constants
    for row in db.execute(_RESTING_ON_THEM).fetchall():
        with contextlib.suppress(StoreError):  # it is damaged, and stays so
            _store_anew(db, reader, *row)
    deleted = db.execute("DELETE FROM payloads WHERE id IN (SELECT id FROM unused)").rowcount
    for table in ("raw_data", "packed_data"):
        db.execute(f"DELETE FROM {table} WHERE id IN (SELECT id FROM unused)")  # noqa: S608 - constants
    db.execute("DROP TABLE unused")
    return deleted


_RESTING_ON_THEM = """
SELECT id, base, packed FROM payloads
WHERE base IN (SELECT id FROM unused) AND id NOT IN (SELECT id FROM unused) ORDER BY id
"""


def _store_anew(db: sqlite3.Connection, reader: PayloadReader, number: int, base: int | None, kind: int) -> None:
    """Let a payload rest on the nearest one that stays."""
    while base is not None and db.execute("SELECT 1 FROM unused WHERE id = ?", (base,)).fetchone():
        (base,) = db.execute("SELECT base FROM payloads WHERE id = ?", (base,)).fetchone()
    if kind != RAW:
        kind, base, data, _ = packed(reader, number, base, reader.bytes_of(number))
        db.execute("UPDATE packed_data SET data = ? WHERE id = ?", (data, number))
    db.execute("UPDATE payloads SET packed = ?, base = ? WHERE id = ?", (kind, base, number))


def _free_bytes(db: sqlite3.Connection) -> int:
    (pages,), (size,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_size"))
    return int(pages) * int(size)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone
        return time.time()
