"""The .ckpt file: a JSON header that is readable alone, and sections of bytes that are checked before they are used.

::

    magic "CLRSTONE" | format major, minor (2 x u16) | header length (u32)
    SHA-256 (32 bytes) of all before it and the header | HMAC-SHA256 (32 bytes) of all before it and the header
    header | sections, each at a multiple of 64 bytes, zeros between them

All numbers are little-endian. The header is two lines of JSON: what a listing shows (its ``summary``), and the rest. It
lists each section's name, offset, stored and raw length, codec (``"none"`` or ``"zstd"``), the SHA-256 of what is
stored, and whether who does not know it must refuse the file (``critical``). The HMAC is under the key of who wrote the
file (`clearstone.codec.keys`), and zeros where they have none: as the header holds the digest of every section, it
vouches for the whole file.

A reader refuses another major version. In a later minor version it ignores what it does not know of the header, and
sections that are not critical.

Invariant: a file is whole or absent (temporary file, fsync, rename, the folder's fsync), and a torn or altered one is a
`CheckpointDamagedError`, never a half-read value. Reading the header touches nothing after it and unpickles nothing.
What was verified is what is handed out: the bytes are read once.

Refused: a zip archive (its directory stands at the end, and members may hide), one big pickle (unreadable without
executing it), a choice of algorithms (whoever forges a file would choose).
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clearstone.errors import CheckpointDamagedError, CheckpointNotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from clearstone.codec.keys import Key

MAGIC = b"CLRSTONE"
FORMAT = (3, 0)
ALIGNMENT = 64
SMALLEST_COMPRESSED, TRIED = 256, 1 << 16
"""A section of fewer bytes is stored as it is; of a larger one so many bytes are compressed to see whether it helps."""

FREELY, MOST_TIMES = 64 << 20, 1000
"""A section of more bytes is not packed to less than a thousandth: a small file must not unpack to all of memory."""

PURPOSE = "checkpoint"
SUMMARY = "summary"
_FIRST = 4096
"""Bytes that are read at once: most headers."""

_FIELDS = struct.Struct("<8sHHI")
_PREFIX = struct.Struct(f"{_FIELDS.format}32s32s")


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the sections.

    Args:
        path: the file's.
        summary: what a listing shows.
        details: the rest, as JSON.
        digest: its SHA-256, which is the whole file's: it covers the digest of every section.
        signed: the bytes that `signature` is of.
        signature: the HMAC; zeros for none.
        end: where it ends in the file.
    """

    path: Path
    summary: dict[str, Any]
    details: bytes
    digest: bytes
    signed: bytes
    signature: bytes
    end: int

    @property
    def content(self) -> dict[str, Any]:
        """All of it, the summary under its name.

        Raises:
            CheckpointDamagedError: it is no JSON object.
        """
        return {**_json(self.path, self.details), SUMMARY: self.summary}

    @property
    def is_signed(self) -> bool:
        """Whether somebody signed it."""
        return any(self.signature)

    def is_by(self, key: Key) -> bool:
        """Whether a holder of `key` signed it."""
        return key.has_signed(self.signature, PURPOSE, self.signed)


