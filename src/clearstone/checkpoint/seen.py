"""How often the same thing was saved, and where: a small file for each kind of thing.

Idea: a kind is a failure (type and raising line) or the ends of calls of one site, and its mark the first digits of a
digest of that. Its file in the folder ``seen`` of the home lists what was saved of it, a line each, so that counting
and finding what is too old takes no look at any checkpoint.

Invariant: it is a help, not a record: whatever becomes of these files, checkpoints are found, listed and replayed.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MARK_DIGITS = 6
MOST_LINES = 200
_FIELDS = 3


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was saved once.

    Args:
        count: how many of its kind there were, it included.
        file: the name of its file.
        checkpoint_id: its id.
    """

    count: int
    file: str
    checkpoint_id: str


def mark_of(kind: str) -> str:
    """Return what stands for a kind of thing in ids and names."""
    return sha256(kind.encode("utf-8", "surrogatepass")).hexdigest()[:MARK_DIGITS]


def sightings(folder: Path, mark: str) -> list[Sighting]:
    """Return what was saved of a kind, oldest first.

    Args:
        folder: the home.
        mark: the kind's.
    """
    try:
        lines = _file(folder, mark).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    parts = [line.split(" ") for line in lines]
    return [Sighting(int(each[0]), *each[1:]) for each in parts if len(each) == _FIELDS and each[0].isdecimal()]


def note(folder: Path, mark: str, sighting: Sighting) -> None:
    """Add what was saved now.

    Raises:
        OSError: the file cannot be written.
    """
    path = _file(folder, mark)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    line = _line(sighting)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(line)
        size = file.tell()
    if size > MOST_LINES * len(line):
        _shorten(folder, mark, path)


def forget(folder: Path, trace_id: str) -> int:
    """Remove what was saved of one trace, whose id its files' names begin with.

    Args:
        folder: the home.
        trace_id: the trace's.

    Returns:
        How many lines were removed.

    Raises:
        OSError: a file cannot be written anew; it is as it was.
    """
    removed = 0
    for path in _all_files(folder):
        found = sightings(folder, path.name)
        left = [each for each in found if not each.file.startswith(trace_id)]
        if len(left) < len(found):
            _write_anew(path, left)
            removed += len(found) - len(left)
    return removed


def _all_files(folder: Path) -> list[Path]:
    try:
        return [path for path in (folder / "seen").iterdir() if not path.name.startswith(".")]
    except OSError:  # nothing was saved yet
        return []


def _shorten(folder: Path, mark: str, path: Path) -> None:
    _write_anew(path, sightings(folder, mark)[-MOST_LINES // 2 :])


def _write_anew(path: Path, lines: list[Sighting]) -> None:
    """Put a file with these lines in the place of `path`; none where there are none."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.write_bytes(b"".join(map(_line, lines)))
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _line(sighting: Sighting) -> bytes:
    return f"{sighting.count} {sighting.file} {sighting.checkpoint_id}\n".encode()


def _file(folder: Path, mark: str) -> Path:
    return folder / "seen" / mark
