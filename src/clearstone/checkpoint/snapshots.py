"""Snapshots as values: the bytes of their segments, and where they belong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = b"cloudpickle"

Kind = Literal["list", "dict"]
Place = tuple[int, int]
"""A segment: which container it is of, and which of it. The rest is ``(number of containers, 0)``."""


Run = tuple[int, int]
"""So many segments, one after the other, that were last verified at one step."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a state as bytes. The same object in each snapshot that has it unchanged.

    Args:
        data: a pickle: of a list of items, of a list of pairs, or of the rest's dict.
        buffers: what pickle protocol 5 left out of it.
    """

    data: bytes
    buffers: tuple[bytes, ...] = ()
    _code: bool | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def holds_code(self) -> bool:
        """Whether a function or class is stored by value in it: only cloudpickle does so, and its makers are named."""
        if self._code is None:
            object.__setattr__(self, "_code", CODE in self.data)  # looked for once: it is asked at every step
        return bool(self._code)


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
        step: which snapshot of its agent it is.
        verified: at which step the segments of each container were last made sure to be the state; nothing where all
            were at this one. The rest always was.
    """

    containers: tuple[tuple[Kind, tuple[Placed, ...]], ...]
    rest: Placed
    step: int = 0
    verified: tuple[tuple[Run, ...], ...] = ()

    def placed(self) -> Iterator[tuple[Place, Placed]]:
        """Give all segments with their places, front to back."""
        for number, (_, parts) in enumerate(self.containers):
            for index, placed in enumerate(parts):
                yield (number, index), placed
        yield (len(self.containers), 0), self.rest

    def segments(self) -> Iterator[Segment]:
        """Give all segments, front to back."""
        return (placed.segment for _, placed in self.placed())
