"""The background writer: spans go from the calling threads into the store in batches.

Idea: a thread-safe deque and one daemon thread, started with the first span. Whatever lies in the deque when the
thread wakes is one transaction.

Invariant: a span is in `_waiting` until the store has taken it, so a store that is locked or full loses nothing while
the process lives: the batch is tried again, with growing pauses. After `close` spans are written by the calling thread.

Refused: a poll interval (a shutdown would wait for it); `queue.Queue` (1.5 us a put, against 0.02 for a deque).
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import itertools
import os
import sys
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from clearstone.errors import StoreError, UnstorableSpanError
from clearstone.record import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.span import Span
    from clearstone.store.base import TraceStore

BATCH = 1000
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
EXIT_SECONDS = 10.0
FORK_SECONDS = 1.0


class Writer:
    """Writes spans to `store` from a thread of its own."""

    def __init__(self, store: TraceStore) -> None:
        self._store = store
        self._reset()
        _writers.add(self)

    def _reset(self) -> None:
        self._waiting: deque[Span] = deque()
        self._changed = threading.Condition()  # on a reentrant lock: a signal handler may put a span too
        self._one_at_a_time = threading.Lock()
        self._held_for_fork = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._written = self._put = 0

    def put(self, span: Span) -> None:
        """Take `span` over; it is stored soon. After `close`: it is stored when this returns.

        Raises:
            StoreError: after `close`, when the store does not take it.
        """
        with self._changed:
            self._waiting.append(span)
            self._put += 1
            late = self._closed
            self._changed.notify_all()
        if late:
            self._write_batch()
        else:
            self._start()

    def waiting(self) -> tuple[Span, ...]:
        """Return the spans that are not yet in the store."""
        with self._changed:
            return tuple(self._waiting)

    def flush(self, timeout: float) -> bool:
        """Wait until everything put so far is stored.

        Args:
            timeout: at most so many seconds.

        Returns:
            Whether it is.
        """
        with self._changed:
            target = self._put
            return self._changed.wait_for(lambda: self._written >= target, timeout)

    def close(self, timeout: float) -> bool:
        """Flush and end the thread; may be called again.

        Args:
            timeout: it gives up after so many seconds in which the store took nothing.

        Returns:
            Whether everything is stored.
        """
        flushed = self._write_the_rest() if self._closed else self._flush_while_it_helps(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        _running.discard(self)
        if self._thread is not None:
            self._thread.join(timeout if flushed else 0)
        return flushed

    def _flush_while_it_helps(self, timeout: float) -> bool:
        written = -1
        while self._written > written:
            written = self._written
            if self.flush(timeout):
                return True
        return False

    def _write_the_rest(self) -> bool:
        while self._waiting:
            if not self._try_batch():
                return False
        return True

    def _start(self) -> None:
        if self._thread is None:
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._loop, name="clearstone-writer", daemon=True)
                    _running.add(self)
                    _close_at_the_end_of_a_pool_worker()
                    contextvars.Context().run(self._thread.start)  # the writer belongs to no span

    def _loop(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
            while self._waiting and not self._closed:
                pause = FIRST_PAUSE if self._try_batch() else self._rest(pause)

    def _try_batch(self) -> bool:
        try:
            self._write_batch()
        except UnstorableSpanError:
            self._drop_the_impossible()
        except StoreError as error:
            faults.report("storing spans", error)
            return False
        return True

    def _drop_the_impossible(self) -> None:
        """Write the first span alone; if that cannot be, it is given up, so that it does not hold up the others."""
        with self._one_at_a_time:
            with self._changed:
                first = self._waiting[0]
            try:
                self._store.write([first])
            except UnstorableSpanError as error:
                faults.report(f"storing the span {first.name!r}", error)
            except StoreError:
                return  # the store itself: this one is tried again with the others
            with self._changed:
                self._waiting.popleft()
                self._written += 1
                self._changed.notify_all()

    def _rest(self, pause: float) -> float:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause)
        return min(pause * 2, LONGEST_PAUSE)

    def _write_batch(self) -> None:
        with self._one_at_a_time:
            with self._changed:
                batch = list(itertools.islice(self._waiting, BATCH))
            self._store.write(batch)
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self._written += len(batch)
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Let a batch being written end: a fork in the middle of it would leave SQLite's locks held in the child."""
        self._held_for_fork = self._one_at_a_time.acquire(timeout=FORK_SECONDS)

    def after_fork_in_parent(self) -> None:
        """Go on writing."""
        if self._held_for_fork:
            self._one_at_a_time.release()

    def after_fork(self) -> None:
        """In a forked child: the parent writes what waits, this process starts anew."""
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
            problem = StoreError(f"the store did not take them in {EXIT_SECONDS:g} s")
            faults.report(f"storing {len(writer.waiting())} span(s)", problem)


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
        after_in_child=lambda: _each_writer(Writer.after_fork),
    )
