"""The packs that this process writes: one file a trace, a step for each checkpoint of it that saves itself.

Idea: a step holds what no earlier step of its file does: new segments of the state, sections with other bytes than
before, spans that have not ended in it yet. So the tenth checkpoint of a run costs what changed since the ninth. A step
that is no longer to be kept is named by a later one (`drops`); when most of a file is such, it is written anew.

Invariant: only the process that created a file appends to it; another one with the same trace makes a file of its own.
A step is one write at the end of the file: a process that dies meanwhile leaves the steps before. Once a step could
not be signed, no later one of its file is: its signature would vouch for that one too.

Refused: one database for all (a hundred megabytes of numbers in it take seconds); a file a step (each holds the whole
state); locks on files (they are not everywhere, and a creator needs none).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import OrderedDict
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint import container, manifests, serial, spans
from clearstone.checkpoint.packfile import PackFile
from clearstone.checkpoint.signing import signing_key
from clearstone.codec.keys import machine_key
from clearstone.errors import CheckpointError
from clearstone.span import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.codec.keys import Key

SUFFIX = ".pack"
AT_HAND, MOST_KNOWN = 16, 256
"""Files that hold the last snapshot, for the next step to be told as a difference from; and files that are known at
all: a trace that comes again later gets another one."""

MOST_FILES = 1000
"""Of one trace: each process that has a part in it makes one."""

ROOM = 32
"""A file is written anew when it holds so many dropped steps, and twice as many as others."""

TRACE = ("trace", "payloads")
"""Sections that are never taken from an earlier step: all of a file's together are its trace."""


class PackGone(OSError):  # noqa: N818 - no error of a user's: the next file is begun
    """A pack's file was removed, replaced or altered by somebody, or written anew."""


class PackBusy(CheckpointError):  # noqa: N818 - as `PackGone`: a file of its own is begun
    """A signal handler interrupted this thread while it writes a step of that pack."""


