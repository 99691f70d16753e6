"""The journal: where the calling thread leaves what it recorded, so that no death of the process loses it.

Idea: records are copied into a memory-mapped segment: serialise first, then one short critical section that reserves,
copies and publishes. There is no queue beside it and no system call on the way. The writer (`record.writer`) reads the
same bytes, hands them to the store and releases the segment. A process that dies leaves its segments behind; the next
opener recovers them (`record.recovery`).

Invariant: a record counts when its length is written, which is the last thing written of it. Appending is safe in
signal handlers and `__del__`: one that interrupts another append on the same thread leaves its record beside, and the
interrupted one takes it along. A forked child starts a journal of its own.

Refused: a segment a thread (a file a thread, and no order among them); a queue with a writer behind it (what is in a
queue dies with the process).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clearstone import notice
from clearstone.record import layout, ownership, segments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clearstone.record.segments import Segment
    from clearstone.store.base import ProcessRow, SiteRow

OnFull = Literal["block", "drop-and-count"]

SMALLEST, LARGEST = 1 << 20, 16 << 20
DEFAULT_LIMIT = 1 << 30
MEMORY_LIMIT = 64 << 20
MOST_SITES = 4000
"""Beyond so many sites a start names its site itself: span names made at run time must not fill every header."""

NO_SITE = 0
ROOM_SECONDS = 0.2
"""A blocked append looks again after so long, in case the writer's word was missed."""


@dataclass(slots=True)
class Filled:
    """A segment no more is appended to: where its records begin and end."""

    segment: Segment
    begin: int
    end: int


