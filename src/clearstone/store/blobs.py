"""Payloads too large for a database: each in a file beside it.

Idea: the recording thread writes such a payload to a file before it leaves a record of it in the journal; journal and
database hold the file's name. A file nobody names (its process died in between) is removed by ``clearstone gc``.

Invariant: a file is written once and never changed. Only bare names of our own making are opened, whatever a database
says.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from clearstone.errors import StoreError
from clearstone.span import BLOB

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.codec.keys import Key

DEFAULT_LIMIT = 8 << 20
"""A payload of more bytes goes to a file."""

SUFFIX = ".blob"
NAME_SIZE = 32 + len(SUFFIX)
"""Characters of a file's name."""

_NAME = re.compile(rb"[0-9a-f]{32}\.blob")


def folder_of(database: Path) -> Path:
    """Return where the blob files of a trace database are."""
    return database.with_name(f"{database.name}.blobs")


def is_name(name: bytes) -> bool:
    """Whether `name` is one that `write` returns."""
    return _NAME.fullmatch(name) is not None


def write(folder: Path, data: bytes) -> bytes:
    """Write a new file; return its name.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{os.urandom(16).hex()}{SUFFIX}"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return os.fsencode(path.name)


def read(folder: Path, name: bytes) -> bytes:
    """Return the bytes of a file.

    Raises:
        StoreError: it is gone, or `name` is none that `write` returns.
    """
    if not is_name(name):
        raise StoreError(f"{name!r} is no blob file's name: the database is damaged")
    path = folder / os.fsdecode(name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"the payload in {path} cannot be read: {error}") from error


def delete(folder: Path, name: bytes) -> None:
    """Delete a file, if `name` is one that `write` returns. One that cannot be deleted now is found by a collection."""
    if is_name(name):
        with contextlib.suppress(OSError):
            (folder / os.fsdecode(name)).unlink()


def name(key: Key, form: int, folder: Path, file: bytes) -> bytes:
    """Return the name of the payload in a file (see `clearstone.codec.keys`); one that proves nothing if it is gone."""
    try:
        return key.name(form & ~BLOB, read(folder, file))
    except StoreError:
        return bytes(16)
