"""Whose a journal folder is, whether that process still lives, and whether this machine wrote it.

Idea: each process keeps its segments in a folder of its own, with a lock file that it holds locked (``flock``) as long
as it lives. The kernel drops the lock when the process dies, however it dies; whoever gets the lock may recover the
folder. A folder appears under its name only after it is locked. The lock file says which boot of which machine holds
it: one kernel's word is enough for its own processes, in whatever container, and nothing survives a reboot; but a file
system of several machines need not tell one of the locks of another.

Invariant: a lock is held by one process. A forked child closes its copy; otherwise the child would keep the parent's
journal alive after the parent is dead. A folder that may be alive, is another user's or is a link is left alone.

Refused: process ids (another container has the same ones, and they come again); POSIX record locks (closing any other
descriptor of the file drops them).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import json
import os
import shutil
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone.codec.keys import machine_key
from clearstone.record import layout, segments
from clearstone.store.batch import ProcessRow

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]  # asked for before it is used

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = "owner.lock"
SEGMENT_SUFFIX = ".segment"
STALE_SECONDS = 24 * 3600
"""A folder of another machine on a shared file system is taken for dead when it was not written to for so long."""

UNBORN_SECONDS = 3600
"""A folder not yet under its name after so long never will be: its process died while it made it."""

ATTEMPTS = 10


def this_process() -> ProcessRow:
    """Describe this process. Each call gives another token: one for each journal."""
    token = f"{os.getpid()}-{os.urandom(8).hex()}"
    return ProcessRow(token, os.getpid(), socket.gethostname(), boot_id(), time.time_ns())


@functools.cache
def boot_id() -> str:
    """Return what tells one boot of a machine from another; empty where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def proof(about: bytes, inode: int) -> bytes:
    """Return what proves that this machine's key was at hand when a segment was begun.

    Args:
        about: what the segment's header says.
        inode: the number of the segment's file; that of a copy or a clone is another.
    """
    secret = machine_key().secret
    if not secret:
        return layout.NO_PROOF
    text = b"%d %b" % (inode, about)
    return hashlib.blake2b(text, digest_size=layout.PROOF_SIZE, key=secret, person=b"journal").digest()


def proves(header: layout.Header, inode: int) -> bool:
    """Whether a segment with this header was written on this machine, to this very file."""
    return bool(machine_key().secret) and hmac.compare_digest(header.proof, proof(header.about, inode))


class OwnedFolder:
    """A folder that this process holds locked.

    Args:
        parent: where the folders of all processes are; created if need be.
        process: whose it is.
        number: which folder of this process it is.

    Raises:
        OSError: it cannot be created, or this system or file system has no such locks.
    """

    def __init__(self, parent: Path, process: ProcessRow, number: int) -> None:
        self.path = parent / f"{process.token}.{number}"
        making = parent / f".{self.path.name}"
        _make_folders(parent, making)
        try:
            self._lock = _lock(making / LOCK, os.O_CREAT)
            if self._lock is None:
                raise BlockingIOError(f"the new file {making / LOCK} is locked by another process")  # noqa: TRY301
            os.write(self._lock, json.dumps({"host": process.host, "boot_id": process.boot_id}).encode())
            making.rename(self.path)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise

    def release(self) -> None:
        """Remove the folder, which must hold no segment, and drop the lock; with segments in it others may recover."""
        if not any(self.path.glob(f"*{SEGMENT_SUFFIX}")):
            remove(self.path)
        self.forget()

    def forget(self) -> None:
        """Close this process's copy of the lock."""
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            os.close(descriptor)


def _make_folders(parent: Path, making: Path) -> None:
    """Make both; another process may just be removing the empty parent."""
    for left in reversed(range(ATTEMPTS)):
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            making.mkdir(mode=0o700)
        except FileNotFoundError:
            if not left:
                raise
        else:
            return


def remove(folder: Path) -> None:
    """Remove a folder that is held locked, the lock last, and the folder of all folders if nothing is left in it."""
    for path in folder.glob(f"*{SEGMENT_SUFFIX}"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # gone, or not empty
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()


def _lock(path: Path, create: int = 0) -> int | None:
    """Lock a file.

    Args:
        path: the file.
        create: ``os.O_CREAT`` to create it.

    Returns:
        The descriptor that holds the lock, or None where another process holds it.

    Raises:
        OSError: it cannot be opened, or there are no such locks here.
    """
    if fcntl is None:
        raise OSError("this system has no flock")
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | create, 0o600)
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
        folders = sorted(path for path in parent.iterdir() if _is_ours(path))
    except OSError:
        return
    for folder in folders:
        if folder.name.startswith("."):
            _remove_unborn(folder)
            continue
        held = _taken(folder)
        if held is None:
            continue
        try:
            if _is_dead(folder, held):
                yield folder
        finally:
            os.close(held)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder, no link to one, of this user."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == getattr(os, "geteuid", lambda: status.st_uid)()


def _taken(folder: Path) -> int | None:
    """Lock the folder; None where it is locked or gone. One whose lock file somebody removed gets another."""
    try:
        lost = not (folder / LOCK).exists() and any(folder.glob(f"*{SEGMENT_SUFFIX}"))
        held = _lock(folder / LOCK, os.O_CREAT if lost else 0)
    except FileNotFoundError:  # nothing is in it: its owner left, or a recoverer died, between two removals
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    except OSError:
        return None
    if held is not None and not _is_still_there(folder / LOCK, held):
        os.close(held)
        return None
    return held


def _is_still_there(path: Path, held: int) -> bool:
    """Whether the locked file has its name yet: its owner, or another recoverer, may have removed it meanwhile."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(held))
    except OSError:
        return False


def _is_dead(folder: Path, held: int) -> bool:
    """Whether getting the lock proves it. It does, unless another machine's lock would not be seen here."""
    try:
        owner = json.loads(os.pread(held, 4096, 0))
        boot, host = owner["boot_id"], owner["host"]
    except (OSError, ValueError, TypeError, KeyError):
        boot = host = None
    if boot == boot_id() or host == socket.gethostname():
        return True
    if segments.file_system(folder.resolve(), segments.mounts()) in segments.MAPPABLE:
        return True  # a local file system: this machine before a reboot
    return time.time() - _last_written(folder) > STALE_SECONDS


def _last_written(folder: Path) -> float:
    times = [folder.stat().st_mtime]
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)
    return max(times)


def _remove_unborn(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - folder.lstat().st_mtime > UNBORN_SECONDS:
            shutil.rmtree(folder)
