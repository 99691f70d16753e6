"""The line of the user's code that is making a call."""

from __future__ import annotations

import linecache
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_NOT_THE_USERS = frozenset({"clearstone", "wrapt", "asyncio", "concurrent", "threading", "functools", "contextlib"})


def made_at() -> str:
    """Return ``file:line`` of the innermost frame that is not ours or the standard library's way of calling.

    Empty for a task that the event loop starts: nobody is above it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        room = (frame.f_globals.get("__name__") or "").partition(".")[0]
        if room not in _NOT_THE_USERS:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def quoted(line: str) -> str:
    """Return the source of a line, behind a colon; nothing where there is none to be read."""
    file, _, number = line.rpartition(":")
    source = linecache.getline(file, int(number)).strip() if number.isdigit() else ""
    return f": {source}" if source else ""
