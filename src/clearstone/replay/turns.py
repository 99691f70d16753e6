"""Replays that are awaited at once go one after the other.

Idea: each waits for the future of the one before it. What exists once per process belongs to one of them at a time:
numpy's global generator, ``sys.argv`` while a script is imported, the module that a script is imported as.

Invariant: the order is that in which they came, and one that is cancelled while it waits keeps nobody waiting. Those
within a replay take turns among themselves: the one around them has its turn, and waits for them.

Refused: a lock (its waiting cannot be cancelled, and holds up an event loop).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """Lets one go after the other, in the order they come, whatever loops and threads they are of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = _told()
        self._last.set_result(None)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for those before, and keep those behind waiting, until the ``async with`` ends."""
        own = _told()
        with self._lock:
            before, self._last = self._last, own
        try:
            await asyncio.wrap_future(before)
        except BaseException:
            before.add_done_callback(lambda _: own.set_result(None))  # those behind still wait for those before
            raise
        try:
            yield
        finally:
            own.set_result(None)


def _told() -> Future[None]:
    """Return a future that a waiting task does not take away from others when it is cancelled."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
