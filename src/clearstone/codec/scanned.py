"""What was scanned already: clean payloads by their kin, redacted ones by their bytes.

Idea: the calls of one site pass nearly the same bytes again and again: the same arguments, or a conversation that grew
by a message. The same bytes are found by comparing with the few seen last; of bytes that begin like earlier ones only
the rest must be scanned.

Invariant: bounded in entries and in bytes. No lock: every step is one operation on a dict, or on a tuple that is never
changed, so threads and signal handlers can at worst forget what another one has just remembered; a forked child goes
on with what its parent knew.

Refused: a hash of the bytes as key (1.6 us for 7 KB, where comparing with 16 candidates takes 0.2: their lengths
differ); remembering each string (a call a string, and fresh strings would fill it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone.codec.secrets import FARTHEST, NEAREST

if TYPE_CHECKING:
    from collections.abc import Hashable

MOST_BYTES = 16 << 20
"""Of all that is remembered; past it everything is forgotten at once."""

LARGEST = 1 << 20
"""A larger payload is not remembered: to scan it costs no more than to pickle it."""

CANDIDATES = 16
_HEADER = 11  # PROTO, and FRAME with its length, which differs
_PROBE = 64
_NEAR, _TAIL = 128, 512  # of a payload may follow what grows: the end of a list, further arguments


class Doubtful(bytes):
    """A clean payload that holds a clue to a secret text, which the exact rules refuted."""

    __slots__ = ()


class Naming(bytes):
    """A clean payload that holds the name of a secret, without one under it.

    What it grows to is scanned whole: a new part can refer to that name without spelling it.
    """

    __slots__ = ()


_BACK = {bytes: NEAREST, Doubtful: FARTHEST}
"""How far before new bytes a secret that reaches into them can begin."""


class Scanned:
    """Remembers payloads."""

    def __init__(self) -> None:
        self.clean: dict[Hashable, tuple[bytes, ...]] = {}
        """By kin, the latest first."""
        self.redacted: dict[bytes, bytes] = {}
        """What became of a payload with secrets."""
        self._bytes = 0

    def kindred(self, recent: tuple[bytes, ...], data: bytes) -> tuple[bytes | None, int, bool]:
        """Find the payload of `recent` that shares the longest beginning with `data`.

        Returns:
            That payload, or None; where in `data` a scan must begin; whether `data` is all of that payload and more.
        """
        found, reach, probe = None, _HEADER, data[_HEADER : _HEADER + _PROBE]
        for candidate in recent:
            if candidate.startswith(probe, reach) and type(candidate) in _BACK and _begins(candidate, data, reach):
                found, reach = candidate, _common(data, candidate, reach)
                if reach >= len(candidate) - _TAIL:
                    return found, max(0, reach - _BACK[type(found)]), True
                probe = data[reach : reach + _PROBE]
        return found, max(0, reach - _BACK[type(found)]) if found is not None else 0, False

    def keep_clean(self, kin: Hashable, data: bytes, predecessor: bytes | None = None) -> None:
        """Remember that `data` is clean; what it grew from is forgotten."""
        if len(data) > LARGEST:
            return
        self._count(len(data))
        recent = self.clean.get(kin, ())
        if recent and recent[0] is predecessor:
            self.clean[kin] = (data, *recent[1:])
        else:
            others = [each for each in recent if each is not predecessor]
            self.clean[kin] = (data, *others[: CANDIDATES - 1])

    def keep_redacted(self, data: bytes, left: bytes) -> None:
        """Remember what became of `data`."""
        if len(data) <= LARGEST:
            self._count(2 * len(data))
            self.redacted[data] = left

    def _count(self, size: int) -> None:
        self._bytes += size + 256  # and what an entry takes
        if self._bytes > MOST_BYTES:
            self._bytes, self.clean, self.redacted = 0, {}, {}


def _begins(candidate: bytes, data: bytes, reach: int) -> bool:
    """Tell whether `candidate` begins like `data` up to `reach`: one clean payload must have held all of that.

    Two that share a part each have each but a half of a secret that lies across the joint.
    """
    return candidate.startswith(data[_HEADER:reach], _HEADER)


def _common(data: bytes, other: bytes, low: int) -> int:
    """Return a place up to which both are the same, given one; at most `_TAIL` bytes too low."""
    high = min(len(data), len(other))
    for slack in (_NEAR, _TAIL):  # how far from its end a payload that grew begins to differ
        middle = high - slack
        if middle <= low or data.startswith(other[low:middle], low):
            return max(low, middle)
    while high - low > _TAIL:
        middle = (low + high) // 2
        if data.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle
    return low
