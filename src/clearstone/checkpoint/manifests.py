"""Snapshots as sections of steps: each segment once, and of each snapshot what is different from the one before.

Idea: the segments of a file are numbered through all its steps. A step holds the new ones and, for each of its
snapshots, a *row*: which segments it is made of. A row says of each container how many segments it has from the row
before, at its beginning and at its end, and lists only what is between; after 64 rows one says all, so that a reader
has a short way back.

Invariant: what a row says is checked before it is used: a file may say anything, and a small one must not become large.

Refused: segments named by their digests (32 bytes each, 1,500 of them a step; and a collision would be the attacker's
to look for): numbers are what the file's own signature covers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from clearstone.checkpoint.snapshots import Kind

SECTIONS = ("snapshots", "segments", "buffers")

ALIGNMENT = 64
"""A buffer begins at a multiple of so many bytes of its section, so that numbers in it can be used where they lie."""

WHOLE_EVERY = 64

STATES = frozenset({"state", "state_at_end"})
"""What a step's rows are of."""

LARGEST_TABLE = 16 << 20
"""Bytes: that of a list of a hundred million messages."""

Parts = tuple[Any, ...]
"""The segments of a container in a row: of each its number, or that and where its shared objects are."""


@dataclass(frozen=True, slots=True)
class Row:
    """A snapshot by numbers.

    Args:
        containers: kind and parts of each.
        rest: what is in none of them.
        step: see `Snapshot`.
        verified: see `Snapshot`.
    """

    containers: tuple[tuple[Kind, Parts], ...]
    rest: Any
    step: int = 0
    verified: tuple[tuple[tuple[int, int], ...], ...] = ()


class Manifest:
    """Numbers the segments of one file while it is written."""

    def __init__(self) -> None:
        self._segments = 0
        self._numbers: dict[bytes, int] = {}
        self.let_go()

    def let_go(self) -> None:
        """Hold no snapshot any more: the next row says all. Segments in the file stay known, by their digests."""
        self._last = Snapshot((), Placed(Segment(b"")))
        self._row = Row((), 0)
        self._rows = WHOLE_EVERY

    def sections(self, snapshots: Mapping[str, Snapshot]) -> dict[str, bytes]:
        """Return the sections of the next step.

        Args:
            snapshots: by what they are of.
        """
        self._rows = 0 if self.begins_anew else self._rows
        pile, first = _Pile(), self._segments
        rows = [[name, self._told(each, pile)] for name, each in snapshots.items()]
        table = {"first": first, "segments": pile.lengths, "rows": rows}
        packed = json.dumps(table, separators=(",", ":")).encode()
        return {"snapshots": packed, "segments": b"".join(pile.data), "buffers": b"".join(pile.buffers)}

    @property
    def begins_anew(self) -> bool:
        """Whether the first row of the next step says all."""
        return self._rows >= WHOLE_EVERY

    def _told(self, snapshot: Snapshot, pile: _Pile) -> dict[str, Any]:
        whole = self._rows == 0
        row = _Growing()
        for number, (kind, parts) in enumerate(snapshot.containers):
            has = not whole and number < len(self._last.containers)
            earlier, known = (self._last.containers[number][1], self._row.containers[number][1]) if has else ((), ())
            lead = _same(parts, earlier)
            trail = _same(parts[lead:][::-1], earlier[lead:][::-1])
            row.keep(kind, known[:lead], known[len(known) - trail :])
            for each in parts[lead : len(parts) - trail]:
                row.add(self._numbered(each, pile, row))
            row.close(lead, trail)
        rest = self._numbered(snapshot.rest, pile, row)
        self._last, self._row, self._rows = snapshot, Row(tuple(row.containers), rest), self._rows + 1
        verified = {"verified": snapshot.verified} if snapshot.verified else {}
        return {"whole": whole, "containers": row.told, "rest": rest, "step": snapshot.step, **verified}

    def _numbered(self, placed: Placed, pile: _Pile, row: _Growing) -> Any:
        """Return what stands for a segment in a row: one that has it already gets another of the same bytes."""
        digest = _digest(placed.segment)
        number = self._numbers.get(digest)
        if number is None or row.has(number):
            number, self._segments = self._segments, self._segments + 1
            self._numbers[digest] = number
            pile.add(placed.segment)
        return [number, [[*place, held] for place, held in placed.shared]] if placed.shared else number


