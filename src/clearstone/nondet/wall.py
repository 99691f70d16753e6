"""Wall-clock time through time-machine, its only importer here.

Idea: time-machine swaps the C functions behind `time.time`, `datetime.now` and their kin, every alias included, and
asks the traveller on top of its stack for the time. We start a journey and give its traveller a `time_ns` that asks the
context variable: the context's clock inside, the real clock (or the user's own journey) outside.

Invariant: outside a context the original C function is read, not a ticking traveller, which drifts when the system
clock is set. Starting and stopping go through ``travel``, so the user's own journeys may begin before, inside or after
ours and end in any order. TZ and the environment are not touched: a destination that is a number has no time zone.

Refused: swapping these functions ourselves (``datetime.now`` is a class method with keywords: time-machine has the C
code for it).

What is relied on beyond its documented API: travellers are asked by their attribute ``time_ns`` (`check` tries it),
journeys are a list named ``traveller_stack``, and one is ended by ``stack.pop()._stop()``. Versions before 3.5.1 are
refused by `check`: they round microseconds in one way or another, and the older ones ask through functions in Python,
which would all look like one line that polls.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import functools
import sys
import time
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import time_machine

from clearstone.errors import ConfigurationError
from clearstone.nondet import clock as clocks
from clearstone.nondet import entropy as entropies
from clearstone.nondet import uuids
from clearstone.nondet.dispatch import wall_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECK_TIME = 1_000_000_000_123_456_789  # no float shows it exactly


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Answer wall-clock reads of every context from its own clock inside the ``with``.

    Raises:
        ConfigurationError: when the installed time-machine does not work the way this needs.
    """
    system_uuid1 = uuids.system_generator()  # journeys put None there
    journey = _Journey()
    try:
        with uuids.installed(system_uuid1):
            check()
            yield
    finally:
        journey.end()


class _Journey:
    """Our place in time-machine's stack, from construction to `end`."""

    def __init__(self) -> None:
        self._ending = False
        self._stack = _stack()
        # It ticks and starts now, so that a read between this line and the last one is off by nothing that shows.
        self._travel = time_machine.travel(time.time(), tick=True)
        self._traveller = cast(Any, self._travel.start())
        self._stop = self._traveller._stop
        self._traveller._stop = self._stopped
        self._traveller.time_ns = self._time_ns

    def _time_ns(self) -> int:
        return wall_ns(self._outside, sys._getframe(1))

    def _outside(self) -> int:
        if len(self._stack) > 1 and self._traveller in self._stack[1:]:
            below: int = self._stack[self._stack.index(self._traveller) - 1].time_ns()
            return below
        try:
            return time_machine.escape_hatch.time.time_ns()
        except ValueError:  # another thread ended the journey while this one was on its way here
            return time.time_ns()

    def _stopped(self) -> None:
        """Whoever ended a journey took ours off: it was the top one. Theirs is the one below; ours goes on."""
        if self._ending or not self._stack:
            self._stop()
            return
        theirs = self._stack.pop()
        self._stack.append(self._traveller)
        theirs._stop()

    def end(self) -> None:
        """Leave the stack; the C functions are put back when no other journey is in it."""
        self._ending = True
        if self._stack[-1:] == [self._traveller]:
            self._travel.stop()
        elif self._traveller in self._stack:
            self._stack.remove(self._traveller)


def _stack() -> list[Any]:
    stack = vars(time_machine).get("traveller_stack")
    if isinstance(stack, list):
        return stack
    raise _unsuitable("keeps its journeys elsewhere")


@functools.cache
def check() -> None:
    """Read the wall clock through every door and compare; done once, whoever travels later knows what they do.

    Raises:
        ConfigurationError: when one of them does not show the context's clock.
    """
    clock = clocks.VirtualClock(CHECK_TIME)
    shown = contextvars.copy_context().run(_look, clock)
    local = clock.now.astimezone().replace(tzinfo=None)
    expected = (clock.time_ns(), clock.time_ns() / clocks.SECOND, clock.now, local, clock.now.date())
    if shown != expected:
        raise _unsuitable(f"shows {shown} where the clock of a replay stands at {expected}")


def _look(clock: clocks.VirtualClock) -> tuple[Any, ...]:
    clocks.current.set(clock)
    entropies.current.set(entropies.Entropy(b"check"))
    now = datetime.datetime.now(datetime.UTC)
    today = datetime.datetime.today()  # noqa: DTZ002 - one of the doors
    return time.time_ns(), time.time(), now, today, uuids.date_of(uuid.uuid1())


def _unsuitable(because: str) -> ConfigurationError:
    version = metadata.version("time-machine")
    return ConfigurationError(
        f"time-machine {version} {because}. A replay needs it to stop the wall clock: install 3.5.1 or later."
    )
