"""An asyncio event loop on the context's clock: timers fire at once, in the order of virtual time.

Idea: when everything waits, a loop asks its selector to sleep until the next timer. Ours moves the clock instead, and
waits really only as long as something outside may still wake the loop (`patience`).

Invariant: timers fire in the order of their time, equal ones in the order they were made, and the clock moves by
exactly what was slept. A loop that is not ours runs on the real clock also inside a context: on a clock that stands
still its timers would never fire.

Refused: replacing ``asyncio.sleep`` (timeouts, ``call_later`` and libraries' own timers would stay behind); letting
each pass of the loop move the clock (a sleep of an hour would end at 13:00:00.000017). Only after `FREE_PASSES` without
a pause does a pass count as `PASS_COST`: ``while not done: await asyncio.sleep(0)`` waits for a timer, and never idles.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import selectors
import sys
from asyncio import events
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from clearstone.nondet import clock as clocks
from clearstone.nondet.carry import carried
from clearstone.nondet.dispatch import real_monotonic
from clearstone.nondet.patches import AttributePatch
from clearstone.nondet.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from contextvars import Context

    from clearstone.nondet.clock import VirtualClock
    from clearstone.nondet.patches import Patch

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

FREE_PASSES = 10_000
PASS_COST = 100_000  # nanoseconds
SAME_TIME = 1e-6  # seconds: after a few months of virtual time a float no longer shows the nanosecond asyncio adds


class Moment(float):
    """When a timer is due. Of two equal moments the one made first is earlier, as it is on a clock that runs."""

    __slots__ = ("turn",)
    turn: int

    def __lt__(self, other: float) -> bool:
        if float.__eq__(self, other) and isinstance(other, Moment):
            return self.turn < other.turn
        return float.__lt__(self, other)


class VirtualSelector(selectors.DefaultSelector):
    """Moves the clock where a selector would sleep."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self.patience = Patience()
        self.last_timer = -math.inf
        self._passes = 0
        self._due, self._since = -1, 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, as `selectors.BaseSelector.select` does.

        Args:
            timeout: seconds on the context's clock; None waits until something comes.
        """
        if timeout is None or self._clock.is_live:
            return super().select(timeout)
        if timeout <= 0:
            self._count_pass()
            return super().select(0)
        self._passes = 0
        return self._until_timer(timeout)

    def _until_timer(self, timeout: float) -> list[tuple[selectors.SelectorKey, int]]:
        due = self._clock.loop_ns() + clocks.nanoseconds(timeout)
        seconds = self.patience.real_seconds(timeout, descriptors=len(self.get_map()) > 1)
        if self.patience.real:
            seconds -= self._waited_for(due)
        ready = super().select(0) or self._wait(max(0.0, seconds))
        if not ready:
            self._clock.reach(due)
        return ready

    def _waited_for(self, due: int) -> float:
        """Return for how long this timer has been the next one in real time: who wakes the loop does not delay it."""
        now = real_monotonic()
        if due != self._due:
            self._due, self._since = due, now
        return now - self._since

    def _wait(self, seconds: float) -> list[tuple[selectors.SelectorKey, int]]:
        if not seconds:
            return []
        start = real_monotonic()
        ready = super().select(seconds)
        if not ready:
            self.patience.waited(real_monotonic() - start)
        return ready

    def _count_pass(self) -> None:
        self._passes += 1
        if self._passes > FREE_PASSES and self.last_timer * clocks.SECOND > self._clock.loop_ns():
            self._clock.advance_ns(PASS_COST)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop whose time is a `VirtualClock`.

    Args:
        clock: what its timers are due by, and what it moves.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._virtual_selector = VirtualSelector(clock)
        super().__init__(self._virtual_selector)
        self._clock = clock
        self._turns = itertools.count()
        self._clock_resolution = SAME_TIME

    def time(self) -> float:
        """Return the loop's time in seconds: the context's steady clock, moved by sleeping alone."""
        return self._clock.read_loop(sys._getframe(1)) / clocks.SECOND

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` at loop time `when`, as `asyncio.loop.call_at` does."""
        moment = Moment(when)
        moment.turn = next(self._turns)
        self._virtual_selector.last_timer = max(self._virtual_selector.last_timer, moment)
        return super().call_at(moment, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call `callback` from another thread, as `asyncio.loop.call_soon_threadsafe` does."""
        self._virtual_selector.patience.stir()
        return super().call_soon_threadsafe(callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop; one that stands for a thread's future is waited for really."""
        future = super().create_future()
        if sys._getframe(1).f_code is _WRAPPING:
            self._virtual_selector.patience.expect(future)
        return future

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        """Run `func` in a pool, on this context's clock where the pool is one of threads."""
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            return super().run_in_executor(executor, carried(func), *args)
        return super().run_in_executor(executor, func, *args)

    @contextlib.contextmanager
    def real_timers(self) -> Iterator[None]:
        """Let timers take the real time until they are due, inside the ``with``; what is woken meanwhile goes on."""
        self._virtual_selector.patience.real += 1
        try:
            yield
        finally:
            self._virtual_selector.patience.real -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own
        """Join the default executor's threads; `timeout`, in seconds, is one of real time."""
        joined = self.create_future()
        self._virtual_selector.patience.expect(joined)
        try:
            await super().shutdown_default_executor(*([] if timeout is None else [timeout]))
        finally:
            joined.cancel()


_WRAPPING = asyncio.wrap_future.__code__


def patches() -> list[Patch]:
    """Give `asyncio.run` inside a context a `VirtualLoop`, and every other loop the real clock."""
    return [
        AttributePatch(events, "new_event_loop", _new_event_loop),
        AttributePatch(asyncio, "new_event_loop", _new_event_loop),
        AttributePatch(asyncio.BaseEventLoop, "time", lambda _: _real_time),
    ]


def _new_event_loop(original: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[], asyncio.AbstractEventLoop]:
    def new_event_loop() -> asyncio.AbstractEventLoop:
        clock = clocks.current.get()
        return original() if clock is None else VirtualLoop(clock)

    return new_event_loop


def _real_time(_loop: asyncio.AbstractEventLoop) -> float:
    return real_monotonic()