class _Growing:
    """A row while it is made."""

    def __init__(self) -> None:
        self.containers: list[tuple[Kind, Parts]] = []
        self.told: list[list[Any]] = []
        self._kind: Kind = "list"
        self._lead: Parts = ()
        self._new: list[Any] = []
        self._trail: Parts = ()
        self._used: set[int] | None = None

    def keep(self, kind: Kind, lead: Parts, trail: Parts) -> None:
        """Begin a container: with these parts of the row before."""
        self._kind, self._lead, self._new, self._trail, self._used = kind, lead, [], trail, None

    def add(self, told: Any) -> None:
        """Add a part between the two."""
        self._new.append(told)
        if self._used is not None:
            self._used.add(_number_of(told))

    def close(self, lead: int, trail: int) -> None:
        """End the container, which has so many parts of the row before at its beginning and its end."""
        self.containers.append((self._kind, (*self._lead, *self._new, *self._trail)))
        self.told.append([self._kind, lead, self._new, trail])
        self._lead, self._new, self._trail = (), [], ()

    def has(self, number: int) -> bool:
        """Whether a segment stands in the row. It is asked for seldom, hence found out when it is."""
        if self._used is None:
            closed = (each for _, parts in self.containers for each in parts)
            self._used = {_number_of(each) for each in (*closed, *self._lead, *self._new, *self._trail)}
        return number in self._used


def _same(parts: Sequence[Placed], earlier: Sequence[Placed]) -> int:
    """Return how many segments at the beginning of both are the same ones."""
    same = [*map(is_, parts, earlier), False]
    count = same.index(False)  # nearly always all there are
    while count < len(same) - 1 and (same[count] or _is_equal(parts[count], earlier[count])):
        count += 1
    return count


def _is_equal(one: Placed, other: Placed) -> bool:
    return one.segment is other.segment and one.shared == other.shared


def _number_of(told: Any) -> int:
    return _number(told[0] if isinstance(told, list) else told)


def _digest(segment: Segment) -> bytes:
    digest = sha256(segment.data)
    for buffer in segment.buffers:
        digest.update(b"%d," % len(buffer))
        digest.update(buffer)
    return digest.digest()


class _Pile:
    """New segments, one after the other."""

    def __init__(self) -> None:
        self.lengths: list[list[Any]] = []
        self.data: list[bytes] = []
        self.buffers: list[bytes] = []
        self._at = 0

    def add(self, segment: Segment) -> None:
        self.data.append(segment.data)
        places = []
        for buffer in segment.buffers:
            self.buffers += [bytes(-self._at % ALIGNMENT), buffer]
            self._at += -self._at % ALIGNMENT
            places.append([self._at, len(buffer)])
            self._at += len(buffer)
        self.lengths.append([len(segment.data), places] if places else [len(segment.data)])


def pack(snapshots: Mapping[str, Snapshot]) -> dict[str, bytes]:
    """Return the sections of a file's only step (see `Manifest.sections`)."""
    return Manifest().sections(snapshots)


