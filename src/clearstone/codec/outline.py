"""What the opcodes of a pickle make, without making it: which stretch of them is the value under which key.

Idea: one pass with a stack of `Slot`, one for each object that a loader would have there. A slot knows with which
opcode it begins, so when SETITEM joins a key and a value, the stretch that made the value is known, and with it
everything below that key. An object's attributes are such a dict too.

Invariant: nothing is loaded, imported or called; one step an opcode, and no byte is read twice. Bytes that no pickler
of protocol 4 or 5 writes raise `pickle.UnpicklingError`.

Refused: deciding when a leaf is pushed. ``{} "password" "x"`` on the stack is a dict's item if SETITEM follows, and a
harmless tuple if TUPLE3 does. `codec.machine` too: it builds the tree of values, where here the bytes are the matter.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

MARK, TEXT, BYTES, NUMBER, PLAIN, MADE, CODE = range(7)
"""What a slot holds: PLAIN needs no thought (None, True, a buffer), MADE is a container or an object, CODE is a class,
a function, or a part of one."""

MAKERS_OF_CODE = frozenset({
    ("numpy", "dtype"),  # a type, which a pickle stores once for all arrays of it: the innocent ones need it
    *(
        ("cloudpickle.cloudpickle", name)
        for name in (
            "_builtin_type", "_class_setstate", "_function_setstate", "_make_cell", "_make_empty_cell",
            "_make_function", "_make_skeleton_class", "_make_skeleton_enum", "_make_typevar", "dynamic_subimport",
            "subimport",
        )
    ),
    *(
        ("clearstone.codec.payload", name)
        for name in ("begin_definition", "finish_definition", "without_code", "named", "the_restored")
    ),
})  # fmt: skip
"""What these make is code: under a secret key it stays, and what it is made from are not values under that key."""

TYPES_OF_CODE = ("cloudpickle.cloudpickle", "_builtin_type")
"""What this makes is a type (of code objects, say) that makes code in its turn."""

MADE_OF_STATE = frozenset({("uuid", "UUID")})
"""Made from nothing and filled afterwards, but of no use with a marker in its state."""


class Op(NamedTuple):
    """One opcode: its byte, where it begins, where its argument's own bytes begin, and where it ends."""

    code: int
    start: int
    argument: int
    end: int


class Slot:
    """An object on the loader's stack.

    Attributes:
        kind: what it is.
        start: the number of the opcode with which it begins.
        op: the number of the opcode that made it.
        origin: the slot it is a copy of (it came from the memo), else itself.
        end: the number of the first opcode that is no part of it; -1 until that is known.
        name: for CODE: the module and the name it was imported by, where it was.
        bare: whether it is an object made from no arguments: it can be made again, whatever fills it.
        replaced: whether something else was written in its place. Set while rewriting.
        secret: whether it was written below a secret key. Set while rewriting.
    """

    __slots__ = ("bare", "end", "kind", "name", "op", "origin", "replaced", "secret", "start")

    def __init__(self, kind: int, op: int, start: int, origin: Slot | None) -> None:
        self.kind, self.op, self.start = kind, op, start
        self.origin: Slot = origin or self
        self.end = -1
        self.name = ("", "")
        self.bare = self.replaced = self.secret = False


class Span(NamedTuple):
    """The opcodes from `start` up to `end` make the value under `key`; without a key they make a name, or code."""

    start: int
    end: int
    key: str | None


