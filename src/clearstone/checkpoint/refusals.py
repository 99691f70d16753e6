"""What of a state must be left out, and where it is.

Idea: a survey (`checkpoint.pickling`) tells how the pickler took every object apart. That is a graph of exactly what a
checkpoint would hold. What refused is in it, and every way to it from the agent's attributes.

Three rules turn what refused into what is left out:

- A `Missing` may stand in a container, as an attribute, in a closure: wherever it is only put. Where loading would use
  it (an argument of a maker, the state that a ``__setstate__`` reads), the object that is made so is left out instead:
  a file that cannot be loaded helps nobody.
- When the refusal lies inside an object of an installed library, that object is left out, the outermost one: a client
  without its pool is no client, and it holds keys.
- Secrets are left out where they are, unless what they belong to is.

Invariant: every object that is left out has the shortest path from the agent as its name.

Refused: a table of known classes that cannot be saved (the rules find them, also those of tomorrow).
"""

from __future__ import annotations

import copyreg
import functools
from collections import deque
from dataclasses import dataclass, field
from types import CellType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.attributes import NESTED, attributes_of
from clearstone.checkpoint.frames import shown
from clearstone.checkpoint.origin import is_installed
from clearstone.checkpoint.pickling import SECRET, Replaced, described, puts_state, secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from clearstone.checkpoint.pickling import Reduction, Survey

ATOMS = (str, bytes, int, float, bool, complex, type(None), type)
CONTAINERS = (list, tuple, dict, set, frozenset)

PUTTING_MODULES = frozenset({"cloudpickle.cloudpickle", "clearstone.codec.payload", "clearstone.codec.exceptions"})
"""Whose makers and setters put what they are given into place, and do nothing with it."""

PUTTING_MAKERS = (CellType, functools.partial)
TRANSPARENT_MODULES = frozenset({"builtins", "types", "collections", "clearstone.decorators", "wrapt.wrappers"})
"""Of installed classes that hold what is the user's: a deque of messages with a lock in one of them is no library's."""

ROOT = 0
"""In place of an id: the agent."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One object in another.

    Args:
        child: what is in it.
        label: what leads there: ``.client``, ``[0]``; empty where no attribute or item does.
        is_put: whether loading only puts the child there.
    """

    child: Any
    label: str
    is_put: bool


@dataclass(slots=True)
class _Graph:
    """What a survey met, as far as it can be reached from the state."""

    children: dict[int, list[Edge]] = field(default_factory=dict)
    parents: dict[int, list[tuple[int, bool]]] = field(default_factory=dict)
    objects: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Any], survey: Survey) -> _Graph:
        graph = cls()
        graph.children[ROOT] = [Edge(value, f".{name}", is_put=True) for name, value in state.items()]
        left = deque(graph._seen(ROOT))
        while left:
            found = left.popleft()
            graph.children[id(found)] = list(edges(found, survey.reductions.get(id(found))))
            left.extend(graph._seen(id(found)))
        return graph

    def _seen(self, parent: int) -> Iterator[Any]:
        """Note the edges of `parent`; give the children that are new."""
        for edge in self.children[parent]:
            if not isinstance(edge.child, ATOMS):
                self.parents.setdefault(id(edge.child), []).append((parent, edge.is_put))
                if id(edge.child) not in self.objects:
                    self.objects[id(edge.child)] = edge.child
                    yield edge.child

    def above(self, starts: set[int]) -> set[int]:
        """Return `starts` and everything that holds one of them, at any depth."""
        found, left = set(starts), list(starts)
        while left:
            for parent, _ in self.parents.get(left.pop(), ()):
                if parent not in found:
                    found.add(parent)
                    left.append(parent)
        return found


def edges(obj: Any, reduction: Reduction | None) -> Iterator[Edge]:
    """Return what is in `obj`: the items of a builtin container, else what it is taken apart into."""
    if type(obj) in CONTAINERS:
        yield from _items(obj)
    elif reduction is not None:
        yield Edge(reduction.maker, "", is_put=False)
        is_put = _only_puts_arguments(reduction)
        for place, argument in enumerate(reduction.arguments):
            yield Edge(argument, _label_of_argument(obj, place), is_put)
        yield from _state(obj, reduction)
        for place, item in enumerate(reduction.items or ()):
            yield Edge(item, f"[{place}]", is_put=True)
        for key, value in reduction.pairs or ():
            yield from _pair(key, value)


def _items(container: Any) -> Iterator[Edge]:
    if isinstance(container, dict):
        for key, value in list(container.items()):
            yield from _pair(key, value)
        return
    ordered = isinstance(container, list | tuple)
    for place, item in enumerate(list(container)):
        yield Edge(item, f"[{place}]" if ordered else "{...}", is_put=True)


def _pair(key: Any, value: Any) -> Iterator[Edge]:
    label = f"[{shown('', key)}]" if type(key) in {str, int, bytes, bool, type(None)} else f"[<{type(key).__name__}>]"
    yield Edge(value, label, is_put=True)
    yield Edge(key, f"<key {label[1:-1]}>", is_put=True)


def _label_of_argument(obj: Any, place: int) -> str:
    """The class is the first."""
    fields = getattr(type(obj), "_fields", ()) if isinstance(obj, tuple) else ()
    names = ("args",) if isinstance(obj, BaseException) else fields if isinstance(fields, tuple) else ()
    return f".{names[place - 1]}" if 0 < place <= len(names) else ""


