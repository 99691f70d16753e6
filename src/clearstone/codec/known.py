"""How objects of well-known types read: functions, classes, dates, UUIDs, paths, numpy.

Idea: their pickles hold bytes or another program's internals, so a table by name has a reader for each.

Invariant: a reader applies only to the shape its type is known to pickle to. State, items or later calls beyond that
make the general view, so that nothing hides behind a familiar name. Only classes of the datetime module are ever built
here, from numbers; nothing is looked up by a pickle's name.

Refused: a hook for other types (it would be code that an untrusted file selects).
"""

from __future__ import annotations

import datetime
import struct
from typing import TYPE_CHECKING

from clearstone.codec.nodes import LEAVES, Name, Node, Object, Unreadable
from clearstone.codec.views import (
    LONG,
    NAMERS,
    View,
    code_name,
    defined_name,
    dotted,
    extras,
    family,
    general,
    sequence,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def view(node: Object) -> View:
    """Return how `node` reads."""
    key = family(defined_name(node.maker))
    reader, allowed = _READERS.get(key, (general, _ALL))
    known = reader(node) if extras(node) <= allowed else None
    return known or general(node)


_ALL = frozenset({"kwargs", "items", "pairs", "states", "setters"})
_NO: frozenset[str] = frozenset()

# --- functions, classes and modules ----------------------------------------------------------------------------------


def _definition(node: Object) -> View | None:
    """A function, class or module that is stored by value or made by name."""
    name = defined_name(node)
    match node.args:
        case (_, _, Name() as maker, _) if isinstance(node.maker, Name) and node.maker.qualname == "begin_definition":
            word, kind = _WORDS.get(maker.qualname, ("definition", "?"))
        case _:
            word, kind = _WORDS[node.maker.qualname if isinstance(node.maker, Name) else "type"]
    qualname = name.rstrip(":").rpartition(":")[2]
    return View(kind, f"<{word} {dotted('builtins:' + qualname)}>", whole=True) if name else None


_CLASS = ("class", "builtins:type")
_FUNCTION = ("function", "types:FunctionType")
_WORDS = {
    "_make_function": _FUNCTION,
    "_empty_wrapper": _FUNCTION,
    "named": _FUNCTION,
    "_make_skeleton_class": _CLASS,
    "_make_skeleton_enum": _CLASS,
    "_builtin_type": _CLASS,
    "type": _CLASS,
    "subimport": ("module", "types:ModuleType"),
    "dynamic_subimport": ("module", "types:ModuleType"),
    "begin_definition": ("definition", "?"),
}


def _attribute(node: Object) -> View | None:
    name = defined_name(node)
    return View("?", dotted(name), whole=True) if name else None


def _code(node: Object) -> View | None:
    return View("types:CodeType", f"<code {dotted('builtins:' + code_name(node))}>", whole=True)


def _itself(node: Object) -> View | None:
    return None if node.args else View("?", "<the agent itself>", whole=True)


def _exception_data(node: Object) -> View | None:
    match node.states:
        case [[cls, tuple(args), dict(attributes), cause, bool(), reduction, int()]] if name := defined_name(cls):
            further: dict[Node, Node] = {"cause": cause, "reduction": reduction}
            told = {label: value for label, value in further.items() if value is not None}
            return View(name, dotted(name), None, (args,), (attributes, told))
    return None


def _partial(node: Object) -> View | None:
    match node.states:
        case [(function, tuple(args), dict(keywords), None)]:
            return View("functools:partial", "functools.partial", None, ((function,), args), (keywords,))
    return None


def _deque(node: Object) -> View | None:
    match node.args:
        case () | ((),):
            return View("collections:deque", "deque", None, ((node.items or [],),))
        case ((), int(size)):
            return View("collections:deque", "deque", None, ((node.items or [],),), ({"maxlen": size},))
    return None


# --- dates, identifiers, paths ---------------------------------------------------------------------------------------


def _moment(node: Object) -> View | None:
    match node.args:
        case (bytes(raw), *zone) if len(raw) == 10 and len(zone) < len("tz"):  # noqa: PLR2004 - as datetime.__reduce__
            when = (raw[0] << 8 | raw[1], raw[2] & 0x7F, *raw[3:7], int.from_bytes(raw[7:]))
            return _zoned("datetime:datetime", when, raw[2] >> 7, zone)
    return None


def _time(node: Object) -> View | None:
    match node.args:
        case (bytes(raw), *zone) if len(raw) == 6 and len(zone) < len("tz"):  # noqa: PLR2004 - as time.__reduce__
            when = (raw[0] & 0x7F, raw[1], raw[2], int.from_bytes(raw[3:]))
            return _zoned("datetime:time", when, raw[0] >> 7, zone)
    return None


def _zoned(type_name: str, when: tuple[int, ...], fold: int, zone: list[Node]) -> View | None:
    """Write a point of time; its zone as part of the text where that is known, else as an argument."""
    make: Callable[..., object] = datetime.datetime if type_name == "datetime:datetime" else datetime.time
    text = _repr(lambda: make(*when, fold=fold))
    if not text or not zone:
        return View(type_name, text, whole=True) if text else None
    known = view(zone[0]) if isinstance(zone[0], Object) and defined_name(zone[0].maker) in _ZONES else None
    if known and known.whole:
        return View(type_name, f"{text[:-1]}, tzinfo={known.title})", whole=True)
    return View(type_name, text.partition("(")[0], None, (when,), ({"tzinfo": zone[0]},))


_ZONES = {"datetime:timezone", "zoneinfo:ZoneInfo._unpickle"}


def _date(node: Object) -> View | None:
    match node.args:
        case (bytes(raw),) if len(raw) == 4:  # noqa: PLR2004 - as date.__reduce__
            text = _repr(lambda: datetime.date(raw[0] << 8 | raw[1], raw[2], raw[3]))
            return View("datetime:date", text, whole=True) if text else None
    return None


def _duration(node: Node) -> datetime.timedelta | None:
    match node:
        case Object(Name("datetime", "timedelta"), (int(days), int(seconds), int(micros))) if not extras(node):
            return datetime.timedelta(days, seconds, micros) if abs(days) + abs(seconds) + abs(micros) < 10**8 else None
    return None


def _timedelta(node: Object) -> View | None:
    duration = _duration(node)
    return None if duration is None else View("datetime:timedelta", repr(duration), whole=True)


def _timezone(node: Object) -> View | None:
    match node.args:
        case (offset, *name) if (duration := _duration(offset)) is not None:
            label = [text[:LONG] for text in name if isinstance(text, str)]
            text = _repr(lambda: datetime.timezone(duration, *label))
            return View("datetime:timezone", text, whole=True) if text and len(name) == len(label) < 2 else None  # noqa: PLR2004 - as timezone.__getinitargs__
    return None


def _repr(make: Callable[[], object]) -> str:
    """Return the repr of a datetime value; empty if there is no such."""
    try:
        return repr(make())
    except (ValueError, OverflowError):
        return ""


def _zone(node: Object) -> View | None:
    match node.args:
        case (str(key), bool() | int()) if len(key) <= LONG:
            return View("zoneinfo:ZoneInfo", f"zoneinfo.ZoneInfo(key={key!r})", whole=True)
    return None


def _uuid(node: Object) -> View | None:
    match (node.args, *node.states):
        case ((), {"int": int(number), **rest}) if 0 <= number < 1 << 128 and not rest:
            digits = f"{number:032x}"
            text = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            return View("uuid:UUID", f"UUID('{text}')", whole=True)
    return None


def _path(node: Object) -> View | None:
    parts = [part for part in sequence(node.args)[:LONG] if isinstance(part, str)]
    if not 0 < len(parts) == len(sequence(node.args)) or sum(map(len, parts)) > LONG:
        return None
    slash = "\\" if "Windows" in defined_name(node.maker) else "/"
    first, rest = parts[0], slash.join(parts[1:])
    text = first + rest if first.endswith(slash) or not rest else first + slash + rest
    name = defined_name(node.maker)
    return View(name, f"{name.rpartition(':')[2]}({text!r})", whole=True)


# --- numpy -----------------------------------------------------------------------------------------------------------

_DTYPES = {
    "b1": ("bool", "?"),
    "i1": ("int8", "b"),
    "i2": ("int16", "h"),
    "i4": ("int32", "i"),
    "i8": ("int64", "q"),
    "u1": ("uint8", "B"),
    "u2": ("uint16", "H"),
    "u4": ("uint32", "I"),
    "u8": ("uint64", "Q"),
    "f2": ("float16", "e"),
    "f4": ("float32", "f"),
    "f8": ("float64", "d"),
}


def _dtype(node: Node) -> tuple[str, str]:
    """Return a dtype's name and, if it is one number, its `struct` layout."""
    match node:
        case Object(Name(_, "dtype"), (str(code), *flags), states=[(int(), str(order), *rest)]) if (
            _are_leaves(flags) and _are_leaves(rest) and extras(node) == {"states"}
        ):
            name, letter = _DTYPES.get(code, (code if code.isprintable() else "", ""))
            return name[:LONG], letter and (">" if order == ">" else "<") + letter
    return "", ""


def _are_leaves(nodes: Sequence[Node]) -> bool:
    return len(nodes) <= LONG and all(type(node) in LEAVES for node in nodes)


def _array(node: Object) -> View | None:
    match (node.args, *node.states):
        case (Name(), (0,), bytes()), (int(), tuple(shape), dtype, bool(), bytes() | bytearray() | Unreadable()):
            return _ndarray(shape, dtype)
    return None


def _array_of_buffer(node: Object) -> View | None:
    match node.args:
        case (bytes() | bytearray() | Unreadable(), dtype, tuple(shape), str()):
            return _ndarray(shape, dtype)
    return None


def _ndarray(shape: tuple[Node, ...], dtype: Node) -> View | None:
    name, _ = _dtype(dtype)
    sizes = [size for size in shape[:LONG] if isinstance(size, int) and size < 1 << 64]
    if not name or len(sizes) != len(shape):
        return None
    return View("numpy:ndarray", f"<ndarray shape={tuple(sizes)} dtype={name}>", whole=True)


def _scalar(node: Object) -> View | None:
    match node.args:
        case (dtype, bytes(raw)) if (layout := _dtype(dtype)[1]) and struct.calcsize(layout) == len(raw):
            name = _dtype(dtype)[0]
            return View(f"numpy:{name}", f"{name}({struct.unpack(layout, raw)[0]!r})", whole=True)
    return None


def _unpicklable(node: Object) -> View | None:
    match node.states:
        case ([str(kind), str(text), str(reason)],):
            return View(
                "clearstone.codec.exceptions:Unpicklable",
                f"<not recorded: {text} of type {kind}, {reason}>",
                whole=True,
            )
    return None


def _missing(node: Object) -> View | None:
    match node.args:
        case (Object(Name("clearstone.checkpoint.missing", "MissingMember"), (), states=[[str(path), str(kind), *_]]),):
            return View("clearstone.checkpoint.missing:Missing", f"<missing {kind} {path}>", whole=True)
    return None


_READERS: dict[str, tuple[Callable[[Object], View | None], frozenset[str]]] = {
    **dict.fromkeys(NAMERS, (_definition, _NO)),
    "builtins:getattr": (_attribute, _NO),
    "types:CodeType": (_code, _NO),
    "clearstone.codec.payload:the_restored": (_itself, _NO),
    "clearstone.codec.exceptions:ExceptionData": (_exception_data, frozenset({"states"})),
    "clearstone.codec.exceptions:Unpicklable": (_unpicklable, frozenset({"states"})),
    "clearstone.checkpoint.missing:Missing": (_missing, _NO),
    "functools:partial": (_partial, frozenset({"states"})),
    "collections:deque": (_deque, frozenset({"items"})),
    "datetime:datetime": (_moment, _NO),
    "datetime:time": (_time, _NO),
    "datetime:date": (_date, _NO),
    "datetime:timedelta": (_timedelta, _NO),
    "datetime:timezone": (_timezone, _NO),
    "zoneinfo:ZoneInfo._unpickle": (_zone, _NO),
    "uuid:UUID": (_uuid, frozenset({"states"})),
    **{f"pathlib:{kind}": (_path, _NO) for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    "numpy:_reconstruct": (_array, frozenset({"states"})),
    "numpy:_frombuffer": (_array_of_buffer, _NO),
    "numpy:scalar": (_scalar, _NO),
}
