"""An agent's state taken and given back.

Idea: the state is what `get_state` returns, where the agent has that and `load_state`; else its attributes, in
``__dict__`` and in slots. It is pickled once, with the agent itself written as "the one being restored", so that a
closure over ``self`` belongs to the restored agent and not to a copy of the old one.

Invariant: taking never changes the agent, and one attribute that does not pickle costs that attribute only: a
`Missing` stands in its place and says so when touched. Restoring never calls ``__init__``.

Refused: ``copy.deepcopy`` (slower than pickling, and shares what it cannot copy); pickling the agent object (its own
``__reduce__`` may call the constructor).
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass, field
from types import BuiltinFunctionType, MemberDescriptorType, SimpleNamespace
from typing import Any, Literal, NoReturn

from clearstone.codec import payload
from clearstone.errors import MissingMemberError, StateError
from clearstone.span import Payload

Form = Literal["methods", "attributes", "none"]


@dataclass(frozen=True, slots=True)
class MissingMember:
    """An attribute that was not saved: its path from the agent, its type, a short repr, and why."""

    path: str
    type_name: str
    text: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.type_name}) was not saved in the checkpoint: {self.reason}. "
            f"Leave it out in get_state() and rebuild it in load_state()."
        )


@dataclass(frozen=True, slots=True)
class AgentState:
    """A state as bytes.

    Args:
        payload: a pickled dict.
        form: ``"methods"`` if `get_state` gave it, ``"attributes"`` if the attributes did, ``"none"`` without an agent.
        missing: the attributes that could not be saved.
    """

    payload: Payload
    form: Form
    missing: tuple[MissingMember, ...] = field(default=())


class Missing:
    """Stands where an attribute could not be saved; any use of it raises `MissingMemberError`.

    Looking at it does not: `repr`, ``==``, `hash`, copying and pickling work.
    """

    __slots__ = ("__weakref__", "_member")

    def __init__(self, member: MissingMember) -> None:
        object.__setattr__(self, "_member", member)

    def __reduce__(self) -> tuple[type[Missing], tuple[MissingMember]]:
        return Missing, (object.__getattribute__(self, "_member"),)

    def __repr__(self) -> str:
        member: MissingMember = object.__getattribute__(self, "_member")
        return f"<missing {member.type_name} {member.path}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # what copy, pickle and inspect probe for
        self._touched()

    def _touched(self, *_: Any, **__: Any) -> NoReturn:
        raise MissingMemberError(str(object.__getattribute__(self, "_member")))

    __call__ = __enter__ = __exit__ = __iter__ = __next__ = __len__ = __bool__ = __contains__ = _touched
    __getitem__ = __setitem__ = __delitem__ = __setattr__ = __delattr__ = __reversed__ = _touched
    __await__ = __aenter__ = __aexit__ = __aiter__ = __anext__ = _touched
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __neg__ = __abs__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _touched
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __or__ = __ror__ = __and__ = __rand__ = _touched


NO_STATE = AgentState(payload.dump({}), "none")
"""The state of a call that has no agent (a decorated function)."""


def take(agent: Any) -> AgentState:
    """Serialise an agent's state as it is now.

    Args:
        agent: any object.

    Returns:
        The state; what could not be saved of it is in `AgentState.missing`.

    Raises:
        StateError: the agent has only one of `get_state` and `load_state`, its `get_state` returns no dict, or its
            content is not in its attributes (a subclass of a builtin container, or of another class written in C).
        Exception: whatever `get_state` raises.
    """
    form = _form(agent)
    state = _from_get_state(agent) if form == "methods" else _attributes(agent)
    try:
        return AgentState(_dump(state, agent), form)
    except Exception:
        return _take_without_the_unpicklable(state, agent, form)


def restore(agent_class: type, state: AgentState) -> Any:
    """Make an agent of `agent_class` with that state, without calling its constructor.

    Raises:
        StateError: the state does not load, or the class does not take it.
    """
    agent = _blank(agent_class)
    values = load_values(state, agent)
    if state.form == "methods":
        _give_to_load_state(agent, values)
    else:
        _set_attributes(agent, values)
    return agent


def load_values(state: AgentState, agent: Any) -> dict[str, Any]:
    """Return the state as a dict; where it refers to its agent, it refers to `agent`.

    Raises:
        StateError: it does not load today.
    """
    try:
        with payload.restoring(lambda: agent):
            values: dict[str, Any] = payload.load_bytes(state.payload.data, state.payload.buffers)
    except Exception as error:
        raise StateError(
            f"the saved state does not load: {type(error).__name__}: {error}. Restore the class or module it names, "
            f"or look at the state with 'clearstone inspect'."
        ) from error
    return values


def _form(agent: Any) -> Form:
    has = [_has_method(agent, name) for name in ("get_state", "load_state")]
    if all(has):
        return "methods"
    if any(has):
        there, lacking = ("get_state", "load_state") if has[0] else ("load_state", "get_state")
        raise StateError(f"{type(agent).__qualname__} has {there}() but no {lacking}(); define both, or neither")
    return "attributes"


def _has_method(agent: Any, name: str) -> bool:
    """Look past `__getattr__`: an agent that hands everything on has its own attributes as state."""
    return callable(inspect.getattr_static(agent, name, None))


def _from_get_state(agent: Any) -> dict[str, Any]:
    state = agent.get_state()
    if not isinstance(state, dict):
        raise StateError(
            f"{type(agent).__qualname__}.get_state() returned {type(state).__qualname__}; it must return a dict"
        )
    return state


def _attributes(agent: Any) -> dict[str, Any]:
    native = _native_base(type(agent))
    if native not in {object, SimpleNamespace}:
        raise StateError(
            f"{type(agent).__qualname__} is built on {native.__qualname__}, whose content is not in its attributes; "
            f"define get_state() and load_state()"
        )
    found = {}
    for name, slot in _slots(type(agent)).items():
        with contextlib.suppress(AttributeError):  # never set
            found[name] = slot.__get__(agent)
    return {**found, **(_dict(agent) or {})}


def _dict(agent: Any) -> dict[str, Any] | None:
    """Return the agent's ``__dict__``, past `__getattr__`; None where there are slots only."""
    try:
        attributes: dict[str, Any] = object.__getattribute__(agent, "__dict__")
    except AttributeError:
        return None
    return attributes