def _state(obj: Any, reduction: Reduction) -> Iterator[Edge]:
    state, puts = reduction.state, _only_puts_state(obj, reduction)
    if type(obj) is functools.partial:
        for name, part in zip(("func", "args", "keywords", "__dict__"), state, strict=False):
            yield Edge(part, f".{name}", puts)
        return
    if isinstance(state, list) and hasattr(type(obj), "__dataclass_fields__"):  # one with slots
        for name, part in zip(type(obj).__dataclass_fields__, state, strict=False):
            yield Edge(part, f".{name}", puts)
        return
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # noqa: PLR2004 - and slots
    for part in parts:
        if isinstance(part, dict):
            for name, value in part.items():
                if isinstance(value, dict) and name in NESTED:
                    for inner, held in value.items():
                        yield Edge(held, f".{inner}", puts)
                else:
                    yield Edge(value, f".{name}", puts)
        else:
            yield Edge(part, "", puts)


def _only_puts_arguments(reduction: Reduction) -> bool:
    maker = reduction.maker
    if getattr(maker, "__module__", "") in PUTTING_MODULES or maker in PUTTING_MAKERS:
        return True
    made = reduction.arguments[0] if reduction.arguments else None
    return maker is copyreg.__newobj__ and isinstance(made, type) and issubclass(made, tuple)  # type: ignore[attr-defined]  # a named tuple


def _only_puts_state(obj: Any, reduction: Reduction) -> bool:
    if reduction.setter is not None:
        return getattr(reduction.setter, "__module__", "") in PUTTING_MODULES
    return puts_state(type(obj)) or type(obj) in PUTTING_MAKERS


def find(
    state: Mapping[str, Any], survey: Survey, before: Survey | None = None, *, own_methods: bool = False
) -> Replaced | None:
    """Return what to leave out of `state`, each with its path.

    Args:
        state: the attributes.
        survey: of a pass over them.
        before: of the pass before it, if that did not do: what refuses now and was not there then is made anew each
            time, by something that is left out in its place.
        own_methods: whether the state is `get_state`'s.

    Returns:
        What to leave out; None where something that refused is not to be found in the state.
    """
    graph = _Graph.of(state, survey)
    refused = set(survey.refused)
    if not refused <= set(graph.objects):
        return None
    if before is not None:
        refused = set().union(*(_lasting(graph, number, survey, before) for number in refused))
    out = _with_users(graph, refused)
    wanted = graph.above(out | (set(survey.secrets) & set(graph.objects)))
    whole = graph.above(out)
    found = Replaced()
    for number, path in _outermost(graph, wanted, lambda number: number in out or _is_foreign(graph, number, whole)):
        obj = graph.objects.get(number)
        if number in whole and (number in out or _is_foreign(graph, number, whole)):
            reason = survey.refused.get(number)
            if reason == SECRET:
                found.leave_out(obj, secret(path, obj, own_methods=own_methods))
            else:
                because = reason or _because(graph, number, survey)
                member = described(path, obj, because, own_methods=own_methods)
                found.leave_out(obj, member, lasts=number in survey.refused or is_installed(type(obj)))
        elif number in survey.secrets:
            for name in survey.secrets[number]:
                value = next(part[name] for part in attributes_of(obj) if name in part)
                found.leave_out(obj, secret(f"{path}.{name}", value, own_methods=own_methods), name)
    return found


def _lasting(graph: _Graph, number: int, survey: Survey, before: Survey) -> set[int]:
    """Return `number`, or the nearest above it that were there in both passes."""
    found, left, seen = set(), [number], {number}
    while left:
        each = left.pop()
        if each in survey.objects and before.objects.get(each) is survey.objects[each]:
            found.add(each)
            continue
        for parent, _ in graph.parents[each]:
            if parent != ROOT and parent not in seen:
                seen.add(parent)
                left.append(parent)
    return found


def _with_users(graph: _Graph, refused: set[int]) -> set[int]:
    """Return `refused` and every object whose loading would use one of what is left out."""
    out, holding, left = set(refused), set(refused), list(refused)
    while left:
        for parent, is_put in graph.parents.get(left.pop(), ()):
            if parent == ROOT or parent in holding:
                continue
            if not is_put:
                out.add(parent)
            elif type(graph.objects[parent]) not in CONTAINERS:
                continue
            holding.add(parent)
            left.append(parent)
    return out


def _is_foreign(graph: _Graph, number: int, whole: set[int]) -> bool:
    """Whether it is an object of an installed library that holds what is left out."""
    if number not in whole or number == ROOT:
        return False
    kind = type(graph.objects[number])
    return kind.__module__ not in TRANSPARENT_MODULES and kind is not functools.partial and is_installed(kind)


def _outermost(graph: _Graph, wanted: set[int], ends: Callable[[int], bool]) -> Iterator[tuple[int, str]]:
    """Go down from the agent through `wanted`, the nearest first; give each with its path, and go past no end."""
    left, seen = deque([(ROOT, "self")]), {ROOT}
    while left:
        number, path = left.popleft()
        if number != ROOT:
            yield number, path
            if ends(number):
                continue
        for edge in graph.children[number]:
            if id(edge.child) in wanted and id(edge.child) not in seen:
                seen.add(id(edge.child))
                left.append((id(edge.child), path + edge.label))


def _because(graph: _Graph, number: int, survey: Survey) -> str:
    """Name what refused inside an object that is left out whole."""
    left, seen = deque([(number, "")]), {number}
    while left:
        each, path = left.popleft()
        if each in survey.refused:
            kind = type(graph.objects[each])
            where = f"its {path.lstrip('.')}" if path else "what it is made of"
            return f"{where} ({kind.__module__}.{kind.__qualname__}) does not pickle: {survey.refused[each]}"
        for edge in graph.children.get(each, ()):
            if id(edge.child) not in seen:
                seen.add(id(edge.child))
                left.append((id(edge.child), path + edge.label))
    return "a part of it does not pickle"
