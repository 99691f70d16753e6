"""The file of checkpoints: steps, each a JSON header that is readable alone and sections that are checked before use.

::

    step    magic (8 bytes) | format major, minor (2 x u16) | length of the header (u32), of all behind it (u64)
            SHA-256 (32 bytes) of the digest of the step before and all so far and the header
            HMAC-SHA256 (32 bytes) of that digest and the same
            header | sections, each at a multiple of 64 bytes, zeros between them
    .ckpt   one step, magic "CLRSTONE"
    .pack   steps one after the other, magic "CLRSPACK"

All numbers are little-endian. The header is two lines of JSON: what a listing shows (its ``summary``), and the rest. It
lists the sections, each as name, offset from the header's end, stored and raw length, codec (``"none"`` or ``"zstd"``),
SHA-256 of what is stored, and whether who does not know it must refuse the file. The HMAC is under the key of who wrote
the file (`clearstone.codec.keys`), and zeros where they have none: as the header holds the digest of every section, and
the digest of a step covers that of the one before, it vouches for the step and for all that comes before it.

A reader refuses another major version. In a later minor version it ignores what it does not know of the header, and
sections that are not critical.

Invariant: a file is whole or absent (temporary file, fsync, rename, the folder's fsync), and a torn or altered one is a
`CheckpointDamagedError`, never a half-read value. Of a pack, which grows, the steps up to the first torn or altered one
stand; what is cut off at its end cannot be noticed: a shorter pack is what it once was. Reading a header touches
nothing after it and unpickles nothing. What was verified is what is handed out: the bytes are read once.

Refused: a zip archive (its directory stands at the end, and members may hide), one big pickle (unreadable without
executing it), a choice of algorithms (whoever forges a file would choose).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.sections import ALIGNMENT, damaged, digest_of, laid_out, read_sections
from clearstone.errors import CheckpointDamagedError, CheckpointError, CheckpointNotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from clearstone.codec.keys import Key

MAGIC, PACK_MAGIC = b"CLRSTONE", b"CLRSPACK"
FORMAT = (4, 0)
PURPOSE = "checkpoint"
SUMMARY = "summary"
_dumps = json.JSONEncoder(separators=(",", ":")).encode
_FIRST = 4096
"""Bytes that are read at once: most headers."""

_FIELDS = struct.Struct("<8sHHIQ")
_PREFIX = struct.Struct(f"{_FIELDS.format}32s32s")


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the sections of a step.

    Args:
        path: the file's.
        summary: what a listing shows.
        details: the rest, as JSON.
        digest: its SHA-256, which is the whole step's: it covers the digest of every section.
        signed: the bytes that `signature` is of.
        signature: the HMAC; zeros for none.
        end: where it ends in the file.
        after: where its step does.
    """

    path: Path
    summary: dict[str, Any]
    details: bytes
    digest: bytes
    signed: bytes
    signature: bytes
    end: int
    after: int

    @property
    def content(self) -> dict[str, Any]:
        """All of it, the summary under its name.

        Raises:
            CheckpointDamagedError: it is no JSON object.
        """
        return {**_json(self.path, self.details), SUMMARY: self.summary}

    @property
    def is_pack(self) -> bool:
        """Whether it is of a file that may have further steps."""
        return self.signed.startswith(PACK_MAGIC)

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
    _, parts = step(MAGIC, header, sections, key)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        _write_synced(temporary, parts)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def step(
    magic: bytes, header: Mapping[str, Any], sections: Mapping[str, bytes], key: Key, before: bytes = b""
) -> tuple[bytes, list[bytes]]:
    """Return the digest of a step, and its parts.

    Args:
        magic: of the file it is for.
        header: see `write`.
        sections: name to bytes.
        key: what signs it.
        before: the digest of the step before it in its file; empty for the first.
    """
    listed, data = laid_out(sections)
    body = _header({**header, "sections": listed})
    fields = _FIELDS.pack(magic, *FORMAT, len(body), sum(map(len, data)))
    digest = digest_of(before + fields + body)
    return digest, [fields, digest, key.sign(PURPOSE, fields, digest, body), body, *data]


