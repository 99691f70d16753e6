"""Snapshots as values, and as sections of a file: the bytes of their segments, each once, and where they belong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECTIONS = ("snapshots", "segments", "buffers")

ALIGNMENT = 64
"""A buffer begins at a multiple of so many bytes of its section, so that numbers in it can be used where they lie."""

Kind = Literal["list", "dict"]
Place = tuple[int, int]
"""A segment: which container it is of, and which of it. The rest is ``(number of containers, 0)``."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a state as bytes. The same object in each snapshot that has it unchanged.

    Args:
        data: a pickle: of a list of items, of a list of pairs, or of the rest's dict.
        buffers: what pickle protocol 5 left out of it.
    """

    data: bytes
    buffers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A segment in a snapshot.

    Args:
        segment: the segment.
        shared: the further seeds: each the place of its owner, before this one, and its number in the owner's memo.
    """

    segment: Segment
    shared: tuple[tuple[Place, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state.

    Args:
        containers: each long list or dict: its kind and its segments.
        rest: what is in none of them.
    """

    containers: tuple[tuple[Kind, tuple[Placed, ...]], ...]
    rest: Placed

    def placed(self) -> Iterator[tuple[Place, Placed]]:
        """Give all segments with their places, front to back."""
        for number, (_, parts) in enumerate(self.containers):
            for index, placed in enumerate(parts):
                yield (number, index), placed
        yield (len(self.containers), 0), self.rest

    def segments(self) -> Iterator[Segment]:
        """Give all segments, front to back."""
        return (placed.segment for _, placed in self.placed())


def pack(snapshots: Mapping[str, Snapshot]) -> dict[str, bytes]:
    """Return the sections of snapshots, by the names of `SECTIONS`.

    Args:
        snapshots: by what they are of. What they share is written once.
    """
    numbers: dict[int, int] = {}
    rows: list[list[Any]] = []
    data, buffers, at = [], [], 0
    for segment in (each for snapshot in snapshots.values() for each in snapshot.segments()):
        if id(segment) in numbers:
            continue
        numbers[id(segment)] = len(rows)
        data.append(segment.data)
        places = []
        for buffer in segment.buffers:
            buffers += [bytes(-at % ALIGNMENT), buffer]
            at += -at % ALIGNMENT
            places.append([at, len(buffer)])
            at += len(buffer)
        rows.append([len(segment.data), places] if places else [len(segment.data)])
    table = {
        "segments": rows,
        **{name: _row(snapshot, numbers) for name, snapshot in snapshots.items()},
    }
    packed = json.dumps(table, separators=(",", ":")).encode()
    return {"snapshots": packed, "segments": b"".join(data), "buffers": b"".join(buffers)}


def _row(snapshot: Snapshot, numbers: Mapping[int, int]) -> dict[str, Any]:
    def of(placed: Placed) -> Any:
        number = numbers[id(placed.segment)]
        return [number, [[*place, held] for place, held in placed.shared]] if placed.shared else number

    return {
        "containers": [[kind, list(map(of, parts))] for kind, parts in snapshot.containers],
        "rest": of(snapshot.rest),
    }


def unpack(sections: Mapping[str, bytes], name: str) -> Snapshot:
    """Return one of the snapshots of a file.

    Raises:
        KeyError, TypeError, ValueError, IndexError: the sections hold no such snapshot.
    """
    table = json.loads(sections["snapshots"])
    segments = _segments(table["segments"], sections["segments"], sections["buffers"])
    row = table[name]

    used: set[int] = set()  # a segment that stands twice would be followed twice

    def placed(given: Any) -> Placed:
        number, shared = given if isinstance(given, list) else (given, [])
        if number in used:
            raise ValueError(f"segment {number} stands twice")
        used.add(number)
        return Placed(
            segments[_index(number, len(segments))],
            tuple(((_number(at), _number(index)), _number(held)) for at, index, held in shared),
        )

    containers = []
    for kind, parts in row["containers"]:
        if kind not in {"list", "dict"}:
            raise ValueError(f"a container of kind {kind!r}")
        containers.append((kind, tuple(map(placed, parts))))
    snapshot = Snapshot(tuple(containers), placed(row["rest"]))
    _require_backwards(snapshot)
    return snapshot


def _segments(rows: Any, data: bytes, buffers: bytes) -> list[Segment]:
    found, at, free = [], 0, len(buffers)
    for length, *places in rows:
        end = at + _number(length)
        held = [(_number(begin), _number(size)) for begin, size in (places[0] if places else ())]
        free -= sum(size for _, size in held)  # each byte is one buffer's
        if end > len(data) or free < 0 or any(begin + size > len(buffers) for begin, size in held):
            raise ValueError("a segment ends after its section")
        found.append(Segment(data[at:end], tuple(buffers[begin : begin + size] for begin, size in held)))
        at = end
    return found


def _number(given: Any) -> int:
    if type(given) is not int or given < 0:
        raise ValueError(f"{given!r} is no place or length")
    return given


def _index(given: Any, count: int) -> int:
    if _number(given) >= count:
        raise ValueError(f"there is no segment {given}")
    return int(given)


def _require_backwards(snapshot: Snapshot) -> None:
    """Refuse what could not be loaded front to back."""
    before = set()
    for place, placed in snapshot.placed():
        if any(owner not in before for owner, _ in placed.shared):
            raise ValueError(f"segment {place} refers to one that does not come before it")
        before.add(place)
