"""The .ckpt file: a JSON header that is readable alone, and sections of bytes that are checked before they are used.

::

    magic "CLRSTONE" | format major, minor (2 x u16) | header length (u32) | SHA-256 | header | sections

All numbers are little-endian. The SHA-256 is of everything before it and the header. The header lists each section's
name, length and SHA-256; sections follow in that order.

Invariant: a file is whole or absent (temporary file, fsync, rename), and a torn or altered one is a
`CheckpointDamagedError`, never a half-read value. Reading the header touches nothing after it and unpickles nothing.

Refused: a zip archive (its directory stands at the end, and members may hide), one big pickle (unreadable without
executing it).
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from typing import TYPE_CHECKING, Any

from clearstone.errors import CheckpointDamagedError, CheckpointNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

MAGIC = b"CLRSTONE"
FORMAT = (2, 0)
_FIELDS = struct.Struct("<8sHHI")
_PREFIX = struct.Struct(f"{_FIELDS.format}32s")


def write(path: Path, header: Mapping[str, Any], sections: Mapping[str, bytes]) -> None:
    """Write a file whole or not at all.

    Args:
        path: where; its folder exists. An existing file is replaced.
        header: JSON-ready; the list of sections is added to it.
        sections: name to bytes.

    Raises:
        OSError: nothing was left behind.
    """
    listed = [{"name": name, "length": len(data), "sha256": _digest(data).hex()} for name, data in sections.items()]
    body = json.dumps({**header, "sections": listed}).encode()
    fields = _FIELDS.pack(MAGIC, *FORMAT, len(body))
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        _write_synced(temporary, [fields, _digest(fields + body), body, *sections.values()])
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def read_header(path: Path) -> dict[str, Any]:
    """Return the header, reading nothing else.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointDamagedError: it is not a checkpoint, its header is torn or altered, or it is a newer version's.
    """
    with _opened(path) as file:
        return _read_header(path, file)


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the header and every section, each checked against its digest.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointDamagedError: any part of it is torn, altered, or of a newer version.
    """
    with _opened(path) as file:
        header = _read_header(path, file)
        sections = {entry["name"]: _read_section(path, file, entry) for entry in header["sections"]}
        if file.read(1):
            raise _damaged(path, "has bytes after its last section")
    return header, sections


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
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
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


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    prefix = file.read(_PREFIX.size)
    if not prefix:
        raise _damaged(path, "is empty")
    if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
        raise _damaged(path, "is not a checkpoint")
    _, major, _, length, digest = _PREFIX.unpack(prefix)
    if major != FORMAT[0]:
        raise _damaged(path, f"has format {major}, and this Clearstone reads format {FORMAT[0]}; upgrade it")
    body = file.read(length) if length <= os.fstat(file.fileno()).st_size else b""
    if len(body) < length or _digest(prefix[: _FIELDS.size] + body) != digest:
        raise _damaged(path, "is torn or altered (its header does not match its digest)")
    header: dict[str, Any] = json.loads(body)
    return header


def _read_section(path: Path, file: BinaryIO, entry: Mapping[str, Any]) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    data = file.read(entry["length"]) if entry["length"] <= left else b""
    if len(data) < entry["length"] or _digest(data).hex() != entry["sha256"]:
        raise _damaged(path, f"is torn or altered (section {entry['name']!r} does not match its digest)")
    return data


def _damaged(path: Path, what: str) -> CheckpointDamagedError:
    return CheckpointDamagedError(f"{path} {what}; take another one from 'clearstone checkpoints'")