def _header(content: Mapping[str, Any]) -> bytes:
    """Return the two lines of the header, filled up so that it ends at a multiple of 64."""
    details = {name: value for name, value in content.items() if name != SUMMARY}
    body = "\n".join(_dumps(each) for each in (content.get(SUMMARY, {}), details)).encode()
    return body + b" " * (-(_PREFIX.size + len(body)) % ALIGNMENT)


def read_header(path: Path) -> Header:
    """Return the header of a file's first step, reading nothing else.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointDamagedError: it is not a checkpoint, its header is torn or altered, or it is a newer version's.
    """
    try:
        file = io.FileIO(path)  # a third of the time of `open`, which asks whether it is a terminal
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from error
    with file:
        return _read_header(path, file)


def read(path: Path, known: Collection[str] | None = None, *, apart: str = "") -> tuple[Header, dict[str, Any]]:
    """Return the header and every section of a file of one step, each checked against its digest.

    Args:
        path: the file.
        known: the names of sections the caller understands; None for any.
        apart: see `read_sections`.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointDamagedError: any part of it is torn, altered, or of a newer version.
    """
    with opened(path) as file:
        header = _read_header(path, file)
        if file.seek(0, os.SEEK_END) > header.after:
            raise damaged(path, "has bytes after its last section")
        return header, read_sections(file, header, known, apart=apart)


def headers(path: Path, file: BinaryIO) -> Iterator[Header]:
    """Give the headers of a pack's steps, up to the first that is torn or altered.

    Raises:
        CheckpointDamagedError: the first one is.
    """
    header = _read_header(path, file)
    size = os.fstat(file.fileno()).st_size
    while header.after <= size:
        yield header
        if header.after == size:
            return
        try:
            header = _read_header(path, file, header.after, header.digest)
        except CheckpointDamagedError:  # its process died while it wrote, or is writing; or somebody altered it
            return


def _write_synced(path: Path, parts: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(OSError):  # not every file system syncs folders; the rename itself has happened
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; raise as `read` does."""
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from error
    with file:
        yield file


def _not_opened(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointNotFoundError(f"there is no file {path}; 'clearstone checkpoints' lists what is there")
    if isinstance(error, IsADirectoryError):
        return CheckpointDamagedError(f"{path} is a directory; give the checkpoint's file, which ends in .ckpt")
    return CheckpointDamagedError(f"{path} cannot be read: {error}")


def _read_header(path: Path, file: BinaryIO | io.FileIO, at: int = 0, before: bytes = b"") -> Header:
    file.seek(at)
    start = file.read(_FIRST)
    prefix = start[: _PREFIX.size]
    if not prefix:
        raise damaged(path, "is empty")
    if len(prefix) < _PREFIX.size or not prefix.startswith((MAGIC, PACK_MAGIC)):
        raise damaged(path, "is not a checkpoint")
    _, major, _, length, behind, digest, signature = _PREFIX.unpack(prefix)
    if major != FORMAT[0]:
        older = "made by an earlier Clearstone; make it again" if major < FORMAT[0] else "upgrade Clearstone"
        raise damaged(path, f"has format {major}, and this Clearstone reads format {FORMAT[0]}: {older}")
    end = _PREFIX.size + length
    if end > len(start) and at + end <= os.fstat(file.fileno()).st_size:
        start += file.read(end - len(start))
    body = start[_PREFIX.size : end]
    fields = prefix[: _FIELDS.size]
    if len(body) < length or digest_of(before + fields + body) != digest:
        raise damaged(path, "is torn or altered (its header does not match its digest)")
    summary, _, details = body.partition(b"\n")
    signed, after = fields + digest + body, at + end + behind
    return Header(path, _json(path, summary), details, digest, signed, signature, at + end, after)


def _json(path: Path, line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line.decode())  # as a text: of bytes it guesses the encoding first
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"has a header that is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise damaged(path, "has a header that is no JSON object")
    return content
