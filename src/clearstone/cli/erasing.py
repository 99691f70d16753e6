"""``clearstone gc`` and ``clearstone forget``: erasing what was recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from clearstone.cli.moments import duration
from clearstone.cli.place import place, place_options
from clearstone.errors import TraceNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.store.sqlite import SQLiteTraceStore


@click.command()
@click.option("--older-than", type=duration, required=True, metavar="AGE", help="As 30d, 12h, 90m.")
@click.option("--keep-failed", is_flag=True, help="Leave traces with a failed or interrupted call.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be erased.")
@place_options
def gc(older_than: int, keep_failed: bool, dry_run: bool) -> None:
    """Erase traces of which nothing is newer than AGE.

    Also erases payloads and files that nothing refers to any more. Checkpoints stay: each holds what its replay needs.
    """
    store = place.store_if_there()
    if store is None:
        click.echo(f"No trace in {place.trace_file} yet: there is nothing to erase.", err=True)
        return
    found = store.collect(time.time_ns() - older_than, keep_failed=keep_failed, dry_run=dry_run)
    said, room = ("Would erase", "about ") if dry_run else ("Erased", "")
    freed = f"{room}{size(found.bytes)} {'to be freed' if dry_run else 'freed'}"
    click.echo(f"{said} {found.traces} trace(s) with {found.spans} span(s), {freed}.")


@click.command()
@click.argument("trace")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def forget(trace: str, yes: bool) -> None:
    """Erase TRACE and its checkpoints.

    Spans, payloads, files of large payloads, indexed words and the .ckpt files of that trace. This cannot be undone.
    """
    store = place.store_if_there()
    trace_id = _trace_id(store, trace)
    files = _checkpoints_of(trace_id)
    if not yes:
        click.confirm(f"Erase trace {trace_id} and {len(files)} checkpoint(s)? This cannot be undone.", abort=True)
    click.echo(_forget(store, trace_id, files))


def _forget(store: SQLiteTraceStore | None, trace_id: str, files: list[Path]) -> str:
    from clearstone.store.base import Erased

    try:
        erased = store.forget(trace_id) if store is not None else Erased(0)
    except TraceNotFoundError:  # only its checkpoints are left
        erased = Erased(0)
    freed = erased.bytes
    for path in files:
        freed += path.stat().st_size
        path.unlink()
    told = f"{erased.spans} span(s), {erased.payloads + erased.blobs} payload(s) kept apart, {len(files)} checkpoint(s)"
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
    named = {info.path for folder in folders for info in manager.list_folder(folder) if info.trace_id == trace_id}
    return sorted(named.union(*(folder.glob(f"{trace_id}_*{manager.SUFFIX}") for folder in folders)))


def size(number: int) -> str:
    """Return a number of bytes as people read it."""
    for power, unit in ((30, "GB"), (20, "MB"), (10, "KB")):
        if abs(number) >= 1 << power:
            return f"{number / (1 << power):.1f} {unit}"
    return f"{number} bytes"