class Pack:
    """A file that this process appends to. It is opened for each step: nothing is held between them.

    Args:
        path: the file, which must not exist.
        key: what signs it; None for this machine's, until a step must not be signed.

    Raises:
        FileExistsError: it does.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, key: Key | None = None) -> None:
        self.path = path
        self.key = key
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
        self._left = os.fstat(descriptor)  # how the file was left
        os.close(descriptor)
        self._lock = threading.RLock()  # reentrant, so that a signal handler that comes meanwhile is told and not stuck
        self._busy = self._is_named = self._waits = self._is_gone = self._is_spoiled = False
        self._manifest = manifests.Manifest()
        self._digest = b""
        self._steps = self._base = 0
        self._held: dict[tuple[str, bytes], int] = {}
        self._ended: set[str] = set()
        self.live: dict[str, int] = {}
        """The numbers of steps that were not dropped, by the ids of their checkpoints."""

    def append(
        self,
        checkpoint: Checkpoint,
        *,
        trace: Trace | None,
        drops: Iterable[str] = (),
        sync: bool = False,
        more: Mapping[str, bytes] | None = None,
    ) -> None:
        """Add a step.

        Args:
            checkpoint: what it is of.
            trace: the spans to keep with it; None where they are kept elsewhere.
            drops: ids of checkpoints of this file that are no longer kept.
            sync: whether it is to be on the disk when this returns.
            more: further sections.

        Raises:
            PackGone: the file is not what was written last.
            OSError: it cannot be written; the file is as it was, and takes no further checkpoint.
            PackBusy: this thread is just writing another step, and a signal handler interrupted it.
        """
        header, sections = serial.described(checkpoint)
        sections |= more or {}
        with self._alone():
            if self._is_spoiled:
                raise PackGone(f"{self.path} could not be written to the last time")
            told = self._untold(trace) if trace is not None else None
            if told is not None:
                sections["trace"], sections["payloads"] = spans.pack(told)
            self.key = self._key_for(checkpoint, told)
            self._add(header, sections, serial.snapshots_of(checkpoint), self._numbers(drops))
            self.live[checkpoint.checkpoint_id] = self._steps - 1
            self._ended.update(span.span_id for span in told or () if span.end_ns is not None)
            if sync:
                self.sync()

    def drop(self, ids: Iterable[str]) -> None:
        """Let go of checkpoints; with the last one the file goes.

        Raises:
            PackGone, PackBusy, OSError: as `append`.
        """
        with self._alone():
            numbers = self._numbers(ids)
            if not self.live:
                self._is_gone = True
                self.path.unlink(missing_ok=True)
            elif numbers:
                self._write(*self._step({"summary": {"drops": numbers}}, {}))

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if self._waits:
            with self._opened() as descriptor:
                getattr(os, "fdatasync", os.fsync)(descriptor)
            self._waits = False
        if not self._is_named:
            container.sync_folder(self.path.parent)
            self._is_named = True

    def written_anew(self) -> Pack:
        """Put a file of what is kept in its place; this one takes no further step.

        Raises:
            OSError: it cannot be written; the file is as it was.
            CheckpointDamagedError, PackGone: somebody altered it: nothing of that gets this machine's signature.
        """
        fresh = Pack(self.path.with_name(f".{self.path.name}.{os.urandom(4).hex()}.tmp"), self.key)
        try:
            with self._alone(), container.opened(self.path) as file:
                found = PackFile(self.path, file)
                self._require_own(found)
                for number in sorted(self.live.values()):
                    checkpoint, own = found.checkpoint(number), found.holds_trace(number)
                    more = {} if own else {"store": found.store(number)}
                    fresh.append(checkpoint, trace=checkpoint.trace if own else None, more=more)
                fresh.sync()
                fresh.path.replace(self.path)
                self._is_gone = True
        except BaseException:
            fresh.path.unlink(missing_ok=True)
            raise
        fresh.path = self.path
        container.sync_folder(self.path.parent)
        return fresh

    def _require_own(self, found: PackFile) -> None:
        """Refuse what is not what was written: the last digest covers all of it."""
        if found.digest != self._digest:
            self._is_gone = True
            raise PackGone(f"{self.path} was altered by somebody")

    def lighten(self) -> None:
        """Hold no state any more, unless a step is just written."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._busy:
                    self._manifest.let_go()
            finally:
                self._lock.release()

    @property
    def is_usable(self) -> bool:
        """Whether it takes a further checkpoint, as far as is known."""
        return not (self._is_gone or self._is_spoiled)

    @property
    def is_wasteful(self) -> bool:
        """Whether most of its steps were dropped."""
        return self._steps - len(self.live) > max(ROOM, 2 * len(self.live))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            if self._is_gone:
                raise PackGone(f"{self.path} is no more")
            if self._busy:
                raise PackBusy(f"{self.path} is just being written by the code that was interrupted")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _key_for(self, checkpoint: Checkpoint, told: Trace | None) -> Key:
        if self.key is not None and (not told or not self.key.secret):
            return self.key
        found = signing_key(replace(checkpoint, trace=told)) if told else machine_key()
        return (self.key or found) if found.secret else found

    def _numbers(self, ids: Iterable[str]) -> list[int]:
        return [self.live.pop(each) for each in ids if each in self.live]

    def _untold(self, trace: Trace) -> Trace:
        """Return the spans that no step has as they are now."""
        return Trace(trace.trace_id, tuple(span for span in trace if span.span_id not in self._ended))

    def _add(
        self, header: dict[str, Any], sections: dict[str, bytes], snapshots: Mapping[str, Any], drops: list[int]
    ) -> None:
        numbers = {
            name: self._held.setdefault((name, sha256(data).digest()), self._steps)
            for name, data in sections.items()
            if name not in TRACE
        }
        known = {name: number for name, number in numbers.items() if number < self._steps}
        if self._manifest.begins_anew:
            self._base = self._steps
        new = {name: data for name, data in sections.items() if name not in known}
        parts = {**new, **self._manifest.sections(snapshots)}
        parts = {name: data for name, data in parts.items() if data or name == "payloads"}
        if drops:
            header["summary"]["drops"] = drops
        self._write(*self._step({**header, "held": known, "base": self._base}, parts))

    def _step(self, header: Mapping[str, Any], sections: Mapping[str, bytes]) -> tuple[bytes, list[bytes]]:
        key = self.key or machine_key()
        return container.step(container.PACK_MAGIC, header, sections, key, self._digest)

    def _write(self, digest: bytes, parts: Sequence[bytes]) -> None:
        data = memoryview(b"".join(parts))
        with self._opened() as descriptor:
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except BaseException:
                self._is_spoiled = True  # what was to be in it counts as written
                with contextlib.suppress(OSError):  # else a reader stops at what was written of it
                    os.ftruncate(descriptor, self._left.st_size)
                    self._left = os.fstat(descriptor)
                raise
            self._left = os.fstat(descriptor)
        self._waits = True
        self._digest, self._steps = digest, self._steps + 1

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file, as it was left."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | _BINARY | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError as error:
            self._is_gone = True
            raise PackGone(f"{self.path} was removed by somebody") from error
        try:
            if not _is_as_left(os.fstat(descriptor), self._left):
                self._is_gone = True
                raise PackGone(f"{self.path} was altered by somebody")
            yield descriptor
        finally:
            os.close(descriptor)


