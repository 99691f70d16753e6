"""The places a journal can write to: a mapped file, a file written by system calls, memory.

Idea: each is a fixed number of bytes with the same two views: `data`, whose slices are assigned, and `lengths`, whose
words (32 bit, at multiples of four) are. A mapped file is the rule: assigning copies into the page cache without a
system call, and what was copied outlives the process. A file system that copies on write, or one of another machine,
is written with ``pwrite``. Memory outlives nothing; it is the last resort.

Invariant: every block of a mapped file is allocated before it is mapped. Touching a hole on a full disk would kill the
user's process with SIGBUS.

Refused: a growing file (growing is a system call on the caller's way, and moves the mapping).
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Place = Literal["mapped", "written", "memory"]

MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs", "f2fs", "jfs", "overlay"})
"""Local file systems that write a block where it is. Any other is written with system calls."""

POPULATE_WRITE = 23
"""``MADV_POPULATE_WRITE`` (Linux 5.14): makes the pages present now instead of at the first write to each."""

ZEROS = bytes(1 << 20)


class Segment:
    """A fixed number of bytes.

    Args:
        size: how many.
        data: what slices are assigned to.
        lengths: what words are assigned to, by their index.
        path: its file, or None.
        fd: the open file, or None.
    """

    def __init__(self, size: int, data: Any, lengths: Any, path: Path | None = None, fd: int | None = None) -> None:
        self.size = size
        self.data = data
        self.lengths = lengths
        self.path = path
        self._fd = fd

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`."""
        return bytes(self.data[start:end])

    def clear(self) -> None:
        """Make every byte zero, the first ones first: a segment cleared by half has no header."""
        for start in range(0, self.size, len(ZEROS)):
            self.data[start : min(start + len(ZEROS), self.size)] = ZEROS[: self.size - start]

    def close(self) -> None:
        """Let go of the memory and the file; what is in the file stays."""
        if isinstance(self.lengths, memoryview):
            self.lengths.release()
        if isinstance(self.data, mmap.mmap):
            self.data.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Close it and delete its file."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def in_memory(size: int) -> Segment:
    """Return a segment that lives as long as the process."""
    data = bytearray(size)
    return Segment(size, data, memoryview(data).cast("I"))


def in_file(path: Path, size: int, place: Place) -> Segment:
    """Create a file of `size` bytes, all of them allocated.

    Args:
        path: it must not exist.
        size: in bytes, a multiple of the page size.
        place: ``"mapped"`` or ``"written"``.

    Raises:
        OSError: the file cannot be created, or the disk has not so much room.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        _allocate(fd, size)
        if place == "mapped":
            mapped = mmap.mmap(fd, size)
            os.close(fd)
            _populate(mapped)
            return Segment(size, mapped, memoryview(mapped).cast("I"), path)
        written = WrittenBytes(fd)
        return Segment(size, written, WrittenWords(written), path, fd)
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(fd)
        raise


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for _ in range(0, size, len(ZEROS)):
        os.write(fd, ZEROS[:size])


def _populate(mapped: mmap.mmap) -> None:
    try:
        mapped.madvise(POPULATE_WRITE)
    except (OSError, AttributeError, ValueError):
        return  # an older kernel, another system: each page is made present at its first write


class WrittenBytes:
    """Slices of a file, assigned with ``pwrite``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __setitem__(self, where: slice, data: bytes) -> None:
        at = where.start
        while data:
            written = os.pwrite(self._fd, data, at)
            at, data = at + written, data[written:]

    def __getitem__(self, where: slice) -> bytes:
        return os.pread(self._fd, where.stop - where.start, where.start)


class WrittenWords:
    """Words of a file, assigned with ``pwrite``."""

    def __init__(self, data: WrittenBytes) -> None:
        self._data = data

    def __setitem__(self, index: int, word: int) -> None:
        self._data[index * 4 : index * 4 + 4] = word.to_bytes(4, sys.byteorder)


def place_for(folder: Path) -> Place:
    """Say how a journal in `folder` is written: mapped where its file system is known to bear that."""
    kind = file_system(folder, _mounts())
    if kind in MAPPABLE:
        return "mapped"
    return "written" if hasattr(os, "pwrite") else "memory"


def file_system(folder: Path, mounts: Iterable[str]) -> str:
    """Return the type of the file system `folder` is on.

    Args:
        folder: an absolute path.
        mounts: lines as ``/proc/self/mountinfo`` has them (see proc(5)).

    Returns:
        Its type, such as ``"ext4"``; empty where it is not known.
    """
    best, kind = Path(), ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        mount = Path(left.split(" ")[4].encode().decode("unicode_escape"))  # a space in it is written \040
        if folder.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, right.split(" ")[0]
    return kind


def _mounts() -> list[str]:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # not Linux
