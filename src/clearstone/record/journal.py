"""The journal: where the calling thread leaves what it recorded, so that no death of the process loses it.

Idea: records are copied into a memory-mapped segment: serialise first, then reserve a place, copy, publish. There is no
queue beside it, no system call and no lock on the way. The writer (`record.writer`) reads the same bytes, hands them to
the store and releases the segment. A process that dies leaves its segments behind; the next opener recovers them
(`record.recovery`).

Invariant: a place is reserved by one statement that calls nothing, so nobody can come between its parts (see
`segments.DIRECT`; where that does not hold, and where segments are written by system calls, a lock is taken). Places
never overlap, so a thread, a signal handler or a `__del__` that comes while a record is being copied goes on behind it;
the record counts when its state is written, which is the last thing written of it. While the next segment is made the
lock is held; what a handler appends then is put beside, and the interrupted append takes it along. A forked child has a
journal of its own.

Refused: a segment a thread (no order among them); a queue with a writer behind it (it dies with the process).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from clearstone import notice
from clearstone.record import layout, ownership, segments
from clearstone.record.layout import PUBLISHED
from clearstone.record.site_numbers import SiteNumbers
from clearstone.record.supply import LARGEST, Supply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clearstone.record.segments import Segment
    from clearstone.store.batch import ProcessRow

OnFull = Literal["block", "drop-and-count"]

DEFAULT_LIMIT = 1 << 30
BUSY = 4 << 20
"""Bytes of a segment of a process that has filled two: three megabytes."""

ROOM_SECONDS = 0.2
"""A blocked append looks again after so long, in case the writer's word was missed."""


