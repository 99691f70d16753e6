"""Where checkpoints that save themselves go, and how many of them are kept.

Idea: each is a step of the pack of its trace (`checkpoint.packs`), in the default home. A failure, an explicit
checkpoint and the end of an outermost call hold the trace so far; the others leave it to the database that the run is
recorded in, where that outlives the process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from typing import TYPE_CHECKING, Any

from clearstone import home
from clearstone.checkpoint import loading, packfile, packs, seen
from clearstone.checkpoint.seen import Sighting
from clearstone.errors import CheckpointError
from clearstone.span import Trace

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.checkpoint.container import Header
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.run import OpenSpan
    from clearstone.span import Span


ATTEMPTS = 3

KEPT_PER_FAILURE = 20
"""Of identical failures (same type, same raising line) the newest so many are kept."""


def trace_of(call: OpenSpan, span: Span, *, knows_trace: bool) -> Trace:
    """Return the trace so far; of a checkpoint that leaves it to the database, the span it is taken at."""
    if knows_trace or None in call.databases:
        return call.trace_so_far()
    return Trace(call.trace_id, (span,))


def save(
    checkpoint: Checkpoint,
    call: OpenSpan,
    *,
    knows_trace: bool = True,
    mark: str = "",
    keep: int | None = None,
    sync: bool = False,
) -> Path:
    """Add a checkpoint to the pack of its trace.

    Args:
        checkpoint: what to save, with the trace that `trace_of` gave.
        call: the call it is of.
        knows_trace: as in `trace_of`.
        mark: what ids of its kind begin with; empty for one of no kind.
        keep: of its kind so many are kept in this trace; None for all.
        sync: whether it is to be on the disk when this returns.

    Returns:
        The file.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        folder, trace_id = home.checkpoint_folder(), checkpoint.trace.trace_id
        databases = call.databases
        whole = knows_trace or None in databases
        more = {} if whole else {"store": _told(databases, folder)}
        held = checkpoint.trace if whole else None
        pack = _appended(folder, checkpoint, mark=mark, keep=keep, trace=held, sync=sync, more=more)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"metadata must be JSON: {error}; put plain values there") from error
    except OSError as error:
        raise CheckpointError(f"the checkpoint cannot be written to {home.checkpoint_folder()}: {error}") from error
    if pack.is_wasteful:
        with contextlib.suppress(OSError, CheckpointError):  # the full disk is said where it costs something
            packs.write_anew(folder, trace_id, pack)
    return pack.path


def _appended(folder: Path, checkpoint: Checkpoint, mark: str, keep: int | None, **more: Any) -> packs.Pack:
    """Append to the pack of a trace; to the next one where somebody has taken or altered its file meanwhile."""
    if not folder.exists():
        home.ensure_home()
    for _ in range(ATTEMPTS):
        pack = packs.pack_of(folder, checkpoint.trace.trace_id)
        try:
            pack.append(checkpoint, drops=_beyond(pack, mark, keep), **more)
        except packs.PackGone:
            continue
        except packs.PackBusy:  # this is a signal handler, and its checkpoint may be the process's last
            pack = packs.made(folder, checkpoint.trace.trace_id)
            pack.append(checkpoint, **more)
        if checkpoint.moment == "unfinished":
            packs.wait_for(checkpoint.checkpoint_id, pack)
        return pack
    raise OSError("its file is removed or altered again and again by somebody")


def _beyond(pack: packs.Pack, mark: str, keep: int | None) -> list[str]:
    """Return the oldest of a kind, where one more is too many."""
    if not mark or keep is None:
        return []
    of_kind = [each for each in pack.live if each.startswith(f"ckpt_{mark}")]
    return of_kind[: max(0, len(of_kind) + 1 - keep)]


@functools.lru_cache(maxsize=16)
def _told(databases: tuple[Path | None, ...], folder: Path) -> bytes:
    """Return where the trace is recorded, from the checkpoints' folder where that moves with it."""
    paths = [each.absolute() for each in databases if each is not None]
    near = [os.path.relpath(path, folder) if path.is_relative_to(folder.parent) else str(path) for path in paths]
    return json.dumps(near).encode()


def count(mark: str) -> int:
    """Return how many of a kind were saved."""
    return _count(seen.sightings(home.home(), mark))


def _count(found: list[Sighting]) -> int:
    return max((each.count for each in found), default=0)


def keep_newest(mark: str, path: Path, checkpoint_id: str, keep: int) -> None:
    """Note what was saved, and remove files that hold nothing but what is too old of its kind.

    Args:
        mark: the kind's.
        path: the file it was saved to.
        checkpoint_id: its id.
        keep: of the kind the newest so many are kept.

    Raises:
        OSError: it cannot be noted.
    """
    folder, found = home.checkpoint_folder(), seen.sightings(home.home(), mark)
    found.append(Sighting(1 + _count(found), path.name, checkpoint_id))
    seen.note(home.home(), mark, found[-1])
    limits = {mark: {each.checkpoint_id for each in found[-keep:]}}
    for name in dict.fromkeys(each.file for each in found[:-keep]):
        with contextlib.suppress(OSError, CheckpointError):  # another process removed it, or it is torn
            if all(_is_too_old(header, limits) for _, header in packfile.kept(loading.headers_of(folder / name))):
                (folder / name).unlink()


def _is_too_old(header: Header, staying: dict[str, set[str]]) -> bool:
    """Whether a step is beyond the newest of its kind: of the kind that was saved now, or of a failure of another.

    Args:
        header: the step's.
        staying: the ids that stay, by the marks of kinds; those of other failures are looked up and added.
    """
    checkpoint_id = str(header.summary["checkpoint_id"])
    mark = checkpoint_id.removeprefix("ckpt_")[: seen.MARK_DIGITS]
    if mark not in staying and header.summary.get("moment") == "failure":
        newest = seen.sightings(home.home(), mark)[-KEPT_PER_FAILURE:]
        staying[mark] = {each.checkpoint_id for each in newest}
    return mark in staying and checkpoint_id not in staying[mark]
