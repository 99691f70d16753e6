"""Ids of spans and traces: unique without a system call for each, and side by side in the store.

Idea: a span's id is a random 63-bit start of its process plus a count. A trace's id begins with the second it started
in (four bytes, as AWS X-Ray's ids do), goes on with a count from a random start (four bytes), and ends with 64 random
bits of a generator of our own. So ids made one after the other are stored one after the other: with random ones each
batch would touch, and write, every page of an index.

Invariant: the user's random generators are never touched. Ids are OpenTelemetry-shaped: 16 and 32 hex digits, not zero.
Both begin anew in a forked child.
"""

from __future__ import annotations

import itertools
import os
import random
import time

_random = random.Random()  # noqa: S311 - ids, not secrets
count = itertools.count(1)
"""Gives the next span's id, as a number of at most 63 bits. Another one in a forked child."""

_traces_begun = itertools.count()

traces: list[bytes] = []
"""Trace ids made in stock."""

STOCK = 64
"""So many are made at once. A program that begins few has some that say an earlier second, which only costs them some
of their order."""


def _begin_anew() -> None:
    global count, _traces_begun  # noqa: PLW0603 - one process, one sequence
    _random.seed(os.urandom(32))
    count = itertools.count(_random.getrandbits(62) + 1)
    _traces_begun = itertools.count(_random.getrandbits(32))
    traces.clear()


def next_trace() -> bytes:
    """Return a new trace id, 16 bytes."""
    while True:
        try:
            return traces.pop()
        except IndexError:
            traces.extend(reversed([_made() for _ in range(STOCK)]))


def _made() -> bytes:
    second, count = time.time_ns() // 1_000_000_000, next(_traces_begun)
    return ((second << 32 | count & 0xFFFFFFFF) << 64 & _WHOLE | _random.getrandbits(64)).to_bytes(16, "big")


_WHOLE = (1 << 128) - 1


def hex_of(number: int) -> str:
    """Return a span id as 16 hex digits."""
    return f"{number:016x}"


_begin_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
