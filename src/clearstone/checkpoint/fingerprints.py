"""What an agent's code was: fingerprints of its functions and classes with their source, and which changed since.

Idea: each has two hashes (`checkpoint.codehash`). The tree is of its syntax, valid across versions of Python, and there
where its source is known (`checkpoint.sourcetext`); the code is of what the interpreter runs, valid within one minor
version. Where both sides have a tree, it decides.

Invariant: nothing of the user's runs, and nothing is imported. What is not known to differ is not said to.

Refused: a hash per file (it cannot say what changed); module-level values (an agent changes them as it runs).
"""

from __future__ import annotations

import json
import sys
import weakref
from dataclasses import asdict, dataclass, field
from itertools import chain
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from clearstone import notice
from clearstone.checkpoint.codehash import hash_of_function
from clearstone.checkpoint.members import (
    dict_of,
    functions_named_by,
    functions_of,
    is_users_module,
    is_written,
    lasting_name,
    member_at,
    module_at,
    mro_of,
    qualname_of,
    unwrapped,
)
from clearstone.checkpoint.sourcetext import Sources
from clearstone.codec.redact import active

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clearstone.checkpoint.members import Modules, Thing

MOST_TOLD = 5

Kind = Literal["changed", "gone", "new"]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A function or a class at one time.

    Args:
        name: ``module:qualname``, where it is found.
        code: hash of its code object; empty for a class, and for code that was rewritten when it was imported.
        tree: hash of its syntax tree, a class's without the functions in it; empty where its source is not known.
        source: its text, without secrets; empty where it is not known to be what ran.
        at: ``file:line`` of the first line of `source`; empty where its lines are not those of the file one by one.
    """

    name: str
    code: str
    tree: str
    source: str = field(repr=False)
    at: str = ""

    def line(self, place: str) -> str:
        """Return a line of the source by its place, ``file:line``; empty where it is none of it."""
        (file, _, number), (own, _, first) = place.rpartition(":"), self.at.rpartition(":")
        if file != own or not (number.isdecimal() and first.isdecimal()):
            return ""
        lines, offset = self.source.split("\n"), int(number) - int(first)
        return lines[offset].strip() if 0 <= offset < len(lines) else ""


@dataclass(frozen=True, slots=True)
class Change:
    """A function or class that is not what it was.

    Args:
        name: as in its fingerprint.
        kind: ``"changed"``, ``"gone"``, or ``"new"`` for a function of a class that is in the record without it.
        before: its source then; empty where that is not known.
        after: its source now; likewise.
    """

    name: str
    kind: Kind
    before: str = field(default="", repr=False)
    after: str = field(default="", repr=False)

    def diff(self) -> str:
        """Return the unified difference of the two sources; empty where one of them is not known."""
        import difflib

        if not (self.before and self.after):
            return ""
        texts = (self.before.splitlines(), self.after.splitlines())
        return "\n".join(difflib.unified_diff(*texts, f"{self.name} (recorded)", f"{self.name} (now)", lineterm=""))


# --- taking them -----------------------------------------------------------------------------------------------------


def fingerprints_of(agent_class: type | None, sites: Iterable[str]) -> tuple[Fingerprint, ...]:
    """Take the fingerprints of an agent's code as it is loaded now. Never raises for its sake.

    They are of the class and its bases, with their functions, of the functions at `sites`, and of those of the same
    module that any of these names. What comes with Python, with an installed distribution or with this library is left
    out, and what stands in no file (the methods that `dataclasses` makes).

    Args:
        agent_class: the agent's class; None for a function.
        sites: ``module:qualname`` of decorated callables. Of modules that are not loaded nothing is taken.
    """
    try:
        found = _once((*_of_classes(agent_class), *_of_sites(sites)))
        named = chain.from_iterable(map(_named_by, found.values()))
        sources = Sources()
        return tuple(_fingerprint(name, thing, sources) for name, thing in _once((*found.items(), *named)).items())
    except Exception as problem:
        notice.say(f"the agent's code has no fingerprints: {type(problem).__name__}: {problem}")
        return ()


def _once(things: Iterable[tuple[str, Thing]]) -> dict[str, Thing]:
    """Return each thing under the first of its names."""
    names: dict[int, tuple[str, Thing]] = {}
    for name, thing in things:
        names.setdefault(id(thing), (name, thing))
    return dict(names.values())


def _of_classes(cls: type | None) -> Iterator[tuple[str, Thing]]:
    for base in mro_of(cls) if cls is not None else ():
        module = dict_of(base).get("__module__")
        if type(module) is str and is_users_module(module):
            name = f"{lasting_name(module)}:{qualname_of(base)}"
            yield name, base
            yield from _functions_in(name, base)


def _functions_in(name: str, cls: type) -> Iterator[tuple[str, FunctionType]]:
    for attribute, function in functions_of(cls):
        yield f"{name}.{attribute}", function


def _of_sites(sites: Iterable[str]) -> Iterator[tuple[str, Thing]]:
    for site in sorted(set(sites)):
        thing = unwrapped(member_at(site, {}))
        if type(thing) is FunctionType and is_written(thing):
            yield site, thing


def _named_by(thing: Thing) -> Iterator[tuple[str, Thing]]:
    if type(thing) is FunctionType:
        module = lasting_name(str(thing.__globals__.get("__name__")))
        yield from ((f"{module}:{name}", function) for name, function in functions_named_by(thing))


class _Memory:
    """What is known of functions and classes while they live; by identity, as a metaclass may hash in its own way."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, tuple[Any, ...], tuple[str, str, str, str]]] = {}

    def get(self, thing: Thing, valid: tuple[Any, ...]) -> tuple[str, str, str, str] | None:
        _, then, told = self._known.get(id(thing), (None, (), None))
        return told if then == valid else None

    def put(self, thing: Thing, valid: tuple[Any, ...], told: tuple[str, str, str, str]) -> None:
        key = id(thing)
        self._known[key] = weakref.ref(thing, lambda _: self._known.pop(key, None)), valid, told


