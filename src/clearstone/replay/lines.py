"""The line of the user's code that is making a call."""

from __future__ import annotations

import functools
import linecache
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_OURS = str(Path(__file__).parents[1]) + os.sep
_DRIVERS = f"{_OURS}debugger{os.sep}"


def made_at() -> str:
    """Return ``file:line`` of the innermost frame that is neither ours nor the standard library's.

    Empty for a task that the event loop starts, and for the call that the replay itself makes: nobody is above it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_passed(file):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back if not file.startswith(_DRIVERS) else None
    return ""


@functools.cache
def _is_passed(file: str) -> bool:
    return file.startswith((_OURS, *_STANDARD)) or f"{os.sep}wrapt{os.sep}" in file


def users_line() -> str:
    """Return ``file:line`` of the innermost frame that is neither ours nor of anything installed."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not is_installed(file):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def asked_by_us() -> bool:
    """Whether the innermost frame that is not the standard library's, past whoever asks, is Clearstone's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in {__file__, _GUARD}:
        frame = frame.f_back
    while frame is not None and frame.f_code.co_filename.startswith(_STANDARD):
        frame = frame.f_back
    return frame is None or frame.f_code.co_filename.startswith(_OURS)


def is_import() -> bool:
    """Whether an import asks: it keeps what it compiled beside the source."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in {__file__, _GUARD}:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")


@functools.cache
def is_installed(file: str) -> bool:
    """Whether a file belongs to Python, to an installed package, or to Clearstone."""
    return file.startswith((_OURS, *_STANDARD)) or f"{os.sep}site-packages{os.sep}" in file


def _standard() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] + os.sep for name in ("stdlib", "platstdlib")})


_STANDARD = ("<frozen", *_standard())
_GUARD = f"{_OURS}replay{os.sep}guard.py"


def quoted(line: str) -> str:
    """Return the source of a line, behind a colon; nothing where there is none to be read."""
    file, _, number = line.rpartition(":")
    source = linecache.getline(file, int(number)).strip() if number.isdigit() else ""
    return f": {source}" if source else ""
