"""The sections of a step: bytes one after the other, each packed where that helps and checked before it is used.

Idea: the header lists them (`Listed`), each with the SHA-256 of what is stored.

Invariant: what is handed out has been read once and checked; a list that says what no version writes is an error; a
small file does not become a large one in memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from clearstone.errors import CheckpointDamagedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from clearstone.checkpoint.container import Header

ALIGNMENT = 64
SMALLEST_COMPRESSED, TRIED = 256, 1 << 16
"""A section of fewer bytes is stored as it is; of a larger one so many bytes are compressed to see whether it helps."""

FREELY, MOST_TIMES = 64 << 20, 100
"""A section of more bytes is not packed to less than a hundredth: a small file must not unpack to all of memory."""


class Listed(NamedTuple):
    """A section as the header lists it; `offset` counts from the header's end."""

    name: str
    offset: int
    length: int
    raw: int
    codec: str
    sha256: str
    critical: bool


def _stored(data: bytes) -> tuple[str, bytes]:
    """Return the codec and the bytes to store: compressed where that makes it smaller by a tenth."""
    if len(data) < SMALLEST_COMPRESSED:
        return "none", data
    compressor = _compressor()
    compressed = compressor.compress(data[:TRIED])
    if len(compressed) > 0.9 * min(len(data), TRIED):
        return "none", data
    if len(data) > TRIED:
        compressed = compressor.compress(data)
    pays = len(compressed) < 0.9 * len(data) and _is_believed(len(data), len(compressed))
    return ("zstd", compressed) if pays else ("none", data)


_of_thread = threading.local()


def _compressor() -> Any:
    """Return this thread's compressor: making one takes longer than most sections do."""
    made = getattr(_of_thread, "compressor", None)
    if made is None:
        import zstandard

        made = _of_thread.compressor = zstandard.ZstdCompressor(level=1)
    return made


def laid_out(sections: Mapping[str, bytes]) -> tuple[list[list[Any]], list[bytes]]:
    """Return the list of sections (see `Listed`), and what stands after the header."""
    listed: list[list[Any]] = []
    parts: list[bytes] = []
    at = 0
    for name, raw in sections.items():
        codec, data = _stored(raw)
        parts += [bytes(-at % ALIGNMENT), data]
        at += -at % ALIGNMENT
        listed.append([name, at, len(data), len(raw), codec, digest_of(data).hex(), True])
        at += len(data)
    return listed, parts


def read_sections(
    file: BinaryIO, header: Header, known: Collection[str] | None, names: Collection[str] | None = None
) -> dict[str, bytes]:
    """Return sections of a step, each checked against its digest.

    Args:
        file: the step's, open.
        header: the step's.
        known: the names the caller understands; None for any.
        names: which to read; None for all, and then nothing may stand between them but zeros.

    Raises:
        CheckpointDamagedError: any part of it is torn, altered, or of a newer version.
    """
    path = header.path
    try:
        listed = [Listed(*each) for each in header.content["sections"]]
        if len({each.name for each in listed}) < len(listed):
            raise damaged(path, "lists a section twice")
        sections, at = {}, header.end
        for each in listed:
            if known is not None and each.name not in known and each.critical:
                raise damaged(path, f"holds a section {each.name!r} that this Clearstone does not know; upgrade it")
            if names is not None and each.name not in names:
                continue
            data = _read_section(path, file, header, each, at if names is None else None)
            at = header.end + each.offset + each.length
            if known is None or each.name in known:
                sections[each.name] = _raw(path, data, each)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointDamagedError):
            raise
        raise damaged(path, f"lists its sections as no version does ({type(error).__name__}: {error})") from error
    if names is None and at != header.after:
        raise damaged(path, "has bytes after its last section")
    return sections


def _read_section(path: Path, file: BinaryIO, header: Header, listed: Listed, at: int | None) -> bytes:
    """Return a section as it is stored; `at` is where the one before it ended, if that is to be looked at."""
    begin = header.end + listed.offset
    if not header.end <= begin <= begin + listed.length <= header.after:
        raise damaged(path, f"is torn or altered (section {listed.name!r} is not where it should be)")
    if at is not None:
        file.seek(at)
        if not 0 <= begin - at < ALIGNMENT or any(file.read(begin - at)):
            raise damaged(path, f"is torn or altered (section {listed.name!r} is not where it should be)")
    left = os.fstat(file.fileno()).st_size - begin
    file.seek(begin)
    data = file.read(listed.length) if listed.length <= left else b""
    if len(data) < listed.length or digest_of(data).hex() != listed.sha256:
        raise damaged(path, f"is torn or altered (section {listed.name!r} does not match its digest)")
    return data


def _raw(path: Path, data: bytes, listed: Listed) -> bytes:
    if listed.codec == "none":
        return data
    if listed.codec != "zstd" or not _is_believed(listed.raw, listed.length):
        raise damaged(path, f"holds a section {listed.name!r} packed as {listed.codec!r}, {listed.raw} bytes")
    return _unpacked(path, data, listed)


def _is_believed(raw: int, length: int) -> bool:
    return 0 <= raw <= max(FREELY, MOST_TIMES * length)


def _unpacked(path: Path, data: bytes, listed: Listed) -> bytes:
    """Unpack no more than was said: a small file may hold as many zeros as one likes."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            raw = reader.read(listed.raw + 1)
    except zstandard.ZstdError as error:
        raise damaged(path, f"holds a section {listed.name!r} that does not unpack ({error})") from error
    if len(raw) != listed.raw:
        raise damaged(path, f"holds a section {listed.name!r} of another length than it says")
    return raw


def digest_of(data: bytes) -> bytes:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).digest()


def damaged(path: Path, what: str) -> CheckpointDamagedError:
    """Return the error of a file of which something is wrong."""
    return CheckpointDamagedError(f"{path} {what}; take another one from 'clearstone checkpoints'")
