"""The pickler of an agent's state: what is to be left out becomes a `Missing`, and what refuses does not stop the rest.

Idea: it is `codec.pickler.ByValuePickler` with a list of what to replace. Attributes of secret names, and pydantic's
secret values, are replaced wherever it meets them. With a `Survey` it also notes how every object was taken apart, and
goes on past those that refuse: `checkpoint.refusals` finds out from that which objects have to be left out, and where
they are.

Invariant: a state is written once for good, when it is known what is left out and by which path; a survey's own output
is thrown away.

Refused: asking each member apart whether it pickles (an object shared by two of them would be written twice, and a path
ends at the member); loading the result as a proof (what is loaded may act: a proof copy's ``__del__`` removed a live
directory when it was tried).
"""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import sys
import weakref
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.attributes import NESTED, attributes_of, follow
from clearstone.checkpoint.frames import shown
from clearstone.checkpoint.missing import Missing, MissingMember
from clearstone.checkpoint.options import CHOSEN
from clearstone.codec import payload
from clearstone.codec.pickler import ByValuePickler
from clearstone.codec.redact import active

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator, Mapping

SECRET_VALUES = frozenset({"pydantic.types.SecretStr", "pydantic.types.SecretBytes"})
SECRET = "it is a secret"  # noqa: S105 - a reason
HOLDS_A_SECRET = "it holds a secret, and pickles or loads in a way of its own"  # noqa: S105 - likewise

PUTTING_SETSTATES = frozenset({"dataclasses", "pydantic.main", "pydantic.root_model"})
"""Modules of ``__setstate__`` methods that put attributes into place."""


@dataclass(slots=True)
class Replaced:
    """What a pickler writes a `Missing` for.

    Args:
        objects: by `id`.
        attributes: of secret names, by the `id` of their object and the name.
        holders: weak references to the objects of those ids, which tell whether they are still theirs.
        met: which of them a pass met.
        unplaced: how many secrets it met that are in neither.
    """

    objects: dict[int, MissingMember] = field(default_factory=dict)
    attributes: dict[tuple[int, str], MissingMember] = field(default_factory=dict)
    holders: dict[int, weakref.ref[Any]] = field(default_factory=dict)
    met: set[int | tuple[int, str]] = field(default_factory=set)
    unplaced: int = 0

    def leave_out(self, obj: Any, member: MissingMember, name: str = "", *, lasts: bool = True) -> None:
        """Leave out an object, or an attribute of it.

        Args:
            obj: the object.
            member: what stands for it.
            name: the attribute's; empty for the object itself.
            lasts: whether it will have to be left out the next time too. What is not is looked for again.
        """
        if name:
            self.attributes[id(obj), name] = member
        else:
            self.objects[id(obj)] = member
        if lasts:
            with contextlib.suppress(TypeError):  # it takes no weak references: it is looked for again
                self.holders[id(obj)] = weakref.ref(obj)

    def become(self, other: Replaced) -> None:
        """Be what `other` is."""
        self.objects, self.attributes, self.holders = other.objects, other.attributes, other.holders

    def begin(self) -> None:
        """Begin a pass."""
        self.met.clear()
        self.unplaced = 0

    def forget_the_gone(self, state: Mapping[str, Any]) -> None:
        """Keep, before another state is taken, only what is certain to be of the same objects at the same places."""

        def is_there(number: int, path: str) -> bool:
            ref = self.holders.get(number)
            obj = ref() if ref is not None else None
            first, *rest = path.removeprefix("self.").split(".")
            return obj is not None and follow(state.get(first), rest) is obj

        self.objects = {number: member for number, member in self.objects.items() if is_there(number, member.path)}
        self.attributes = {
            place: member
            for place, member in self.attributes.items()
            if is_there(place[0], member.path.rpartition(".")[0])
        }
        held = {*self.objects, *(number for number, _ in self.attributes)}
        self.holders = {number: ref for number, ref in self.holders.items() if number in held}

    def members(self) -> Iterator[MissingMember]:
        """Give what the last pass left out; the rest is no part of the state any more, and is forgotten."""
        self.objects = {number: member for number, member in self.objects.items() if number in self.met}
        self.attributes = {place: member for place, member in self.attributes.items() if place in self.met}
        yield from self.objects.values()
        yield from self.attributes.values()