class Journal:
    """The journal of one process for one store.

    Args:
        folder: where each process has its folder; None to keep records in memory.
        wake: called after an append that found it `parked` or needed a segment; with ``"room"`` where none has room.
        limit: at most so many bytes of segments.
        on_full: what happens past the limit: ``"block"`` waits for the writer, ``"drop-and-count"`` drops the record.
        may_wait: whether the calling thread may wait for room; where it may not, the record is dropped and counted.
    """

    any_begun: ClassVar[bool] = False
    """Whether anything was recorded in this process, or in one it was forked from."""

    def __init__(
        self,
        folder: Path | None,
        wake: Callable[..., None],
        limit: int = DEFAULT_LIMIT,
        on_full: OnFull = "drop-and-count",
        may_wait: Callable[[], bool] = lambda: True,
    ) -> None:
        self.folder = folder
        self.wake = wake
        self._limit = limit
        self._blocks = on_full == "block"
        self._may_wait = may_wait
        self.sites = SiteNumbers(self.append)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self.process: ProcessRow = ownership.this_process()
        self.parked = True
        self.dropped = 0
        self._busy = False
        self._late: deque[bytes] = deque()
        self.sites.begin_anew()
        self._supply = Supply(self.folder, self.process, self._limit)
        self._failed: OSError | None = None  # why the current segment could not be written
        self._serial = 0
        self._filled: tuple[Segment, ...] = ()  # those no more is appended to, the oldest first
        self.segment = segments.in_memory(0)  # without room: the first append makes one
        self._before = 0  # bytes appended to the segments before it
        self._read = 0  # up to where the oldest segment is stored
        self.stored = 0  # bytes stored in all

    # --- the calling thread ------------------------------------------------------------------------------------------

    def append(self, record: bytes) -> bool:
        """Copy `record` into the journal.

        Args:
            record: as `clearstone.record.layout` makes them; not empty.

        Returns:
            Whether it is there; False where the journal is full and it was dropped.
        """
        size, segment, fits = len(record), self.segment, False
        try:
            # one statement without a call: nobody comes between its parts
            segment.at = after if (fits := (after := (at := segment.at) + (size + 8 & -4)) <= segment.direct) else at
            if fits:
                segment.lengths[at >> 2] = size
                segment.data[at + 4 : at + 4 + size] = record
                segment.data[at + 4 + size] = PUBLISHED
        except BaseException:  # a debugger's user who gives up
            if fits:
                segment.give_up(at, size)
            raise
        if not fits:
            return self._append_with_lock(record)
        if self.parked:
            self.wake()
        return True

    def _append_with_lock(self, record: bytes) -> bool:
        """Append to a segment that wants it, or to the next one where this has no room."""
        with self._lock:
            if self._busy or self._late:
                self.segment.direct = 0  # until it is appended: what comes later must not overtake it
                self._late.append(record)
                fits = True
            else:
                try:
                    self._busy = True
                    fits = self._put(record)
                finally:
                    self._busy = False
        if not fits:
            return self._append_to_next(record)
        if self._late:
            self._append_late()
        if self.parked:
            self.wake()
        return True

    def _put(self, record: bytes) -> bool:
        """Append with the lock, if there is room; what handlers append meanwhile is put beside."""
        size, segment, fits = len(record), self.segment, False
        try:
            segment.at = after if (fits := (after := (at := segment.at) + (size + 8 & -4)) <= segment.room) else at
            if fits:
                segment.put(at, record)
        except BaseException as error:  # a pwrite that fails; a debugger's user who gives up
            if fits and segment.is_direct:
                segment.give_up(at, size)
            elif fits:
                segment.seal()  # what is there now must not pass for a record: the next is put elsewhere
                segment.at = at
            if not isinstance(error, OSError):
                raise
            self._failed, fits = error, False
        return fits

    def _append_late(self) -> None:
        """Append what was put beside, in its order. It cannot wait for room: it may be a signal handler's."""
        lock = self._lock
        with self._alone() as alone:
            while alone and self._late and lock is self._lock:
                record = self._late[0]
                if not self._put(record):
                    if self._make_room(len(record), lock):
                        continue
                    self._drop_record()
                self._late.popleft()
            if alone and lock is self._lock:
                self._open_direct()

    def _open_direct(self) -> None:
        """Take records without the lock from here on, unless some are put beside: those come first."""
        segment = self.segment
        segment.direct = segment.room if segment.is_direct and not self._late else 0  # no call, as in `append`

    def _append_to_next(self, record: bytes) -> bool:
        """The current segment has no room for `record`."""
        lock = self._lock
        while not self._has_room(len(record), lock):
            if lock is not self._lock:  # forked in there, by a signal handler: the record is the parent's
                return False
            self.wake("room")
            if self._blocks and self._may_wait():
                with self._room:  # lets go of the lock however often this thread has it
                    self._room.wait(ROOM_SECONDS)
            elif not self._has_room(len(record), lock):  # the wake may have stored something itself
                return self._drop_record()
        if not self.parked:
            self.wake()
        appended = self.append(record)
        if self._late:
            self._append_late()
        return appended

    def _drop_record(self) -> Literal[False]:
        with self._lock:
            self.dropped += 1
            first, held = self.dropped == 1, self._supply.held
        if first:
            notice.say(
                f"the journal is full ({held:,} bytes) and the store does not take them; records are dropped and "
                f"counted from now on. Mend the store, or raise journal_limit ({self._limit:,})."
            )
        return False

    def is_inside(self) -> bool:
        """Whether this thread is in the middle of an append: it runs a signal handler, or a `__del__`.

        It then holds what the writer waits for, and must not wait for the writer.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._busy
        finally:
            self._lock.release()

    @property
    def begun(self) -> bool:
        """Whether anything was ever appended in this process."""
        return self._serial > 0

    @property
    def appended(self) -> int:
        """How many bytes were appended in all; compare with `stored`."""
        if self._late:
            self._append_late()
        with self._lock:
            return self._before + self.segment.at - self.segment.begin

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the lock, and say whether this thread had none; what its signal handlers append is put beside."""
        with self._lock:
            before, self._busy = self._busy, True
            try:
                yield not before
            finally:
                self._busy = before

    def _has_room(self, size: int, lock: Any) -> bool:
        """Make room for a record of `size` bytes; False where that is not possible."""
        with self._alone() as alone:
            return not alone or self._make_room(size, lock)  # else it will be put beside

    def _make_room(self, size: int, lock: Any) -> bool:
        if self.segment.at + layout.space(size) <= self.segment.room:
            return True  # another thread was faster
        about, (failed, self._failed) = layout.about(self.process, self._serial), (self._failed, None)
        begun = self._supply.begun(size, about, self.sites.definitions, failed)
        if begun is None and lock is self._lock and self._let_go_of_current():
            begun = self._supply.begun(size, about, self.sites.definitions)
        if begun is None or lock is not self._lock:
            return False
        self._go_on_in(begun)
        return True

    def _let_go_of_current(self) -> bool:
        """At the limit: give up the current segment, if all of it is stored."""
        segment = self.segment
        segment.direct = 0  # from here on nothing is appended past the lock
        if not segment.size or self._filled or self._read < segment.at:
            self._open_direct()
            return False
        self._before += segment.at - segment.begin
        self.segment, self._read = segments.in_memory(0), 0
        self._supply.let_go(segment)
        return True

    def _go_on_in(self, segment: Segment) -> None:
        """Make `segment` the current one. Nothing is called in here, so that all of it happens or none."""
        supply, before = self._supply, self.segment
        before.room = before.direct = 0  # sealed: from here on `at` is its end
        if before.size:
            self._before += before.at - before.begin
            self._filled = (*self._filled, before)
            supply.next_size = supply.next_size * 2 if supply.next_size < LARGEST else LARGEST
        else:
            self._read = segment.begin
        if segment is supply.spare:
            supply.spare = None
        segment.direct = segment.room if segment.is_direct and not self._late else 0
        self.segment = segment
        self._serial += 1
        Journal.any_begun = True

    # --- the writer --------------------------------------------------------------------------------------------------

    def unread(self, most: int) -> bytes:
        """Return the oldest bytes that are not stored, at most `most` (more where one record is longer).

        Only one thread at a time may read and advance; the bytes are copied while others append.
        """
        with self._lock:
            oldest = self._filled[0] if self._filled else self.segment
            start, end = self._read, oldest.at
        if start >= end:
            return b""
        data = oldest.read(start, min(end, start + most))
        if len(data) == most and not layout.cut(data, 1)[1]:
            data = oldest.read(start, end)
        return data

    def advance(self, size: int) -> None:
        """The first `size` bytes of `unread` are stored; a segment all of which is stored is released."""
        released = None
        with self._alone():
            self._read, self.stored = self._read + size, self.stored + size
            if self._filled and self._read >= self._filled[0].at:
                released = self._filled[0]
                self._filled = self._filled[1:]
                self._read = (self._filled[0] if self._filled else self.segment).begin
        if released is not None:
            self._recycle(released)
        with self._room:
            self._room.notify_all()

    def _recycle(self, segment: Segment) -> None:
        if not self._supply.is_reusable(segment):
            with self._alone():
                self._supply.let_go(segment)
            return
        segment = segment.renewed()
        try:
            segment.clear()
        except BaseException:
            with self._alone():
                self._supply.let_go(segment)
            raise
        self._keep(segment)

    def _keep(self, segment: Segment) -> None:
        """Have it as the spare, unless there is one, or the journal was closed meanwhile."""
        with self._alone():
            if self._supply.spare is None and self.segment.size:
                self._supply.spare = segment
            else:
                self._supply.let_go(segment)

    def keep_spare(self) -> None:
        """Have a segment ready before the current one is full; the callers go on meanwhile.

        A process that has filled a few has one ready always (or one that will serve again), for its next burst.
        """
        with self._alone():
            size = self.segment.size
            wanted = self.segment.at * 2 > size or (size >= BUSY and not self._filled)
            reserved = self._supply.reserve() if wanted else None
        if reserved is None:
            return
        made = self._supply.make(*reserved)
        if made is not None:
            self._keep(made)
        else:
            with self._alone():
                self._supply.held -= reserved[1]

    def unstored(self) -> list[bytes]:
        """Return all records that are not stored."""
        with self._lock:
            parts = [*self._filled, self.segment]
            begins = [self._read, *(each.begin for each in parts[1:])]
            found = [each.read(begin, each.at) for each, begin in zip(parts, begins, strict=True)]
        return [record for data in found for record in layout.cut(data)[0]]

    def close(self) -> None:
        """Let go of segments that are stored, and of the folder; appending again begins anew."""
        with self._alone() as alone:
            segment = self.segment
            segment.direct = 0  # from here on nothing is appended past the lock
            if not alone or not segment.size or self.stored < self._before + segment.at - segment.begin:
                self._open_direct()
                return  # what is not stored stays on disk for the next opener, whoever that is
            for each in self._filled:
                self._supply.let_go(each)
            self._filled, self._read = (), segment.at
            self._let_go_of_current()
            self._supply.close()

    # --- fork --------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Hold still: the child must not inherit a half-taken lock."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the parent's segments and lock to the parent."""
        self._supply.forget()
        self._reset()
