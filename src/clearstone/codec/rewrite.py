"""A pickle without its secrets: the same opcodes, with markers in place of secret leaves.

Idea: `codec.outline` tells which opcodes stand below which keys. One more pass copies the opcodes; below a secret key
each text, bytes, number and buffer becomes a marker, elsewhere a text loses the parts that look like a secret.

Invariant: what is written loads wherever the original loads, with the same shape and the same numbering of the memo.
An object that is made *from* secret values (``UUID(...)``, an enum's member, a named tuple) cannot be made from
markers: its arguments are popped and the marker takes its place. One made from nothing and filled afterwards (any
ordinary class, dataclass or pydantic model) stays, with markers in its attributes. Functions and classes stay.
A text that is shared by a secret place and an innocent one is written out in each.

Refused: cutting secret values out with their opcodes: what else they put into the memo (a class, a key) is used later.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, NamedTuple, Protocol

from clearstone.codec.outline import BYTES, CODE, MADE, TEXT, Outline
from clearstone.codec.secrets import MARKER, has_clue, redacted, redacted_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.codec.outline import Op

OPEN, SECRET, KEPT, NAME = range(4)
"""What holds for a place: values are searched; values are secret; values are exempt; names and code, only searched."""

_DEEPEST = 64  # keys of a path that are looked at: a bound, no value in real use is known deeper


class Judge(Protocol):
    """Who decides what is secret.

    Attributes:
        reads_every_text: whether `value` must see texts without a clue to a secret too.
    """

    reads_every_text: bool

    def matters(self, key: str) -> bool:
        """Tell whether `key` can make a value secret or exempt, or be on the way to one that does."""

    def is_secret(self, path: Sequence[str]) -> bool:
        """Tell whether the value under the last key of `path` is a secret."""

    def is_kept(self, path: Sequence[str]) -> bool:
        """Tell whether the value under the last key of `path` is exempt."""

    def value(self, text: str) -> str:
        """Return a text without the secrets in it."""


def rewrite(data: bytes, judge: Judge) -> bytes:
    """Return a pickle in which no secret is left.

    Args:
        data: a pickle of protocol 4 or 5.
        judge: decides what is secret.

    Returns:
        `data` itself, the same object, where there is no secret in it.

    Raises:
        UnpicklingError: `data` is no whole pickle of these protocols.
    """
    return _Rewriting(Outline(data, judge.matters), judge).run()


def secret_buffers(data: bytes, judge: Judge) -> frozenset[int]:
    """Return which buffers (by their place among those a pickle left out) `rewrite` leaves no place for.

    Args:
        data: a pickle of protocol 5.
        judge: decides what is secret.

    Raises:
        UnpicklingError: `data` is no whole pickle of protocol 4 or 5.
    """
    rewriting = _Rewriting(Outline(data, judge.matters), judge)
    rewriting.run()
    return frozenset(rewriting.secret_buffers)


class _Open(NamedTuple):
    end: int
    state: int
    depth: int  # of the path around it


class _Rewriting:
    def __init__(self, outline: Outline, judge: Judge) -> None:
        self._outline = outline
        self._judge = judge
        self._searched = has_clue(outline.data)
        self._open: list[_Open] = []  # the spans around the current opcode
        self._path: list[str] = []
        self._state = OPEN
        self._next = self._until = 0  # the next span, and the opcode up to which the state stays
        self._leaves: dict[tuple[int, int], bytes | None] = {}
        self._written: dict[int, bytes | None] = {}  # by the opcode of a leaf: what replaced it
        self._memoized = self._buffers = 0
        self.secret_buffers: list[int] = []
        self._changed = False

    def run(self) -> bytes:
        out: list[bytes] = []
        data, copied = self._outline.data, 0
        for number, op in enumerate(self._outline.ops):
            if number >= self._until:
                self._move(number)
            handler = _HANDLERS.get(op.code)
            instead = handler(self, number, self._state) if handler else None
            if instead is not None:
                self._changed = self._changed or op.code != _FRAME
                out += (data[copied : op.start], instead)
                copied = op.end
        return b"".join((*out, data[copied:])) if self._changed else data

    # --- where we are ------------------------------------------------------------------------------------------------

    def _move(self, number: int) -> None:
        """Leave the spans that end at this opcode, and enter those that begin."""
        while self._open and self._open[-1].end <= number:
            del self._path[self._open.pop().depth :]
        spans = self._outline.spans
        while self._next < len(spans) and spans[self._next].start <= number:
            span = spans[self._next]
            depth = len(self._path)
            self._open.append(_Open(span.end, self._enter(span.key), depth))
            self._next += 1
        self._state = self._open[-1].state if self._open else OPEN
        following = spans[self._next].start if self._next < len(spans) else len(self._outline.ops)
        self._until = min(following, self._open[-1].end) if self._open else following

    def _enter(self, key: str | None) -> int:
        around = self._open[-1].state if self._open else OPEN
        if key is None:
            return NAME
        if key != "__dict__":  # where pydantic keeps an object's attributes
            self._path.append(key)
        path = self._path[-_DEEPEST:]
        if self._judge.is_kept(path):
            return KEPT
        if around == SECRET or self._judge.is_secret(path):
            return SECRET
        return around

    # --- what is written instead; None: what was there ---------------------------------------------------------------

    def leaf(self, number: int, state: int) -> bytes | None:
        """A text, bytes or number."""
        instead = self._written[number] = self._leaf(number, self._fixed(number, state))
        return instead

    def _fixed(self, number: int, state: int) -> int:
        if number in self._outline.keys:
            return NAME
        return KEPT if number in self._outline.fixed else state

    def _leaf(self, number: int, state: int) -> bytes | None:
        place = number, state
        if place not in self._leaves:
            self._leaves[place] = self._judged(number, state)
        return self._leaves[place]

    def _judged(self, number: int, state: int) -> bytes | None:
        op = self._outline.ops[number]
        if state == KEPT or op.argument == op.end:
            return None
        if state == SECRET:
            is_marker = op.code not in _NUMBERS and self._outline.content(number) == MARKER.encode()
            return None if is_marker else _MARKERS.get(op.code, _MARKER)
        if op.code in _TEXTS:
            return self._searched_text(op, state)
        if op.code in _SEARCHED_AS_BYTES and self._searched and has_clue(self._outline.data[op.argument : op.end]):
            found = self._outline.content(number)
            left = redacted_bytes(found)
            return None if left == found else pickled(left if op.code != _BYTEARRAY else bytearray(left))
        return None

    def _searched_text(self, op: Op, state: int) -> bytes | None:
        applied = state == OPEN and self._judge.reads_every_text
        if not applied and not (self._searched and has_clue(self._outline.data[op.argument : op.end])):
            return None
        text = self._outline.data[op.argument : op.end].decode("utf-8", "surrogatepass")
        left = self._judge.value(text) if applied else redacted(text)
        return None if left == text else pickled(left)

    def get(self, number: int, state: int) -> bytes | None:
        """A copy of what was stored before: of what it was, if that is not what was written then."""
        stored = self._outline.target(number).origin
        if stored.kind in {TEXT, BYTES}:
            instead = self._leaf(stored.op, self._fixed(number, state))
            if instead == self._written[stored.op]:
                return None
            op = self._outline.ops[stored.op]
            return self._outline.data[op.start : op.end] if instead is None else instead
        return _MARKER if stored.kind == MADE and state == SECRET and not stored.secret else None

    def buffer(self, _number: int, state: int) -> bytes | None:
        """A buffer that the pickle left out; where it is secret, what it left out is to go too."""
        self._buffers += 1
        if state != SECRET:
            return None
        self.secret_buffers.append(self._buffers - 1)
        return _MARKERS[_BYTEARRAY]

    def memoize(self, _number: int, state: int) -> bytes | None:
        """What was just made is stored."""
        self._outline.memo[self._memoized].origin.secret = state == SECRET
        self._memoized += 1
        return None

    def make(self, number: int, state: int) -> bytes | None:
        """An object is made from arguments that may be markers now."""
        made = self._outline.subjects[number]
        if state != SECRET or made.kind == CODE or made.bare:
            return None
        made.replaced = True
        return _POPS[self._outline.ops[number].code] + _MARKER

    def change(self, number: int, _state: int) -> bytes | None:
        """An object is filled: unless a marker took its place."""
        return _POPS[self._outline.ops[number].code] if self._outline.subjects[number].replaced else None

    def frame(self, _number: int, _state: int) -> bytes:
        """Its length would be wrong; a reader does without."""
        return b""


def pickled(leaf: str | bytes | bytearray) -> bytes:
    """Return the opcode that pushes a text or bytes."""
    code, content = (
        (pickle.BINUNICODE, leaf.encode("utf-8", "surrogatepass"))
        if isinstance(leaf, str)
        else (pickle.BYTEARRAY8 if isinstance(leaf, bytearray) else pickle.BINBYTES, bytes(leaf))
    )
    short, wide = _WIDTHS[code]
    if len(content) < 256 and short:  # noqa: PLR2004 - what one byte counts
        return short + bytes([len(content)]) + content
    if len(content) < 1 << 32 and code != pickle.BYTEARRAY8:
        return code + len(content).to_bytes(4, "little") + content
    return wide + len(content).to_bytes(8, "little") + content


_WIDTHS = {
    pickle.BINUNICODE: (pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    pickle.BINBYTES: (pickle.SHORT_BINBYTES, pickle.BINBYTES8),
    pickle.BYTEARRAY8: (b"", pickle.BYTEARRAY8),
}
_TEXTS = frozenset(b"".join((pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8)))
_BYTES = frozenset(b"".join((pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8, pickle.BYTEARRAY8)))
_NUMBERS = frozenset(
    b"".join((pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.LONG1, pickle.LONG4))
)
_SEARCHED_AS_BYTES = _BYTES | {pickle.LONG1[0], pickle.LONG4[0]}
"""A long number too: broken bytes can turn a text into one, and then it still spells the secret."""
_BYTEARRAY, _FRAME = pickle.BYTEARRAY8[0], pickle.FRAME[0]
_MARKER = pickled(MARKER)
_MARKERS = {**dict.fromkeys(_BYTES, pickled(MARKER.encode())), _BYTEARRAY: pickled(bytearray(MARKER.encode()))}

_TWO = pickle.POP + pickle.POP
_POPS = {
    pickle.REDUCE[0]: _TWO,
    pickle.NEWOBJ[0]: _TWO,
    pickle.NEWOBJ_EX[0]: _TWO + pickle.POP,
    pickle.APPEND[0]: pickle.POP,
    pickle.BUILD[0]: pickle.POP,
    pickle.SETITEM[0]: _TWO,
    pickle.APPENDS[0]: pickle.POP_MARK,
    pickle.SETITEMS[0]: pickle.POP_MARK,
    pickle.ADDITEMS[0]: pickle.POP_MARK,
}
"""What takes away that which an opcode would have used."""

_MAKING = b"".join((pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX))
_HANDLERS = {
    **dict.fromkeys(_TEXTS | _BYTES | _NUMBERS, _Rewriting.leaf),
    **dict.fromkeys(_POPS, _Rewriting.change),
    **dict.fromkeys(_MAKING, _Rewriting.make),
    **dict.fromkeys(b"".join((pickle.BINGET, pickle.LONG_BINGET)), _Rewriting.get),
    pickle.NEXT_BUFFER[0]: _Rewriting.buffer,
    pickle.MEMOIZE[0]: _Rewriting.memoize,
    _FRAME: _Rewriting.frame,
}
