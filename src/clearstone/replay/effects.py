"""What a served call did to its object, done again.

Idea: a call that is answered from the record does not run, so what it changed on ``self`` (and, with
``record_effects=True``, in its arguments) is put there from what `clearstone.record.effects` has found then. It is
written past properties and ``__setattr__``, as a checkpoint is restored.

Invariant: what cannot be done is said, and nothing is raised for it.

Where calls on one object overlapped, who changed what is not known. What was rebound, or changed in its middle, is then
what the call that ended last has left; items that were added are added. Once all of them have been served that comes to
the state of then, but for the order of what was added, and for what was both rebound and added to. The same holds for
calls of several threads or tasks that come in another order than they did, whether or not they overlapped.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict, deque
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.attributes import slots_of
from clearstone.codec import payload
from clearstone.codec.exceptions import Unpicklable
from clearstone.codec.renames import todays_attribute
from clearstone.errors import ReplayError
from clearstone.replay.arguments import by_name, names_of
from clearstone.threads import task_of_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from clearstone.run import BoundCall
    from clearstone.span import Span

_ABSENT = object()
_LISTS = frozenset({list, deque, bytearray})
_DICTS = frozenset({dict, defaultdict, OrderedDict, Counter})
_CONTAINERS = _LISTS | _DICTS | {set}


class Effects:
    """Applies effects of served calls, in any thread."""

    def __init__(self) -> None:
        self._written: dict[tuple[int, str], tuple[Any, int, Any]] = {}
        """Of attributes that calls have rebound: the object, to keep its id its own, when, and in which tasks."""

        self._kept: dict[int, tuple[Any, set[str]]] = {}
        self._writing = threading.RLock()

    def keep(self, instance: Any, names: Iterable[str]) -> None:
        """Leave attributes of an object alone from now on: a fork has given them other values than the record knows."""
        self._kept.setdefault(id(instance), (instance, set()))[1].update(names)

    def do(self, call: BoundCall, found: Mapping[str, Any], span: Span) -> list[str]:
        """Do to the object of `call` what its recorded call did, or one of its steps.

        Args:
            call: the served call.
            found: what it did (see `clearstone.record.effects.end`).
            span: the recorded one.

        Returns:
            What could not be done, or is not sure, a sentence each.
        """
        if call.instance is None:
            return []
        with self._writing:
            return list(self._to_object(call.instance, found, span))

    def _to_object(self, instance: Any, found: Mapping[str, Any], span: Span) -> Iterator[str]:
        ambiguous = found.get("ambiguous", False)
        when = found.get("order", span.end_ns or span.start_ns), found.get("task")
        changed, late, kept = [], [], []
        for kind in _DONE:
            values = found.get(kind, {})
            for recorded in values:
                is_there = _read(instance, recorded) is not _ABSENT  # it was what get_state called it that was renamed
                name = recorded if is_there else todays_attribute(instance, recorded)
                changed.append(name)
                if kind in _PUTTING and name in self._kept.get(id(instance), (None, ()))[1]:
                    kept.append(name)
                elif kind in _REPLACING and not self._is_last(instance, name, *when, ambiguous=ambiguous):
                    late.append(name)
                else:
                    yield from _do(instance, name, kind, values[recorded] if kind != "deleted" else _ABSENT)
        if kept:
            yield f"{_named(kept)} stays what the fork has made of it: what the recorded call put there is left out"
        if ambiguous:
            yield (
                f"calls on this object overlapped, so which of them changed {_named(changed)} is not sure; "
                f"@traced(..., replay='run') runs such a call again"
            )
        elif late:
            yield f"{_named(late)} stays what a call of another thread or task has left, which was recorded later"

    def _is_last(self, instance: Any, name: str, order: int, task: Any, *, ambiguous: bool) -> bool:
        """Whether no call that ended later has been served before: the value of the last one stays.

        Calls that one task made then, and one makes now, are in the order that the code gives them today. A pool may
        give to several threads what it gave to one.
        """
        key, tasks = (id(instance), name), (task, task_of_now())
        _, before, others = self._written.get(key, (None, -1, tasks))
        if order < before and (ambiguous or tasks != others):
            return False
        self._written[key] = instance, order, tasks
        return True


class Doing:
    """What one served call did, to be done in its steps: before each item of a stream, and at its end.

    Args:
        effects: those of the replay.
        call: the served call.
        span: the recorded one, with effects.
    """

    def __init__(self, effects: Effects, call: BoundCall, span: Span) -> None:
        self._effects = effects
        self._call = call
        self._span = span
        self._given = 0
        self._found: Any = None

    def item(self) -> list[str]:
        """Do what it did before its next item; return what could not be done, a sentence each."""
        told = self._step()
        self._given += 1
        return told

    def end(self) -> list[str]:
        """Do what it did at its end; likewise."""
        found = self._load()
        if not isinstance(found, dict):
            return [str(found)]
        steps = found.get("steps")
        if steps is None:
            told = self._effects.do(self._call, found, self._span)
        elif self._given < max(steps, default=0):
            told = ["its stream is left earlier than it was: what it did after that is not done"]
        else:
            told = self._step()
        return told + (_to_arguments(self._call, *found["arguments"]) if "arguments" in found else [])

    def _step(self) -> list[str]:
        found = self._load()
        step = found["steps"].get(self._given) if isinstance(found, dict) and "steps" in found else None
        if step is None:
            return []
        told = self._effects.do(self._call, {**step, "ambiguous": found.get("ambiguous", False)}, self._span)
        if self._given in found.get("deeper", ()):
            names = (name for kind in _DONE for name in step.get(kind, {}))
            told.append(
                f"what the stream put into {_named(names)} was changed deeper down afterwards, by it or by its "
                f"consumer: it is put there as it was at the end; @traced(..., replay='run') runs such a stream again"
            )
        return told

    def _load(self) -> Any:
        """Return what was recorded, or a sentence that says why it is not known."""
        recorded = self._span.outcome.effects if self._span.outcome is not None else None
        if self._found is None and recorded is not None:
            try:
                self._found = payload.load(recorded)
            except ReplayError as error:
                self._found = f"what it did to its object is not done again: {error}"
            if not isinstance(self._found, dict | str):
                self._found = f"what it did to its object was not recorded ({self._found!r})"
        return self._found


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"self.{name}" for name in dict.fromkeys(names)) or "it"


def _do(instance: Any, name: str, kind: str, value: Any) -> Iterator[str]:
    if isinstance(value, Unpicklable):
        yield f"self.{name} is not {_DONE[kind]} as it was: {value!r}"
    elif kind in _REBINDING:
        if not _write(instance, name, value):
            why = "it is not there" if value is _ABSENT else "its class has no place for it now"
            yield f"self.{name} is not {_DONE[kind]} as it was: {why}"
    elif not _fill(held := _read(instance, name), kind, value):
        now = "not there" if held is _ABSENT else type(held).__name__
        yield f"self.{name} is not {_DONE[kind]} as it was: it is {now} now"


_DONE = {"set": "set", "deleted": "deleted", "extended": "extended", "added": "filled", "contents": "changed"}
_REBINDING = frozenset({"set", "deleted"})
_REPLACING = frozenset({"set", "contents"})
_PUTTING = _REBINDING | _REPLACING


def _to_arguments(call: BoundCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    told, names = [], names_of(call)
    passed = by_name(call.args, call.kwargs, names)
    for name, then in by_name(args, kwargs, names).items():
        now = passed.get(name)
        if isinstance(then, Unpicklable):
            told.append(f"the argument {name} is not changed as it was: {then!r}")
        elif type(now) is type(then) and not _fill(now, "contents", then):
            attributes = getattr(now, "__dict__", None)
            if type(attributes) is dict and type(getattr(then, "__dict__", None)) is dict:
                attributes.clear()
                attributes.update(vars(then))
    return told


def _read(instance: Any, name: str) -> Any:
    found = getattr(instance, "__dict__", {}).get(name, _ABSENT)
    slot = _slot(instance, name)
    if found is not _ABSENT or slot is None:
        return found
    try:
        return slot.__get__(instance)
    except AttributeError:
        return _ABSENT


def _write(instance: Any, name: str, value: Any) -> bool:
    """Set an attribute, or remove it, where it is: in the object's dict, or a slot. Return whether it could be."""
    attributes: dict[str, Any] | None = getattr(instance, "__dict__", None)
    slot = _slot(instance, name)
    try:
        if slot is not None:
            slot.__delete__(instance) if value is _ABSENT else slot.__set__(instance, value)
        elif attributes is None:
            return False
        elif value is not _ABSENT:
            attributes[name] = value
        elif attributes.pop(name, _ABSENT) is _ABSENT:
            return False
    except AttributeError:  # nothing is in the slot
        return False
    return True


def _slot(instance: Any, name: str) -> Any:
    """Return the slot of an attribute, past a property of the same name; None where it has none."""
    if name not in slots_of(type(instance)):
        return None
    held = (vars(cls).get(name) for cls in type(instance).__mro__)
    return next((each for each in held if isinstance(each, MemberDescriptorType)), None)


def _fill(held: Any, kind: str, value: Any) -> bool:
    """Change a container in place; return False where it is another one than it was."""
    is_other = type(held) is not type(value) if kind == "contents" else type(held) not in _GROWING[kind]
    if is_other or type(held) not in _CONTAINERS:
        return False
    if kind == "contents":
        held.clear()
    if type(held) in _LISTS:
        held.extend(value)
    elif type(held) is Counter:  # its own `update` adds
        dict.update(held, value)
    else:
        held.update(value)
    return True


_GROWING = {"extended": _LISTS, "added": _DICTS}
