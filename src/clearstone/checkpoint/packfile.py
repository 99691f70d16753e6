"""A pack that is open for reading: its steps, what vouches for them, and what one of them takes from others.

Idea: what several steps need (headers, rows, segments, the trace) is read once while the file is open, so that going
through all of them costs what is in them.

Invariant: nothing is unpickled. A step is trusted where it, or one behind it, was signed under a trusted key, and then
nothing behind that one is used; what comes from the database is trusted where the names of its values prove it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from clearstone import run
from clearstone.checkpoint import container, manifests, serial, spans, trust
from clearstone.checkpoint.manifests import Table
from clearstone.checkpoint.sections import FREELY, MOST_TIMES, damaged, read_sections
from clearstone.checkpoint.signing import strangers
from clearstone.errors import CheckpointDamagedError, CheckpointNotFoundError, StoreError, TraceNotFoundError
from clearstone.span import Span, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from clearstone.checkpoint.container import Header
    from clearstone.checkpoint.manifests import Row
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.checkpoint.snapshots import Segment, Snapshot

_WITH_WHAT_FOLLOWED = frozenset({"entry", "unfinished"})
"""Checkpoints of calls that go on behind them: their trace holds what came later too, for a replay to serve."""

SECTIONS = serial.SECTIONS | {"store"}

NO_TABLE = Table(0, [], [])

_LARGE = frozenset({"trace", "payloads", *manifests.SECTIONS})
"""Sections that are read where they are used."""


def kept(headers: Sequence[Header]) -> Iterator[tuple[int, Header]]:
    """Give the steps that are checkpoints, and were not dropped by a later one, with their numbers."""
    dropped: set[Any] = set()
    for header in headers:
        drops = header.summary.get("drops")
        dropped.update(each for each in (drops if type(drops) is list else ()) if type(each) is int)
    for number, header in enumerate(headers):
        if "checkpoint_id" in header.summary and number not in dropped:
            yield number, header


def untrusted(path: Path, why: str) -> str:
    """Return the sentence about a file that nothing is loaded of; empty where there is no reason."""
    return why and (
        f"{path} {why}, and replaying it could run whatever its maker wants. Look at it with 'clearstone inspect "
        f"{path}'; if you know where it is from, 'clearstone trust {path}'"
    )


class PackFile:
    """A pack.

    Args:
        path: its path.
        file: the file, open.
        headers: those of the steps to use; None for all that are whole.
    """

    def __init__(self, path: Path, file: BinaryIO, headers: tuple[Header, ...] | None = None) -> None:
        self.headers = tuple(container.headers(path, file)) if headers is None else headers
        self._path = path
        self._file = file
        self._contents: dict[int, dict[str, Any]] = {}
        self._tables: dict[int, Table] = {}
        self._rows: tuple[int, dict[str, Row], Row | None] = (-1, {}, None)
        self._segments: dict[int, Segment] = {}  # those of the checkpoint that was read last
        self._traces: dict[int, Trace] = {}
        self._whole: dict[tuple[bytes, int], tuple[Trace, int]] = {}
        self._read = 0

    @property
    def digest(self) -> bytes:
        """The last step's, which covers all."""
        return self.headers[-1].digest if self.headers else b""

    def newest(self) -> int:
        """Return the number of the last step that was not dropped.

        Raises:
            CheckpointDamagedError, CheckpointNotFoundError: there is none.
        """
        if not self.headers:
            raise CheckpointDamagedError(
                f"{self._path} is torn or altered; take another one from 'clearstone checkpoints'"
            )
        numbers = [number for number, _ in kept(self.headers)]
        if not numbers:
            raise CheckpointNotFoundError(f"{self._path} holds no checkpoint that is kept; take another one")
        return numbers[-1]

    def checkpoint(self, number: int) -> Checkpoint:
        """Return a step as a checkpoint.

        Raises:
            CheckpointDamagedError: the file ends before it, or a section of it is torn or altered.
            KeyError, TypeError, ValueError, IndexError: it says what no version writes.
        """
        if number >= len(self.headers):
            raise CheckpointDamagedError(
                f"{self._path} is torn or altered before its step {number}; the steps before stand"
            )
        self._read = 0
        content = self._content(number)
        sections = {name: self._section(name, number) for name in self._named(number) - _LARGE}
        for name, holder in dict(content.get("held", {})).items():
            if not 0 <= holder < number:
                raise ValueError(f"section {name!r} is held by no step before")
            sections[name] = self._section(name, holder)
        why = trust.why_not(self.headers[number]) if number > self._vouched else ""
        trace, strange = self._trace(number, b"[]" if why else self.store(number))  # a stranger opens no file
        told = untrusted(self._path, why or strange)
        return serial.assembled(content, sections, self._snapshots(number), trace, untrusted=told)

    def holds_trace(self, number: int) -> bool:
        """Whether a step itself says what the trace was."""
        return "trace" in self._named(number)

    def store(self, number: int) -> bytes:
        """Return where else the trace of a step is (see `stored_trace`)."""
        holder = self._content(number).get("held", {}).get("store", number)
        return self._section("store", holder) if "store" in self._named(holder) else b"[]"

    @cached_property
    def _vouched(self) -> int:
        """The last step that a trusted key has signed: it vouches for all before it. -1 for none."""
        numbers = range(len(self.headers) - 1, -1, -1)
        return next((number for number in numbers if not trust.why_not(self.headers[number])), -1)

    def _content(self, number: int) -> dict[str, Any]:
        if number not in self._contents:
            self._contents[number] = self.headers[number].content
        return self._contents[number]

    def _named(self, number: int) -> set[str]:
        return {each[0] for each in self._content(number)["sections"]}

    def _section(self, name: str, number: int) -> bytes:
        found: bytes = self._sections(number, {name})[name]
        return found

    def _sections(self, number: int, names: set[str]) -> dict[str, Any]:
        found = read_sections(self._file, self.headers[number], SECTIONS, names, apart="payloads")
        self._read += sum(map(len, found.values()))
        if self._read > FREELY + MOST_TIMES * self.headers[-1].after:
            raise damaged(self._path, f"unpacks to more than {self._read} bytes for one checkpoint")
        return found

    # --- the states --------------------------------------------------------------------------------------------------

    def _snapshots(self, number: int) -> dict[str, Snapshot]:
        rows = self._rows_of(number)
        wanted = set[int]().union(*(manifests.numbers_in(row) for row in rows.values()))
        self._segments = self._wanted_segments(wanted, number)
        return {name: manifests.snapshot_of(row, self._segments.__getitem__) for name, row in rows.items()}

    def _table(self, number: int) -> Table:
        if number not in self._tables:
            told = self._section("snapshots", number) if "snapshots" in self._named(number) else None
            self._tables[number] = manifests.table_of(told) if told is not None else NO_TABLE
        return self._tables[number]

    def _rows_of(self, number: int) -> dict[str, Row]:
        base = self._content(number).get("base", number)
        if not max(0, number - manifests.WHOLE_EVERY) <= base <= number:
            raise ValueError(f"its states begin at step {base}")
        last, found, before = self._rows
        if not base <= last <= number:  # nothing of what was read leads there
            last, found, before = base - 1, {}, None
        for each in range(last + 1, number + 1):
            found = manifests.rows_of(self._table(each), before)
            before = list(found.values())[-1] if found else before
        self._rows = number, found, before
        return found

    def _wanted_segments(self, wanted: set[int], number: int) -> dict[int, Segment]:
        """Return segments by number: each is in one of the steps up to that one. Others are not unpacked."""
        found = {each: segment for each, segment in self._segments.items() if each in wanted}
        for step in range(number, -1, -1):
            if len(found) == len(wanted):
                break
            table = self._table(step)
            missing = [each for each in table.numbers if each in wanted and each not in found]
            if missing:
                found |= manifests.segments_of(table, self._sections(step, {"segments", "buffers"}), set(missing))
        return found

    # --- the trace ---------------------------------------------------------------------------------------------------

    def _trace(self, number: int, store: bytes) -> tuple[Trace, str]:
        """Return the trace of a step, and why it is not trusted where the file is."""
        content = self._content(number)
        trace_id = content["summary"]["trace_id"]
        if self.holds_trace(number):
            return self._told_until(trace_id, number), ""
        whole, strange = self._with_stored(trace_id, store, self._usable(number))
        for each in {told[1] for told in content.get("earlier", [])} - {trace_id}:
            other = stored_trace(self._path, each, store)
            whole, strange = whole.merged(other), strange + strangers(other)
        if whole.span(content["span_id"]) is None:
            whole = whole.merged(self._own(content))
        if content["summary"]["moment"] not in _WITH_WHAT_FOLLOWED:
            own = whole.span(content["span_id"])
            whole = whole.until(max(content["summary"]["created_ns"], (own and own.end_ns) or 0))
        why = f"has {strange} value(s) in its trace database that were not recorded under a key this machine trusts"
        return whole, why if strange else ""

    def _usable(self, number: int) -> int:
        """Return the last step that may be used for that one."""
        return self._vouched if number <= self._vouched else len(self.headers) - 1

    def _with_stored(self, trace_id: str, store: bytes, last: int) -> tuple[Trace, int]:
        """Return all that is known of the trace, and how much of it nobody trusted has recorded."""
        if (store, last) not in self._whole:
            stored = stored_trace(self._path, trace_id, store)
            self._whole[store, last] = self._told_until(trace_id, last).merged(stored), strangers(stored)
        return self._whole[store, last]

    def _own(self, content: dict[str, Any]) -> Trace:
        """Return a trace of the step's own span alone, where its database is gone or a stranger's."""
        summary, trace_id = content["summary"], content["summary"]["trace_id"]
        site = content["call"][0] if "call" in content else ""
        started = min(summary["created_ns"], _nanoseconds(content["timestamp"]))
        return Trace(trace_id, (Span(trace_id, content["span_id"], None, summary["span_name"], started, site=site),))

    def _told_until(self, trace_id: str, last: int) -> Trace:
        """Return what the steps up to one say of the trace."""
        known = max((each for each in self._traces if each <= last), default=-1)
        trace = self._traces.get(known, Trace(trace_id))
        for number in range(known + 1, last + 1):
            if self.holds_trace(number):
                parts = {"payloads": b"", **self._sections(number, {"trace", "payloads"})}
                trace = trace.merged(spans.unpack(trace_id, parts["trace"], parts["payloads"]))
        self._traces[last] = trace
        return trace


def _nanoseconds(timestamp: str) -> int:
    return int(dt.datetime.fromisoformat(timestamp).timestamp() * 1e9)


def stored_trace(path: Path, trace_id: str, told: bytes) -> Trace:
    """Return what the databases of a run hold of a trace.

    Args:
        path: the checkpoint's file.
        trace_id: the trace.
        told: the paths of the databases as JSON, from the file's folder where they are not absolute.
    """
    from clearstone.store.sqlite import SQLiteTraceStore

    run.settle()
    trace = Trace(trace_id)
    for name in json.loads(told):
        database = path.absolute().parent / name
        with contextlib.suppress(StoreError, TraceNotFoundError):  # gone, or never written: then it is not there
            if database.exists():
                store = SQLiteTraceStore(database, create=False)
                with contextlib.closing(store):
                    trace = trace.merged(store.get_trace(trace_id))
    return trace
