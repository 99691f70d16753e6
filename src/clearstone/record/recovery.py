"""Journals of dead processes: what they hold goes into the store.

Idea: whoever opens a store looks for journal folders whose owner is dead, applies their records and removes them. A
span that started and never ended is then marked interrupted. A segment that this machine's key does not vouch for (a
copy, a clone, another user's) is stored all the same, for reading; its payloads get names that prove nothing, so no
replay loads them unasked.

Invariant: recovering twice, or after the dead process had stored a part, changes nothing (`TraceStore.apply` is
idempotent). A folder is removed only after the store has taken all of it; two openers never work on one. Damage costs
the records it hits: a folder that cannot be recovered stays, and does not keep others from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from clearstone.codec import payload
from clearstone.errors import StoreError
from clearstone.record import faults, layout, ownership
from clearstone.record.batches import NOT_FAILED, Assembler, store_records
from clearstone.span import BLOB, CODEC_MASK, CODECS, SpanKind
from clearstone.store import blobs
from clearstone.store.batch import ProcessRow, RawPayload, SiteRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.store.base import TraceStore

MOST_RECORDS = 2000
HEAD_SIZE = 4096


class _Found(NamedTuple):
    """A segment's file."""

    path: Path
    inode: int
    header: layout.Header


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
        try:
            interrupted += _recover_one(store, orphan)
        except StoreError:
            raise
        except Exception as error:  # what is in there may be anything
            faults.report(f"recovering {orphan}", error)
        else:
            ownership.remove(orphan)
    with contextlib.suppress(OSError):
        folder.rmdir()  # only when it is empty
    return interrupted


def _recover_one(store: TraceStore, folder: Path) -> int:
    owner = folder.name.rpartition(".")[0]
    tokens = {owner}
    assemblers: dict[bool, Assembler] = {}
    for found in sorted(_segments(folder, owner), key=lambda each: each.header.serial):
        tokens.add(found.header.process.token)
        trusted = ownership.proves(found.header, found.inode)
        if trusted not in assemblers:
            assemblers[trusted] = Assembler(found.header.process, trusted=trusted)
        for records in _batches(found.path.read_bytes(), found.header.begin):
            store_records(store, assemblers[trusted], records)
    return sum(store.interrupt(token) for token in tokens)


def _segments(folder: Path, owner: str) -> Iterator[_Found]:
    for path in folder.glob(f"*{ownership.SEGMENT_SUFFIX}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            head = file.read(HEAD_SIZE) if stat.S_ISREG(status.st_mode) else b""
        if any(head):
            yield _Found(path, status.st_ino, layout.read_header(head) or _damaged(head, owner))


def _damaged(head: bytes, owner: str) -> layout.Header:
    """What is known of a segment whose header cannot be read: whose folder it is in, and where records may begin."""
    begin = next((at for at in range(0, len(head), layout.ALIGNMENT) if _is_record(head, at)), len(head))
    return layout.Header(ProcessRow(owner, 0, "", "", 0), 0, begin, b"", layout.NO_PROOF)


def _batches(data: bytes, begin: int) -> Iterator[list[bytes]]:
    """Yield the records of a segment, some at a time."""
    batch: list[bytes] = []
    for record in _records(data, begin):
        batch.append(record)
        if len(batch) >= MOST_RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch


def _records(data: bytes, begin: int) -> Iterator[bytes]:
    """Yield what can be read as records, up to the first place that was not taken.

    A place whose record was still being copied is passed over, for other threads went on behind it. After a place that
    is damaged the next that can be read is looked for.
    """
    at, lost = begin, False
    end = len(data.rstrip(b"\0"))
    while at + layout.LENGTH.size <= end:
        (length,) = layout.LENGTH.unpack_from(data, at)
        if not length and not lost:
            return
        if _is_record(data, at):
            lost = False
            yield data[at + 4 : at + 4 + length]
            at += layout.space(length)
        elif not lost and _is_unfinished(data, at, length):
            at += layout.space(length)
        else:
            lost = True
            at += layout.ALIGNMENT


def _is_record(data: bytes, at: int) -> bool:
    """Whether a whole record is at `at` that can be read."""
    (length,) = layout.LENGTH.unpack_from(data, at)
    start = at + layout.LENGTH.size
    state = start + length
    if not 0 < length < len(data) - start or data[state] != layout.PUBLISHED or data[start] not in layout.KINDS:
        return False
    try:
        return _is_sound(layout.read(data[start:state]))
    except (ValueError, TypeError, LookupError, RecursionError):
        return False


def _is_unfinished(data: bytes, at: int, length: int) -> bool:
    """Whether `at` was kept for a record that did not come: what is behind it, if anything is, is in its place."""
    behind = at + layout.space(length)
    if not _did_not_come(data, at, length):
        return False
    if behind + layout.LENGTH.size > len(data):
        return True
    (following,) = layout.LENGTH.unpack_from(data, behind)
    return not following or _is_record(data, behind) or _did_not_come(data, behind, following)


def _did_not_come(data: bytes, at: int, length: int) -> bool:
    state = at + layout.LENGTH.size + length
    return state < len(data) and data[state] in {0, layout.GIVEN_UP}


def _is_sound(record: layout.Record) -> bool:
    """Whether a store can give back what the record says: one that makes no span would cost its whole trace."""
    if isinstance(record, layout.SiteDefinition):
        return _is_site(record.row)
    if isinstance(record, layout.Chunk):
        return _is_payload(record.value)
    given = record.input if isinstance(record, layout.Start) else record.output
    parts = record.parts
    held = [given, *(parts.get(role) for role in (layout.INPUT, layout.ERROR, layout.EFFECTS))]
    texts = {role: layout.text_of(parts[role]) for role in layout.TEXTS if role in parts}
    told = {role: json.loads(text) for role, text in texts.items() if role in layout.JSON}
    return (
        all(raw is None or _is_payload(raw) for raw in held)
        and isinstance(told.get(layout.ATTRIBUTES, {}), dict)
        and all({"name", "at_ns", "attributes"} == set(event) for event in told.get(layout.EVENTS, []))
        and all(text is None or isinstance(text, str) for text in told.get(layout.FAILURE, []))
        and len(told.get(layout.FAILURE, NOT_FAILED)) == len(NOT_FAILED)
        and (layout.NAMED_SITE not in told or _is_site(SiteRow(*told[layout.NAMED_SITE])))
    )


def _is_payload(raw: RawPayload) -> bool:
    """Whether its bytes are arranged as its form says. Raises `ValueError` or `LookupError` where they are not."""
    if raw.form & BLOB:
        return raw.form & CODEC_MASK < len(CODECS) and blobs.is_name(raw.data)
    payload.of_raw(*raw)
    return True


def _is_site(row: SiteRow) -> bool:
    return all(isinstance(text, str) for text in row) and row.kind in set(SpanKind) and row.replay in {"serve", "run"}
