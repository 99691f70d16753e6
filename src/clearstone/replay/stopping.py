"""Ending a replay from outside: from another thread, when nobody awaits it any more.

Idea: what is asynchronous in it is cancelled, as a task is. Plain code cannot be interrupted from another thread; it is
ended at its next decorated call, and in the pauses of a stream that is given at its recorded pace.

Invariant: a replay that is asked to stop ends by an exception in its own thread, so all that it has patched is put back
by those who did it.

Refused: raising in the other thread from outside (``PyThreadState_SetAsyncExc``): it may hit those who put things back.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from clearstone.nondet.dispatch import real_sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")

GLANCE = 0.05
"""Seconds of a real pause between two looks whether to stop."""


class ReplayStopped(BaseException):
    """Ends a replay whose code does not stop by itself. No `Exception`: it must not be swallowed."""


current: ContextVar[Stop | None] = ContextVar("clearstone_stop", default=None)
"""What ends the replays that are made in this context: one that is made within another ends with it."""


class Stop:
    """Whether one replay shall end. Asked for from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._cancel: Callable[[], object] | None = None

    def ask(self) -> None:
        """Have the replay end as soon as that can be; doing so twice is harmless."""
        with self._lock:
            asked, self._asked = self._asked, True
            if self._cancel is not None and not asked:
                self._cancel()

    def heed(self) -> None:
        """Go on, unless it is to end.

        Raises:
            ReplayStopped: it is.
        """
        if self._asked:
            raise ReplayStopped("the replay was cancelled")

    def sleep(self, seconds: float) -> None:
        """Wait really; raise as `heed` does."""
        self.heed()
        while seconds > 0:
            real_sleep(min(seconds, GLANCE))
            seconds -= GLANCE
            self.heed()

    async def over(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Await `coroutine`; the task that does it is cancelled where the replay is to end."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        with self._lock:
            around, self._cancel = self._cancel, partial(loop.call_soon_threadsafe, task.cancel) if task else None
        try:
            if self._asked:
                coroutine.close()
                raise asyncio.CancelledError
            return await coroutine
        finally:
            with self._lock:
                self._cancel = around
