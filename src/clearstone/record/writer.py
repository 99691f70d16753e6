"""The background writer: records go from the journal into the store in batches.

Idea: one daemon thread. What it finds in the journal, up to a few thousand records, is one transaction; when the store
has taken it, the journal lets go of it. It begins a fifth of a second after the first record came, or when a segment's
worth is there: a batch is worth its transaction then, and a burst of calls has the interpreter to itself. When no more
records come it does what could wait (compress, recover what children left) and parks, and the next append wakes it.

Invariant: a record stays in the journal until the store has taken it. A store that is locked, full or down loses
nothing: the batch is tried again, with growing pauses, while the journal grows. After `close`, and where no thread can
be started, records are stored by the calling thread. Nobody waits for the writer who keeps it from writing: its own
thread does not, nor does a signal handler that interrupted a batch.

Refused: a notification per record (a system call on the caller's way); a poll that never ends (an idle process should
sleep).
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Literal

from clearstone.record import faults, layout, lifetime, upkeep
from clearstone.record.batches import Assembler, store_records
from clearstone.record.journal import Journal
from clearstone.record.supply import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clearstone.record.journal import OnFull
    from clearstone.store.base import TraceStore
    from clearstone.store.batch import Batch

Need = Literal["look", "room", "flush"]
"""Why the writer is woken: something came; nothing has room any more; somebody waits until all is stored."""

MOST_BYTES = 4 << 20
MOST_RECORDS = 4000
LOOK_SECONDS, GLANCE_SECONDS = 0.2, 0.05
LOOKS_BEFORE_PARKING = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
LOOK_AGAIN_SECONDS = 0.5
"""A flush looks again after so long, in case the writer's word was missed: a signal handler may have come between."""

TIDY_SECONDS, TIDY_AT_CLOSE_SECONDS = 0.2, 1.0
FORK_SECONDS = 1.0


