"""Whether two values are the same, and where they first differ.

Idea: builtins are walked by their exact type; any other object is compared as pickling sees it, by what its
``__reduce_ex__`` gives. That covers dataclasses, slots, pydantic models, enums, datetimes and arrays alike.

Invariant: no ``__eq__`` or ``__hash__`` of a user's class is called, and the walk ends on cycles.

Refused: ``==`` (a user's ``__eq__`` may lie, raise, or return an array), and comparing pickle bytes (equal values may
pickle differently).
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

from clearstone.codec.exceptions import Unpicklable
from clearstone.codec.payload import safe_repr, todays_definition
from clearstone.codec.renames import todays_dotted
from clearstone.replay import arrays
from clearstone.replay.walking import Walk, walked
from clearstone.span import module_name

DEEPEST = 2000
"""Below this depth two objects of one type count as the same."""

ATOMS: frozenset[type] = frozenset({bool, int, float, str, bytes, bytearray, complex, type(None), type(Ellipsis)})
NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType)
"""What is known by its name alone."""

_KEYS = frozenset({str, int, bytes, float, bool, type(None)})
"""Exact types of keys that have no hash of a user's."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two values differ: its path, and both values there in short."""

    path: str
    recorded: str
    now: str

    def __str__(self) -> str:
        return f"{self.path or 'the value'}: recorded {self.recorded}, now {self.now}"


def difference(recorded: Any, now: Any) -> Difference | None:
    """Return the first difference between two values, or None.

    Args:
        recorded: the one from the record.
        now: the one of today.
    """
    return walked(_Comparison().compare(recorded, now, "", 0))


Found = Difference | None


class _Comparison:
    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[Any, Any]] = {}  # keeps both alive, so that ids stay theirs

    def compare(self, a: Any, b: Any, path: str, depth: int) -> Walk[Found]:
        if a is b:
            return None
        if type(a) is Unpicklable:  # what was not recorded is known by its type alone
            same = is_known_as(type(b), todays_dotted(a.type_name))
            return None if same else Difference(path, repr(a), _typed(b))
        if type(a) is not type(b) and name_of(type(a)) != name_of(type(b)):
            return Difference(path, _typed(a), _typed(b))
        if type(a) in ATOMS:
            same = a == b or (isinstance(a, float | complex) and repr(a) == repr(b))  # NaN is the same as NaN
            return None if same else Difference(path, safe_repr(a), safe_repr(b))
        if depth > DEEPEST or (id(a), id(b)) in self._seen:
            return None
        self._seen[id(a), id(b)] = (a, b)
        return (yield self._inside(a, b, path, depth + 1))  # type: ignore[no-any-return]  # a walk's

    def _inside(self, a: Any, b: Any, path: str, depth: int) -> Walk[Found]:
        kind = type(a)
        if kind is list or kind is tuple:
            walk = self._sequences(a, b, path, depth)
        elif kind is dict:
            walk = self._dicts(a, b, path, depth)
        elif kind is set or kind is frozenset:
            return _of_sets(a, b, path)
        elif issubclass(kind, NAMED):
            walk = self.compare((names_of(a), closure_of(a)), (names_of(b), closure_of(b)), path, depth)
        else:
            walk = self._objects(a, b, path, depth)
        return (yield walk)  # type: ignore[no-any-return]

    def _sequences(self, a: Any, b: Any, path: str, depth: int) -> Walk[Found]:
        for index, (one, other) in enumerate(zip(a, b, strict=False)):
            found: Found = yield self.compare(one, other, f"{path}[{index}]", depth)
            if found is not None:
                return found
        return None if len(a) == len(b) else Difference(path, f"{len(a)} items", f"{len(b)} items")

    def _dicts(self, a: dict[Any, Any], b: dict[Any, Any], path: str, depth: int) -> Walk[Found]:
        key_of = _exact if are_plain(a) and are_plain(b) else _digest
        left = {key_of(key): (key, value) for key, value in list(b.items())}
        for key, value in list(a.items()):
            where = f"{path}[{safe_repr(key)}]"
            other = left.pop(key_of(key), None)
            if other is None:
                return Difference(where, safe_repr(value), "nothing")
            found: Found = yield self.compare(value, other[1], where, depth)
            if found is not None:
                return found
        for key, value in left.values():
            return Difference(f"{path}[{safe_repr(key)}]", "nothing", safe_repr(value))
        return None

    def _objects(self, a: Any, b: Any, path: str, depth: int) -> Walk[Found]:
        try:
            one, other = parts_of(a), parts_of(b)
        except Exception:  # what pickling refuses is opaque: one type, no more is known
            return None
        if arrays.is_one(a):
            found: Found = yield self.compare(one, other, path, depth)
            return Difference(path, safe_repr(a), safe_repr(b)) if found is not None else None
        if type(one) is dict and type(other) is dict:
            return (yield self._dicts(one, other, path, depth))  # type: ignore[no-any-return]
        return (yield self.compare(one, other, path, depth))  # type: ignore[no-any-return]


