"""`TracerProvider`: a store, a writer and the tracers that feed it.

Invariant: every provider's writer flushes at interpreter exit. A database that is damaged, locked or full is no reason
not to record: the journal keeps what the store does not take.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone import home, processes, run, threads
from clearstone.errors import ConfigurationError, StoreError, StoreUnavailableError, TraceNotFoundError
from clearstone.record import faults
from clearstone.record.default import adopted
from clearstone.record.flushed import Flushed
from clearstone.record.inheritance import bequeath
from clearstone.record.journal import DEFAULT_LIMIT
from clearstone.record.recording import Recording
from clearstone.record.recovery import journal_folder, recover
from clearstone.record.tracer import Tracer
from clearstone.record.writer import Writer
from clearstone.span import Trace
from clearstone.store import blobs, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clearstone.nondet.drawn import Kind
    from clearstone.record.journal import OnFull
    from clearstone.store.base import TraceStore
    from clearstone.store.batch import Batch
    from clearstone.store.sqlite import SQLiteTraceStore

FLUSH_SECONDS = 10.0
GLANCE_SECONDS = 1.0


class TracerProvider:
    """Records spans into one trace database.

    What is recorded lies in a journal beside the database (``traces.db.journal``) until the database has it, so neither
    the death of the process nor a database that is locked, full or down loses it. Opening a provider also recovers what
    dead processes left there.

    Args:
        db_path: the SQLite file, created if it is not there; None for ``traces.db`` in the default home.
        store: a store to use instead of a file. Only one with a file has a journal on disk.
        journal_limit: at most so many bytes of journal.
        payload_limit: a payload of more bytes goes to a file of its own, in ``traces.db.blobs`` beside the database.
        on_full: what happens past the journal's limit: ``"drop-and-count"`` drops records, says so once and counts
            them; ``"block"`` lets the recorded call wait for the store.
        record: what of it is kept that calls draw by chance or from clocks, so that a replay has the same: any of
            ``"random"``, ``"uuid"`` and ``"time"`` (docs/replay.md). Dispatchers then stand in the place of
            `os.urandom`, the clocks and their like in the whole process, until `shutdown`.

    Raises:
        StoreError: the file cannot be created, is no trace database, or is a newer version's. One that is damaged,
            locked or read-only is no error but is said: what is recorded stays in the journal until it can be used.
        ConfigurationError: `on_full` is neither, or `record` names something else.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] | None = None,
        *,
        store: TraceStore | None = None,
        journal_limit: int = DEFAULT_LIMIT,
        on_full: OnFull = "drop-and-count",
        payload_limit: int = blobs.DEFAULT_LIMIT,
        record: Iterable[str] | str = (),
    ) -> None:
        from clearstone.record.live_store import LiveStore  # reading: loaded with the first provider, like the store

        if on_full not in {"block", "drop-and-count"}:
            raise ConfigurationError(f"on_full={on_full!r} is neither 'block' nor 'drop-and-count'")
        self.kept: frozenset[Kind] = _kinds_of(record) if record else frozenset()
        """What is kept of what calls draw."""

        self._store = store if store is not None else _open_store(db_path)
        self.database = path = _file_of(self._store)
        """The SQLite file; None with a store of another kind."""
        self._journal_folder = journal_folder(path) if path is not None else None
        self.blobs = blobs.folder_of(path) if path is not None else None
        self.payload_limit = payload_limit
        self._writer = Writer(self._store, self._journal_folder, journal_limit, on_full, self._recover)
        self.journal = self._writer.journal
        self._tracers: dict[tuple[str, str], Tracer] = {}
        self.recording = self.get_tracer().recording
        self.trace_store = LiveStore(self, self._store)
        threads.carry_into_threads()
        processes.carry_into_processes()
        self._keeping = contextlib.ExitStack()
        if self.kept:
            self._keep()
        if self._journal_folder is not None and self._journal_folder.exists():
            self._writer.wake()  # another process may have left something there

    def _keep(self) -> None:
        from clearstone.nondet import keeping

        try:
            self._keeping.enter_context(keeping(self.kept))
        except Exception:  # freezegun holds the clock
            self._store.close()
            raise
        atexit.register(self._keeping.close)  # the interpreter takes apart what dispatchers are made of

    def ticket(self, trace: bytes, number: int) -> run.Ticket:
        """Return a picklable function that gives, in another process, the span `number` of `trace` to be below.

        Calls below it are recorded there into this provider's database by a provider of that process; where this one
        has a store of another kind, into that process's default database. Checkpoints go into this process's home.
        Secrets are redacted there as here (see `record.inheritance`).
        """
        database = self.database.absolute() if self.database is not None else None
        return partial(adopted, trace, number, database, home.home(), bequeath(self.payload_limit))

    def get_tracer(self, name: str = "", version: str = "") -> Tracer:
        """Return the tracer for the component `name`, of version `version`."""
        key = (str(name), str(version))
        tracer = self._tracers.get(key)
        if tracer is None:
            tracer = Tracer(self, *key)
            tracer.recording = Recording(tracer)
            tracer = self._tracers.setdefault(key, tracer)
        return tracer

    def flush(self, timeout: float = FLUSH_SECONDS) -> Flushed:
        """Wait until every span so far is in the store.

        Args:
            timeout: at most so many seconds.

        Returns:
            What came of it; true where everything is stored. What is not stays in the journal.
        """
        return self._report(self._writer.flush(timeout))

    def shutdown(self, timeout: float = FLUSH_SECONDS) -> Flushed:
        """Flush at once and end the writer's thread. May be called twice; spans that end later are still stored.

        Args:
            timeout: it gives up after so many seconds in which the store took nothing.

        Returns:
            What came of it; true where everything is stored. If not, that is also said on standard error, and the
            journal stays for the next process that opens the database.
        """
        self.kept = frozenset()
        self._keeping.close()
        atexit.unregister(self._keeping.close)
        report = self._report(self._writer.close(timeout))
        if (not report and not self.journal.is_inside()) or report.dropped:  # inside: stored when the append goes on
            faults.report("storing spans", StoreError(str(report)), "is left to who opens the database next")
        self._store.close()
        return report

    def _report(self, stored: bool) -> Flushed:
        journal, problem = self.journal, self._writer.problem
        waiting = 0 if stored else journal.appended - journal.stored
        return Flushed(stored, waiting, journal.dropped, str(problem) if problem is not None else "")

    def _recover(self) -> None:
        """Take over what dead processes left. Runs on the writer's thread."""
        if self._journal_folder is None:
            return
        try:
            recover(self._store, self._journal_folder)
        except Exception as error:
            faults.report("recovering the journal of a process that died", error)

    def trace_so_far(self, trace_id: str) -> Trace:
        """Return every span of a trace: stored, on its way to the store, and open in this process.

        Where the store cannot be read, the other two; the fault is counted. A store that is slow is not waited for
        long: what it has not taken yet is known here.
        """
        # what waits is taken before the store is read: what the writer moves meanwhile is then in both, not in neither
        waiting = None if self._writer.flush(GLANCE_SECONDS) else self._writer.unstored()
        trace = _trace_or_nothing(self._store, trace_id)
        if waiting is not None:
            trace = trace.merged(self._with(waiting, trace))
        return trace.merged(self.open_part(trace_id))

    def _with(self, waiting: Batch, stored: Trace) -> Trace:
        """Return the spans of a trace that wait for the store: new ones, and open ones of which something waits."""
        from clearstone.store.memory import MemoryTraceStore  # at a checkpoint; programs that only record need it not

        of = {end.span_id for end in waiting.ends} | {chunk.span_id for chunk in waiting.chunks}
        began = rows.batch_of(span for span in stored if span.is_open)
        spans = [row for row in began.spans if row.span_id in of]
        store = MemoryTraceStore(self.blobs)
        store.apply(began._replace(spans=spans))
        store.apply(waiting)
        return _trace_or_nothing(store, stored.trace_id)

    def open_part(self, trace_id: str) -> Trace:
        """Return the open spans of a trace that belong to this provider, as they are now."""
        mine = (span for span in run.open_spans() if span.trace_id == trace_id and span.recording is self.recording)
        return Trace(trace_id, tuple(span.snapshot() for span in mine))


