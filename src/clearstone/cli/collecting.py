"""``clearstone gc``: erasing old traces, and the checkpoints of them.

Invariant: files alone are erased whole, and those alone that saved themselves into the home. One stays as long as any
checkpoint of it does, and as long as anything of its trace is left in the database: what is left may need it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from clearstone.cli.moments import duration
from clearstone.cli.place import place, place_options
from clearstone.cli.sizes import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clearstone.checkpoint.manager import CheckpointInfo
    from clearstone.store.sqlite import SQLiteTraceStore

FAILED = frozenset({"failure", "unfinished"})
"""Moments of checkpoints that ``--keep-failed`` leaves."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is to be erased: all that is older, failures kept or not."""

    before_ns: int
    keep_failed: bool

    def spares_checkpoint(self, info: CheckpointInfo) -> bool:
        return info.created_ns >= self.before_ns or (self.keep_failed and info.moment in FAILED)

    def spares_trace(self, store: SQLiteTraceStore, trace_id: str) -> bool:
        """Whether a trace lives: something of it goes on, or the database keeps it."""
        from clearstone.store.base import SpanQuery

        with contextlib.closing(store.spans(SpanQuery(trace_id=trace_id), payloads=False)) as spans:
            return any(
                span.is_open  # its process is at work
                or max(span.start_ns, span.end_ns or 0) >= self.before_ns
                or (self.keep_failed and (span.interrupted or span.status.code.value == "ERROR"))
                for span in spans
            )


@click.command()
@click.option("--older-than", type=duration, required=True, metavar="AGE", help="As 30d, 12h, 90m.")
@click.option("--keep-failed", is_flag=True, help="Leave what failed, was interrupted or is unfinished.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be erased.")
@place_options
def gc(older_than: int, keep_failed: bool, dry_run: bool) -> None:
    """Erase old traces and their checkpoints.

    Those of which nothing is newer than AGE, and payloads and files that nothing refers to any more. Checkpoints in
    '.checkpoints' and elsewhere stay.
    """
    rule = _Rule(time.time_ns() - older_than, keep_failed)
    store = place.store_if_there()
    doomed = list(_doomed(rule, store))
    if store is None and not doomed:
        click.echo(f"No trace in {place.trace_file} yet: there is nothing to erase.", err=True)
        return
    click.echo(_collect(rule, store, dry_run=dry_run))
    if not dry_run:
        doomed = [each for each in doomed if _erase(each[0])]
    click.echo(_told(doomed, dry_run=dry_run))


def _collect(rule: _Rule, store: SQLiteTraceStore | None, *, dry_run: bool) -> str:
    from clearstone.store.base import Collected

    found = Collected(0, 0, 0)
    if store is not None:
        found = store.collect(rule.before_ns, keep_failed=rule.keep_failed, dry_run=dry_run)
    said, room = ("Would erase", "about ") if dry_run else ("Erased", "")
    freed = f"{room}{size(found.bytes)} {'to be freed' if dry_run else 'freed'}"
    return f"{said} {found.traces} trace(s) with {found.spans} span(s), {freed}."


def _doomed(rule: _Rule, store: SQLiteTraceStore | None) -> Iterator[tuple[Path, int, int]]:
    """Give the files to erase, how many checkpoints each holds, and how large it is."""
    from clearstone import home
    from clearstone.checkpoint import manager

    if place.db is not None and place.db.absolute() != home.trace_file().absolute():
        return  # the traces of the home's checkpoints are in another database: who knows what of them lives
    for path in manager.files_in(home.checkpoint_folder()):
        found = manager.infos(path)
        if not found or any(map(rule.spares_checkpoint, found)):
            continue
        traces = {info.trace_id for info in found}
        if store is None or not any(rule.spares_trace(store, each) for each in traces):
            yield path, len(found), path.stat().st_size


def _erase(path: Path) -> bool:
    """Erase a file; return whether it could be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # Windows: a process has it open
        click.echo(f"Note: {path} stays: {error}", err=True)
        return False
    return True


def _told(erased: Sequence[tuple[Path, int, int]], *, dry_run: bool) -> str:
    said, freed = ("Would erase", "to be freed") if dry_run else ("Erased", "freed")
    checkpoints, room = sum(count for _, count, _ in erased), size(sum(length for _, _, length in erased))
    return f"{said} {checkpoints} checkpoint(s) in {len(erased)} file(s), {room} {freed}."