# --- read ------------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """What a step says of its snapshots.

    Args:
        first: the number of its first segment.
        segments: of each its length, and where its buffers are.
        rows: name and row of each snapshot.
    """

    first: int
    segments: list[Any]
    rows: list[Any]

    @property
    def numbers(self) -> range:
        """Those of the segments the step holds."""
        return range(self.first, self.first + len(self.segments))


def table_of(data: bytes) -> Table:
    """Return the table in the section ``snapshots``.

    Raises:
        KeyError, TypeError, ValueError: it is none that a version writes.
    """
    if len(data) > LARGEST_TABLE:
        raise ValueError(f"a table of {len(data)} bytes")
    told = json.loads(data)
    first, segments, rows = told["first"], told["segments"], told["rows"]
    if type(segments) is not list or type(rows) is not list:
        raise TypeError("a table holds two lists")
    if len(rows) > len(STATES) or len({name for name, _ in rows} | STATES) > len(STATES):
        raise ValueError("a step holds the rows of two states at most")
    return Table(_number(first), segments, rows)


def rows_of(table: Table, before: Row | None = None) -> dict[str, Row]:
    """Return the rows of a step by name, in their order.

    Args:
        table: the step's.
        before: the last row of the step before, if a row of this one needs it.

    Raises:
        KeyError, TypeError, ValueError: they say what no version writes.
    """
    found: dict[str, Row] = {}
    for name, given in table.rows:
        before = found[name] = _read_row(given, before)
    return found


def _read_row(given: Mapping[str, Any], before: Row | None) -> Row:
    if before is None and not given["whole"]:
        raise ValueError("a row refers to one before it that is not there")
    earlier = before.containers if before is not None and not given["whole"] else ()
    containers: list[tuple[Kind, Parts]] = []
    for number, (kind, lead, new, trail) in enumerate(given["containers"]):
        known = earlier[number][1] if number < len(earlier) else ()
        if _number(lead) + _number(trail) > len(known):
            raise ValueError(f"container {number} has more of the row before than that has")
        if kind not in {"list", "dict"}:
            raise ValueError(f"a container of kind {kind!r}")
        containers.append((kind, (*known[:lead], *new, *known[len(known) - trail :])))
    verified = given.get("verified", [])
    runs = tuple(tuple((_number(count), _number(step)) for count, step in each) for each in verified)
    return Row(tuple(containers), given["rest"], _number(given["step"]), runs)


def unpack(sections: Mapping[str, bytes], name: str) -> Snapshot:
    """Return one of the snapshots of a file's only step.

    Raises:
        KeyError, TypeError, ValueError, IndexError: the sections hold no such snapshot.
    """
    table = table_of(sections["snapshots"])
    row = rows_of(table)[name]
    return snapshot_of(row, segments_of(table, sections, numbers_in(row)).__getitem__)


def numbers_in(row: Row) -> set[int]:
    """Return the numbers of a row's segments."""
    return {_number_of(each) for each in (*(each for _, parts in row.containers for each in parts), row.rest)}


def snapshot_of(row: Row, segment: Callable[[int], Segment]) -> Snapshot:
    """Return the snapshot of a row.

    Args:
        row: the row.
        segment: gives a segment by its number.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is none.
    """
    used: set[int] = set()  # a segment that stands twice would be followed twice

    def placed(told: Any) -> Placed:
        number, shared = told if isinstance(told, list) else (told, [])
        if number in used:
            raise ValueError(f"segment {number} stands twice")
        used.add(number)
        owners = tuple(((_number(at), _number(index)), _number(held)) for at, index, held in shared)
        return Placed(segment(_number(number)), owners)

    containers = tuple((kind, tuple(map(placed, parts))) for kind, parts in row.containers)
    snapshot = Snapshot(containers, placed(row.rest), row.step, row.verified)
    _require_backwards(snapshot)
    return snapshot


def segments_of(table: Table, sections: Mapping[str, bytes], wanted: Container[int]) -> dict[int, Segment]:
    """Return those of the wanted segments that a step holds, by number.

    Args:
        table: the step's.
        sections: ``segments``, and ``buffers`` if there are any.
        wanted: their numbers.

    Raises:
        KeyError, TypeError, ValueError: the table says what no version writes.
    """
    data, buffers = sections["segments"], sections.get("buffers", b"")
    found, at, free = dict[int, Segment](), 0, len(buffers)
    for number, (length, *places) in zip(table.numbers, table.segments, strict=True):
        end = at + _number(length)
        held = [(_number(begin), _number(size)) for begin, size in (places[0] if places else ())]
        free -= sum(size for _, size in held)  # each byte is one buffer's
        if end == at or end > len(data) or free < 0 or any(begin + size > len(buffers) for begin, size in held):
            raise ValueError("a segment ends after its section")
        if number in wanted:
            found[number] = Segment(data[at:end], tuple(buffers[begin : begin + size] for begin, size in held))
        at = end
    return found


def _number(given: Any) -> int:
    if type(given) is not int or given < 0:
        raise ValueError(f"{given!r} is no place or length")
    return given


def _require_backwards(snapshot: Snapshot) -> None:
    """Refuse what could not be loaded front to back."""
    before = set()
    for place, placed in snapshot.placed():
        if any(owner not in before for owner, _ in placed.shared):
            raise ValueError(f"segment {place} refers to one that does not come before it")
        before.add(place)
