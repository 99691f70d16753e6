"""The clock of a deterministic context: it stands still until something sleeps.

Idea: one number, the nanoseconds slept so far, moves every clock there is: the wall clock, the steady clocks
(monotonic, perf_counter, process_time, thread_time) and the clock of the event loop. On top of it each read of a steady
clock adds a microsecond, because code divides by elapsed times and sorts by them.

A replay that follows a record (`follow`) lets time pass that the loop's timers do not see: the microseconds in which
the recorded code computed. A timeout is as long as it was then, and the wall clock is right at each call.

Invariant: two runs that read and sleep in the same order see the same values; no clock ever goes back.

A clock that has gone live (`go_live`) runs on with the real one from where it stood, and its wall clock is the real
one: for code that got past its record and talks to the world.

Refused: real time scaled or shifted (never twice the same); one clock per thread (two threads could disagree about
which of two events came first).

`current` is the clock of the context the code runs in; None means the real one. Tasks and `asyncio.to_thread` inherit
it as they inherit every context variable.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from clearstone.errors import ConfigurationError
from clearstone.nondet.polling import PollWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

SECOND = 1_000_000_000
MICROSECOND = 1_000
DAY = 86_400 * SECOND
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

WALKING = frozenset({"monotonic", "perf_counter"})
"""Steady clocks that go as the wall clock goes."""

WALL_CLOCK = "the wall clock (time.time(), datetime.now())"

_UNCOUNTED = frozenset({"clearstone", "concurrent", "hypothesis", "queue", "threading"})
"""Packages whose looks at a steady clock add nothing: how many there are depends on threads and the collector (which
hypothesis times in every process it is loaded in)."""

current: ContextVar[VirtualClock | None] = ContextVar("clearstone_clock", default=None)


def nanoseconds(seconds: float) -> int:
    """Return `seconds` in whole nanoseconds; no pause, however short, becomes none."""
    return round(seconds * SECOND) or (1 if seconds > 0 else 0)


class VirtualClock:
    """Wall and steady time that only `advance` and sleeping move. Safe to use from several threads.

    Args:
        start_ns: nanoseconds since the epoch at which the wall clock starts. The steady clocks start at a value made
            from it: what they count from is arbitrary, that they start at the same value twice is not.
    """

    # A re-entrant lock: a finalizer or a signal handler may read the clock in the middle of a read.
    __slots__ = (
        "_ahead", "_heard", "_live_ns", "_lock", "_moved", "_shifts", "_steady", "_ticks", "_waiting", "_wall",
        "_watch",
    )  # fmt: skip

    def __init__(self, start_ns: int) -> None:
        self._wall = start_ns
        self._steady = 1_000 * SECOND + start_ns % DAY
        self._moved = 0
        self._ahead = 0
        self._ticks = 0
        self._live_ns: int | None = None
        self._waiting: dict[object, Callable[[], object]] = {}
        self._shifts: dict[str, int] = {}
        self._heard: dict[str, int] = {}
        self._watch = PollWatch()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<VirtualClock {self.now.isoformat()}>"

    @property
    def now(self) -> datetime.datetime:
        """The wall clock as an aware datetime in UTC, to the microsecond."""
        return EPOCH + datetime.timedelta(microseconds=self.time_ns() // MICROSECOND)

    @property
    def is_live(self) -> bool:
        """Whether it runs by itself, as the real clock does."""
        return self._live_ns is not None

    def go_live(self) -> int:
        """Run with the real clock from now on; sleeping then takes its time.

        Returns:
            How far the wall clock went to be the real one, in nanoseconds.
        """
        with self._lock:
            if self._live_ns is not None:
                return 0
            before, self._live_ns = self._wall, _really(time.monotonic_ns)
            self._wall = max(before, _really(time.time_ns) - self._moved - self._ahead)
            for tell in list(self._waiting.values()):
                tell()
            return self._wall - before

    @contextlib.contextmanager
    def when_live(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` when the clock becomes the real one within the ``with``, in whatever thread that happens."""
        key = object()
        with self._lock:
            self._waiting[key] = tell
            if self._live_ns is not None:
                tell()
        try:
            yield
        finally:
            self._waiting.pop(key, None)

    def time_ns(self) -> int:
        """Return the wall clock in nanoseconds since the epoch; looking moves nothing and is not counted."""
        return self._wall + self._moved + self._ahead + self._since()

    def monotonic_ns(self) -> int:
        """Return the steady clocks in nanoseconds, without the microsecond that a read through `time` adds."""
        with self._lock:
            return self._steady + self._moved + self._ahead + self._ticks + self._since()

    def advance(self, seconds: float) -> None:
        """Move all clocks forward, as `time.sleep` does.

        Args:
            seconds: how far; 0 moves nothing.

        Raises:
            ConfigurationError: when `seconds` is negative or not finite.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ConfigurationError(f"A clock moves forward by a finite number of seconds, not by {seconds!r}.")
        self.advance_ns(nanoseconds(seconds))

    def advance_ns(self, amount: int) -> None:
        """Move all clocks forward by `amount` nanoseconds, which is not negative."""
        if amount == 0 or self._live_ns is not None:
            return  # `while waiting: sleep(0)` is a poll like any other
        with self._lock:
            self._moved += amount
            self._watch.moved()

    def follow(self, time_ns: int) -> None:
        """Move the wall and the steady clocks forward to a moment, and leave the event loop's timers where they are.

        Args:
            time_ns: nanoseconds since the epoch; one that has passed moves nothing.
        """
        with self._lock:
            amount = time_ns - self._wall - self._moved - self._ahead
            if amount > 0 and self._live_ns is None:
                self._ahead += amount
                self._watch.moved()

    def reach_wall(self, time_ns: int) -> None:
        """Move all clocks forward to a moment, as a call does that takes until then.

        Args:
            time_ns: nanoseconds since the epoch; one that has passed moves nothing.
        """
        with self._lock:
            amount = time_ns - self._wall - self._moved - self._ahead
            if amount > 0 and self._live_ns is None:
                self._moved += amount
                self._watch.moved()

    # --- of a record that holds what was read -------------------------------------------------------------------------

    def align(self, time_ns: int, shown: Mapping[str, int]) -> None:
        """Let the steady clocks count from where they did.

        Args:
            time_ns: a moment of the record, nanoseconds since the epoch.
            shown: what each of them showed then, by its name in `time`.
        """
        steady = self._steady + time_ns - self._wall
        self._shifts = {name: shown[name] - steady for name in shown}

    def heard(self, name: str, moment: int) -> None:
        """Go on from a moment that was read from the record: what is read from this clock next is later.

        Args:
            name: the clock's name in `time`.
            moment: what it showed, in nanoseconds.
        """
        if name == "time":
            self.follow(moment)
            return
        with self._lock:
            if name in WALKING:  # the others count what a processor has done
                self.follow(self.time_ns() + moment - self.monotonic_ns() - self._shifts.get(name, 0))
            self._heard[name] = moment

    # --- what the dispatchers and the event loop read ----------------------------------------------------------------

    def loop_ns(self) -> int:
        """Return the event loop's time in nanoseconds: steady, moved by sleeping alone."""
        return self._steady + self._moved + self._since()

    def reach(self, loop_ns: int) -> None:
        """Move all clocks forward until `loop_ns` is `loop_ns`; does nothing where another thread moved them there."""
        with self._lock:
            self.advance_ns(max(0, loop_ns - self.loop_ns()))

    def read_wall(self, caller: FrameType) -> int:
        """Return `time_ns` for code that polls if it does this too often (`PollWatch.seen`)."""
        with self._lock:
            self._look(caller, WALL_CLOCK)
            return self.time_ns()

    def read_loop(self, caller: FrameType) -> int:
        """Return `loop_ns` for code that polls if it does this too often (`PollWatch.seen`)."""
        with self._lock:
            self._look(caller, "the event loop's time()")
            return self.loop_ns()

    def read_steady(self, caller: FrameType, shown: str, name: str) -> int:
        """Add a microsecond and return a steady clock, for code that polls if it does this too often.

        Nothing is added where that would depend on which thread runs when (`_UNCOUNTED`).

        Args:
            caller: the frame that reads.
            shown: what it reads, as a message shall name it.
            name: the clock's name in `time`.
        """
        is_counted = caller.f_globals.get("__name__", "").partition(".")[0] not in _UNCOUNTED
        with self._lock:
            self._look(caller, shown)
            self._ticks += MICROSECOND if is_counted and self._live_ns is None else 0
            now = self.monotonic_ns()
            if not is_counted or not (self._shifts or self._heard):
                return now
            now += self._shifts.get(name, 0)
            if name in self._heard:
                now = self._heard[name] = max(now, self._heard[name] + MICROSECOND)
            return now

    def _look(self, caller: FrameType, name: str) -> None:
        if self._live_ns is None:  # else a loop that polls gets somewhere
            self._watch.seen(caller, name)

    def _since(self) -> int:
        return _really(time.monotonic_ns) - self._live_ns if self._live_ns is not None else 0


def real_time_ns() -> int:
    """Return the real wall clock, in any context, in nanoseconds since the epoch."""
    return _really(time.time_ns)


def _really(read: Callable[[], int]) -> int:
    """Read a clock as code outside of every context does."""
    token = current.set(None)
    try:
        return read()
    finally:
        current.reset(token)
