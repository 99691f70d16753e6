"""The places a journal can write to: a mapped file, a file written by system calls, memory.

Idea: each is a fixed number of bytes that slices are assigned to, and a place up to which they are taken. A mapped file
is the rule: assigning copies into the page cache without a system call, and what was copied outlives the process. A
file system that copies on write, or one of another machine, is written with ``pwrite``. Memory outlives nothing; it is
the last resort.

Invariant: every block of a mapped file is allocated before it is mapped. Touching a hole on a full disk would kill the
user's process with SIGBUS; so would a block that is copied when it is written, which is why such file systems are not
mapped.

Refused: a growing file (growing is a system call on the caller's way, and moves the mapping).
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clearstone.record import layout

if TYPE_CHECKING:
    from collections.abc import Iterable

Place = Literal["mapped", "written", "memory"]

MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs", "f2fs", "jfs", "overlay"})
"""Local file systems that write a block where it is. Any other is written with system calls."""

POPULATE_WRITE = 23
"""``MADV_POPULATE_WRITE`` (Linux 5.14): makes the pages present now instead of at the first write to each."""

ZEROS = bytes(1 << 20)

DIRECT = (
    sys.implementation.name == "cpython"
    and getattr(sys, "_is_gil_enabled", lambda: True)()
    and sys.byteorder == "little"  # as the records are, which then are packed with their length
)
"""Whether two statements without a call between them are one for every other thread: CPython with its lock changes
threads, and runs signal handlers and finalizers, where a call returns or a loop goes round, and nowhere else."""


class Segment:
    """A fixed number of bytes.

    Args:
        size: how many.
        data: what slices are assigned to.
        path: its file, or None.
        inode: the file's number, which a copy of the file does not have.

    Attributes:
        begin: where the first record is.
        at: where the next one goes.
        room: up to where records are taken under the journal's lock.
        direct: up to where they are taken without it.
        is_direct: whether its kind takes any without it.
    """

    def __init__(self, size: int, data: Any, path: Path | None = None, inode: int = 0) -> None:
        self.size = size
        self.data = data
        self.path = path
        self.inode = inode
        self.lengths = self._words()
        self.begin = self.at = self.room = self.direct = 0
        self.is_direct = False

    def _words(self) -> Any:
        return memoryview(self.data).cast("I")

    def open(self, begin: int) -> None:
        """Take records from now on, under the journal's lock.

        Args:
            begin: where the first one goes.
        """
        self.begin = self.at = begin
        self.room = self.size
        self.is_direct = DIRECT

    def seal(self) -> None:
        """Take no more records: `at` stays where it is."""
        self.room = self.direct = 0

    def put(self, at: int, record: bytes) -> None:
        """Copy a record to a place that is kept for it.

        Raises:
            OSError: the file takes no more.
        """
        size = len(record)
        self.lengths[at >> 2] = size
        self.data[at + 4 : at + 4 + size] = record
        self.data[at + 4 + size] = layout.PUBLISHED

    def give_up(self, at: int, size: int) -> bool:
        """Say that no record comes at a place that was kept for one of `size` bytes, unless it has come.

        Returns:
            Whether it has: a signal handler that leaves can be run right after the copy. By then the record may be
            stored, and these bytes serve others.
        """
        if not self.data or self.data[at + 4 + size]:
            return True
        self.lengths[at >> 2] = size
        self.data[at + 4 + size] = layout.GIVEN_UP
        return False

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`."""
        return bytes(self.data[start:end])

    def renewed(self) -> Segment:
        """Return a segment of the same bytes, to be cleared. This one has none from here on."""
        return type(self)(self.size, self._let_go(), self.path, self.inode)

    def clear(self) -> None:
        """Make every byte zero, the first ones first: a segment cleared by half has no header.

        Raises:
            OSError: the file takes no more.
        """
        for start in range(0, self.size, len(ZEROS)):
            self.data[start : min(start + len(ZEROS), self.size)] = ZEROS[: self.size - start]

    def close(self) -> None:
        """Let go of the memory and the file; what is in the file stays."""
        data = self._let_go()
        if isinstance(data, memoryview):
            data.release()
        elif data:
            data.close()

    def _let_go(self) -> Any:
        self.seal()
        data, lengths = self.data, self.lengths
        self.data, self.lengths = b"", None
        if lengths is not None:
            lengths.release()
        return data

    def remove(self) -> None:
        """Close it and delete its file."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def in_memory(size: int) -> Segment:
    """Return a segment that lives as long as the process."""
    return Segment(size, memoryview(bytearray(size)))


class WrittenSegment(Segment):
    """A file written by system calls.

    A record is one, which writes its length first and its state last. Other threads run meanwhile, so records are put
    under the journal's lock only.
    """

    def _words(self) -> Any:
        return None

    def open(self, begin: int) -> None:
        """Take records from now on, all of them under the lock."""
        super().open(begin)
        self.is_direct = False

    def put(self, at: int, record: bytes) -> None:
        """Write a record to a place that is kept for it.

        Raises:
            OSError: the file takes no more.
        """
        self.data[at : at + layout.space(len(record))] = layout.framed(record)


def in_file(path: Path, size: int, place: Place) -> Segment:
    """Create a file of `size` bytes, all of them allocated.

    Args:
        path: it must not exist.
        size: in bytes, a multiple of the page size.
        place: ``"mapped"`` or ``"written"``.

    Raises:
        OSError: the file cannot be created, or the disk has not so much room.
    """
    file = WrittenBytes(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    try:
        _allocate(file.fd, size)
        inode = os.fstat(file.fd).st_ino
        if place != "mapped":
            return WrittenSegment(size, file, path, inode)
        mapped = mmap.mmap(file.fd, size)  # it keeps a descriptor of its own
        file.close()
        _populate(mapped, size)
        return Segment(size, mapped, path, inode)
    except BaseException:
        file.close()
        path.unlink(missing_ok=True)
        raise


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for start in range(0, size, len(ZEROS)):
        written = os.write(fd, ZEROS[: size - start])
        if written < min(len(ZEROS), size - start):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _populate(mapped: mmap.mmap, size: int) -> None:
    """Make the pages present, some at a time: no other thread runs during `madvise`.

    Raises:
        OSError: a write to them would kill the process: the file system keeps no room for them after all.
    """
    try:
        for start in range(0, size, len(ZEROS)):
            mapped.madvise(POPULATE_WRITE, start, min(len(ZEROS), size - start))
    except (AttributeError, ValueError):
        return  # another system: each page is made present at its first write
    except OSError as error:
        if error.errno != errno.EINVAL:  # an older kernel
            raise


class WrittenBytes:
    """Slices of a file, assigned with ``pwrite``.

    Args:
        fd: the open file; closed with this object.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the file; once."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        """Close what a forked child inherited and does not use."""
        self.close()

    def __setitem__(self, where: slice, data: bytes) -> None:
        at = where.start
        while data:
            written = os.pwrite(self.fd, data, at)
            at, data = at + written, data[written:]

    def __getitem__(self, where: slice) -> bytes:
        return os.pread(self.fd, where.stop - where.start, where.start)


def place_for(folder: Path) -> Place:
    """Say how a journal in `folder`, which exists, is written: mapped where its file system is known to bear that."""
    kind = file_system(folder.resolve(), mounts())
    if kind in MAPPABLE and not (kind == "overlay" and _counts_no_inodes(folder)):
        return "mapped"
    return "written" if hasattr(os, "pwrite") else "memory"


def _counts_no_inodes(folder: Path) -> bool:
    """An overlay passes on the counts of what it writes to; btrfs, which copies on write, has none of inodes."""
    return os.statvfs(folder).f_files == 0


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
        fields = left.split(" ")
        if len(fields) < MOUNT_FIELDS:
            continue
        mount = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]))
        if folder.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, right.split(" ")[0]
    return kind


MOUNT_FIELDS = 6
_ESCAPED = re.compile(r"\\([0-7]{3})")  # a space in a mount's name is written \040


def mounts() -> list[str]:
    """Return the lines of ``/proc/self/mountinfo``; none where there is no such file."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []  # not Linux
