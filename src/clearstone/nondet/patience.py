"""How long an event loop waits really before it jumps its clock to the next timer.

Idea: where nobody outside the loop can wake it, the wait for a timer is known to be idle and costs nothing. Who can
wake it: a job in an executor (any future of a thread wrapped for this loop), a file descriptor, a thread started
meanwhile.

Invariant: while a job or a descriptor is awaited, no timeout fires earlier in real time than it would without us. So
``wait_for(to_thread(work), 10)`` times out after ten real seconds or not at all.

Refused: jumping after a fixed short wait (a job slower than that would time out in the replay alone); never jumping
while a job runs (a job that waits for a timer would never end). Short timers get `GRACE` in addition, once per job: a
machine that is slower today shall not see a timeout that the recording did not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import threading
import weakref
from typing import Any

GRACE = 0.5  # seconds of real time


class Patience:
    """Counts who may still wake a loop. Used by the loop's thread; `stir` by any."""

    def __init__(self) -> None:
        self.real = 0
        """How many want timers to take the real time."""

        self._jobs = 0
        self._left = 0.0
        self._seen = weakref.WeakSet(threading.enumerate())
        self._before = weakref.WeakSet(self._seen)

    def expect(self, future: asyncio.Future[Any]) -> None:
        """Wait for `future`, which a thread will set."""
        self._jobs += 1
        self._left = GRACE
        future.add_done_callback(self._arrived)

    def _arrived(self, _future: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    def stir(self) -> None:
        """Take note that another thread has called the loop: it may do so again."""
        if not _is_worker(threading.current_thread()):
            self._left = GRACE

    def real_seconds(self, timeout: float, *, descriptors: bool) -> float:
        """Return how long to wait really for a timer `timeout` seconds away.

        Args:
            timeout: seconds on the virtual clock.
            descriptors: whether the loop watches a file descriptor of somebody else.
        """
        strangers = self._strangers()
        if self._jobs:
            return max(timeout, self._left)
        return max(timeout if descriptors or self.real else 0.0, self._left if strangers else 0.0)

    def waited(self, seconds: float) -> None:
        """Take note of a real wait in which nobody came."""
        self._left = max(0.0, self._left - seconds)

    def _strangers(self) -> bool:
        """Whether threads run that did not when the loop was made; one not seen before gets its grace."""
        running = {thread for thread in threading.enumerate() if thread not in self._before and not _is_worker(thread)}
        if not running.issubset(self._seen):
            self._seen.update(running)
            self._left = GRACE
        return bool(running)


def _is_worker(thread: threading.Thread) -> bool:
    """Whether `thread` belongs to a pool: what pools do for a loop is counted, and between jobs they live on."""
    return thread in concurrent.futures.thread._threads_queues