def _native_base(cls: type) -> Any:
    """Return the nearest base that is made by C code of its own; `object` where the class is Python's all the way."""
    return next(base for base in cls.__mro__ if isinstance(vars(base).get("__new__"), BuiltinFunctionType))


def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    """Return the slots of a class by the name they have in it; a private one is mangled there."""
    found: dict[str, MemberDescriptorType] = {}
    for base in cls.__mro__:
        if "__slots__" in vars(base):
            members = {name: member for name, member in vars(base).items() if isinstance(member, MemberDescriptorType)}
            found = {**members, **found}
    return found


def _dump(state: dict[str, Any], agent: Any) -> Payload:
    return Payload("cloudpickle", payload.dump_by_value(state, itself=agent))


def _take_without_the_unpicklable(state: dict[str, Any], agent: Any, form: Form) -> AgentState:
    kept, missing = {}, []
    for name, value in state.items():
        reason = _why_unpicklable(value, agent)
        if reason is None:
            kept[name] = value
            continue
        member = MissingMember(f"self.{name}", _type_name(value), payload.safe_repr(value), reason)
        missing.append(member)
        kept[name] = Missing(member)
    return AgentState(_dump(kept, agent), form, tuple(missing))


def _why_unpicklable(value: Any, agent: Any) -> str | None:
    try:
        payload.dump_by_value(value, itself=agent)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _blank(cls: type) -> Any:
    try:
        return _native_base(cls).__new__(cls)
    except TypeError as error:
        raise StateError(f"{cls.__qualname__} cannot be made without its constructor: {error}") from error


def _give_to_load_state(agent: Any, values: dict[str, Any]) -> None:
    if not _has_method(agent, "load_state"):
        raise StateError(
            f"the state was saved through get_state(), but {type(agent).__qualname__} has no load_state() today"
        )
    try:
        agent.load_state(values)
    except Exception as error:
        raise StateError(f"{type(agent).__qualname__}.load_state() raised {type(error).__name__}: {error}") from error


def _set_attributes(agent: Any, values: dict[str, Any]) -> None:
    slots, attributes = _slots(type(agent)), _dict(agent)
    for name, value in values.items():  # past setattr, which frozen dataclasses and validating models refuse
        if name in slots:
            slots[name].__set__(agent, value)
        elif attributes is not None:
            attributes[name] = value
        else:
            raise StateError(f"{type(agent).__qualname__} has no slot {name!r} today, but the saved state fills it")