def _of_sets(a: Any, b: Any, path: str) -> Found:
    key_of = _exact if are_plain(a) and are_plain(b) else _digest
    one, other = ({key_of(item): item for item in list(each)} for each in (a, b))
    for key, item in one.items():
        if key not in other:
            return Difference(path, safe_repr(item), "nothing")
    for key, item in other.items():
        if key not in one:
            return Difference(path, "nothing", safe_repr(item))
    return None if len(a) == len(b) else Difference(path, f"{len(a)} items", f"{len(b)} items")


def _digest(value: Any) -> bytes:
    from clearstone.replay.digest import canonical  # which walks as this file does

    return canonical(value).value


def name_of(kind: type) -> str:
    """Return the full name of a class; a script's has one whatever the script is imported as."""
    return ":".join(names_of(kind))


def dotted_name(kind: type) -> str:
    """Return the dotted name of a class, as a record has it; a script's is ``__main__``'s."""
    module, name = names_of(kind)
    return name if module == "builtins" else f"{module}.{name}"


def is_known_as(kind: type, recorded: str) -> bool:
    """Whether a class is the one that a record names.

    Args:
        kind: a class.
        recorded: the dotted name; what ran as ``python -m NAME`` was ``__main__`` then, and is not when it is imported.
    """
    module, _, name = recorded.partition(".")
    return recorded == dotted_name(kind) or (module == "__main__" and todays_definition("", name) is kind)


def names_of(value: Any) -> tuple[str, str]:
    """Return the module and the name of a class or function."""
    return module_name(str(getattr(value, "__module__", ""))), str(getattr(value, "__qualname__", ""))


def closure_of(value: Any) -> Any:
    """Return what a function brings along besides its code: its defaults, and the values it closes over."""
    if not isinstance(value, types.FunctionType):
        return ()
    cells = [_content(cell) for cell in value.__closure__ or ()]
    return [value.__defaults__, value.__kwdefaults__, cells] if cells or value.__defaults__ else ()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return ()


def are_plain(keys: Any) -> bool:
    """Whether all keys of a dict, or items of a set, are of types whose hash is Python's own."""
    return all(type(key) in _KEYS for key in keys)


def _exact(key: Any) -> Any:
    """Return what two keys share exactly if they are of one type and equal."""
    return type(key), repr(key) if type(key) is float else key


def _typed(value: Any) -> str:
    return f"{safe_repr(value)} ({type(value).__qualname__})"


def parts_of(value: Any) -> Any:
    """Return an object's parts: what pickling sees.

    Attributes by name where an object has just those, else its whole reduction; of arrays and frames the content.

    Raises:
        Exception: what its own reduction raises.
    """
    if arrays.is_one(value):
        return arrays.parts_of(value)
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return reduced
    maker, arguments, state, items, pairs = (*reduced, None, None, None, None, None)[:5]
    whole = [maker, arguments, state, list(items) if items else None, list(pairs) if pairs else None]
    return whole if whole[3] or whole[4] or not isinstance(state, dict) else {**state, "": arguments}