@dataclass(frozen=True, slots=True)
class Reduction:
    """How an object is taken apart, as `object.__reduce__` documents it; the items as lists."""

    maker: Any
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[Any] | None = None
    pairs: list[tuple[Any, Any]] | None = None
    setter: Any = None

    @classmethod
    def of(cls, reduced: tuple[Any, ...]) -> Reduction:
        """Return a reduction with its iterators read."""
        maker, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
        return cls(
            maker,
            arguments,
            state,
            None if items is None else list(items),
            None if pairs is None else list(pairs),
            setter,
        )

    def given(self) -> tuple[Any, ...]:
        """Return it as a pickler takes it."""
        items = None if self.items is None else iter(self.items)
        pairs = None if self.pairs is None else iter(self.pairs)
        given = (self.maker, self.arguments, self.state, items, pairs, self.setter)
        return given if self.setter is not None else given[:5]


@dataclass(slots=True)
class Survey:
    """What one pass over a state met.

    Args:
        objects: everything that was taken apart or refused, by `id`; kept, so that no id is used twice.
        reductions: how, by `id`.
        refused: why an object refused, by `id`.
        secrets: the names of secret attributes, by the `id` of their object.
    """

    objects: dict[int, Any] = field(default_factory=dict)
    reductions: dict[int, Reduction] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    secrets: dict[int, list[str]] = field(default_factory=dict)


class StatePickler(ByValuePickler):
    """Writes a state.

    Args:
        file: where the bytes go.
        itself: the agent; None for none.
        replaced: what is left out. Secrets that it does not list are counted there.
        survey: where to note everything; None to write the state for good.
        with_code: see `ByValuePickler`.
        buffer_callback: takes large buffers (of arrays) that are to be kept apart; None to have them in the pickle.
    """

    def __init__(
        self,
        file: io.BytesIO,
        itself: Any,
        replaced: Replaced,
        survey: Survey | None = None,
        *,
        with_code: bool = True,
        buffer_callback: Callable[[pickle.PickleBuffer], None] | None = None,
    ) -> None:
        super().__init__(file, itself, with_code=with_code, buffer_callback=buffer_callback)
        self._replaced = replaced
        self._survey = survey

    def reducer_override(self, obj: Any) -> Any:
        """Decide how `obj` is written."""
        member = self._replaced.objects.get(id(obj))
        if member is not None:
            self._replaced.met.add(id(obj))
            return Missing, (member,)
        if self._survey is not None:
            return self._surveyed(obj, self._survey)
        names = secret_attributes(obj)
        if not names:
            if is_secret_value(obj):
                return self._left_out(obj, SECRET)
            return super().reducer_override(obj)
        reduced = super().reducer_override(obj)
        left = self._without_secrets(obj, self._reduced(obj) if reduced is NotImplemented else reduced, names)
        return self._left_out(obj, HOLDS_A_SECRET) if left is None else left

    def _surveyed(self, obj: Any, survey: Survey) -> Any:
        survey.objects[id(obj)] = obj
        if is_secret_value(obj):
            survey.refused[id(obj)] = SECRET
            return self._left_out(obj, SECRET)
        try:
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                reduced = self._reduced(obj)
            if isinstance(reduced, str):
                require_name(obj, reduced)
            if not isinstance(reduced, tuple):
                return reduced
            found = Reduction.of(reduced)
        except Exception as error:
            survey.refused[id(obj)] = f"{type(error).__name__}: {payload.safe_str(error)}"
            return self._left_out(obj, survey.refused[id(obj)])
        survey.reductions[id(obj)] = found
        names = secret_attributes(obj)
        if not names:
            return found.given()
        left = self._without_secrets(obj, found.given(), names)
        if left is None:
            survey.refused[id(obj)] = HOLDS_A_SECRET
            return self._left_out(obj, HOLDS_A_SECRET)
        survey.secrets[id(obj)] = names
        return left

    def _reduced(self, obj: Any) -> Any:
        """Return what the pickler itself would ask for where `reducer_override` has no answer."""
        make = self.dispatch_table.get(type(obj)) or copyreg.dispatch_table.get(type(obj))
        if make is not None:
            return make(obj)
        if isinstance(obj, type | FunctionType):
            require_name(obj, obj.__qualname__)
            return NotImplemented
        return obj.__reduce_ex__(payload.PROTOCOL)

    def _left_out(self, obj: Any, reason: str) -> tuple[Any, ...]:
        """Write a `Missing` of which the place is not known: this pass will not be the last."""
        self._replaced.unplaced += 1
        return Missing, (described("?", obj, reason),)

    def _without_secrets(self, obj: Any, reduced: Any, names: list[str]) -> Any:
        """Return a reduction without these attributes; None where it has a way of its own to hold or to load them."""
        if not isinstance(reduced, tuple) or len(reduced) not in {3, 4, 5} or not puts_state(type(obj)):
            return None
        left, state = set(names), self._state_without(obj, reduced[2], set(names))
        return None if left - state[1] else (*reduced[:2], state[0], *reduced[3:])

    def _state_without(self, obj: Any, state: Any, names: set[str]) -> tuple[Any, set[str]]:
        """Return a state with a `Missing` in place of these attributes, and which of them it had."""
        found: set[str] = set()

        def of(part: dict[Any, Any]) -> dict[Any, Any]:
            held = {name: of(inner) for name, inner in part.items() if name in NESTED and type(inner) is dict}
            here = [name for name in names if name in part]
            found.update(here)
            return {**part, **held, **{name: Missing(self._member_for(obj, name, part[name])) for name in here}}

        if type(state) is dict:
            return of(state), found
        if type(state) is tuple and len(state) == 2:  # noqa: PLR2004 - attributes and slots
            return tuple(of(part) if type(part) is dict else part for part in state), found
        fields = getattr(type(obj), "__dataclass_fields__", None)
        if type(state) is list and fields is not None:  # one with slots
            return list(of(dict(zip(fields, state, strict=False))).values()), found
        return state, found

    def _member_for(self, obj: Any, name: str, value: Any) -> MissingMember:
        """Return what stands for a secret: at the place it had, with what it is now."""
        place = id(obj), name
        member = self._replaced.attributes.get(place)
        if member is None:
            self._replaced.unplaced += 1
            return described("?", value, SECRET)
        self._replaced.met.add(place)
        now = self._replaced.attributes[place] = secret(member.path, value, own_methods=member.own_methods)
        return now


