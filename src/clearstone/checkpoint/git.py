"""The git commit that a program's source is of, and whether files of it differ: read, without running git.

Starting a process in a user's program is not nothing (it may have a handler for children that end), and git may not be
there. The formats are documented: https://git-scm.com/docs/gitrepository-layout and
https://git-scm.com/docs/index-format.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ENTRY = struct.Struct(">10I20sH")
_LONG_NAME = 0xFFF
_EXTENDED = 0x4000
_FANS = {b"\0\0\0\2", b"\0\0\0\3"}
LARGEST_INDEX = 4 << 20
"""Bytes of an index that is read; a larger one would take too long."""


class Commit(NamedTuple):
    """Where source is from.

    Args:
        commit: its hash; empty where there is none yet, or it cannot be told.
        changed: of the files asked about, those that are not as the index has them, relative to the repository; None
            where that cannot be told.
    """

    commit: str
    changed: tuple[str, ...] | None


def commit_of(folder: Path, files: Iterable[Path]) -> Commit | None:
    """Return the commit of the repository that `folder` is in; None where it is in none.

    Args:
        folder: where to begin.
        files: what to look at for changes; those outside the repository, or not in its index, are left out.
    """
    root = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
    if root is None:
        return None
    try:
        private = _git_folder(root / ".git")
        return Commit(_head(private), _changed(root, private, files))
    except (OSError, ValueError, struct.error, IndexError):  # of a later version, torn, or not ours to read
        return Commit("", None)


def _git_folder(path: Path) -> Path:
    """Return the folder itself, also of a linked work tree, whose ``.git`` is a file that names it."""
    if path.is_dir():
        return path
    named = path.read_text("utf-8").partition("gitdir:")[2].strip()
    return (path.parent / named).resolve()


def _head(private: Path) -> str:
    head = (private / "HEAD").read_text("utf-8").strip()
    name = head.removeprefix("ref:").strip()
    if name == head:
        return head  # detached
    common = private / "commondir"
    shared = (private / common.read_text("utf-8").strip()).resolve() if common.exists() else private
    for place in (private, shared):
        if (place / name).is_file():
            return (place / name).read_text("utf-8").strip()
    packed = shared / "packed-refs"
    lines = packed.read_text("utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")


def _changed(root: Path, private: Path, files: Iterable[Path]) -> tuple[str, ...] | None:
    index = private / "index"
    if not index.is_file():
        return ()
    if index.stat().st_size > LARGEST_INDEX:
        return None
    entries = dict(_entries(index.read_bytes()))
    found = []
    for file in files:
        try:
            name = os.fsencode(file.resolve().relative_to(root.resolve()).as_posix())
            if name in entries and _differs(file, entries[name]):
                found.append(os.fsdecode(name))
        except (ValueError, OSError):  # outside, or gone
            continue
    return tuple(sorted(found))


def _differs(file: Path, entry: tuple[int, int, bytes]) -> bool:
    """Whether a file is not what its entry says: by its time and size, else by its content, as git itself does."""
    import hashlib

    modified, size, blob = entry
    now = file.stat()
    if not stat.S_ISREG(now.st_mode):
        return False
    if now.st_size == size and now.st_mtime_ns == modified:
        return False
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).digest() != blob  # noqa: S324 - git's, and no secret


def _entries(data: bytes) -> Iterator[tuple[bytes, tuple[int, int, bytes]]]:
    """Give each name with its time of modification in nanoseconds, size and blob."""
    if data[:4] != b"DIRC" or data[4:8] not in _FANS:
        raise ValueError("an index of another version")
    (count,) = struct.unpack_from(">I", data, 8)
    at = 12
    for _ in range(count):
        fields = _ENTRY.unpack_from(data, at)
        seconds, nanoseconds, size, blob, flags = fields[2], fields[3], fields[9], fields[10], fields[11]
        begin = at + _ENTRY.size + (2 if flags & _EXTENDED else 0)
        length = flags & _LONG_NAME
        end = begin + length if length < _LONG_NAME else data.index(b"\0", begin)
        yield data[begin:end], (seconds * 10**9 + nanoseconds, size, blob)
        at += (end - at + 8) & ~7
