"""Whose a journal folder is, and whether that process still lives.

Idea: each process keeps its segments in a folder of its own, with a lock file that it holds locked (``flock``) as long
as it lives. The kernel drops the lock when the process dies, however it dies; whoever gets the lock may recover the
folder. A folder appears under its name only after it is locked.

Invariant: a lock is held by one process. A forked child closes its copy; otherwise the child would keep the parent's
journal alive after the parent is dead.

Refused: process ids (another container has the same ones, and they come again); POSIX record locks (closing any other
descriptor of the file drops them).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone.store.base import ProcessRow

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = "owner.lock"
SEGMENT_SUFFIX = ".segment"


def this_process() -> ProcessRow:
    """Describe this process. Each call gives another token: one for each journal."""
    token = f"{os.getpid()}-{secrets.token_hex(8)}"
    return ProcessRow(token, os.getpid(), socket.gethostname(), boot_id(), time.time_ns())


def boot_id() -> str:
    """Return what tells one boot of a machine from another; empty where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class OwnedFolder:
    """A folder that this process holds locked.

    Args:
        parent: where the folders of all processes are; created if need be.
        token: the folder's name.

    Raises:
        OSError: it cannot be created, or this system or file system has no such locks.
    """

    def __init__(self, parent: Path, token: str) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = parent / token
        making = parent / f".{token}"
        making.mkdir(mode=0o700)
        try:
            self._lock = lock(making / LOCK)
            if self._lock is None:
                raise OSError(f"the new file {making / LOCK} is locked by another process")
            making.rename(self.path)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    def release(self) -> None:
        """Remove the folder, which must hold no segment, and drop the lock; with segments in it others may recover."""
        with contextlib.suppress(OSError):  # gone, or not empty
            if not any(self.path.glob(f"*{SEGMENT_SUFFIX}")):
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()
        self.forget()

    def forget(self) -> None:
        """Close this process's copy of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def lock(path: Path) -> int | None:
    """Lock a file, creating it if need be.

    Returns:
        The descriptor that holds the lock, or None where another process holds it.

    Raises:
        OSError: it cannot be opened, or there are no such locks here.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no flock") from error
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def orphans(parent: Path) -> Iterator[Path]:
    """Yield folders below `parent` whose process is dead, each locked while its consumer works on it.

    A folder that another recoverer works on is passed over. The consumer removes the folder, or leaves it for the next.
    """
    try:
        folders = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return
    for folder in folders:
        try:
            held = lock(folder / LOCK) if (folder / LOCK).exists() else None
        except OSError:  # removed meanwhile, or another user's
            continue
        if held is None:
            continue
        try:
            if (folder / LOCK).exists():  # its owner may have left in order while we waited
                yield folder
        finally:
            os.close(held)
