"""A checkpoint read from its file: from its own step and those before it, and its trace from where that is kept.

Idea: a step of a pack names what earlier steps hold of it: sections with the same bytes, segments of its state. A step
that holds no trace (most calls that do not fail) takes it from later steps, and from the database that the run was
recorded in.

Invariant: nothing is unpickled. A step is trusted where it, or one behind it, was signed under a trusted key, and then
nothing behind that one is used; what comes from the database is trusted where the names of its values prove it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from clearstone import run
from clearstone.checkpoint import container, manifests, serial, spans, trust
from clearstone.checkpoint.sections import read_sections
from clearstone.checkpoint.signing import strangers
from clearstone.errors import CheckpointDamagedError, CheckpointNotFoundError, StoreError, TraceNotFoundError
from clearstone.span import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clearstone.checkpoint.container import Header
    from clearstone.checkpoint.manifests import Row
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.checkpoint.snapshots import Segment, Snapshot

WITH_WHAT_FOLLOWED = frozenset({"entry", "unfinished"})
"""Checkpoints of calls that go on behind them: their trace holds what came later too, for a replay to serve."""

SECTIONS = serial.SECTIONS | {"store"}


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


def kept(headers: Sequence[Header]) -> Iterator[tuple[int, Header]]:
    """Give the steps that are checkpoints, and were not dropped by a later one, with their numbers."""
    dropped: set[Any] = set()
    for header in headers:
        drops = header.summary.get("drops", [])
        dropped.update(each for each in drops if type(each) is int) if type(drops) is list else None
    for number, header in enumerate(headers):
        if "checkpoint_id" in header.summary and number not in dropped:
            yield number, header


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
                return _Reader(path, file, number).checkpoint()
        header, sections = container.read(path, serial.SECTIONS)
        return serial.unpack(header.content, sections, untrusted=_told(path, trust.why_not(header)))


def step_of(path: Path, number: int) -> tuple[Checkpoint, Trace | None, dict[str, bytes]]:
    """Return a step of a pack as `Pack.append` takes it: the checkpoint, the trace it holds, and further sections.

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: as `load`.
    """
    with _sentences(path), container.opened(path) as file:
        reader = _Reader(path, file, number)
        checkpoint = reader.checkpoint()
        if reader.holds_trace:
            return checkpoint, checkpoint.trace, {}
        return checkpoint, None, {"store": reader.store}


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
            header, sections = container.read(path, serial.SECTIONS)
            return header, [serial.unpack(header.content, sections)]
        with container.opened(path) as file:
            headers = tuple(container.headers(path, file))
            last = number if number is not None else len(headers) - 1
            upto = headers[: last + 1]
            return upto[-1], [_Reader(path, file, each, upto).checkpoint() for each, _ in kept(upto)]


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


def _told(path: Path, why: str) -> str:
    return why and (
        f"{path} {why}, and replaying it could run whatever its maker wants. Look at it with 'clearstone inspect "
        f"{path}'; if you know where it is from, 'clearstone trust {path}'"
    )


def _newest(path: Path, headers: Sequence[Header]) -> int:
    numbers = [number for number, _ in kept(headers)]
    if not headers:
        raise CheckpointDamagedError(f"{path} is torn or altered; take another one from 'clearstone checkpoints'")
    if not numbers:
        raise CheckpointNotFoundError(f"{path} holds no checkpoint that is kept; take another one")
    return numbers[-1]


class _Reader:
    """A file that is open, and which of its steps is wanted."""

    def __init__(
        self, path: Path, file: BinaryIO, number: int | None, headers: tuple[Header, ...] | None = None
    ) -> None:
        self._path = path
        self._file = file
        headers = tuple(container.headers(path, file)) if headers is None else headers
        if number is None:
            number = _newest(path, headers)
        if number >= len(headers):
            raise CheckpointDamagedError(f"{path} is torn or altered before its step {number}; the steps before stand")
        self._number = number
        vouching = [each for each in range(number, len(headers)) if not trust.why_not(headers[each])]
        self._why = "" if vouching else trust.why_not(headers[number])
        self._headers = headers[: vouching[-1] + 1] if vouching else headers
        self._contents = [header.content for header in self._headers]

    @property
    def holds_trace(self) -> bool:
        """Whether the step itself says what the trace was."""
        return "trace" in self._named(self._number)

    @property
    def store(self) -> bytes:
        """Where else the trace is (see `stored_trace`)."""
        number = self._contents[self._number].get("held", {}).get("store", self._number)
        return self._section("store", number) if "store" in self._named(number) else b"[]"

    def checkpoint(self) -> Checkpoint:
        """Return the step as a checkpoint."""
        content = self._contents[self._number]
        sections = {name: self._section(name, self._number) for name in self._named(self._number) - _LARGE}
        for name, number in dict(content.get("held", {})).items():
            if not 0 <= number < self._number:
                raise ValueError(f"section {name!r} is held by no step before")
            sections[name] = self._section(name, number)
        trace, why = self._trace(content)
        untrusted = _told(self._path, self._why or why)
        return serial.assembled(content, sections, self._snapshots(), trace, untrusted=untrusted)

    def _named(self, number: int) -> set[str]:
        return {each[0] for each in self._contents[number]["sections"]}

    def _section(self, name: str, number: int) -> bytes:
        return self._sections(number, {name})[name]

    def _sections(self, number: int, names: set[str]) -> dict[str, bytes]:
        return read_sections(self._file, self._headers[number], SECTIONS, names)

    # --- the states --------------------------------------------------------------------------------------------------

    def _snapshots(self) -> dict[str, Snapshot]:
        rows = self._rows()
        wanted = set[int]().union(*(manifests.numbers_in(row) for row in rows.values()))
        segments = self._segments(wanted)
        return {name: manifests.snapshot_of(row, segments.__getitem__) for name, row in rows.items()}

    def _rows(self) -> dict[str, Row]:
        base = self._contents[self._number].get("base", self._number)
        if not 0 <= self._number - base <= manifests.WHOLE_EVERY:
            raise ValueError(f"its states begin at step {base}")
        before, found = None, dict[str, Any]()
        for number in range(base, self._number + 1):
            if "snapshots" in self._named(number):
                found = manifests.rows_of(self._sections(number, {"snapshots"}), before)
                before = list(found.values())[-1] if found else before
        return found

    def _segments(self, wanted: set[int]) -> dict[int, Segment]:
        """Return segments by number: each is in one of the steps up to the wanted one."""
        found: dict[int, Segment] = {}
        for number in range(self._number, -1, -1):
            if wanted <= found.keys():
                break
            if "segments" in self._named(number):
                sections = {"buffers": b"", **self._sections(number, set(manifests.SECTIONS))}
                found |= manifests.segments_of(sections, wanted)
        return found

    # --- the trace ---------------------------------------------------------------------------------------------------

    def _trace(self, content: Mapping[str, Any]) -> tuple[Trace, str]:
        """Return the trace, and why it is not trusted where the file is."""
        trace_id = content["summary"]["trace_id"]
        if self.holds_trace:
            return self._told_until(trace_id, self._number), ""
        told = self._told_until(trace_id, len(self._headers) - 1)
        found = stored_trace(self._path, trace_id, self.store if not self._why else b"[]")  # a stranger opens no file
        strange = strangers(found)
        whole = told.merged(found)
        if content["summary"]["moment"] not in WITH_WHAT_FOLLOWED:
            own = whole.span(content["span_id"])
            whole = whole.until(max(content["summary"]["created_ns"], (own and own.end_ns) or 0))
        why = f"has {strange} value(s) in its trace database that were not recorded under a key this machine trusts"
        return whole, why if strange else ""

    def _told_until(self, trace_id: str, last: int) -> Trace:
        trace = Trace(trace_id)
        for number in range(last + 1):
            if "trace" in self._named(number):
                parts = {"payloads": b"", **self._sections(number, {"trace", "payloads"})}
                trace = trace.merged(spans.unpack(trace_id, parts["trace"], parts["payloads"]))
        return trace


_LARGE = frozenset({"trace", "payloads", *manifests.SECTIONS})
"""Sections that are read where they are used."""


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
