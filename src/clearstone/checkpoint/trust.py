"""Whose checkpoint files this machine loads: those a key it trusts has signed, and those its user has said yes to.

Idea: who says yes to one file says so about its content. The digest of its header, which covers every section, goes
into a list beside the key, so that the file itself, which may lie in a repository, stays as it is.

Invariant: nothing here unpickles, imports or runs anything of a file.

Refused: a switch that trusts everything (it would be set once and forgotten).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from clearstone.codec import keys
from clearstone.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.checkpoint.container import Header


def why_not(header: Header) -> str:
    """Say why a file is not trusted; an empty text where it is."""
    if any(header.is_by(key) for key in keys.trusted_keys()) or header.digest.hex() in _listed():
        return ""
    return "was signed with a key that this machine does not trust" if header.is_signed else "is not signed"


def trust(header: Header) -> Path:
    """Trust the file that has this header, with just this content, from now on.

    Returns:
        The list that says so.

    Raises:
        CheckpointError: the list cannot be written.
    """
    path = _list()
    if path is None:
        raise CheckpointError("this user has no home folder to note trusted files in; set XDG_CONFIG_HOME to a folder")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="ascii") as file:
            file.write(header.digest.hex() + "\n")
    except OSError as error:
        raise CheckpointError(f"the list of trusted files cannot be written: {error}; free {path} to do so") from error
    return path


def _list() -> Path | None:
    key = keys.key_file_or_none()
    return key.with_name("trusted") if key is not None else None


def _listed() -> set[str]:
    path = _list()
    with contextlib.suppress(OSError, ValueError):
        if path is not None and not keys.is_open_to_others(path):
            return set(path.read_text(encoding="ascii").split())
    return set()
