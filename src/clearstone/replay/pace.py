"""How long a served call takes on the replay's clock: as long as it did.

Idea: at its beginning the clock goes to where it was then, and at its end to where it was at the end; the items of a
stream come at their times. A coroutine and an async stream wait for that on the event loop, whose timers fire at once,
so tasks go on in the order they did, and a timeout ends a stream where it did; a plain call moves the clock.

With a real pace an item of a stream really takes the time by which the clock moves for it. On the event loop the timers
take real time meanwhile, its order stays the same and other tasks run; a plain stream holds up its thread, as it did.

Invariant: no clock goes back: of two calls that overlap in threads, the one that is answered later finds the time that
the other has reached.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from clearstone.nondet.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clearstone.nondet import VirtualClock
    from clearstone.nondet.loop import VirtualLoop
    from clearstone.span import Span

LONGER = 3600.0
"""Seconds that a call waits for its end longer than it did. A replay's clock gets there at once, unless a task wakes up
all the time: then it must not take for ever."""

GRACE = 1.0
"""Seconds that who cancelled a call then has more for it, once the clock is the real one."""


class Pace:
    """The end of one served call (see `clearstone.run.Pace`).

    Args:
        clock: the replay's; None where it does not follow the record.
        span: the recorded call.
        finish: what is done when it ends.
        at_end: whether that is when its stream ends, and not when that is handed out.
        wait: waits really for so many seconds; None where no item is waited for.
        item: what is done before each item is given.
    """

    __slots__ = ("_at_end", "_clock", "_finish", "_given", "_item", "_span", "_wait")

    def __init__(
        self,
        clock: VirtualClock | None,
        span: Span,
        finish: Callable[[], object] | None,
        *,
        at_end: bool = False,
        wait: Callable[[float], object] | None = None,
        item: Callable[[], object] | None = None,
    ) -> None:
        self._at_end = at_end
        self._clock = clock
        self._span = span
        self._finish = finish
        self._wait = wait
        self._item = item
        self._given = 0
        if clock is not None:
            clock.follow(span.start_ns)

    def at_once(self) -> None:
        """End a call that nobody awaits."""
        if self._clock is not None and self._span.end_ns is not None:
            self._clock.reach_wall(self._span.end_ns)
        self.finish()

    async def later(self) -> None:
        """End a call that is awaited."""
        end, clock = self._span.end_ns, self._clock
        try:
            if end is None or clock is None:
                return
            if _virtual_loop() is not None:
                await asyncio.sleep(max(0, end - max(self._span.start_ns, clock.time_ns())) / SECOND)
            else:
                clock.reach_wall(end)
        finally:
            self.finish()

    async def forever(self) -> None:
        """Wait to be cancelled, until the clock has nothing else to wait for.

        Where the clock becomes the real one meanwhile, whoever did it then has as long as it took, and a second.
        """
        loop = asyncio.get_running_loop()
        live, took = loop.create_future(), max(0, (self._span.end_ns or 0) - self._span.start_ns) / SECOND
        with self._clock.when_live(partial(_set, loop, live)) if self._clock is not None else contextlib.nullcontext():
            await asyncio.wait([live], timeout=took + LONGER)
        if live.done():
            await asyncio.sleep(took + GRACE)

    def opened(self) -> None:
        """Begin to read a stream."""
        if not self._at_end:
            self.finish()

    def read(self, items: Iterable[Any]) -> Iterator[Any]:
        """Give the items of a stream, each at its time, and end it with them or before them."""
        self.opened()
        try:
            for item in items:
                seconds = self._until_next()
                if self._wait is not None:
                    self._wait(seconds)
                self._reach_next()
                yield item
        finally:
            self.finish()

    async def come(self) -> None:
        """Wait for the time of the next item; one that was cancelled is waited for once more."""
        seconds, loop = self._until_next(), _virtual_loop()
        if seconds and loop is not None and self._clock is not None:
            with loop.real_timers() if self._wait is not None else contextlib.nullcontext():
                await asyncio.sleep(seconds)
        elif seconds and self._wait is not None:
            await asyncio.sleep(seconds)  # on a loop whose timers are real
        self._reach_next()

    def _until_next(self) -> float:
        """Return the seconds on the clock until the next item; 0 for more of them than were recorded."""
        chunks, given = self._span.chunks, self._given
        if given >= len(chunks):
            return 0.0
        before = chunks[given - 1].at_ns if given else self._span.start_ns
        now = self._clock.time_ns() if self._clock is not None else before
        return max(0, chunks[given].at_ns - now) / SECOND

    def _reach_next(self) -> None:
        if self._given < len(self._span.chunks):
            self._given += 1
            if self._clock is not None:
                self._clock.reach_wall(self._span.chunks[self._given - 1].at_ns)
        if self._item is not None:
            self._item()

    def finish(self) -> None:
        """Do what is to be done at its end, once."""
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()


def _set(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Set a future, from any thread, unless it is done or its loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_set_now, future)


def _set_now(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _virtual_loop() -> VirtualLoop | None:
    """Return the running loop where its timers follow a replay's clock; None in any other."""
    from clearstone.nondet.loop import VirtualLoop

    loop = asyncio.get_running_loop()
    return loop if isinstance(loop, VirtualLoop) else None
