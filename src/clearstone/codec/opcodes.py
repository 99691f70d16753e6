"""What each pickle opcode does to a `Machine`.

Idea: a table of opcode -> handler, most rows of it an entry in a smaller table. The names are those of `pickletools`,
where each opcode is described.

Invariant: a handler moves bytes and nodes, and nothing else.

Refused: handlers as methods found by the opcode's name.
"""

from __future__ import annotations

import pickletools
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from clearstone.codec import literals
from clearstone.codec.machine import Halt, Machine, extend, keys
from clearstone.codec.nodes import Name, Node, Object, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

Handler: TypeAlias = "Callable[[Machine], None]"

HIGHEST_PROTOCOL = 5

_U1, _U2, _U4, _U8, _I4, _F8 = (Struct(layout) for layout in ("<B", "<H", "<I", "<Q", "<i", ">d"))


def _constant(value: Node, m: Machine) -> None:
    m.stack.append(value)


def _number(layout: Struct, m: Machine) -> None:
    m.stack.append(m.number(layout))


def _counted(length: Struct, decoder: Callable[[bytes], Node], m: Machine) -> None:
    m.stack.append(m.counted(length, decoder))


def _line(decoder: Callable[[bytes], Node], m: Machine) -> None:
    m.stack.append(m.line(decoder))


def _fresh(make: Callable[[], Node], m: Machine) -> None:
    m.add(make())


def _of_mark(make: Callable[[list[Node]], Node], m: Machine) -> None:
    m.add(make(m.pop_mark()))


def _at_mark(move: Callable[[Machine, list[Node]], None], m: Machine) -> None:
    items = m.pop_mark()
    move(m, items)


def _tuple(size: int, m: Machine) -> None:
    items = tuple(m.stack[-size:])
    if len(items) < size:
        raise IndexError
    del m.stack[-size:]
    m.add(items)


def _frozen(items: list[Node]) -> frozenset[Node]:
    return frozenset(keys(items, 0))


def _dict(m: Machine, items: list[Node]) -> None:
    m.add({})
    m.set_items(items)


def _append(m: Machine) -> None:
    m.append([m.stack.pop()])


def _set_item(m: Machine) -> None:
    value = m.stack.pop()
    m.set_items([m.stack.pop(), value])


def _build(m: Machine) -> None:
    state = m.stack.pop()
    extend(m.object_on_top(), "states", [state])


def _pop(m: Machine) -> None:
    if m.stack:
        m.discard(m.stack.pop())
    else:
        m.pop_mark()


def _pop_mark(m: Machine, items: list[Node]) -> None:
    for node in items:
        m.discard(node)


def _duplicate(m: Machine) -> None:
    m.stack.append(m.stack[-1])


def _index_line(m: Machine) -> int:
    place = m.line(literals.memo_index)
    if not isinstance(place, int) or place < 0:
        raise Halt("a memo index that is none")
    return place


def _get(place: Callable[[Machine], int], m: Machine) -> None:
    index = place(m)
    missing = Unreadable(f"memo entry {index} was never stored", m.at) if index not in m.memo else None
    m.stack.append(missing or m.memo[index])


def _put(place: Callable[[Machine], int], m: Machine) -> None:
    m.count(1)
    m.memo[place(m)] = m.stack[-1]


def _global(m: Machine) -> None:
    m.add(m.name(m.line(literals.text), m.line(literals.text)))


def _stack_global(m: Machine) -> None:
    qualname = m.stack.pop()
    m.add(m.name(m.stack.pop(), qualname))


def _extension(layout: Struct, m: Machine) -> None:
    m.add(m.name("copyreg", f"extension_{m.number(layout)}"))


def _persistent(m: Machine) -> None:
    m.add(Object(Name("pickle", "persistent_load"), (m.stack.pop(),)))


def _persistent_line(m: Machine) -> None:
    m.add(Object(Name("pickle", "persistent_load"), (m.line(literals.ascii_text),)))


def _reduce(m: Machine) -> None:
    args = m.stack.pop()
    m.add(literals.called(m, m.stack.pop(), args))


def _inst(m: Machine) -> None:
    maker = m.name(m.line(literals.text), m.line(literals.text))
    m.add(Object(maker, tuple(m.pop_mark())))


def _obj(m: Machine, items: list[Node]) -> None:
    m.add(Object(items[0], tuple(items[1:])))


def _new_object(m: Machine) -> None:
    args = m.stack.pop()
    m.add(Object(m.stack.pop(), args, origin="created"))


def _new_object_with_keywords(m: Machine) -> None:
    keywords = m.stack.pop()
    args = m.stack.pop()
    m.add(Object(m.stack.pop(), args, keywords, "created"))


