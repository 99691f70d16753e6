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
_count = itertools.count(1)
_second = b""

NEW_SECOND_EVERY = 64
"""So many spans share a look at the clock; a program that begins few waits longer for the next look, which only costs
its ids some of their order."""


def _begin_anew() -> None:
    global _count  # noqa: PLW0603 - one process, one sequence
    _random.seed(os.urandom(32))
    _count = itertools.count(_random.getrandbits(62) + 1)
    _look_at_the_clock()


def _look_at_the_clock() -> None:
    global _second  # noqa: PLW0603 - one process, one sequence
    _second = (time.time_ns() // 1_000_000_000 & 0xFFFFFFFF).to_bytes(4, "big")


def next_span() -> int:
    """Return a new span id, as a number of at most 63 bits."""
    return next(_count)


def next_trace(span: int) -> bytes:
    """Return a new trace id, 16 bytes.

    Args:
        span: the id of its first span, made by `next_span`.
    """
    if not span % NEW_SECOND_EVERY:
        _look_at_the_clock()
    return _second + _random.getrandbits(96).to_bytes(12, "big")


def hex_of(number: int) -> str:
    """Return a span id as 16 hex digits."""
    return f"{number:016x}"


_begin_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
