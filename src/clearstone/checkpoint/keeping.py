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
from clearstone.errors import CheckpointError
from clearstone.span import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.run import OpenSpan
    from clearstone.span import Span


ATTEMPTS = 3


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
    drops: Collection[str] = (),
    sync: bool = False,
) -> Path:
    """Add a checkpoint to the pack of its trace.

    Args:
        checkpoint: what to save, with the trace that `trace_of` gave.
        call: the call it is of.
        knows_trace: as in `trace_of`.
        mark: what ids of its kind begin with; empty for one of no kind.
        keep: of its kind so many are kept in this trace; None for all.
        drops: ids of others of the trace that it takes the place of.
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
        pack = _appended(
            folder,
            checkpoint,
            trace=checkpoint.trace if whole else None,
            kept=lambda pack: [*_beyond(pack, mark, keep), *drops],
            sync=sync,
            more={} if whole else {"store": _told(databases, folder)},
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"metadata must be JSON: {error}; put plain values there") from error
    except OSError as error:
        raise CheckpointError(f"the checkpoint cannot be written to {home.checkpoint_folder()}: {error}") from error
    if pack.is_wasteful:
        with contextlib.suppress(OSError, CheckpointError):  # the full disk is said where it costs something
            packs.write_anew(folder, trace_id, pack)
    return pack.path


def _appended(folder: Path, checkpoint: Checkpoint, kept: Callable[[packs.Pack], list[str]], **more: Any) -> packs.Pack:
    """Append to the pack of a trace; to the next one where somebody has taken or altered its file meanwhile."""
    for _ in range(ATTEMPTS):
        pack = packs.open_pack(folder, checkpoint.trace.trace_id)
        if pack is None:
            home.ensure_home()
            pack = packs.pack_of(folder, checkpoint.trace.trace_id)
        try:
            pack.append(checkpoint, drops=kept(pack), **more)
        except packs.PackGone:
            continue
        except packs.PackBusy:  # this is a signal handler, and its checkpoint may be the process's last
            pack = packs.made(folder, checkpoint.trace.trace_id)
            pack.append(checkpoint, **more)
        if checkpoint.moment == "unfinished":
            pack.waiting.add(checkpoint.checkpoint_id)
        return pack
    raise OSError("its file is removed or altered again and again by somebody")


def drop(trace_id: str, checkpoint_id: str) -> None:
    """Let go of a checkpoint that this process saved, if that is there yet.

    Raises:
        OSError: the file cannot be written.
        CheckpointError: it is just being written.
    """
    folder = home.checkpoint_folder()
    for _ in range(ATTEMPTS):
        pack = packs.open_pack(folder, trace_id)
        if pack is None or checkpoint_id not in pack.live:
            return
        with contextlib.suppress(packs.PackGone):  # removed with the file, or another thread has written that anew
            pack.drop([checkpoint_id])
            return


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
    return max((each.count for each in seen.sightings(home.home(), mark)), default=0)


def keep_newest(mark: str, path: Path, checkpoint_id: str, keep: int) -> None:
    """Note what was saved, and remove files that hold nothing but what is beyond the newest `keep` of its kind.

    Raises:
        OSError: it cannot be noted.
    """
    seen.note(home.home(), mark, seen.Sighting(1 + count(mark), path.name, checkpoint_id))
    folder, found = home.checkpoint_folder(), seen.sightings(home.home(), mark)
    staying = {each.checkpoint_id for each in found[-keep:]}
    for name in dict.fromkeys(each.file for each in found[:-keep]):
        with contextlib.suppress(OSError, CheckpointError):  # another process removed it, or it is torn
            _remove_if_stale(folder / name, mark, staying)


def _remove_if_stale(path: Path, mark: str, staying: Collection[str]) -> None:
    if not path.exists():
        return
    ids = [str(header.summary["checkpoint_id"]) for _, header in packfile.kept(loading.headers_of(path))]
    if all(each.startswith(f"ckpt_{mark}") and each not in staying for each in ids):
        path.unlink()