def _next_buffer(m: Machine) -> None:
    buffer = next(m.buffers, None)
    m.stack.append(Unreadable("an out-of-band buffer that was not given", m.at) if buffer is None else bytes(buffer))


def _protocol(m: Machine) -> None:
    m.protocol = m.number(_U1)
    if m.protocol > HIGHEST_PROTOCOL:
        raise Halt(f"protocol {m.protocol}, of which nothing is known")


def _frame(m: Machine) -> None:
    m.open_frame(m.number(_U8))


def _nothing(_: Machine) -> None:
    """A buffer is read-only here anyway."""


def _stop(m: Machine) -> None:
    m.stopped = True


def _unknown(m: Machine) -> None:
    raise Halt(f"an unknown opcode {m.data[m.at]:#04x}")


_CONSTANTS: dict[str, Node] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"BININT": _I4, "BININT1": _U1, "BININT2": _U2, "BINFLOAT": _F8}
_EXTENSIONS = {"EXT1": _U1, "EXT2": _U2, "EXT4": _I4}
_FRESH: dict[str, Callable[[], Node]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_OF_MARK: dict[str, Callable[[list[Node]], Node]] = {"TUPLE": tuple, "LIST": list, "FROZENSET": _frozen}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LINES: dict[str, Callable[[bytes], Node]] = {
    "INT": literals.decimal_int_or_bool,
    "LONG": literals.decimal_int,
    "FLOAT": literals.decimal_float,
    "STRING": literals.quoted_text,
    "UNICODE": literals.escaped_text,
}
_COUNTED: dict[str, tuple[Struct, Callable[[bytes], Node]]] = {
    "LONG1": (_U1, literals.binary_int),
    "LONG4": (_I4, literals.binary_int),
    "SHORT_BINSTRING": (_U1, literals.ascii_text),
    "BINSTRING": (_I4, literals.ascii_text),
    "SHORT_BINUNICODE": (_U1, literals.text),
    "BINUNICODE": (_U4, literals.text),
    "BINUNICODE8": (_U8, literals.text),
    "SHORT_BINBYTES": (_U1, bytes),
    "BINBYTES": (_U4, bytes),
    "BINBYTES8": (_U8, bytes),
    "BYTEARRAY8": (_U8, bytearray),
}
_AT_MARK: dict[str, Callable[[Machine, list[Node]], None]] = {
    "APPENDS": Machine.append,
    "SETITEMS": Machine.set_items,
    "ADDITEMS": Machine.add_members,
    "DICT": _dict,
    "POP_MARK": _pop_mark,
    "OBJ": _obj,
}
_PLACES: dict[str, Callable[[Machine], int]] = {
    "": _index_line,
    "BIN": partial(Machine.number, layout=_U1),
    "LONG_BIN": partial(Machine.number, layout=_U4),
}
_BY_NAME: dict[str, Handler] = {
    **{name: partial(_constant, value) for name, value in _CONSTANTS.items()},
    **{name: partial(_number, layout) for name, layout in _NUMBERS.items()},
    **{name: partial(_extension, layout) for name, layout in _EXTENSIONS.items()},
    **{name: partial(_fresh, make) for name, make in _FRESH.items()},
    **{name: partial(_of_mark, make) for name, make in _OF_MARK.items()},
    **{name: partial(_tuple, size) for name, size in _TUPLES.items()},
    **{name: partial(_line, decoder) for name, decoder in _LINES.items()},
    **{name: partial(_counted, length, decoder) for name, (length, decoder) in _COUNTED.items()},
    **{name: partial(_at_mark, move) for name, move in _AT_MARK.items()},
    **{f"{size}GET": partial(_get, place) for size, place in _PLACES.items()},
    **{f"{size}PUT": partial(_put, place) for size, place in _PLACES.items()},
    "MEMOIZE": partial(_put, lambda m: len(m.memo)),
    "MARK": Machine.open_mark,
    "POP": _pop,
    "DUP": _duplicate,
    "APPEND": _append,
    "SETITEM": _set_item,
    "BUILD": _build,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "PERSID": _persistent_line,
    "BINPERSID": _persistent,
    "REDUCE": _reduce,
    "INST": _inst,
    "NEWOBJ": _new_object,
    "NEWOBJ_EX": _new_object_with_keywords,
    "NEXT_BUFFER": _next_buffer,
    "READONLY_BUFFER": _nothing,
    "PROTO": _protocol,
    "FRAME": _frame,
    "STOP": _stop,
}
_BY_CODE = {ord(opcode.code): _BY_NAME.get(opcode.name, _unknown) for opcode in pickletools.opcodes}

HANDLERS = tuple(_BY_CODE.get(code, _unknown) for code in range(256))
"""What each opcode does, by its byte."""
