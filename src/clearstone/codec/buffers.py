"""A pickle and the large buffers it left out, as one run of bytes and back.

Idea: pickle protocol 5 hands large buffers (of arrays, mostly) out of band (PEP 574), so that they are copied once
instead of twice. Layout: the number of buffers (32 bit), the size of the pickle and of each buffer (64 bit each), then
their bytes in that order; little endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pickle import PickleBuffer

COUNT = struct.Struct("<I")


def pack(data: bytes, buffers: Iterable[bytes | PickleBuffer]) -> bytes:
    """Return a pickle and its buffers as one run of bytes.

    Args:
        data: the pickle.
        buffers: in order; a `PickleBuffer` must be contiguous.

    Raises:
        BufferError: one is not contiguous.
    """
    parts = [data, *(each if isinstance(each, bytes) else each.raw() for each in buffers)]
    sizes = [each.nbytes if isinstance(each, memoryview) else len(each) for each in parts]
    return b"".join([COUNT.pack(len(parts) - 1), struct.pack(f"<{len(sizes)}Q", *sizes), *parts])


def unpack(packed: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the pickle and its buffers.

    Raises:
        ValueError: `packed` is not what `pack` returns.
    """
    try:
        (count,) = COUNT.unpack_from(packed)
        if count * 8 > len(packed):
            raise ValueError(f"{count} buffers in {len(packed)} bytes")
        sizes = struct.unpack_from(f"<{count + 1}Q", packed, COUNT.size)
    except struct.error as error:
        raise ValueError(f"these bytes hold no buffers: {error}") from error
    at, parts = COUNT.size + 8 * (count + 1), []
    for size in sizes:
        parts.append(packed[at : at + size])
        at += size
    if at != len(packed):
        raise ValueError(f"the buffers take {at} bytes of {len(packed)}")
    return parts[0], tuple(parts[1:])