_memory = _Memory()


def _fingerprint(name: str, thing: Thing, sources: Sources) -> Fingerprint:
    """Take one; what is known of its source stays so, whatever becomes of the file."""
    inside = (thing.__code__, thing.__defaults__, thing.__kwdefaults__) if type(thing) is FunctionType else ()
    valid = (active(), *map(id, inside))  # defaults may hold the function: it must be able to go
    told = _memory.get(thing, valid)
    if told is None:
        piece = sources.piece_of(thing)
        code = hash_of_function(thing) if type(thing) is FunctionType else ""
        told = (code, piece.tree, piece.source, _begin(thing, piece.first_line))
        _memory.put(thing, valid, told)
    return Fingerprint(name, *told)


def _begin(thing: Thing, first_line: int) -> str:
    return f"{thing.__code__.co_filename}:{first_line}" if type(thing) is FunctionType and first_line else ""


# --- what changed ----------------------------------------------------------------------------------------------------


def changed_since(recorded: Iterable[Fingerprint], python_minor: str, modules: Modules) -> tuple[Change, ...]:
    """Return what of the recorded code is not the same in what is loaded now, and what its classes have besides.

    Of modules that are not loaded nothing is said, nor of what was defined inside a function: it cannot be found again.
    Never raises for its sake.

    Args:
        recorded: the fingerprints of a checkpoint.
        python_minor: its Python, ``major.minor``: only within one can code be compared.
        modules: where to look first, by the recorded name.
    """
    try:
        known = [each for each in recorded if _can_be_found(each.name, modules)]
        now = {each.name: member_at(each.name, modules) for each in known}
        same_python = python_minor == f"{sys.version_info.major}.{sys.version_info.minor}"
        sources = Sources()
        differing = (_change(each, now[each.name], sources, same_python=same_python) for each in known)
        changes = (*filter(None, differing), *_new(now, sources))
        return tuple(each for each in changes if each.kind != "gone" or not _is_defined(each.name, modules, sources))
    except Exception as problem:
        notice.say(f"the agent's code could not be compared: {type(problem).__name__}: {problem}")
        return ()


def _can_be_found(name: str, modules: Modules) -> bool:
    return "<locals>" not in name and module_at(name.partition(":")[0], modules) is not None


def _is_defined(name: str, modules: Modules, sources: Sources) -> bool:
    """Whether its module's source defines it, under a condition perhaps: the main block of a script does not run."""
    module, _, qualname = name.partition(":")
    return sources.define(module_at(module, modules), qualname)


def _change(before: Fingerprint, now: Any, sources: Sources, *, same_python: bool) -> Change | None:
    if now is None:
        return Change(before.name, "gone", before.source)
    thing = unwrapped(now)
    if thing is None:  # what it is made of can be seen no more
        return Change(before.name, "changed", before.source)
    after = _fingerprint(before.name, thing, sources)
    differ = _differ(before, after, same_python=same_python)
    return Change(before.name, "changed", before.source, after.source) if differ else None


def _differ(before: Fingerprint, after: Fingerprint, *, same_python: bool) -> bool:
    """Whether they are known to differ."""
    if before.tree and after.tree:
        return before.tree != after.tree
    return same_python and bool(before.code and after.code) and before.code != after.code


def _new(now: dict[str, Any], sources: Sources) -> Iterator[Change]:
    """Give the functions of recorded classes that are found under no recorded name."""
    found = {name: unwrapped(member) for name, member in now.items()}
    known = set(map(id, found.values()))
    for name, thing in found.items():
        if thing is None or type(thing) is FunctionType:
            continue
        for method, function in _functions_in(name, thing):
            if method not in found and id(function) not in known:
                yield Change(method, "new", "", _fingerprint(method, function, sources).source)


def in_one_line(changes: Sequence[Change]) -> str:
    """Say which they are; empty where there are none."""
    kinds = [(kind, [each.name for each in changes if each.kind == kind]) for kind in ("changed", "gone", "new")]
    parts = [f"{kind}: {_listed(names)}" for kind, names in kinds if names]
    line = "; ".join(parts).replace(":", " since:", 1)
    return f"{line[0].upper()}{line[1:]}." if line else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return ", ".join(names[:MOST_TOLD]) + more


# --- in a file -------------------------------------------------------------------------------------------------------


def to_json(fingerprints: Iterable[Fingerprint]) -> bytes:
    """Return them as JSON."""
    return json.dumps([asdict(each) for each in fingerprints]).encode()


def from_json(data: bytes) -> tuple[Fingerprint, ...]:
    """Return the fingerprints of JSON; a file may say anything.

    Raises:
        ValueError: it is no JSON.
        TypeError: it is something else.
        KeyError: one lacks something.
    """
    try:
        held = json.loads(data)
    except RecursionError:
        raise ValueError("fingerprints are not that deep") from None
    if type(held) is not list:
        raise TypeError(f"fingerprints are a list, not {type(held).__name__}")
    return tuple(map(_of_json, held))


def _of_json(held: Any) -> Fingerprint:
    if type(held) is not dict:
        raise TypeError(f"a fingerprint is an object, not {type(held).__name__}")
    texts = [*(held[name] for name in ("name", "code", "tree", "source")), held.get("at", "")]  # others may say more
    if any(type(each) is not str for each in texts):
        raise TypeError("a fingerprint has texts only")
    return Fingerprint(*texts)