class Outline:
    """The opcodes of one pickle, and what they are to each other.

    Args:
        data: the pickle.
        matters: tells of a key whether the values under it must be known.

    Attributes:
        ops: its opcodes.
        memo: the slot that each MEMOIZE stored.
        spans: the values under keys that matter, keys of several opcodes, and code; the outer ones first.
        keys: opcodes that are a key.
        subjects: for an opcode that makes or changes an object, that object.
        fixed: opcodes whose text names a module or what is in it.

    Raises:
        UnpicklingError: `data` cannot be followed to its end.
    """

    def __init__(self, data: bytes, matters: Callable[[str], bool]) -> None:
        self.data = data
        self.keys: set[int] = set()
        self._matters = matters
        self.ops: list[Op] = []
        self.memo: list[Slot] = []
        self.spans: list[Span] = []
        self.subjects: dict[int, Slot] = {}
        self.fixed: set[int] = set()
        self._stack: list[Slot] = []
        self._code: list[Slot] = []
        try:
            self._follow()
        except (IndexError, KeyError, ValueError) as error:
            raise pickle.UnpicklingError(f"no pickle of protocol 4 or 5: {type(error).__name__}: {error}") from error
        self.spans += [Span(slot.start, slot.end, None) for slot in self._code if slot.end >= 0]
        self.spans.sort(key=lambda span: (span.start, -span.end))  # stable: a key comes before the code under it

    def content(self, op: int) -> bytes:
        """Return the text or bytes that opcode number `op` pushes, as bytes."""
        return self.data[self.ops[op].argument : self.ops[op].end]

    def text(self, slot: Slot) -> str:
        """Return the text that `slot` holds."""
        if slot.origin.kind != TEXT:
            raise ValueError("no text where one must be")
        return self.content(slot.origin.op).decode("utf-8", "surrogatepass")

    def target(self, op: int) -> Slot:
        """Return the slot that the BINGET or LONG_BINGET number `op` copies."""
        return self.memo[int.from_bytes(self.content(op), "little")]

    def _follow(self) -> None:
        data, at, ops, code = self.data, 0, self.ops, -1
        while code != _STOP:
            code = data[at]
            width, counted, move = _OPCODES[code]
            argument = end = at + 1 + width
            if counted:
                end += int.from_bytes(data[at + 1 : argument], "little")
            if end > len(data):
                raise ValueError("it ends too soon")
            ops.append(Op(code, at, argument if counted else at + 1, end))
            move(self, len(ops) - 1)
            at = end
        if at != len(data):
            raise ValueError("bytes follow its end")

    # --- moves of the stack ------------------------------------------------------------------------------------------

    def push(self, kind: int, op: int, start: int | None = None, origin: Slot | None = None) -> Slot:
        """Put an object on the stack."""
        slot = Slot(kind, op, op if start is None else start, origin)
        self._stack.append(slot)
        return slot

    def take(self, count: int, op: int) -> list[Slot]:
        """Take the topmost objects off. Each ends where the next one begins."""
        below = len(self._stack) - count
        if below < 0:
            raise ValueError("the stack is empty")
        taken = self._stack[below:]
        del self._stack[below:]
        for i, slot in enumerate(taken, 1):
            slot.end = taken[i].start if i < count else op
            if slot.kind == MARK:
                raise ValueError("a mark where an object must be")
        return taken

    def take_to_mark(self, op: int) -> tuple[Slot, list[Slot]]:
        """Take the objects above the topmost mark off, and the mark; return the mark and the objects."""
        count, stack = 0, self._stack
        while stack[-1 - count].kind != MARK:
            count += 1
        taken = self.take(count, op)
        return stack.pop(), taken

    def change(self, op: int) -> None:
        """Note that opcode number `op` changes the object on top."""
        self.subjects[op] = self._stack[-1].origin

    def memoize(self, _op: int) -> None:
        """Store the object on top."""
        self.memo.append(self._stack[-1])

    def get(self, op: int) -> None:
        """Put a stored object on top."""
        origin = self.target(op)
        self.push(origin.kind, op, origin=origin)

    def set_items(self, op: int, slots: list[Slot]) -> None:
        """Note keys and values in turn. What a key is made of has no key above it."""
        if len(slots) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(slots[::2], slots[1::2], strict=True):
            if key.kind == TEXT:
                self.keys.add(key.op)
                name = self.text(key)
                if self._matters(name):
                    self.spans.append(Span(value.start, value.end, name))
            else:
                self.spans.append(Span(key.start, key.end, None))
        self.change(op)

    def global_(self, op: int) -> None:
        """Put what two texts name on the stack."""
        module, name = self.take(2, op)
        self.fixed |= {module.op, name.op}
        self.push(CODE, op, module.start).name = (self.text(module), self.text(name))

    def make(self, op: int, count: int) -> None:
        """Put what a callable and its arguments make on the stack; or a class and its arguments."""
        maker, arguments, *_ = self.take(count, op)
        made = self.subjects[op] = self.push(MADE, op, maker.start)
        code, name = self.ops[op].code, maker.origin.name
        if code == _REDUCE and name in MAKERS_OF_CODE:
            made.kind = CODE
            made.name = name if name == TYPES_OF_CODE else ("", "")
            self._code.append(made)
        nothing = self.ops[arguments.op].code == _EMPTY_TUPLE
        made.bare = nothing and maker.kind == CODE and name not in MADE_OF_STATE


Move: TypeAlias = "Callable[[Outline, int], object]"


def _pushes(kind: int) -> Move:
    return lambda outline, op: outline.push(kind, op)


def _takes(count: int) -> Move:
    return lambda outline, op: outline.push(MADE, op, outline.take(count, op)[0].start)


