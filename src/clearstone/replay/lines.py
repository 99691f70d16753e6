"""The line of the user's code that is making a call."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import clearstone

if TYPE_CHECKING:
    from types import FrameType

_NOT_THE_USERS = frozenset({"wrapt", "asyncio", "concurrent", "threading", "functools", "contextlib"})
_OURS = str(Path(clearstone.__file__).parent) + os.sep
_is_users: dict[str, bool] = {}
"""By the file of the code."""


def made_at() -> str:
    """Return ``file:line`` of the innermost frame that is not ours or the standard library's way of calling.

    Empty for a task that the event loop starts: nobody is above it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        is_users = _is_users.get(file)
        if is_users is None:
            room = (frame.f_globals.get("__name__") or "").partition(".")[0]
            is_users = _is_users[file] = not file.startswith(_OURS) and room not in _NOT_THE_USERS
        if is_users:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def quoted(line: str) -> str:
    """Return the source of a line, behind a colon; nothing where there is none to be read."""
    file, _, number = line.rpartition(":")
    source = linecache.getline(file, int(number)).strip() if number.isdigit() else ""
    return f": {source}" if source else ""
