"""The background writer: records go from the journal into the store in batches.

Idea: one daemon thread. What it finds in the journal, up to a few thousand records, is one transaction; when the store
has taken it, the journal lets go of it. While records come it looks every few hundredths of a second, so that a batch
is worth its transaction; when none come it parks, and the next append wakes it.

Invariant: a record stays in the journal until the store has taken it. A store that is locked, full or down loses
nothing: the batch is tried again, with growing pauses, while the journal grows. After `close` records are stored by the
calling thread.

Refused: a notification per record (a system call on the caller's way); a poll that never ends (an idle process should
sleep).
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from clearstone.errors import StoreError, UnstorableSpanError
from clearstone.record import faults, layout
from clearstone.record.batches import Assembler
from clearstone.record.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clearstone.record.journal import OnFull
    from clearstone.store.base import Batch, TraceStore

MOST_BYTES = 4 << 20
MOST_RECORDS = 4000
LOOK_SECONDS = 0.05
LOOKS_BEFORE_PARKING = 20
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
EXIT_SECONDS = 10.0
FORK_SECONDS = 1.0


class Writer:
    """Moves records from a journal of its own into `store`.

    Args:
        store: where they go.
        folder: where the journal is; None for memory.
        limit: at most so many bytes of journal.
        on_full: what becomes of records past it (see `Journal`).
        at_start: called once on the writer's thread, before anything is written.
    """

    def __init__(
        self, store: TraceStore, folder: Path | None, limit: int, on_full: OnFull, at_start: Callable[[], None]
    ) -> None:
        self._store = store
        self._at_start = at_start
        self.journal = Journal(folder, self.wake, limit, on_full)
        self._reset()
        _writers.add(self)

    def _reset(self) -> None:
        self._assembler = Assembler(self.journal.process)
        self._bell = (
            threading.Lock()
        )  # locked: silent. Released by whoever wakes; safe in signal handlers, as no Event is
        self._bell.acquire()
        self._progress = threading.Condition()
        self._one_at_a_time = threading.RLock()
        self._held_for_fork = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._problem: BaseException | None = None

    # --- any thread --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look at the journal now. The first time this starts the thread; after `close` it stores at once."""
        if self._closed:
            self._store_late()
        elif self._thread is None:
            self._start()
        else:
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def flush(self, timeout: float) -> bool:
        """Wait until everything appended so far is stored.

        Args:
            timeout: at most so many seconds.

        Returns:
            Whether it is.
        """
        target = self.journal.appended
        if self.journal.stored >= target:
            return True
        self.wake()
        with self._progress:
            return self._progress.wait_for(lambda: self.journal.stored >= target, timeout)

    def close(self, timeout: float) -> bool:
        """Flush and end the thread; may be called again.

        Args:
            timeout: it gives up after so many seconds in which the store took nothing.

        Returns:
            Whether everything is stored.
        """
        flushed = self._store_the_rest() if self._closed else self._flush_while_it_helps(timeout)
        self._closed = True
        self._ring()
        _running.discard(self)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout if flushed else 0)
        self.journal.parked = True  # what is appended from now on is stored by its own thread
        if flushed:
            self.journal.close()
        return flushed

    @property
    def problem(self) -> BaseException | None:
        """Why the store does not take what waits, if it does not."""
        return self._problem

    def unstored(self) -> Batch:
        """Return what is in the journal and not in the store. It does not wait for a batch that the store holds up."""
        return Assembler(self.journal.process).batch([*self.journal.definitions, *self.journal.unstored()])

    def _flush_while_it_helps(self, timeout: float) -> bool:
        stored = -1
        while self.journal.stored > stored:
            stored = self.journal.stored
            if self.flush(timeout):
                return True
        return False

    def _store_late(self) -> None:
        """Store what was appended after `close`; what the store does not take stays in the journal."""
        self._store_the_rest()

    def _store_the_rest(self) -> bool:
        with self._one_at_a_time:
            while self.journal.stored < self.journal.appended:
                if not self._try_batch():
                    return False
        return True

    def _start(self) -> None:
        with self._progress:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="clearstone-writer", daemon=True)
                _running.add(self)
                _close_at_the_end_of_a_pool_worker()
                contextvars.Context().run(self._thread.start)  # the writer belongs to no span

    # --- the thread --------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        self.journal.parked = False
        self._at_start()
        pause, looks = FIRST_PAUSE, 0
        while not self._closed:
            if self.journal.stored < self.journal.appended:
                looks = 0
                if not self._try_batch():
                    self._bell.acquire(timeout=pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                    continue
                pause = FIRST_PAUSE
                self.journal.keep_spare()
            looks = self._rest(looks)

    def _rest(self, looks: int) -> int:
        """Wait for more; return how often nothing had come."""
        if self.journal.appended - self.journal.stored > MOST_BYTES // 4:
            return 0
        if looks < LOOKS_BEFORE_PARKING:
            self._bell.acquire(timeout=LOOK_SECONDS)
            return looks + 1
        self.journal.parked = True
        if self.journal.stored >= self.journal.appended:  # nothing came between the last look and the flag
            self._bell.acquire()
        self.journal.parked = self._closed
        return 0

    def _try_batch(self) -> bool:
        """Store the oldest records; False where the store does not take them now."""
        with self._one_at_a_time:
            data = self.journal.unread(MOST_BYTES)
            records, size = layout.cut(data, MOST_RECORDS)
            try:
                self._write(records)
            except Exception as error:  # a store of the user's may raise anything: tried again like any other
                self._problem = error
                faults.report("storing spans", error)
                return False
            self._problem = None
            self.journal.advance(size)
        with self._progress:
            self._progress.notify_all()
        return True

    def _write(self, records: list[bytes]) -> None:
        try:
            self._store.apply(self._assembler.batch(records))
        except (UnstorableSpanError, ValueError):
            for record in records:
                self._write_alone(record)

    def _write_alone(self, record: bytes) -> None:
        """One that cannot be stored is given up, so that it does not hold up the others."""
        try:
            self._store.apply(self._assembler.batch([record]))
        except (UnstorableSpanError, ValueError) as error:
            faults.report("storing a record", error)

    # --- fork --------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let a batch being written end: a fork in the middle of it would leave SQLite's locks held in the child."""
        self._held_for_fork = self._one_at_a_time.acquire(timeout=FORK_SECONDS)
        self.journal.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on writing."""
        self.journal.after_fork_in_parent()
        if self._held_for_fork:
            self._one_at_a_time.release()

    def after_fork_in_child(self) -> None:
        """The parent writes what waits; this process starts anew."""
        self.journal.after_fork_in_child()
        self._reset()
        forget = getattr(self._store, "forget_connection", None)
        if forget is not None:
            forget()


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_running: set[Writer] = set()  # kept until they are closed: what they hold is written even if its provider is gone


@atexit.register
def _close_all() -> None:
    for writer in list(_running):
        if not writer.close(EXIT_SECONDS):
            problem = StoreError(f"the store did not take them in {EXIT_SECONDS:g} s; they stay in the journal")
            faults.report("storing the last spans", problem)


def _close_at_the_end_of_a_pool_worker() -> None:
    """A child of `multiprocessing` leaves through `os._exit`, past atexit; it runs these finalizers before."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _close_all, exitpriority=0)


def _each_writer(do: Callable[[Writer], None]) -> None:
    for writer in list(_writers):
        with contextlib.suppress(AttributeError):  # forked in the middle of the writer's construction
            do(writer)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _each_writer(Writer.before_fork),
        after_in_parent=lambda: _each_writer(Writer.after_fork_in_parent),
        after_in_child=lambda: _each_writer(Writer.after_fork_in_child),
    )