class Journal:
    """The journal of one process for one store.

    Args:
        folder: where each process has its folder; None to keep records in memory.
        limit: at most so many bytes of segments.
        on_full: what happens past the limit: ``"block"`` waits for the writer, ``"drop-and-count"`` drops the record.
        wake: called after an append while `parked` is true, and when a segment is full.
    """

    def __init__(
        self,
        folder: Path | None,
        wake: Callable[[], None],
        limit: int = DEFAULT_LIMIT,
        on_full: OnFull = "drop-and-count",
    ) -> None:
        self.folder = folder
        self._wake = wake
        self._limit = limit if folder is not None else min(limit, MEMORY_LIMIT)
        self._on_full = on_full
        self._caches: list[dict[str, Any]] = []
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._room = threading.Event()
        self.process: ProcessRow = ownership.this_process()
        self.parked = True
        self.dropped = 0
        self._busy = False
        self._late: deque[bytes] = deque()
        # sites
        for cache in self._caches:
            cache.clear()
        self._numbers: dict[SiteRow, int] = {}
        self.definitions: list[bytes] = []
        # segments
        self._owned: ownership.OwnedFolder | None = None
        self._place: segments.Place = "memory"
        self._next_size = SMALLEST
        self._made = self._serial = self._held = 0
        self._spare: Segment | None = None
        self._filled: deque[Filled] = deque()
        self._current: Segment | None = None
        self._data: Any = None
        self._lengths: Any = None
        self._begin = self._at = self._size = 0  # of the current segment
        self._before = 0  # bytes appended to the segments before it
        self._read = 0  # up to where the oldest segment is stored
        self.stored = 0  # bytes stored in all

    # --- the calling thread ------------------------------------------------------------------------------------------

    def append(self, record: bytes) -> None:
        """Copy `record` into the journal.

        Args:
            record: as `clearstone.record.layout` makes them; not empty.
        """
        with self._lock:
            if self._busy:  # a signal handler or __del__ between two of the lines below
                self._late.append(record)
                return
            self._busy = True
            try:
                at, size = self._at, len(record)
                if at + 4 + size <= self._size or self._roll(size):
                    at = self._at
                    self._data[at + 4 : at + 4 + size] = record
                    self._lengths[at >> 2] = size
                    self._at = at + 4 + size + (-size & 3)
                    kept = True
                else:
                    kept = False
            finally:
                self._busy = False
        if self._late:
            self._append_late()
        if not kept:
            self._append_when_full(record)
        if self.parked:
            self._wake()

    def _append_late(self) -> None:
        with contextlib.suppress(IndexError):  # another thread took it
            self.append(self._late.popleft())

    def _append_when_full(self, record: bytes) -> None:
        if self._on_full == "block":
            self._room.clear()
            self._wake()
            self._room.wait(ROOM_SECONDS)
            self.append(record)
            return
        self.dropped += 1
        if self.dropped == 1:
            notice.say(
                f"the journal is full ({self._held:,} bytes, limit {self._limit:,}) and the store does not take them; "
                f"records are dropped and counted from now on. Mend the store, or raise journal_limit."
            )

    def site_number(self, row: SiteRow) -> int:
        """Return the number that stands for `row` in this journal; `NO_SITE` when there are too many already."""
        number = self._numbers.get(row)
        if number is not None:
            return number
        with self._lock:
            number = self._numbers.get(row)
            if number is None:
                if len(self._numbers) >= MOST_SITES:
                    return NO_SITE
                number = len(self._numbers) + 1
                definition = layout.site_record(number, row)
                self._numbers[row] = number
                self.definitions.append(definition)
                self.append(definition)
        return number

    def number_cache(self) -> dict[str, Any]:
        """Return an empty dict for site numbers, which is emptied when they begin anew, in a forked child."""
        self._caches.append(cache := {})
        return cache

    @property
    def appended(self) -> int:
        """How many bytes were appended in all; compare with `stored`."""
        with self._lock:
            return self._before + self._at - self._begin

    # --- segments, with the lock held --------------------------------------------------------------------------------

    def _roll(self, size: int) -> bool:
        """Make room for a record of `size` bytes; False where that is not possible."""
        header = layout.header(self.process, self._serial, self.definitions)
        needed = len(header) + 4 + size + 3
        segment, self._spare = self._spare, None
        if segment is None or segment.size < needed:
            wanted = self._next_size
            while wanted < needed:
                wanted *= 2
            made = self._make(wanted)
            if made is None:
                self._spare = segment
                return False
            if segment is not None:
                self._drop(segment)
            segment = made
        if self._current is not None:
            self._filled.append(Filled(self._current, self._begin, self._at))
            self._before += self._at - self._begin
            self._next_size = min(self._next_size * 2, LARGEST)
        else:
            self._read = len(header)
        segment.data[0 : len(header)] = header
        self._current, self._size, self._data, self._lengths = segment, segment.size, segment.data, segment.lengths
        self._begin = self._at = len(header)
        self._serial += 1
        if not self.parked:
            self._wake()
        return True

    def _make(self, size: int) -> Segment | None:
        if self._held + size > self._limit:
            return None
        try:
            segment = self._make_in_file(size)
        except OSError as error:
            if self._held + size > MEMORY_LIMIT:
                return None
            if self._place != "memory":
                notice.say(f"no journal can be kept in {self.folder} ({error}): records wait in memory")
            self._place = "memory"
            segment = segments.in_memory(size)
        self._held += size
        return segment

    def _make_in_file(self, size: int) -> Segment:
        if self.folder is None:
            return segments.in_memory(size)
        if self._owned is None or not self._owned.path.exists():
            if self._owned is not None:
                self._owned.forget()
            self._place = segments.place_for(self.folder)
            self._owned = ownership.OwnedFolder(self.folder, f"{self.process.token}.{self._made}")
        self._made += 1
        path = self._owned.path / f"{self._made:08d}{ownership.SEGMENT_SUFFIX}"
        return segments.in_file(path, size, segments.place_for(self.folder))

    def _drop(self, segment: Segment) -> None:
        self._held -= segment.size
        with contextlib.suppress(OSError):  # its folder is gone, or read-only by now
            segment.remove()

    # --- the writer --------------------------------------------------------------------------------------------------

    def unread(self, most: int) -> bytes:
        """Return the oldest bytes that are not stored, at most `most` (more where one record is longer)."""
        with self._lock:
            if self._current is None:
                return b""
            segment, end = self._oldest()
            start = self._read
            data = segment.read(start, min(end, start + most))
            if len(data) == most and not next(layout.records(data), b""):
                data = segment.read(start, end)
            return data

    def _oldest(self) -> tuple[Segment, int]:
        if self._filled:
            return self._filled[0].segment, self._filled[0].end
        assert self._current is not None  # noqa: S101 - asked by callers that checked
        return self._current, self._at

    def advance(self, size: int) -> None:
        """The first `size` bytes of `unread` are stored; a segment all of which is stored is released."""
        with self._lock:
            self._read += size
            self.stored += size
            released = None
            if self._filled and self._read >= self._filled[0].end:
                released = self._filled.popleft().segment
                self._read = self._filled[0].begin if self._filled else self._begin
        if released is not None:
            self._recycle(released)
        self._room.set()

    def _recycle(self, segment: Segment) -> None:
        if self._spare is None and segment.size == self._next_size:
            segment.clear()
            with self._lock:
                if self._spare is None:
                    self._spare = segment
                    return
        with self._lock:
            self._drop(segment)

    def keep_spare(self) -> None:
        """Have a segment ready before the current one is full."""
        with self._lock:
            if self._spare is None and self._current is not None and self._at * 2 > self._size:
                self._spare = self._make(self._next_size)

    def unstored(self) -> list[bytes]:
        """Return all records that are not stored."""
        with self._lock:
            if self._current is None:
                return []
            begins = [self._read, *(each.begin for each in list(self._filled)[1:])]
            found = [each.segment.read(begin, each.end) for each, begin in zip(self._filled, begins, strict=False)]
            found.append(self._current.read(self._begin if self._filled else self._read, self._at))
        return [record for data in found for record in layout.records(data)]

    def close(self) -> None:
        """Let go of segments that are stored, and of the folder; appending again begins anew."""
        with self._lock:
            if self._current is None or self.stored < self._before + self._at - self._begin:
                return  # what is not stored stays on disk for the next opener, whoever that is
            for segment in (self._current, self._spare):
                if segment is not None:
                    self._drop(segment)
            self._before, self._current, self._spare = self.stored, None, None
            self._data = self._lengths = None
            self._begin = self._at = self._size = 0
            if self._owned is not None:
                self._owned.release()
                self._owned = None

    # --- fork --------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Hold still: the child must not inherit a half-taken lock."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the parent's segments and lock to the parent."""
        owned = self._owned
        self._reset()
        if owned is not None:
            owned.forget()
