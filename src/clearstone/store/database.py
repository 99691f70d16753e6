"""One SQLite file: opening, refusing, locking, forking.

Idea: one connection, one lock. Reading is rare beside writing, and a batch is one transaction; the write-ahead log
lets readers of other connections and processes go on meanwhile.

Invariant: a file that is not ours, or from a newer version, is refused before anything is written to it; `sqlite3`
errors leave this file as `StoreError` only. What may become usable again without anybody giving another file is a
`StoreUnavailableError`, and is opened anew at the next use.

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

from clearstone.errors import StoreError, StoreUnavailableError
from clearstone.store import migrations, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_SECONDS = 10.0
RETRY_SECONDS = 0.01
CACHE_KB = 8192
LOG_PAGES = 4000  # of 4 KB; the pages a batch touches in the indexes are then written back once for many batches
OLDEST_SQLITE = (3, 35)  # UPDATE ... FROM, and rows with more than 999 values
_inherited: list[sqlite3.Connection] = []  # after a fork: neither used nor closed, as SQLite asks


class Database:
    """A trace database's file.

    Args:
        path: the file; it and its folder are created when it is first used.
        create: False to refuse a file that does not exist (a reader creates nothing).
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._unchanging = False
        self.path = Path(path).absolute()  # it opens itself again, perhaps after the program changed its folder
        self._create = create
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time.

        Raises:
            StoreError: the file cannot be used.
        """
        with self._lock:
            try:
                self._let_go_of_a_removed_file()
                if self._db is None:
                    self._db, self._file = self._open(), _identity(self.path)
                yield self._db
            except sqlite3.Error as error:
                raise self._fault(error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction: all that is done is kept, or nothing.

        Raises:
            StoreError: the file cannot be written; nothing was.
        """
        with self.using() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # some failures have rolled it back already
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self, *, waiting: bool = False) -> Iterator[sqlite3.Connection]:
        """Read one state of the file, whatever is written meanwhile.

        Beside a writer that waits for another process it is read on a connection of its own, for the moment; so it is
        in a signal handler that has interrupted who uses the first one in this thread.

        Args:
            waiting: True to wait for the connection that is written through, instead.

        Raises:
            StoreError: the file cannot be read.
        """
        if self._lock.acquire(blocking=waiting):
            try:
                with self.using() as db:
                    if not db.in_transaction:
                        with _snapshot(db):
                            yield db
                        return
            finally:
                self._lock.release()
        with self.apart() as db:
            yield db

    @contextlib.contextmanager
    def apart(self) -> Iterator[sqlite3.Connection]:
        """Read one state of the file on a connection of its own, closed at the end; nobody is held up.

        Raises:
            StoreError: the file cannot be used.
        """
        try:
            db, owner = self._open(), os.getpid()
            try:
                db.execute("BEGIN")
                yield db
            finally:
                _close(db, owner)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def size(self) -> int:
        """Return how many bytes the file and its log take."""
        return sum(path.stat().st_size for path in (self.path, _log_of(self.path)) if path.exists())

    def shrink(self) -> None:
        """Give back the room of what was deleted, and empty the log.

        Raises:
            StoreError: that cannot be done now.
        """
        with self.using() as db:
            (pages_alone,) = db.execute("PRAGMA auto_vacuum").fetchone()
            db.executescript("PRAGMA incremental_vacuum" if pages_alone else "VACUUM")  # `execute` gives back one page
        self.empty_log()

    def empty_log(self) -> None:
        """Move the log into the file, as far as nobody reads it: it still holds what was deleted.

        Where somebody does, nobody waits for them: the last to close the file does the rest.

        Raises:
            StoreError: that cannot be done now.
        """
        with self.using() as db:
            db.execute("PRAGMA busy_timeout = 0").fetchall()
            try:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}").fetchall()

    def close(self) -> None:
        """Close the connection; the log is merged into the file. Using the database again opens it again."""
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

    def _let_go_of_a_removed_file(self) -> None:
        """SQLite would go on writing into a file that no longer has a name, and reading one it takes for unchanging."""
        if self._db is not None and (self._unchanging or _identity(self.path) != self._file):
            self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(f"this Python has SQLite {sqlite3.sqlite_version}; 3.35 or newer is needed")
        self._check_place()
        try:
            opened = self._connected(self.path.as_uri())
        except sqlite3.OperationalError as error:
            if _code(error) not in _NOT_WRITABLE:
                raise
            return self._open_in_a_read_only_folder()
        self._unchanging = False
        return opened

    def _open_in_a_read_only_folder(self) -> sqlite3.Connection:
        """Where SQLite cannot put its log, it can still read a file that nobody changes."""
        log = _log_of(self.path)
        if log.exists() and log.stat().st_size:
            raise StoreError(
                f"{self.path} has a log beside it ({log.name}) and stands in a folder that may not be "
                f"written, so SQLite cannot read it there; copy both files to another folder and give --db"
            )
        self._unchanging = True
        return self._connected(f"{self.path.as_uri()}?immutable=1")

    def _connected(self, address: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None,
            cached_statements=256,
        )  # fmt: skip
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _fault(self, error: sqlite3.Error) -> StoreError:
        code, told = _code(error), f"{self.path} cannot be used as a trace database: {error}"
        if code == sqlite3.SQLITE_NOTADB and not self._was_a_database():
            return StoreError(f"{told}; give another file with --db")
        return StoreUnavailableError(f"{told}{_HINTS.get(code, '')}")

    def _was_a_database(self) -> bool:
        """Whether a file that SQLite does not know is a damaged database: it begins as one, or a crash left zeros."""
        try:
            with self.path.open("rb") as file:
                begin = file.read(len(_MAGIC))
        except OSError:
            return True
        return begin == _MAGIC or not any(begin)

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
        tables = _count_tables(db)  # first: another process may be at it
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
            _begin_file(db)
        if version < schema.VERSION:
            _bring_up_to_date(db)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}").fetchall()


_MAGIC = b"SQLite format 3\0"
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_DAMAGED = "; move it away to begin a new one, or restore a copy: what is recorded meanwhile stays in the journal"
_NETWORK = (
    "; SQLite's log needs a local disk, not a network file system: set CLEARSTONE_HOME to a folder on one. What is "
    "recorded meanwhile stays in the journal"
)
_HINTS = {
    sqlite3.SQLITE_BUSY: "; another process is writing it, try again when that has ended",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: "; make room on the disk: what is recorded meanwhile stays in the journal",
    sqlite3.SQLITE_IOERR: _NETWORK,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_PROTOCOL: _NETWORK,
    sqlite3.SQLITE_READONLY: "; the file, its folder or its file system is read-only: give another with --db",
}


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Without a transaction each statement would see another state."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _close(db: sqlite3.Connection, owner: int) -> None:
    """Close a connection; in a forked child its parent's is left alone."""
    if os.getpid() == owner:
        db.close()
    else:
        _inherited.append(db)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _count_tables(db: sqlite3.Connection) -> int:
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return int(tables)


def _begin_file(db: sqlite3.Connection) -> None:
    """Choose what can only be chosen before there is a table: pages given back one by one, and the log."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_write_ahead_log(db)


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    db.execute("BEGIN EXCLUSIVE")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if not _count_tables(db):
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            migrations.create(db)
        elif version < schema.VERSION:  # it may have been brought up to date while this process waited
            migrations.migrate(db, version)
        db.execute(f"PRAGMA user_version = {schema.VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


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