def _trace_or_nothing(store: TraceStore, trace_id: str) -> Trace:
    try:
        return store.get_trace(trace_id)
    except TraceNotFoundError:
        pass
    except StoreError as error:
        faults.report("reading a trace back", error)
    return Trace(trace_id)


def _kinds_of(record: Iterable[str] | str) -> frozenset[Kind]:
    from clearstone.record.drawing import kinds_of  # with all that draws

    return kinds_of(record)


def _file_of(store: TraceStore) -> Path | None:
    from clearstone.store.sqlite import SQLiteTraceStore  # loaded with the first provider, not by `import clearstone`

    return store.path if isinstance(store, SQLiteTraceStore) else None


def _open_store(db_path: str | os.PathLike[str] | None) -> SQLiteTraceStore:
    from clearstone.store.sqlite import SQLiteTraceStore

    if db_path is None:
        try:
            home.ensure_home()
        except OSError as error:
            where = error.filename or "the working directory"  # which may be gone
            told = f"the folder for records cannot be created ({error.strerror}: {where})"
            raise StoreError(f"{told}; set CLEARSTONE_HOME to one that can") from error
    store = SQLiteTraceStore(Path(db_path) if db_path is not None else home.trace_file())
    try:
        store.open()
    except StoreUnavailableError as error:  # it opens itself again when it is used
        faults.report("opening the trace database", error)
    return store
