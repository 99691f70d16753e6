"""How long a served call takes on the replay's clock: as long as it did.

Idea: at its beginning the clock goes to where it was then, and at its end to where it was at the end. A coroutine waits
for that on the event loop, whose timers fire at once, so tasks go on in the order they did; a plain call moves the
clock.

Invariant: no clock goes back: of two calls that overlap in threads, the one that is answered later finds the time that
the other has reached.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from clearstone.nondet.clock import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from clearstone.nondet import VirtualClock
    from clearstone.span import Chunk, Span


class Pace:
    """The end of one served call (see `clearstone.run.Pace`).

    Args:
        clock: the replay's; None where it does not follow the record.
        span: the recorded call.
        finish: what is done when it ends.
        at_end: whether that is when its stream ends, and not when that is handed out.
    """

    __slots__ = ("_at_end", "_clock", "_finish", "_span")

    def __init__(
        self, clock: VirtualClock | None, span: Span, finish: Callable[[], object] | None, *, at_end: bool = False
    ) -> None:
        self._at_end = at_end
        self._clock = clock
        self._span = span
        self._finish = finish
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
            if _is_virtual(asyncio.get_running_loop()):
                await asyncio.sleep(max(0, end - max(self._span.start_ns, clock.time_ns())) / SECOND)
            else:
                clock.reach_wall(end)
        finally:
            self.finish()

    def read(self, items: Iterable[Any]) -> Iterator[Any]:
        """Give the items of a stream, and end it with them or before them."""
        if not self._at_end:
            self.finish()
        try:
            yield from items
        finally:
            self.finish()

    def finish(self) -> None:
        """Do what is to be done at its end, once."""
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()


def timed(clock: VirtualClock, chunks: Sequence[Chunk], values: Any) -> Iterator[Any]:
    """Give the items of a stream, each at its time; more than there were, at the time of the last."""
    for number, value in enumerate(values):
        if number < len(chunks):
            clock.reach_wall(chunks[number].at_ns)
        yield value


def _is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    from clearstone.nondet.loop import VirtualLoop

    return isinstance(loop, VirtualLoop)