def _is_as_left(now: os.stat_result, left: os.stat_result) -> bool:
    told = now.st_size, now.st_mtime_ns
    return os.path.samestat(now, left) and told == (left.st_size, left.st_mtime_ns)


_BINARY = getattr(os, "O_BINARY", 0)

_lock = threading.RLock()  # reentrant: as a pack's
_known: OrderedDict[tuple[Path, str], Pack] = OrderedDict()
_waiting: dict[str, Pack] = {}
"""Where the checkpoints of calls are that have not ended, by their ids: to be dropped from there when they have."""


def pack_of(folder: Path, trace_id: str) -> Pack:
    """Return the file that this process appends checkpoints of a trace to; made where there is none.

    Raises:
        OSError: it cannot be made.
    """
    key = folder, trace_id
    with _lock:
        pack = _known.get(key)
        if pack is None or not pack.is_usable:
            pack = _known[key] = made(folder, trace_id)
            for each in list(_known.values())[:-AT_HAND]:
                each.lighten()
        _known.move_to_end(key)
        while len(_known) > MOST_KNOWN:
            _known.popitem(last=False)
        return pack


def made(folder: Path, trace_id: str) -> Pack:
    """Make a further file for checkpoints of a trace.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(MOST_FILES):
        name = f"{trace_id}.{number}{SUFFIX}" if number else f"{trace_id}{SUFFIX}"
        with contextlib.suppress(FileExistsError):
            return Pack(folder / name)
    raise FileExistsError(f"{folder} holds {MOST_FILES} files of the trace {trace_id} already; 'clearstone forget' it")


def wait_for(checkpoint_id: str, pack: Pack) -> None:
    """Remember where a checkpoint is that is dropped when its call has ended (see `let_go`)."""
    with _lock:
        _waiting[checkpoint_id] = pack


def let_go(checkpoint_id: str) -> None:
    """Drop a checkpoint that `wait_for` was told of.

    Raises:
        PackBusy, OSError: its file cannot be written.
    """
    with _lock:
        pack = _waiting.pop(checkpoint_id, None)
        if pack is not None:
            with contextlib.suppress(PackGone):  # it is gone with its file
                pack.drop([checkpoint_id])


def write_anew(folder: Path, trace_id: str, pack: Pack) -> None:
    """Put a file of what is kept of `pack` in its place (see `Pack.written_anew`)."""
    with _lock:  # until the new one is known nobody asks where a checkpoint is
        fresh = _known[folder, trace_id] = pack.written_anew()
        _waiting.update((each, fresh) for each in fresh.live if each in _waiting)


def _sync_all() -> None:
    """At exit: what was written without waiting is on the disk."""
    with _lock:
        for pack in _known.values():
            with contextlib.suppress(OSError):
                pack.sync()


def _forget_all() -> None:
    """In a forked child: these files are its parent's."""
    global _lock  # noqa: PLW0603 - one process, one lock: the parent's may be another thread's
    _lock = threading.RLock()
    _known.clear()
    _waiting.clear()


atexit.register(_sync_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
