"""Faults of the recorder itself: counted, said once, summed up at exit, never raised into the user's call."""

from __future__ import annotations

import atexit
import os
import threading
from collections import Counter

from clearstone import notice

_lock = threading.RLock()  # reentrant: a signal handler may interrupt a report with one of its own
_counts: Counter[str] = Counter()


def report(doing: str, error: BaseException, meanwhile: str = "was skipped") -> None:
    """Count a fault; the first of each kind is said on standard error.

    Args:
        doing: what the recorder was doing, as in "recording a call of app:ask".
        error: what went wrong.
        meanwhile: what became of that.
    """
    kind = type(error).__name__
    with _lock:
        _counts[kind] += 1
        first = _counts[kind] == 1
    if first:
        notice.say(f"{doing} failed and {meanwhile}: {kind}: {_said(error)}")


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception class of the user's
        return "it cannot say why"


def counts() -> dict[str, int]:
    """Return how many faults of each exception type there were in this process."""
    with _lock:
        return dict(_counts)


def _begin_anew() -> None:
    """In a forked child: the lock may be another thread's, which is not there."""
    global _lock  # noqa: PLW0603 - one process, one lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@atexit.register
def _sum_up() -> None:
    """Say how often, where it was more than the one time each that has been said."""
    found = counts()
    if sum(found.values()) > len(found):
        told = ", ".join(f"{kind} {count} time(s)" for kind, count in sorted(found.items()))
        notice.say(f"the recorder skipped something {sum(found.values())} times in this run: {told}")