def _makes(count: int) -> Move:
    return lambda outline, op: outline.make(op, count)


def _collect(outline: Outline, op: int) -> None:
    outline.push(MADE, op, outline.take_to_mark(op)[0].start)


def _extend(outline: Outline, op: int) -> None:
    outline.take_to_mark(op)
    outline.change(op)


def _extend_by_one(outline: Outline, op: int) -> None:
    outline.take(1, op)
    outline.change(op)


def _nothing(_outline: Outline, _op: int) -> None:
    """The protocol's number, a frame's length, a buffer's being read-only: the stack stays."""


_STOP, _REDUCE, _NEWOBJ, _EMPTY_TUPLE = (
    code[0] for code in (pickle.STOP, pickle.REDUCE, pickle.NEWOBJ, pickle.EMPTY_TUPLE)
)

_BY_BYTES: dict[bytes, tuple[int, bool, Move]] = {
    pickle.PROTO: (1, False, _nothing),
    pickle.FRAME: (8, False, _nothing),
    pickle.READONLY_BUFFER: (0, False, _nothing),
    pickle.STOP: (0, False, lambda outline, op: outline.take(1, op)),
    pickle.POP: (0, False, lambda outline, op: outline.take(1, op)),
    pickle.POP_MARK: (0, False, lambda outline, op: outline.take_to_mark(op)),
    pickle.MARK: (0, False, _pushes(MARK)),
    pickle.NONE: (0, False, _pushes(PLAIN)),
    pickle.NEWTRUE: (0, False, _pushes(PLAIN)),
    pickle.NEWFALSE: (0, False, _pushes(PLAIN)),
    pickle.EMPTY_TUPLE: (0, False, _pushes(PLAIN)),
    pickle.NEXT_BUFFER: (0, False, _pushes(PLAIN)),
    pickle.BININT: (4, False, _pushes(NUMBER)),
    pickle.BININT1: (1, False, _pushes(NUMBER)),
    pickle.BININT2: (2, False, _pushes(NUMBER)),
    pickle.BINFLOAT: (8, False, _pushes(NUMBER)),
    pickle.LONG1: (1, True, _pushes(NUMBER)),
    pickle.LONG4: (4, True, _pushes(NUMBER)),
    pickle.SHORT_BINUNICODE: (1, True, _pushes(TEXT)),
    pickle.BINUNICODE: (4, True, _pushes(TEXT)),
    pickle.BINUNICODE8: (8, True, _pushes(TEXT)),
    pickle.SHORT_BINBYTES: (1, True, _pushes(BYTES)),
    pickle.BINBYTES: (4, True, _pushes(BYTES)),
    pickle.BINBYTES8: (8, True, _pushes(BYTES)),
    pickle.BYTEARRAY8: (8, True, _pushes(BYTES)),
    pickle.EMPTY_LIST: (0, False, _pushes(MADE)),
    pickle.EMPTY_DICT: (0, False, _pushes(MADE)),
    pickle.EMPTY_SET: (0, False, _pushes(MADE)),
    pickle.TUPLE1: (0, False, _takes(1)),
    pickle.TUPLE2: (0, False, _takes(2)),
    pickle.TUPLE3: (0, False, _takes(3)),
    pickle.TUPLE: (0, False, _collect),
    pickle.FROZENSET: (0, False, _collect),
    pickle.APPEND: (0, False, _extend_by_one),
    pickle.BUILD: (0, False, _extend_by_one),
    pickle.APPENDS: (0, False, _extend),
    pickle.ADDITEMS: (0, False, _extend),
    pickle.SETITEM: (0, False, lambda outline, op: outline.set_items(op, outline.take(2, op))),
    pickle.SETITEMS: (0, False, lambda outline, op: outline.set_items(op, outline.take_to_mark(op)[1])),
    pickle.STACK_GLOBAL: (0, False, Outline.global_),
    pickle.EXT1: (1, False, _pushes(CODE)),
    pickle.EXT2: (2, False, _pushes(CODE)),
    pickle.EXT4: (4, False, _pushes(CODE)),
    pickle.REDUCE: (0, False, _makes(2)),
    pickle.NEWOBJ: (0, False, _makes(2)),
    pickle.NEWOBJ_EX: (0, False, _makes(3)),
    pickle.MEMOIZE: (0, False, Outline.memoize),
    pickle.BINGET: (1, False, Outline.get),
    pickle.LONG_BINGET: (4, False, Outline.get),
}
_OPCODES = {code[0]: row for code, row in _BY_BYTES.items()}
"""By an opcode's byte: the width of what follows it in bytes, whether that is the length of more, and its move."""
