"""Values that wait in a file of their own until somebody asks for them: a trace of any size takes little memory.

Idea: who reads a trace keeps a few megabytes of its values in memory; those beyond are put into a temporary file
without a name, from which a payload reads its bytes each time it is asked. What was checked when it was read is in
there, so nobody can change it behind the reader's back, as they could change the file that it came from.

Invariant: such a payload is as good as any: equal to one that is held, and held where it is pickled. The file goes with
the last payload in it, and no other user can open it.
"""

from __future__ import annotations

import os
import threading
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from clearstone.codec import payload
from clearstone.span import BUFFERS, CODEC_MASK, CODECS, REDACTED, Payload

if TYPE_CHECKING:
    from collections.abc import Callable

HELD = 4 << 20
"""Bytes of one trace's values that are held in memory."""

SMALLEST = 256
"""A payload of fewer bytes is held in any case: its object takes as many."""


class Spill:
    """A temporary file that grows.

    Raises:
        OSError: there is no room for one.
    """

    def __init__(self) -> None:
        self._file: Any = TemporaryFile(buffering=0)  # noqa: SIM115 - it is closed when nobody has it any more
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()

    def append(self, data: bytes) -> int:
        """Write some bytes; return where they begin."""
        view = memoryview(data)
        with self._lock:
            at = self._size
            self._file.seek(at)
            while view:
                view = view[self._file.write(view) :]
            self._size += len(data)
        return at

    def read(self, at: int, length: int) -> bytes:
        """Return the bytes of a place; fewer where the file ends."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), length, at)
        with self._lock:
            self._file.seek(at)
            found: bytes = self._file.read(length)
            return found

    def from_start(self) -> BinaryIO:
        """Return the file at its beginning, for one reader."""
        self._file.seek(0)
        file: BinaryIO = self._file
        return file


class SpilledPayload(Payload):
    """A payload whose bytes are in a `Spill`."""

    __slots__ = ("_form", "_place")
    _form: int
    _place: tuple[Spill, int, int]

    def __init__(self, form: int, name: bytes, spill: Spill, at: int, length: int) -> None:
        put: Callable[[Any, str, Any], None] = object.__setattr__  # it is frozen
        put(self, "codec", CODECS[form & CODEC_MASK])
        put(self, "redacted", bool(form & REDACTED))
        put(self, "name", name)
        put(self, "_form", form)
        put(self, "_place", (spill, at, length))

    @property
    def data(self) -> bytes:
        """See `Payload`."""
        return self._read().data

    @property
    def buffers(self) -> tuple[bytes, ...]:
        """See `Payload`."""
        return self._read().buffers if self._form & BUFFERS else ()

    def _read(self) -> Payload:
        spill, at, length = self._place
        return payload.of_raw(self._form, spill.read(at, length), self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Payload, (self.codec, self.data, self.buffers, self.redacted, self.name)


def placed(form: int, name: bytes, spill: Spill, at: int, length: int) -> Payload:
    """Return the payload whose bytes are at a place.

    Args:
        form: see `clearstone.codec.payload.of_raw`.
        name: its name.
        spill: where they are.
        at: where they begin.
        length: how many.

    Raises:
        ValueError: there are none, or they are not of that form.
    """
    if not 0 <= at <= at + length <= len(spill):
        raise ValueError(f"a value is said to be at {at} to {at + length} of {len(spill)} bytes")
    held = payload.of_raw(form, spill.read(at, length), name)
    return SpilledPayload(form, name, spill, at, length) if length >= SMALLEST else held


class Pile:
    """Makes the payloads of one trace, equal ones once, and holds no more than a few megabytes of them in memory."""

    def __init__(self) -> None:
        self._held = 0
        self._spill: Spill | None = None
        self._known: dict[tuple[bytes, int], Payload] = {}

    def payload(self, form: int, data: bytes, name: bytes) -> Payload:
        """Return the payload of some bytes (see `clearstone.codec.payload.of_raw`)."""
        known = self._known.get((name, form))
        if known is None:
            known = self._known[name, form] = self._made(form, data, name)
        return known

    def _made(self, form: int, data: bytes, name: bytes) -> Payload:
        made = payload.of_raw(form, data, name)
        if len(data) < SMALLEST or self._held + len(data) <= HELD:
            self._held += len(data)
            return made
        try:
            self._spill = self._spill or Spill()
            return SpilledPayload(form, name, self._spill, self._spill.append(data), len(data))
        except OSError:  # no room: then it takes memory
            return made
