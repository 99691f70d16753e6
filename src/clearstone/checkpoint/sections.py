"""The sections of a step: bytes one after the other, each packed where that helps and checked before it is used.

Idea: the header lists them (`Listed`), each with the SHA-256 of what is stored.

Invariant: what is handed out has been read once and checked; a list that says what no version writes is an error; a
small file does not become a large one in memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from clearstone.codec.spilled import HELD, Spill
from clearstone.errors import CheckpointDamagedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from clearstone.checkpoint.container import Header

Held = TypeVar("Held", bytes, Spill)

ALIGNMENT = 64
BLOCK = 1 << 20
"""Bytes that are copied at once."""

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
    file: BinaryIO,
    header: Header,
    known: Collection[str] | None,
    names: Collection[str] | None = None,
    *,
    apart: str = "",
) -> dict[str, Any]:
    """Return sections of a step, each checked against its digest.

    Args:
        file: the step's, open.
        header: the step's.
        known: the names the caller understands; None for any.
        names: which to read; None for all, and then nothing may stand between them but zeros.
        apart: the name of one that is given as a `Spill` where it is large.

    Raises:
        CheckpointDamagedError: any part of it is torn, altered, or of a newer version.
    """
    path = header.path
    try:
        sections: dict[str, Any] = {}
        at = header.end
        for each in _listed(header, known):
            if names is not None and each.name not in names:
                continue
            _find_section(path, file, header, each, at if names is None else None)
            at = header.end + each.offset + each.length
            found: Any = _apart(path, file, each) if each.name == apart and each.raw > HELD else None
            if found is None:
                found = _raw(path, _read_section(path, file, each), each)
            if known is None or each.name in known:
                sections[each.name] = found
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointDamagedError):
            raise
        raise damaged(path, f"lists its sections as no version does ({type(error).__name__}: {error})") from error
    if names is None and at != header.after:
        raise damaged(path, "has bytes after its last section")
    return sections


def _listed(header: Header, known: Collection[str] | None) -> list[Listed]:
    listed = [Listed(*each) for each in header.content["sections"]]
    if len({each.name for each in listed}) < len(listed):
        raise damaged(header.path, "lists a section twice")
    strange = (each.name for each in listed if known is not None and each.name not in known and each.critical)
    for name in strange:
        raise damaged(header.path, f"holds a section {name!r} that this Clearstone does not know; upgrade it")
    return listed


def _find_section(path: Path, file: BinaryIO, header: Header, listed: Listed, at: int | None) -> None:
    """Go to where a section begins; `at` is where the one before it ended, if that is to be looked at."""
    begin = header.end + listed.offset
    if not header.end <= begin <= begin + listed.length <= header.after:
        raise damaged(path, f"is torn or altered (section {listed.name!r} is not where it should be)")
    if at is not None:
        file.seek(at)
        if not 0 <= begin - at < ALIGNMENT or any(file.read(begin - at)):
            raise damaged(path, f"is torn or altered (section {listed.name!r} is not where it should be)")
    file.seek(begin)


def _read_section(path: Path, file: BinaryIO, listed: Listed) -> bytes:
    """Return a section as it is stored."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    data = file.read(listed.length) if listed.length <= left else b""
    if len(data) < listed.length or digest_of(data).hex() != listed.sha256:
        raise _does_not_match(path, listed)
    return data


def _does_not_match(path: Path, listed: Listed) -> CheckpointDamagedError:
    return damaged(path, f"is torn or altered (section {listed.name!r} does not match its digest)")


def _apart(path: Path, file: BinaryIO, listed: Listed) -> Spill | None:
    """Return a section in a file of its own; None where there is no room for one: then it takes memory."""
    begin = file.tell()
    try:
        return _copied(path, file, listed)
    except OSError:
        file.seek(begin)
        return None


def _copied(path: Path, file: BinaryIO, listed: Listed) -> Spill:
    """Return a section that was copied into a file and checked there, and unpacked into a second one."""
    stored, digest, left = Spill(), hashlib.sha256(), listed.length
    while left:
        block = file.read(min(left, BLOCK))
        if not block:
            break
        digest.update(block)
        stored.append(block)
        left -= len(block)
    if left or digest.hexdigest() != listed.sha256:
        raise _does_not_match(path, listed)
    if not _is_packed(path, listed):
        return stored
    import zstandard

    found = Spill()
    try:
        with zstandard.ZstdDecompressor().stream_reader(stored.from_start()) as reader:
            while len(found) <= listed.raw and (block := reader.read(BLOCK)):
                found.append(block)
    except zstandard.ZstdError as error:
        raise _does_not_unpack(path, listed, error) from error
    return _of_its_length(path, found, listed)


def _raw(path: Path, data: bytes, listed: Listed) -> bytes:
    return _unpacked(path, data, listed) if _is_packed(path, listed) else data


def _is_packed(path: Path, listed: Listed) -> bool:
    if listed.codec == "none":
        return False
    if listed.codec != "zstd" or not _is_believed(listed.raw, listed.length):
        raise damaged(path, f"holds a section {listed.name!r} packed as {listed.codec!r}, {listed.raw} bytes")
    return True


def _is_believed(raw: int, length: int) -> bool:
    return 0 <= raw <= max(FREELY, MOST_TIMES * length)


def _unpacked(path: Path, data: bytes, listed: Listed) -> bytes:
    """Unpack no more than was said: a small file may hold as many zeros as one likes."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            raw = reader.read(listed.raw + 1)
    except zstandard.ZstdError as error:
        raise _does_not_unpack(path, listed, error) from error
    return _of_its_length(path, raw, listed)


def _does_not_unpack(path: Path, listed: Listed, error: Exception) -> CheckpointDamagedError:
    return damaged(path, f"holds a section {listed.name!r} that does not unpack ({error})")


def _of_its_length(path: Path, raw: Held, listed: Listed) -> Held:
    if len(raw) != listed.raw:
        raise damaged(path, f"holds a section {listed.name!r} of another length than it says")
    return raw


def digest_of(data: bytes) -> bytes:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).digest()


def damaged(path: Path, what: str) -> CheckpointDamagedError:
    """Return the error of a file of which something is wrong."""
    return CheckpointDamagedError(f"{path} {what}; take another one from 'clearstone checkpoints'")
