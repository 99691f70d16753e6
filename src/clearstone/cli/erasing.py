"""``clearstone forget``: erasing one trace everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clearstone.cli.place import place, place_options
from clearstone.cli.sizes import size
from clearstone.errors import TraceNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.store.sqlite import SQLiteTraceStore


@click.command()
@click.argument("trace")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def forget(trace: str, yes: bool) -> None:
    """Erase TRACE and its checkpoints.

    Spans, payloads, files of large payloads, indexed words, the files of its checkpoints and the lines that say when
    they were saved. This cannot be undone.
    """
    store = place.store_if_there()
    trace_id = _trace_id(store, trace)
    files = _checkpoints_of(trace_id)
    if not yes:
        click.confirm(f"Erase trace {trace_id} and {_count(files)} checkpoint(s)? This cannot be undone.", abort=True)
    click.echo(_forget(store, trace_id, files))


def _forget(store: SQLiteTraceStore | None, trace_id: str, files: list[Path]) -> str:
    from clearstone import home
    from clearstone.checkpoint import seen
    from clearstone.store.base import Erased

    try:
        erased = store.forget(trace_id) if store is not None else Erased(0)
    except TraceNotFoundError:  # only its checkpoints are left
        erased = Erased(0)
    freed, checkpoints = erased.bytes, _count(files)
    for path in files:
        freed += path.stat().st_size
        path.unlink()
    seen.forget(home.home(), trace_id)
    apart = f"{erased.payloads + erased.blobs} payload(s) kept apart"
    told = f"{erased.spans} span(s), {apart}, {checkpoints} checkpoint(s)"
    return f"Erased trace {trace_id}: {told}; {size(freed)} freed."


def _trace_id(store: SQLiteTraceStore | None, reference: str) -> str:
    """Return what `find` does; where the database has no such trace, the one whose checkpoints are left."""
    from clearstone.checkpoint.listing import checkpoints
    from clearstone.store.memory import MemoryTraceStore

    try:
        return (store or MemoryTraceStore()).find(reference)
    except TraceNotFoundError:
        left = {info.trace_id for info in checkpoints() if reference and info.trace_id.startswith(reference)}
        if len(left) != 1:
            raise
        return left.pop()


def _checkpoints_of(trace_id: str) -> list[Path]:
    """Return the files whose header names the trace, and torn ones whose name does."""
    from clearstone.checkpoint import manager

    folders = [folder for folder in dict.fromkeys(manager.default_folders()) if folder.is_dir()]
    files = [path for folder in folders for path in manager.files_in(folder)]
    named = {path for path in files if any(info.trace_id == trace_id for info in manager.infos(path))}
    return sorted(named.union(path for path in files if path.name.startswith(trace_id)))


def _count(files: list[Path]) -> int:
    """Return how many checkpoints they hold; one that is torn counts as one."""
    from clearstone.checkpoint import manager

    return sum(len(manager.infos(path)) or 1 for path in files)
