"""The dispatchers for clocks and entropy: the context's clock inside a context, the real one outside.

Idea: each is a closure over the original builtin. Inside a context it answers without touching the original, except to
raise: whatever an argument is refused with, the original refuses it. Whoever keeps what is drawn, or plays what was, is
asked by all of them (`clearstone.nondet.drawn`).

Invariant: outside a context nothing differs but some hundred nanoseconds. The builtins are made into patches once, at
the first use in the process; who is inside a dispatcher while it is removed finishes in it.

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
from clearstone.nondet import drawn, global_random
from clearstone.nondet import entropy as entropies
from clearstone.nondet.patches import AttributePatch, builtin_patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from clearstone.nondet.patches import Patch

STEADY_CLOCKS = ("monotonic", "perf_counter", "process_time", "thread_time")  # the last is not everywhere
_NO_SECONDS = ((), (None,))
LONGEST_SLEEP = 2**63 - 1  # nanoseconds; beyond it time.sleep raises OverflowError


@functools.cache
def patches() -> tuple[Patch, ...]:
    """Return the patches of the steady clocks, `time.sleep`, and of what time-machine leaves alone."""
    made = [patch for name in STEADY_CLOCKS if hasattr(time, name) for patch in _clock_patches(name)]
    made += [_sleeping(), builtin_patch(time, "ctime", _ctime)]
    made += [builtin_patch(time, "asctime", _asctime)]
    return (*made, AttributePatch(threading.Condition, "wait", _wait))


@functools.cache
def entropy_patches() -> tuple[Patch, ...]:
    """Return the patches of the functions of `random`, and of `os.urandom`, which `SystemRandom` and `secrets` ask."""
    made, functions = builtin_patch(os, "urandom", _urandom), tuple(global_random.patches())
    if isinstance(made, AttributePatch):  # which misses the alias that the two use
        return made, AttributePatch(random, "_urandom", _urandom), *functions
    return (made, *functions)


def _clock_patches(name: str) -> Iterator[Patch]:
    real = builtin_patch(time, f"{name}_ns", lambda original: _nanoseconds(name, original))
    yield builtin_patch(time, name, lambda original: _seconds(name, original, real))
    yield real


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


def _seconds(name: str, original: Callable[[], float], real: Patch) -> Callable[[], float]:
    """Return a dispatcher that keeps and plays what the clock's `real` shows in nanoseconds."""
    shown = f"time.{name}()"

    def read() -> float:
        caller = sys._getframe(1)
        clock, draws = clocks.current.get(), drawn.here("time", caller)
        if draws is None:
            return original() if clock is None else clock.read_steady(caller, shown, name) / clocks.SECOND
        make = real.original if clock is None else functools.partial(clock.read_steady, caller, shown, name)
        nanoseconds: int = draws.drawn("time", name, make)
        return nanoseconds / clocks.SECOND

    return read


def _nanoseconds(name: str, original: Callable[[], int]) -> Callable[[], int]:
    shown = f"time.{name}_ns()"

    def read() -> int:
        caller = sys._getframe(1)
        clock, draws = clocks.current.get(), drawn.here("time", caller)
        make = original if clock is None else functools.partial(clock.read_steady, caller, shown, name)
        return make() if draws is None else draws.drawn("time", name, make)

    return read


def _sleep(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def sleep(seconds: Any, /) -> None:
        clock = clocks.current.get()
        nanoseconds = None if clock is None or clock.is_live else _sleep_length(seconds)
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
        now = seconds in _NO_SECONDS and _is_ours(caller := sys._getframe(1))
        return original(_wall_seconds(caller)) if now else original(*seconds)

    return ctime


def _asctime(original: Callable[..., str]) -> Callable[..., str]:
    def asctime(*moment: Any) -> str:
        now = not moment and _is_ours(caller := sys._getframe(1))
        return original(time.localtime(_wall_seconds(caller))) if now else original(*moment)

    return asctime


def _is_ours(caller: FrameType) -> bool:
    """Whether the wall clock that a frame sees is not simply the real one."""
    return clocks.current.get() is not None or drawn.here("time", caller) is not None


def _wall_seconds(caller: FrameType) -> float:
    return wall_ns(time.time_ns, caller) / clocks.SECOND  # nobody is asked for what we ask: it is the real one


def wall_ns(real: Callable[[], int], caller: FrameType) -> int:
    """Return what the wall clock shows to a frame, in nanoseconds.

    Args:
        real: gives what it really shows.
        caller: the frame.
    """
    clock, draws = clocks.current.get(), drawn.here("time", caller)
    make = real if clock is None else functools.partial(clock.read_wall, caller)
    return make() if draws is None else draws.drawn("time", "time", make)


def _urandom(original: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def urandom(size: Any, /) -> bytes:
        entropy, draws = entropies.active(), drawn.here("uuid", sys._getframe(1))
        wanted = -1 if entropy is None and draws is None else _size(size)
        if wanted < 0:
            return original(size)
        make = functools.partial(original if entropy is None else entropy.read, wanted)
        return make() if draws is None else draws.drawn("uuid", f"urandom{wanted}", make)

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
