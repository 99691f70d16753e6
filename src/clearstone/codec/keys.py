"""The machine's key, the names it gives to payloads, and what it signs.

Idea: every recorded payload is named by a keyed BLAKE2b of its bytes. The name is two things at once: a content address
(equal payloads have equal names, so a repeated one is stored once), and a proof of origin (nobody without the key can
make a payload that bears its name).

The key is 32 random bytes in the user's configuration folder, ``$XDG_CONFIG_HOME/clearstone/key`` (by default
``~/.config``, as the XDG base directory specification says), readable by its owner alone; or whatever text
``CLEARSTONE_KEY`` holds. The file may hold further keys, one a line, and the variable further texts, separated by
commas: the first signs, all are trusted. With the variable the keys of the file are trusted too. 64 hex digits, in
either place, are a key themselves; any other text of the variable is hashed to one. Where no key can be kept, payloads
are named without one, which is said once: such a name is an address and proves nothing.

Refused: a signature beside a plain hash (two digests for every payload, and the hash alone would tell whoever reads a
database whether it holds a text they guess).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib  # not when it is needed: that may be in a signal handler that interrupts its import
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone import notice

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_SIZE = 16
"""Bytes of a name."""

KEY_SIZE = 32
SIGNATURE_SIZE = 32
UNDER_GIL = 2047
"""`hashlib` lets other threads run while it hashes more than this at once; a busy program would then hold up the writer
for five milliseconds a payload."""


class Key:
    """A key that names payloads.

    Args:
        secret: 32 bytes; empty for none.
    """

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        purpose = b"payload" if secret else b"unsigned"
        self._begun: list[Callable[[], hashlib.blake2b]] = [
            self._after(form, purpose).copy for form in range(256)
        ]  # the form is hashed first: a stand-in must not pass for a pickle

    def _after(self, form: int, purpose: bytes) -> hashlib.blake2b:
        digest = hashlib.blake2b(digest_size=NAME_SIZE, key=self.secret, person=purpose)
        digest.update(bytes((form,)))
        return digest

    def name(self, form: int, data: bytes) -> bytes:
        """Return the name of a payload.

        Args:
            form: its form byte (see `clearstone.span.CODEC_MASK`).
            data: its bytes.
        """
        digest = self._begun[form]()
        if len(data) <= UNDER_GIL:
            digest.update(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), UNDER_GIL):
                digest.update(view[start : start + UNDER_GIL])
        return digest.digest()

    def vouches(self, name: bytes, form: int, data: bytes) -> bool:
        """Whether `name` proves that a holder of this key recorded the payload."""
        import hmac

        return bool(self.secret) and hmac.compare_digest(self.name(form, data), name)

    def sign(self, purpose: str, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 of `parts` under this key, for one purpose; of a key without a secret, zeros."""
        import hmac

        if not self.secret:
            return bytes(SIGNATURE_SIZE)
        digest = hmac.new(self.secret, f"clearstone {purpose}\0".encode(), "sha256")
        for part in parts:
            digest.update(part)
        return digest.digest()

    def has_signed(self, signature: bytes, purpose: str, *parts: bytes) -> bool:
        """Whether `signature` proves that a holder of this key signed `parts` for that purpose."""
        import hmac

        return bool(self.secret) and hmac.compare_digest(self.sign(purpose, *parts), signature)


@functools.cache
def nobodys() -> Key:
    """Return a key without a secret, for what is not known to be this machine's: its names prove nothing."""
    return Key(b"")


def key_file() -> Path:
    """Return where the machine's key is kept."""
    return _key_file_in(os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config"))


@functools.lru_cache(maxsize=8)
def _key_file_in(folder: str) -> Path:
    return Path(folder) / "clearstone" / "key"


def machine_key() -> Key:
    """Return the key of this machine and user, made on first use.

    Returns:
        The key of ``CLEARSTONE_KEY``, else of the key file; one without a secret where no file can be kept.
    """
    given = _given()
    return _from_texts(given)[0] if given else _kept(key_file_or_none())[0]


def trusted_keys() -> tuple[Key, ...]:
    """Return the keys whose work counts as this machine's own: the one it signs with, then the further ones.

    No key is made for it: where there is none, nothing is trusted.
    """
    given, path = _given(), key_file_or_none()
    kept = _kept(path) if path is not None and path.exists() else ()
    return (*(_from_texts(given) if given else ()), *kept)


def _given() -> str:
    """Return what ``CLEARSTONE_KEY`` says, if it says a key: commas alone are none (two variables that are not set)."""
    text = os.environ.get("CLEARSTONE_KEY", "")
    return text if text.replace(",", "").strip() else ""


def key_file_or_none() -> Path | None:
    """Return `key_file`, or None for a user without a home folder."""
    try:
        return key_file()
    except RuntimeError:
        return None


@functools.lru_cache(maxsize=8)
def _from_texts(texts: str) -> tuple[Key, ...]:
    return tuple(map(_from_text, filter(None, (part.strip() for part in texts.split(",")))))


def _from_text(text: str) -> Key:
    if len(text) == 2 * KEY_SIZE:
        with contextlib.suppress(ValueError):
            return Key(bytes.fromhex(text))
    return Key(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY_SIZE).digest())


@functools.lru_cache(maxsize=8)
def _kept(path: Path | None) -> tuple[Key, ...]:
    if path is None:
        return _none("this user has no home folder")
    try:
        return tuple(map(Key, _read(path) or _make(path)))
    except (OSError, ValueError) as error:
        return _none(f"the key file {path} cannot be used: {error}")


def _none(why: str) -> tuple[Key, ...]:
    notice.say(f"records are not signed ({why}); set CLEARSTONE_KEY, or XDG_CONFIG_HOME to a folder of yours")
    return (Key(b""),)


def _read(path: Path) -> list[bytes]:
    """Return the keys of a key file; none where there is no file.

    Raises:
        ValueError: it holds no key, or others than its owner can read it.
    """
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    if is_open_to_others(path):
        raise ValueError(f"others than its owner may use it; 'chmod 600 {path}', or move it away to have another made")
    secrets = [_secret_of(number, line) for number, line in enumerate(text.split(), 1)]
    wrong = next((secret for secret in secrets or [b""] if len(secret) != KEY_SIZE), None)
    if wrong is not None:
        raise ValueError(f"it holds {len(wrong)} bytes, not {KEY_SIZE}; move it away to have another made")
    return secrets


def _secret_of(number: int, line: str) -> bytes:
    try:
        return bytes.fromhex(line)
    except ValueError:
        raise ValueError(f"its line {number} is no key of {2 * KEY_SIZE} hex digits") from None


def is_open_to_others(path: Path) -> bool:
    """Whether others than its owner may read or write a file."""
    return os.name == "posix" and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _make(path: Path) -> list[bytes]:
    """Keep a new key, whole or not at all; where another process was faster, theirs is the key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".key.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(os.urandom(KEY_SIZE).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)  # unlike a rename it does not replace
    finally:
        beside.unlink()
    made = _read(path)
    if not made:
        raise OSError(f"{path} vanished")
    return made
