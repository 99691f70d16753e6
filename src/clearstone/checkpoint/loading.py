"""Checkpoints read from their files, as a user names them: one, all of a file, or what is to be trusted together.

Invariant: nothing is unpickled, and whatever a file says, what comes out is a checkpoint or an error with a sentence.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from clearstone.checkpoint import container, serial, trust
from clearstone.checkpoint.packfile import PackFile, kept, untrusted
from clearstone.errors import CheckpointDamagedError, CheckpointError, CheckpointNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.checkpoint.container import Header
    from clearstone.checkpoint.model import Checkpoint


def headers_of(path: Path) -> tuple[Header, ...]:
    """Return the headers of a file's steps; of a pack, as far as they are whole.

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: there are none.
    """
    first = container.read_header(path)
    if not first.is_pack:
        return (first,)
    with container.opened(path) as file:
        return tuple(container.headers(path, file))


def load(path: Path, number: int | None = None) -> Checkpoint:
    """Read a checkpoint, also one that is not trusted: it can be looked at (see `Checkpoint.untrusted`).

    Args:
        path: the file.
        number: which of its steps; None for the last that was not dropped.

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: as `CheckpointManager.load_checkpoint`.
    """
    return replace(_loaded(path, number), path=path.absolute())


def _loaded(path: Path, number: int | None) -> Checkpoint:
    with _sentences(path):
        if container.read_header(path).is_pack:
            with container.opened(path) as file:
                pack = PackFile(path, file)
                return pack.checkpoint(pack.newest() if number is None else number)
        header, sections = container.read(path, serial.SECTIONS, apart="payloads")
        return serial.unpack(header.content, sections, untrusted=untrusted(path, trust.why_not(header)))


def all_of(path: Path) -> Iterator[Checkpoint | CheckpointError]:
    """Read every checkpoint of a file that was not dropped, in its order; what is wrong with one in its place.

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: there are none.
    """
    if not container.read_header(path).is_pack:
        yield load(path)
        return
    with container.opened(path) as file:
        pack = PackFile(path, file)
        for number, _ in kept(pack.headers):
            try:
                with _sentences(path):
                    found = replace(pack.checkpoint(number), path=path.absolute())
            except CheckpointError as error:
                yield error
            else:
                yield found


def examined(path: Path, number: int | None) -> tuple[Header, list[Checkpoint]]:
    """Return the header of a step, and all that trusting it trusts: it and the checkpoints before it in its file.

    Each is checked against that very header, whatever becomes of the file meanwhile.

    Args:
        path: the file.
        number: as in `load`.

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: as `load`.
    """
    with _sentences(path):
        if not container.read_header(path).is_pack:
            header, sections = container.read(path, serial.SECTIONS, apart="payloads")
            return header, [serial.unpack(header.content, sections)]
        with container.opened(path) as file:
            headers = tuple(container.headers(path, file))
            last = number if number is not None else len(headers) - 1
            pack = PackFile(path, file, headers[: last + 1])
            return pack.headers[-1], [pack.checkpoint(each) for each, _ in kept(pack.headers)]


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what an odd file raises into the error that says so."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        if isinstance(error, CheckpointDamagedError | CheckpointNotFoundError):
            raise
        raise CheckpointDamagedError(
            f"{path} is intact but holds no checkpoint this version can read ({type(error).__name__}: {error}); "
            f"upgrade with 'pip install -U clearstone'"
        ) from error