def write(path: Path, header: Mapping[str, Any], sections: Mapping[str, bytes], key: Key) -> None:
    """Write a file whole or not at all.

    Args:
        path: where; its folder exists. An existing file is replaced.
        header: JSON-ready, with what a listing shows under ``"summary"``; the list of sections is added to it.
        sections: name to bytes.
        key: what signs it.

    Raises:
        OSError: nothing was left behind.
    """
    listed, data = _laid_out(sections)
    body = _header({**header, "sections": listed})
    fields = _FIELDS.pack(MAGIC, *FORMAT, len(body))
    digest = _digest(fields + body)
    parts = [fields, digest, key.sign(PURPOSE, fields, digest, body), body, *data]
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        _write_synced(temporary, parts)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _laid_out(sections: Mapping[str, bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the list of sections, and what stands after the header; offsets count from the header's end."""
    listed: list[dict[str, Any]] = []
    parts: list[bytes] = []
    at = 0
    for name, raw in sections.items():
        codec, data = _stored(raw)
        parts += [bytes(-at % ALIGNMENT), data]
        at += -at % ALIGNMENT
        told = {"name": name, "offset": at, "length": len(data), "raw": len(raw), "codec": codec}
        listed.append({**told, "sha256": _digest(data).hex(), "critical": True})
        at += len(data)
    return listed, parts


def _header(content: Mapping[str, Any]) -> bytes:
    """Return the two lines of the header, filled up so that it ends at a multiple of 64."""
    details = {name: value for name, value in content.items() if name != SUMMARY}
    body = "\n".join((json.dumps(content.get(SUMMARY, {})), json.dumps(details))).encode()
    return body + b" " * (-(_PREFIX.size + len(body)) % ALIGNMENT)


def _stored(data: bytes) -> tuple[str, bytes]:
    """Return the codec and the bytes to store: compressed where that makes it smaller by a tenth."""
    if len(data) < SMALLEST_COMPRESSED:
        return "none", data
    import zstandard

    compressor = zstandard.ZstdCompressor(level=1)
    if len(compressor.compress(data[:TRIED])) > 0.9 * min(len(data), TRIED):
        return "none", data
    compressed = compressor.compress(data)
    pays = len(compressed) < 0.9 * len(data) and _is_believed(len(data), len(compressed))
    return ("zstd", compressed) if pays else ("none", data)


def read_header(path: Path) -> Header:
    """Return the header, reading nothing else.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointDamagedError: it is not a checkpoint, its header is torn or altered, or it is a newer version's.
    """
    with _opened(path, buffering=0) as file:
        return _read_header(path, file)


def read(path: Path, known: Collection[str] | None = None) -> tuple[Header, dict[str, bytes]]:
    """Return the header and every section, each checked against its digest.

    Args:
        path: the file.
        known: the names of sections the caller understands; None for any.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointDamagedError: any part of it is torn, altered, or of a newer version.
    """
    with _opened(path) as file:
        header = _read_header(path, file)
        try:
            return header, _read_sections(path, file, header, known)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointDamagedError):
                raise
            raise _damaged(path, f"lists its sections as no version does ({type(error).__name__}: {error})") from error


def _digest(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data).digest()


def _write_synced(path: Path, parts: list[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(OSError):  # not every file system syncs folders; the rename itself has happened
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb", buffering)  # noqa: PTH123, SIM115 - a third of the time of a path's own, and closed below
    except FileNotFoundError:
        raise CheckpointNotFoundError(
            f"there is no file {path}; 'clearstone checkpoints' lists what is there"
        ) from None
    except IsADirectoryError:
        raise CheckpointDamagedError(
            f"{path} is a directory; give the checkpoint's file, which ends in .ckpt"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointDamagedError(f"{path} cannot be read: {error}") from error
    with file:
        yield file


def _read_header(path: Path, file: BinaryIO) -> Header:
    start = file.read(_FIRST)
    prefix = start[: _PREFIX.size]
    if not prefix:
        raise _damaged(path, "is empty")
    if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
        raise _damaged(path, "is not a checkpoint")
    _, major, _, length, digest, signature = _PREFIX.unpack(prefix)
    if major != FORMAT[0]:
        older = "made by an earlier Clearstone; make it again" if major < FORMAT[0] else "upgrade Clearstone"
        raise _damaged(path, f"has format {major}, and this Clearstone reads format {FORMAT[0]}: {older}")
    end = _PREFIX.size + length
    if end > len(start) and end <= os.fstat(file.fileno()).st_size:
        start += file.read(end - len(start))
    body = start[_PREFIX.size : end]
    fields = prefix[: _FIELDS.size]
    if len(body) < length or _digest(fields + body) != digest:
        raise _damaged(path, "is torn or altered (its header does not match its digest)")
    summary, _, details = body.partition(b"\n")
    return Header(path, _json(path, summary), details, digest, fields + digest + body, signature, end)


def _json(path: Path, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"has a header that is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "has a header that is no JSON object")
    return content


def _read_sections(path: Path, file: BinaryIO, header: Header, known: Collection[str] | None) -> dict[str, bytes]:
    sections = {}
    file.seek(header.end)
    for entry in header.content["sections"]:
        name = entry["name"]
        between = header.end + entry["offset"] - file.tell()
        if not 0 <= between < ALIGNMENT or any(file.read(between)):
            raise _damaged(path, f"is torn or altered (section {name!r} is not where it should be)")
        data = _read_section(path, file, entry)
        if known is None or name in known:
            sections[name] = _raw(path, data, entry)
        elif entry["critical"]:
            raise _damaged(path, f"holds a section {name!r} that this Clearstone does not know; upgrade it")
    if file.read(1):
        raise _damaged(path, "has bytes after its last section")
    return sections


def _read_section(path: Path, file: BinaryIO, entry: Mapping[str, Any]) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    data = file.read(entry["length"]) if 0 <= entry["length"] <= left else b""
    if len(data) < entry["length"] or _digest(data).hex() != entry["sha256"]:
        raise _damaged(path, f"is torn or altered (section {entry['name']!r} does not match its digest)")
    return data


def _raw(path: Path, data: bytes, entry: Mapping[str, Any]) -> bytes:
    if entry["codec"] == "none":
        return data
    if entry["codec"] != "zstd" or not _is_believed(entry["raw"], entry["length"]):
        raise _damaged(path, f"holds a section {entry['name']!r} packed as {entry['codec']!r}, {entry['raw']} bytes")
    return _unpacked(path, data, entry)


def _is_believed(raw: int, length: int) -> bool:
    return 0 <= raw <= max(FREELY, MOST_TIMES * length)


def _unpacked(path: Path, data: bytes, entry: Mapping[str, Any]) -> bytes:
    """Unpack no more than was said: a small file may hold as many zeros as one likes."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            raw = reader.read(entry["raw"] + 1)
    except zstandard.ZstdError as error:
        raise _damaged(path, f"holds a section {entry['name']!r} that does not unpack ({error})") from error
    if len(raw) != entry["raw"]:
        raise _damaged(path, f"holds a section {entry['name']!r} of another length than it says")
    return raw


def _damaged(path: Path, what: str) -> CheckpointDamagedError:
    return CheckpointDamagedError(f"{path} {what}; take another one from 'clearstone checkpoints'")
