"""The line of the user's code that is doing something, and who asks for it (see also `clearstone.callers`)."""

from __future__ import annotations

import functools
import linecache
import os
import sys
from typing import TYPE_CHECKING

from clearstone.callers import INSTALLED, OURS, STANDARD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from clearstone.checkpoint.fingerprints import Fingerprint


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
    while frame is not None and frame.f_code.co_filename.startswith(STANDARD):
        frame = frame.f_back
    return frame is None or frame.f_code.co_filename.startswith(OURS)


def is_import() -> bool:
    """Whether an import asks: it keeps what it compiled beside the source."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in {__file__, _GUARD}:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib")


@functools.cache
def is_installed(file: str) -> bool:
    """Whether a file belongs to Python, to an installed package, or to Clearstone."""
    return file.startswith((OURS, *STANDARD)) or INSTALLED in file


_GUARD = f"{OURS}replay{os.sep}guard.py"


def quoted_then(line: str, code: Iterable[Fingerprint], since_ns: int) -> str:
    """Return the source of a line as it was when it was recorded, behind a colon; nothing where that is not known.

    Args:
        line: ``file:line``.
        code: what the checkpoint holds of the source.
        since_ns: when the recording began: what is in no function there is read from the file, if it is older.
    """
    source = next(filter(None, (each.line(line) for each in code)), "")
    return f": {source}" if source else quoted(line) if _is_older(line.rpartition(":")[0], since_ns) else ""


def _is_older(file: str, than_ns: int) -> bool:
    try:
        changed_ns = os.stat(file).st_mtime_ns  # noqa: PTH116 - a name of code need not be a path
    except (OSError, ValueError):
        return False
    linecache.checkcache(file)
    return changed_ns < than_ns


def quoted(line: str) -> str:
    """Return the source of a line, behind a colon; nothing where there is none to be read."""
    file, _, number = line.rpartition(":")
    source = linecache.getline(file, int(number)).strip() if number.isdigit() else ""
    return f": {source}" if source else ""
