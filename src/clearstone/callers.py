"""The place in the user's code that makes a call: told by the recorder for then, by a replay for now.

Idea: a place is a code object and an instruction of it, which cost nothing to take; its text, ``file:line``, is made
when somebody wants it. It is that of the innermost frame that is neither ours nor the standard library's. A coroutine
or a generator is placed where it is made, for whoever runs it later may be an event loop.

Invariant: both halves take places from here, so that the same line is told in the same words. No frame is kept.

Refused: the line of every frame that makes a call (walking a line table takes as long as the rest of the look).
"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, FrameType

Place = tuple["CodeType | None", int]
"""A code object, and the offset of the instruction in it that makes the call."""

NOWHERE: Place = (None, 0)
"""Of a call that nobody is known to make: an event loop's, a thread pool's, that of a replay itself."""

MOST_FILES = 1000
"""So many file names are remembered; code that is made at run time may have ever new ones."""

OURS = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - as in the names of code
_DRIVERS = f"{OURS}debugger{os.sep}"
STANDARD = ("<frozen", os.path.dirname(getattr(os, "__file__", "") or "/nowhere/") + os.sep)  # noqa: PTH120
INSTALLED, _WRAPT = f"{os.sep}site-packages{os.sep}", f"{os.sep}wrapt{os.sep}"


def place_here() -> Place:
    """Return the place that makes the call which whoever asks is in the middle of."""
    found = _users(sys._getframe(1))
    return (found.f_code, found.f_lasti) if found is not None else NOWHERE


def place_above(frames: int = 1) -> Place:
    """Return the place that called whoever asks, or one further up; where that passes calls on, the user's above it."""
    try:
        frame = sys._getframe(frames + 1)
    except ValueError:  # the interpreter did, at its exit
        return NOWHERE
    code = frame.f_code
    return place_here() if _is_passed(code.co_filename) else (code, frame.f_lasti)


def line_of(place: Place) -> str:
    """Return a place as ``file:line``; empty for `NOWHERE`."""
    code, at = place
    if code is None:
        return ""
    lines = (line for start, end, line in code.co_lines() if start <= at < end)
    return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"


def is_passed(place: Place) -> bool:
    """Whether a place is in code that makes calls for others: ours, the standard library's."""
    return place[0] is not None and _is_passed(place[0].co_filename)


def _users(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the user's; None above the call that a replay itself makes."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_passed(file):
            return frame
        frame = frame.f_back if not _is_drivers(file) else None
    return None


@functools.lru_cache(MOST_FILES)
def _is_drivers(file: str) -> bool:
    return file.startswith(_DRIVERS)


@functools.lru_cache(MOST_FILES)
def _is_passed(file: str) -> bool:
    if file.startswith(OURS) or _WRAPT in file:
        return True
    return file.startswith(STANDARD) and INSTALLED not in file  # which lies in the standard library's folder