def secret(path: str, value: Any, *, own_methods: bool = False) -> MissingMember:
    """Describe a secret; the environment variable that holds the same is named."""
    held = value.get_secret_value() if hasattr(type(value), "get_secret_value") else value
    text = held.decode("utf-8", "replace") if isinstance(held, bytes) else str(held)
    variable = next((name for name, given in os.environ.items() if given == text), "")
    return described(path, value, SECRET, variable=variable, own_methods=own_methods)


def puts_state(cls: type) -> bool:
    """Whether loading only puts the attributes of an object into place."""
    setstate = getattr(cls, "__setstate__", None)
    return setstate is None or getattr(setstate, "__module__", "") in PUTTING_SETSTATES


def described(path: str, value: Any, reason: str, *, variable: str = "", own_methods: bool = False) -> MissingMember:
    """Describe `value`, which is at `path` and is left out."""
    kind = type(value)
    text = "..." if reason == SECRET or reason in CHOSEN else shown("", value)
    return MissingMember(path, f"{kind.__module__}.{kind.__qualname__}", text, reason, variable, own_methods)


def require_name(obj: Any, name: str) -> None:
    """Refuse what the pickler would look up by a name under which it is not.

    Raises:
        PicklingError: it is not there.
    """
    module = sys.modules.get(pickle.whichmodule(obj, name))  # type: ignore[attr-defined]  # there, if undocumented
    if module is None or payload.find_definition(module, name) is not obj:
        raise pickle.PicklingError(f"it is not found as {getattr(obj, '__module__', '?')}.{name}")


# --- secrets ---------------------------------------------------------------------------------------------------------


def is_secret_value(obj: Any) -> bool:
    """Whether `obj` is of a type that says of itself that it holds a secret."""
    kind = type(obj)
    return active().rules is not None and f"{kind.__module__}.{kind.__qualname__}" in SECRET_VALUES and bool(obj)


def secret_attributes(obj: Any) -> list[str]:
    """Return the names of an object's attributes that are secrets: named so, and a text."""
    if isinstance(obj, type | FunctionType | BuiltinFunctionType):
        return []
    return [name for part in attributes_of(obj) for name in secrets_in(part)]


def secrets_in(attributes: Mapping[Any, Any]) -> list[str]:
    """Return the names in `attributes` that are secrets: named so, and with a text."""
    redactor = active()
    if redactor.rules is None:
        return []
    return [
        name
        for name, value in attributes.items()
        if isinstance(value, str | bytes)
        and value
        and type(name) is str
        and redactor.matters(name)
        and redactor.is_secret_key(name)
    ]
