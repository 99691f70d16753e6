"""Ids of spans and traces: unique without a system call for each, and side by side in the store.

Idea: a span's id is a random 63-bit start of its process plus a count. A trace's id begins with the second it started
in (four bytes, as AWS X-Ray's ids do) and goes on with 96 random bits of a generator of our own. So ids made together
lie together in the store's indexes: with random ones each batch would touch, and write, every page of an index.

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

traces: list[bytes] = []
"""Trace ids made in stock."""

STOCK = 64
"""So many traces share a look at the clock; a program that begins few waits longer for the next look, which only costs
its ids some of their order."""


def _begin_anew() -> None:
    global count  # noqa: PLW0603 - one process, one sequence
    _random.seed(os.urandom(32))
    count = itertools.count(_random.getrandbits(62) + 1)
    traces.clear()


def next_trace() -> bytes:
    """Return a new trace id, 16 bytes."""
    while True:
        try:
            return traces.pop()
        except IndexError:
            second = (time.time_ns() // 1_000_000_000 & 0xFFFFFFFF).to_bytes(4, "big")
            traces.extend(second + _random.getrandbits(96).to_bytes(12, "big") for _ in range(STOCK))


def hex_of(number: int) -> str:
    """Return a span id as 16 hex digits."""
    return f"{number:016x}"


_begin_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
