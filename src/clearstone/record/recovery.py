"""Journals of dead processes: what they hold goes into the store.

Idea: whoever opens a store looks for journal folders whose owner is dead, applies their records and removes them. A
span that started and never ended is then marked interrupted.

Invariant: recovering twice, or after the dead process had stored a part, changes nothing (`TraceStore.apply` is
idempotent). A folder is removed only after the store has taken all of it; two openers never work on one.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from clearstone.errors import StoreError
from clearstone.record import faults, layout, ownership
from clearstone.record.batches import Assembler

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.store.base import TraceStore

MOST_RECORDS = 2000


def journal_folder(database: Path) -> Path:
    """Return where the journals of a trace database are."""
    return database.with_name(f"{database.name}.journal")


def recover(store: TraceStore, folder: Path) -> int:
    """Move what dead processes left in `folder` into `store`.

    Args:
        store: the store it was meant for.
        folder: the journals' folder (see `journal_folder`).

    Returns:
        How many spans were interrupted.

    Raises:
        StoreError: the store does not take it; what is not stored stays.
    """
    interrupted = 0
    for orphan in ownership.orphans(folder):
        interrupted += _recover_one(store, orphan)
        shutil.rmtree(orphan, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()  # only when it is empty
    return interrupted


def _recover_one(store: TraceStore, folder: Path) -> int:
    tokens = {folder.name.rpartition(".")[0]: None}
    assembler: Assembler | None = None
    for _, path in sorted(_serials(folder)):
        data = path.read_bytes()
        head = layout.read_header(data)
        if head is None:
            continue
        process, _, begin = head
        tokens[process.token] = None
        if assembler is None:
            assembler = Assembler(process)
        _apply(store, assembler, data[begin:])
    return sum(store.interrupt(token) for token in tokens)


def _serials(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob(f"*{ownership.SEGMENT_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            head = layout.read_header(file.read(4096))
            if head is not None:
                found.append((head[1], path))
    return found


def _apply(store: TraceStore, assembler: Assembler, data: bytes) -> None:
    at = 0
    while True:
        records, size = layout.cut(data[at : at + (8 << 20)] or b"", MOST_RECORDS)
        if not records:
            records, size = layout.cut(data[at:], 1)  # one record longer than a piece
        if not records:
            return
        at += size
        try:
            store.apply(assembler.batch(records))
        except (StoreError, ValueError):
            _apply_each(store, assembler, records)


def _apply_each(store: TraceStore, assembler: Assembler, records: list[bytes]) -> None:
    """A record that cannot be stored costs itself alone; a store that takes nothing stops the recovery."""
    from clearstone.errors import UnstorableSpanError

    for record in records:
        try:
            store.apply(assembler.batch([record]))
        except (UnstorableSpanError, ValueError) as error:
            faults.report("recovering a record", error)
