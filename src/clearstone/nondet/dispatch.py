"""The dispatchers for clocks and entropy: the context's clock inside a context, the real one outside.

Idea: each is a closure over the original builtin. Inside a context it answers without touching the original, except to
raise: whatever an argument is refused with, the original refuses it.

Invariant: outside a context nothing differs but some ten nanoseconds. The builtins are made into patches once, at the
first use in the process; who is inside a dispatcher while it is removed finishes in it.

Refused: ``time.clock_gettime(CLOCK_MONOTONIC)`` (a clock named that exactly is meant to be real); waits in C, such as
``lock.acquire(timeout=...)`` and ``select`` (they end after real time, as they should; only `threading.Condition`,
whose callers compute what is left from the clock, tells the clock what it waited).
"""

from __future__ import annotations

import functools
import operator
import os
import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from clearstone.nondet import clock as clocks
from clearstone.nondet import entropy as entropies
from clearstone.nondet import global_random
from clearstone.nondet.patches import AttributePatch, builtin_patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clearstone.nondet.patches import Maker, Patch

STEADY_CLOCKS = ("monotonic", "perf_counter", "process_time", "thread_time")  # the last is not everywhere
_NO_SECONDS = ((), (None,))
LONGEST_SLEEP = 2**63 - 1  # nanoseconds; beyond it time.sleep raises OverflowError


@functools.cache
def patches() -> tuple[Patch, ...]:
    """Return the patches of the steady clocks, `time.sleep`, `os.urandom` and of what time-machine leaves alone."""
    made = [builtin_patch(time, name, make) for name, make in _clock_makers() if hasattr(time, name)]
    made += [_sleeping(), builtin_patch(time, "ctime", _ctime)]
    made += [builtin_patch(time, "asctime", _asctime), builtin_patch(os, "urandom", _urandom)]
    if isinstance(made[-1], AttributePatch):  # which misses the alias that SystemRandom and secrets use
        made.append(AttributePatch(random, "_urandom", _urandom))
    return (*made, *global_random.patches(), AttributePatch(threading.Condition, "wait", _wait))


def _clock_makers() -> Iterator[tuple[str, Maker]]:
    for name in STEADY_CLOCKS:
        yield name, functools.partial(_seconds, name)
        yield name + "_ns", functools.partial(_nanoseconds, name)


def real_monotonic() -> float:
    """Return the real monotonic clock in seconds, wherever it is called."""
    seconds: float = patches()[0].original()
    return seconds


def real_sleep(seconds: float) -> None:
    """Sleep really, wherever it is called; a signal's handler may end it by what it raises."""
    _sleeping().original(seconds)


@functools.cache
def _sleeping() -> Patch:
    return builtin_patch(time, "sleep", _sleep)


def _seconds(name: str, original: Callable[[], float]) -> Callable[[], float]:
    shown = f"time.{name}()"

    def read() -> float:
        clock = clocks.current.get()
        if clock is None:
            return original()
        return clock.read_steady(sys._getframe(1), shown) / clocks.SECOND

    return read


def _nanoseconds(name: str, original: Callable[[], int]) -> Callable[[], int]:
    shown = f"time.{name}_ns()"

    def read() -> int:
        clock = clocks.current.get()
        if clock is None:
            return original()
        return clock.read_steady(sys._getframe(1), shown)

    return read


def _sleep(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def sleep(seconds: Any, /) -> None:
        clock = clocks.current.get()
        nanoseconds = None if clock is None else _sleep_length(seconds)
        if clock is None or nanoseconds is None:
            original(seconds)
            return
        original(0)  # other threads get their turn, as in a sleep
        clock.advance_ns(nanoseconds)

    return sleep


def _sleep_length(seconds: Any) -> int | None:
    """Return the nanoseconds, or None for what time.sleep refuses."""
    try:
        exact = seconds if isinstance(seconds, float) else operator.index(seconds)
    except TypeError:
        return None
    return clocks.nanoseconds(exact) if 0 <= exact * clocks.SECOND <= LONGEST_SLEEP else None


def _ctime(original: Callable[..., str]) -> Callable[..., str]:
    def ctime(*seconds: Any) -> str:
        now = clocks.current.get() is not None and seconds in _NO_SECONDS
        return original(time.time()) if now else original(*seconds)

    return ctime


def _asctime(original: Callable[..., str]) -> Callable[..., str]:
    def asctime(*moment: Any) -> str:
        now = clocks.current.get() is not None and not moment
        return original(time.localtime()) if now else original(*moment)

    return asctime


def _urandom(original: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def urandom(size: Any, /) -> bytes:
        entropy = entropies.current.get()
        wanted = -1 if entropy is None else _size(size)
        return original(size) if entropy is None or wanted < 0 else entropy.read(wanted)

    return urandom


def _size(size: Any) -> int:
    """Return the number of bytes, or -1 for what os.urandom refuses."""
    try:
        return operator.index(size)
    except TypeError:
        return -1


def _wait(original: Callable[..., bool]) -> Callable[..., bool]:
    def wait(self: threading.Condition, timeout: float | None = None) -> bool:
        notified = original(self, timeout)
        clock = clocks.current.get()
        if not notified and clock is not None and timeout is not None and timeout > 0:
            clock.advance(timeout)  # queue.get(timeout=...) waits again until its deadline has passed on our clock
        return notified

    return wait
