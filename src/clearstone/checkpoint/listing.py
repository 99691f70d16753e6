"""Listing checkpoints, without loading what reads them before somebody asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from clearstone.checkpoint.manager import CheckpointInfo

MOMENTS = ("failure", "exit", "entry", "made", "unfinished", "signal")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which checkpoints to list: those that meet every condition. The default is all of them (see `checkpoints`)."""

    trace: str = ""
    label: str = ""
    error: str = ""
    moment: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    larger_than: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.moment and self.moment not in MOMENTS:
            raise ConfigurationError(f"moment={self.moment!r} is none; give one of {', '.join(MOMENTS)}")
        if self.since_ns is not None and self.until_ns is not None and self.since_ns >= self.until_ns:
            raise ConfigurationError("since is not before until, so there is no such checkpoint; swap them")
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(f"limit={self.limit} lists nothing; give a number from 1, or None for all")

    def admits(self, info: CheckpointInfo) -> bool:
        """Whether a checkpoint meets every condition; `limit` aside."""
        return (
            info.trace_id.startswith(self.trace)
            and (not self.label or info.metadata.get("label") == self.label)
            and self.error.casefold() in info.error.casefold()
            and (not self.moment or info.moment == self.moment)
            and (self.since_ns is None or info.created_ns >= self.since_ns)
            and (self.until_ns is None or info.created_ns < self.until_ns)
            and (self.larger_than is None or info.size > self.larger_than)
        )


EVERY_CHECKPOINT = Wanted()


class Listed(NamedTuple):
    """What a listing found: the checkpoints, newest first; how many more the limit left out; files it cannot read."""

    found: list[CheckpointInfo]
    more: int
    unreadable: list[Path]


def checkpoints(
    folder: str | os.PathLike[str] | None = None,
    *,
    trace: str = "",
    label: str = "",
    error: str = "",
    moment: str = "",
    since_ns: int | None = None,
    until_ns: int | None = None,
    larger_than: int | None = None,
    limit: int | None = None,
) -> list[CheckpointInfo]:
    """List checkpoints, newest first. Conditions that are given must all be met.

    Args:
        folder: where to look; None for the default home and ``.checkpoints``.
        trace: of this trace; the beginning of its id will do.
        label: with exactly this label (``metadata["label"]``).
        error: whose ``Type: message`` holds this text, in whatever case.
        moment: ``"failure"``, ``"exit"``, ``"entry"``, ``"made"``, ``"unfinished"`` or ``"signal"`` (see `Checkpoint`).
        since_ns: made at this time or later (nanoseconds since the epoch).
        until_ns: made before this time.
        larger_than: of more bytes, in its file or its step of one.
        limit: at most so many, the newest.

    Raises:
        ConfigurationError: there is no such moment, the limit is less than 1, or `since_ns` is not before `until_ns`.
    """
    wanted = Wanted(trace, label, error, moment, since_ns, until_ns, larger_than, limit)
    return listed(wanted, None if folder is None else [Path(folder)]).found


def listed(wanted: Wanted = EVERY_CHECKPOINT, folders: Sequence[Path] | None = None) -> Listed:
    """Look at the headers of all files once.

    Args:
        wanted: which checkpoints.
        folders: where to look; None for the default home and ``.checkpoints``.
    """
    from clearstone.checkpoint import manager  # no part of `import clearstone`

    everywhere: list[CheckpointInfo] = []
    unreadable: list[Path] = []
    for folder in folders if folders is not None else manager.default_folders():
        files = [(path, manager.infos(path)) for path in manager.files_in(folder)]
        everywhere += manager.in_order(info for _, infos in files for info in infos)
        unreadable += [path for path, infos in files if not infos]
    admitted = sorted(filter(wanted.admits, everywhere), key=lambda info: info.created_ns, reverse=True)
    found = admitted[: wanted.limit]
    return Listed(found, len(admitted) - len(found), unreadable)
