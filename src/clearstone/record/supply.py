"""Where a journal's next segment comes from: a file in the process's folder, or memory where there can be none.

Idea: segments begin small, so that a process that lives short costs little, and each is twice as large as the one
before, up to a limit. One is kept ready, so that whoever fills the current one goes on without a system call. A
segment that is stored comes back as the spare where its size still fits.

Invariant: all segments together stay below the limit, those in memory below one of their own. That records wait in
memory is said once, for memory dies with the process.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from clearstone import notice
from clearstone.record import layout, ownership, segments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from clearstone.record.segments import Segment
    from clearstone.store.batch import ProcessRow

SMALLEST, LARGEST = 1 << 20, 16 << 20
MEMORY_LIMIT = 64 << 20


class Supply:
    """Makes the segments of one journal. Its caller holds the journal's lock, but for `make`.

    Args:
        folder: where each process has its folder; None to have memory only.
        process: whose segments they are.
        limit: at most so many bytes of segments.
    """

    def __init__(self, folder: Path | None, process: ProcessRow, limit: int) -> None:
        self.folder = folder
        self.process = process
        self.limit = limit
        self.held = 0
        self.spare: Segment | None = None
        self.next_size = SMALLEST
        self._in_memory = 0
        self._said_memory = False
        self._owned: ownership.OwnedFolder | None = None
        self._place: segments.Place = "memory"
        self._numbers = itertools.count(1)

    def begun(
        self, size: int, about: bytes, definitions: Sequence[bytes], failed: OSError | None = None
    ) -> Segment | None:
        """Return the spare or a new segment with its header, open for records; None past the limit.

        Args:
            size: of the record it is for, in bytes.
            about: see `clearstone.record.layout.about`.
            definitions: of the sites named so far.
            failed: why a file cannot be written just now, if that is known.
        """
        needed = len(layout.header(about, layout.NO_PROOF, definitions)) + layout.space(size)
        while (segment := self._segment(needed, failed)) is not None:
            try:
                proof = ownership.proof(about, segment.inode) if segment.path is not None else layout.NO_PROOF
                header = layout.header(about, proof, definitions)
                segment.data[0 : len(header)] = header
            except OSError as error:
                self.let_go(segment)
                failed = error
            except BaseException:
                self.let_go(segment)
                raise
            else:
                segment.open(len(header))
                return segment
        return None

    def _segment(self, needed: int, failed: OSError | None) -> Segment | None:
        if self.folder is not None and failed is None and self.spare is not None and self.spare.size >= needed:
            return self.spare
        size = self.next_size
        while size < needed:
            size *= 2
        while size > max(SMALLEST, self.limit - self.held) and size // 2 >= needed:
            size //= 2  # near the limit rather a small one than none
        if self.folder is None:
            return self._memory(size)
        try:
            if failed is not None:
                raise failed
            return self._file(size)
        except OSError as error:
            self._say_memory(error)
            return self._memory(size)

    def _file(self, size: int) -> Segment | None:
        if self.held + size > self.limit:
            return None
        made = segments.in_file(self._next_path(), size, self._place)
        self.held += size
        return made

    def _next_path(self) -> Path:
        """Return the next file's path; the process's folder is made if it is not there, or no more."""
        assert self.folder is not None  # noqa: S101 - asked by callers that checked
        if self._owned is None or not self._owned.path.exists():
            self.forget()
            self._owned = ownership.OwnedFolder(self.folder, self.process, next(self._numbers))
            self._place = segments.place_for(self.folder)
        return self._owned.path / f"{next(self._numbers):08d}{ownership.SEGMENT_SUFFIX}"

    def _memory(self, size: int) -> Segment | None:
        if self._in_memory + size > MEMORY_LIMIT or self.held + size > self.limit:
            return None
        self._in_memory += size
        self.held += size
        return segments.in_memory(size)

    def _say_memory(self, error: OSError) -> None:
        if not self._said_memory:
            self._said_memory = True
            notice.say(
                f"no journal can be kept in {self.folder} ({error}): records wait in memory, "
                f"up to {MEMORY_LIMIT >> 20} MB, and would be lost with the process"
            )

    def let_go(self, segment: Segment) -> None:
        """Delete a segment."""
        if segment is self.spare:
            self.spare = None
        self.held -= segment.size
        if segment.path is None:
            self._in_memory -= segment.size
        with contextlib.suppress(OSError):  # its folder is gone, or read-only by now
            segment.remove()

    def is_reusable(self, segment: Segment) -> bool:
        """Whether a segment that is stored would serve as the spare."""
        return self.spare is None and segment.path is not None and segment.size == self.next_size

    def reserve(self) -> tuple[Path, int] | None:
        """Return path and size for `make`; None where no spare is wanted or possible."""
        if self.spare is not None or self._owned is None or self.held + self.next_size > self.limit:
            return None
        try:
            path = self._next_path()
        except OSError:  # the append that needs the next segment will say so
            return None
        self.held += self.next_size
        return path, self.next_size

    def make(self, path: Path, size: int) -> Segment | None:
        """Return the segment that was reserved; None where it cannot be made. Callers may append meanwhile."""
        with contextlib.suppress(OSError):  # the append that needs the next segment will say so
            return segments.in_file(path, size, self._place)
        return None

    def close(self) -> None:
        """Let go of the spare, and of the process's folder, which is removed where it holds no segment."""
        if self.spare is not None:
            self.let_go(self.spare)
        if self._owned is not None:
            self._owned.release()
            self._owned = None
        self.next_size = SMALLEST

    def forget(self) -> None:
        """Leave the folder to whom it belongs: a forked child's is the parent's."""
        if self._owned is not None:
            self._owned.forget()
            self._owned = None