class Writer:
    """Moves records from a journal of its own into `store`.

    Args:
        store: where they go.
        folder: where the journal is; None for memory.
        limit: at most so many bytes of journal.
        on_full: what becomes of records past it (see `Journal`).
        recover: takes over what dead processes left; called on the writer's thread at its start and when it is idle.
    """

    def __init__(
        self, store: TraceStore, folder: Path | None, limit: int, on_full: OnFull, recover: Callable[[], None]
    ) -> None:
        self._store = store
        self._recover = recover
        self.journal = Journal(folder, self.wake, limit, on_full, self._may_wait)
        self._reset()
        lifetime.writers.add(self)

    def _reset(self) -> None:
        self._assembler = Assembler(self.journal.process)
        self._bell = threading.Lock()  # locked: silent. Whoever wakes releases it, as no Event may be in a handler
        self._bell.acquire()
        self._progress = threading.Condition()
        self._one_at_a_time = threading.RLock()
        self._storing = self._recovering = self._hurried = False
        self._waiting_to_fork: set[int] = set()  # threads, by their idents; no lock: each knows of its own alone
        self._forking: set[int] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._try_again_at = 0.0
        self._problem: BaseException | None = None

    # --- any thread --------------------------------------------------------------------------------------------------

    def wake(self, need: Need = "look") -> None:
        """Store what is in the journal. The first time this starts the thread; after `close` it stores at once.

        Args:
            need: why. ``"look"`` leaves the time to the writer, the others mean now; ``"flush"`` also in a pause after
                the store failed, which records that find no room must not cut short.
        """
        thread = self._thread
        if need != "look":
            self._hurried = True
        if self._closed:
            self._store_late()
        elif thread is None or not thread.is_alive():
            self._start()
        elif need == "flush" or self._problem is None or self.journal.parked:
            self._ring()

    def _ring(self) -> None:
        self.journal.parked = False  # until the writer has its turn, the others would ring too
        try:  # at once: a signal handler that leaves may come after the call in here, and must not come before it
            self._bell.release()
        except RuntimeError:
            return  # it rings already
        finally:
            if self._closed:  # meanwhile
                self.journal.parked = True

    def flush(self, timeout: float) -> bool:
        """Wait until everything appended so far is stored.

        Args:
            timeout: at most so many seconds.

        Returns:
            Whether it is. What the opening found of dead processes is waited for too. On the writer's own thread, and
            inside a batch, nothing is waited for.
        """
        target, until = self.journal.appended, time.monotonic() + timeout
        if self.journal.stored < target:
            self.wake("flush")
        with self._progress:
            while (self.journal.stored < target or self._recovering) and self._can_wait():
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._progress.wait(min(left, LOOK_AGAIN_SECONDS))
        return self.journal.stored >= target

    def close(self, timeout: float) -> bool:
        """Flush, tidy for a second at most, and end the thread; may be called again.

        Args:
            timeout: it gives up after so many seconds in which the store took nothing.

        Returns:
            Whether everything is stored.
        """
        first, self._closed = not self._closed, True  # from now on whoever appends stores it: nobody runs ahead of this
        self._ring()
        flushed = self._drain(timeout)
        self._try_again_at = 0.0
        if flushed and first:
            self._tidy_up_to(TIDY_AT_CLOSE_SECONDS)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout if flushed else 0)
        if flushed and self._store_the_rest():  # what came before the thread saw that it is closed
            self.journal.close()
            lifetime.running.discard(self)
        return flushed

    def _drain(self, timeout: float) -> bool:
        """Store in this thread what is there now; give up after so many seconds in which the store took nothing."""
        target, until = self.journal.appended, time.monotonic() + timeout
        while self.journal.stored < target:
            if not self._may_store(until - time.monotonic()):
                return False
            try:
                inside, stored = self._storing, self._try_batch()
            finally:
                self._one_at_a_time.release()
            if stored:
                until = time.monotonic() + timeout
            elif inside or time.monotonic() >= until:
                return False
            else:
                threading.Event().wait(FIRST_PAUSE)
        return True

    def interrupt_open_spans(self) -> None:
        """Mark what has not ended as interrupted, for the process is about to end; what ends after all is unmarked."""
        with self._alone() as alone:
            if alone:
                upkeep.interrupt(self._store, self.journal.process.token)

    @property
    def problem(self) -> BaseException | None:
        """Why the store does not take what waits, if it does not."""
        return self._problem

    def unstored(self) -> Batch:
        """Return what is in the journal and not in the store. It does not wait for a batch that the store holds up."""
        return Assembler(self.journal.process).batch([*self.journal.sites.definitions, *self.journal.unstored()])

    def _may_wait(self) -> bool:
        """Whether a recorded call may wait for room. Not at the end of the interpreter, which would wait for it."""
        return self._can_wait() and threading.main_thread().is_alive()

    def _can_wait(self) -> bool:
        """Whether the writer works, and does not wait for the calling thread."""
        thread = self._thread
        if self._closed or thread is None or not thread.is_alive() or thread is threading.current_thread():
            return False
        return not self._stores_in_this_thread() and not self.journal.is_inside()

    def _stores_in_this_thread(self) -> bool:
        """Whether a batch is being stored further up in this thread, interrupted by a signal handler or `__del__`."""
        if not self._one_at_a_time.acquire(blocking=False):
            return False
        try:
            return self._storing
        finally:
            self._one_at_a_time.release()

    def _store_late(self) -> None:
        """Store what was appended after `close`; what the store does not take stays in the journal for the next try."""
        lifetime.running.add(self)  # closed again at exit
        if self.journal.is_inside():
            return
        if time.monotonic() >= self._try_again_at and not self._store_the_rest():
            self._try_again_at = time.monotonic() + LONGEST_PAUSE

    def _store_the_rest(self) -> bool:
        """Store what has been appended until now; daemon threads may go on for ever."""
        if not self._may_store(LONGEST_PAUSE):
            return False
        try:
            target = self.journal.appended
            while self.journal.stored < target:
                if not self._try_batch():
                    return False
        finally:
            self._one_at_a_time.release()
        return True

    def _may_store(self, seconds: float) -> bool:
        """Take the lock of whoever stores; never for ever: they may wait for what a signal handler interrupted here."""
        return self._one_at_a_time.acquire(timeout=0.0 if self.journal.is_inside() else max(0.0, seconds))

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="clearstone-writer", daemon=True)
        with self._progress:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread, self._recovering = thread, True
            lifetime.running.add(self)
            lifetime.close_at_the_end_of_a_pool_worker()
            try:
                contextvars.Context().run(thread.start)  # the writer belongs to no span
            except RuntimeError as error:  # no more threads here, or the interpreter is about to end
                self._thread, self._recovering, self._problem = None, False, error
        if self._thread is None:
            self._store_the_rest()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Work until closed, whatever happens; where this ends the next append starts another thread."""
        try:
            self.journal.parked = False
            self._recover()
            self._recovering = False
            with self._progress:
                self._progress.notify_all()
            self._loop()
            self._store_the_rest()
        finally:
            self._recovering = False
            self.journal.parked = True

    def _loop(self) -> None:
        pause, looks = FIRST_PAUSE, 0
        self._let_calls_pass()
        while not self._closed:
            if self._waiting_to_fork:  # a lock goes to whoever is faster, and that is this thread
                self._bell.acquire(timeout=FIRST_PAUSE)
            self.journal.keep_spare()
            if self.journal.stored < self.journal.appended:
                looks = 0
                if not self._try_batch():
                    self._bell.acquire(timeout=pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                    continue
                pause = FIRST_PAUSE
            looks = self._rest(looks)

    def _rest(self, looks: int) -> int:
        """Wait for more; return how often nothing had come."""
        if self._behind() > MOST_BYTES // 4 or self._is_hurried():
            return 0
        if looks < LOOKS_BEFORE_PARKING:
            self._let_calls_pass()
            return looks + 1
        if self._tidy(TIDY_SECONDS):
            return looks  # a look at the journal, then some more
        self._recover()
        self.journal.parked = True
        if self.journal.stored >= self.journal.appended:  # nothing came between the last look and the flag
            self._bell.acquire()
        self.journal.parked = self._closed
        self._let_calls_pass()
        return 0

    def _let_calls_pass(self) -> None:
        """Wait for more, unless somebody waits for the writer or a segment's worth is there; keep a segment ready."""
        until = time.monotonic() + LOOK_SECONDS
        while not self._closed and not self._is_hurried() and self._behind() < LARGEST:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._bell.acquire(timeout=min(left, GLANCE_SECONDS))
            self.journal.keep_spare()

    def _is_hurried(self) -> bool:
        """Whether something in the journal is to be stored now."""
        if self._hurried:
            self._hurried = False  # before the look: who comes after it says so again
            if self._behind() > 0:
                self._hurried = True
        return self._hurried

    def _behind(self) -> int:
        """Return how many bytes the store lacks."""
        return self.journal.appended - self.journal.stored

    def _tidy(self, seconds: float) -> bool:
        """Let the store do what can wait; return whether something is left that may be done now."""
        with self._alone() as alone:
            return alone and upkeep.tidy(self._store, seconds)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Use the store as `_try_batch` does: a handler that interrupts it must not begin a transaction in another."""
        if not self._may_store(LONGEST_PAUSE):
            yield False
            return
        try:
            inside, self._storing = self._storing, True
            try:
                yield not inside
            finally:
                self._storing = inside
        finally:
            self._one_at_a_time.release()

    def _tidy_up_to(self, seconds: float) -> None:
        """Tidy in small pieces, so that no batch waits long for one."""
        until = time.monotonic() + seconds
        while self._tidy(min(TIDY_SECONDS, seconds)) and time.monotonic() < until:
            continue

    def _try_batch(self) -> bool:
        """Store the oldest records; False where the store does not take them now, or the oldest is not there yet."""
        lock = self._one_at_a_time
        with lock:
            if self._storing:  # further up in this thread: it goes on when the handler that called this returns
                return False
            self._storing = True
            try:
                records, size = layout.cut(self.journal.unread(MOST_BYTES), MOST_RECORDS)
                if records:
                    store_records(self._store, self._assembler, records)
                if lock is not self._one_at_a_time:  # forked in there, by a signal handler: it is the parent's batch
                    return False
                self._problem = None
                self.journal.advance(size)
                stored = size > 0 or self.journal.stored >= self.journal.appended  # else the next is being copied
            except Exception as error:  # a store of the user's may raise anything: tried again like any other
                self._problem = error
                faults.report("storing spans", error, "will be tried again; they wait in the journal")
                return False
            finally:
                self._storing = False
        with self._progress:
            self._progress.notify_all()
        return stored

    # --- fork --------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let a batch being written end: a fork in the middle of it would leave SQLite's locks held in the child."""
        me = threading.get_ident()
        self._waiting_to_fork.add(me)
        if self._one_at_a_time.acquire(timeout=FORK_SECONDS):
            self._forking.add(me)
        self._waiting_to_fork.discard(me)
        self.journal.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on writing."""
        self.journal.after_fork_in_parent()
        if threading.get_ident() in self._forking:
            self._forking.discard(threading.get_ident())
            self._one_at_a_time.release()

    def after_fork_in_child(self) -> None:
        """The parent writes what waits; this process starts anew."""
        self.journal.after_fork_in_child()
        lifetime.running.discard(self)
        self._reset()
        upkeep.forget_connection(self._store)
