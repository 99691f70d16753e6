"""An agent's state taken and given back.

Idea: the state is what `get_state` returns, where the agent has that and `load_state`; else its attributes, in
``__dict__`` and in slots. It is pickled once, with the agent itself written as "the one being restored", so that a
closure over ``self`` belongs to the restored agent and not to a copy of the old one.

Invariant: taking never changes the agent, and one member that does not pickle costs that member only: a `Missing`
stands in its place and says so when touched. Secrets are left out likewise. Restoring never calls ``__init__``.

Refused: ``copy.deepcopy`` (slower than pickling, and shares what it cannot copy); pickling the agent object (its own
``__reduce__`` may call the constructor).
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from types import BuiltinFunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from clearstone.checkpoint import restoring
from clearstone.checkpoint.attributes import NOTHING, has_place, in_dict, in_slots, put
from clearstone.checkpoint.joining import joined, names_in
from clearstone.checkpoint.missing import Missing, MissingMember
from clearstone.checkpoint.options import options_of
from clearstone.checkpoint.pickling import Replaced, StatePickler, Survey, described, secret, secrets_in
from clearstone.checkpoint.refusals import find
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.checkpoint.takers import taker_of
from clearstone.codec import payload, renames
from clearstone.errors import StateError
from clearstone.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clearstone.checkpoint.takers import Taker

Form = Literal["methods", "attributes", "none"]

UNKNOWN = "an unknown thread"
CHANGED = ("changed size during iteration", "mutated during iteration", "changed during iteration")
MOST_PASSES = 5
"""So often a state is looked through for what refuses; it may change meanwhile."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """A state as bytes.

    Args:
        snapshot: the attributes, or what `get_state` returned.
        form: ``"methods"`` if `get_state` gave it, ``"attributes"`` if the attributes did, ``"none"`` without an agent.
        missing: what was not saved.
        concurrent: who may have changed it while it was taken: names of calls on the same object that were at work,
            and `UNKNOWN` where it changed under the pickler's hands.
    """

    snapshot: Snapshot = field(repr=False)
    form: Form
    missing: tuple[MissingMember, ...] = field(default=())
    concurrent: tuple[str, ...] = field(default=())


NO_STATE = AgentState(Snapshot((), Placed(Segment(pickle.dumps({}, payload.PROTOCOL)))), "none")
"""The state of a call that has no agent (a decorated function)."""


def take(agent: Any, *, at_entry: bool = False) -> AgentState:
    """Serialise an agent's state as it is now.

    Args:
        agent: any object.
        at_entry: whether a call begins, so that the state will be taken again, and is worth being cut into segments.
            Only then may the state of a class with ``verify="budget"`` hold an old item as it was some calls ago.

    Returns:
        The state; what could not be saved of it, or must not, is in `AgentState.missing`.

    Raises:
        StateError: the agent has only one of `get_state` and `load_state`, its `get_state` returns no dict, or its
            content is not in its attributes (a subclass of a builtin container, or of another class written in C).
        Exception: whatever `get_state` raises.
    """
    form = _form(agent)
    state = _from_get_state(agent) if form == "methods" else _attributes(agent)
    with taker_of(agent).alone() as taker:
        taker.entries += at_entry
        return _Taking(agent, state, form, taker, at_entry=at_entry).taken()


class _Taking:
    """One state on its way into bytes."""

    def __init__(self, agent: Any, state: dict[str, Any], form: Form, taker: Taker, *, at_entry: bool) -> None:
        self._agent = agent
        self._options = options_of(type(agent))
        self._is_whole = not at_entry or self._options.verify != "budget"
        self._taker = taker
        self._form: Form = form
        self._missing: list[MissingMember] = []
        self._changed = False
        self._survey: Survey | None = None  # its objects live as long as their ids are used
        self._state = {**state, **{name: Missing(member) for name, member in self._left_out(state)}}

    def _left_out(self, state: dict[str, Any]) -> Iterator[tuple[str, MissingMember]]:
        """Give what is left out by its name: what the class says, and secrets."""
        left = {}
        for name, value in state.items():
            reason = self._options.reason(str(name))
            if not reason:
                left[name] = value
                continue
            member = described(f"self.{name}", value, reason, own_methods=self._own_methods)
            self._missing.append(member)
            yield name, member
        for name in secrets_in(left):
            member = secret(f"self.{name}", state[name], own_methods=self._own_methods)
            self._missing.append(member)
            yield name, member

    @property
    def _own_methods(self) -> bool:
        return self._form == "methods"

    def taken(self) -> AgentState:
        replaced = self._taker.replaced
        replaced.forget_the_gone(self._state)
        for _ in range(MOST_PASSES):
            try:
                snapshot = self._snapshot()
                if not replaced.unplaced:
                    return self._as_state(snapshot)
            except Exception as error:  # what refuses is looked for next, and named
                self._notice_change(error)
            found = self._surveyed()
            if found is not None:
                replaced.become(found)
            elif self._taker.with_code and self._taker.segmenter.met_definitions:
                self._taker.without_code()  # what refuses is in the script's own code: its definitions by name alone
            else:
                break
        return self._without_whole_attributes()

    def _snapshot(self) -> Snapshot:
        self._taker.replaced.begin()
        whole, self._is_whole = self._is_whole, True  # another pass leaves out other things, everywhere
        return self._taker.segmenter.snapshot(self._agent, self._state, whole=whole)

    def _surveyed(self) -> Replaced | None:
        """Return what to leave out, each with its path; None where that cannot be found out."""
        survey, before = Survey(), self._survey
        try:
            self._survey_of(self._state, survey)
            self._survey = survey
            return find(self._state, survey, before, own_methods=self._own_methods)
        except Exception as error:
            self._notice_change(error)
            return Replaced() if self._is_changing(error) else None

    def _survey_of(self, state: dict[str, Any], survey: Survey) -> None:
        StatePickler(io.BytesIO(), self._agent, Replaced(), survey, with_code=self._taker.with_code).dump(state)

    def _as_state(self, snapshot: Snapshot) -> AgentState:
        missing = (*self._missing, *self._taker.replaced.members())
        return AgentState(snapshot, self._form, missing, (UNKNOWN,) if self._changed else ())

    def _notice_change(self, error: Exception) -> None:
        self._changed = self._changed or self._is_changing(error)

    def _is_changing(self, error: Exception) -> bool:
        """Whether the pickler says that another thread changed what it was writing."""
        return isinstance(error, RuntimeError) and str(error).endswith(CHANGED)

    def _without_whole_attributes(self) -> AgentState:
        """Leave out every attribute that cannot be gone through; of the others only what refuses, as always."""
        for name, value in self._state.items():
            reason = self._why_lost({name: value})
            if reason is not None:
                member = described(f"self.{name}", value, reason, own_methods=self._own_methods)
                self._missing.append(member)
                self._state[name] = Missing(member)
        self._survey = None
        self._taker.replaced.become(self._surveyed() or Replaced())
        return self._as_state(self._snapshot())

    def _why_lost(self, state: dict[str, Any]) -> str | None:
        """Say why one attribute cannot be gone through; None where it can."""
        survey = Survey()
        try:
            self._survey_of(state, survey)
            found = find(state, survey)
            if found is not None:
                StatePickler(io.BytesIO(), self._agent, found, with_code=self._taker.with_code).dump(state)
                return None
        except Exception as error:
            return f"{type(error).__name__}: {payload.safe_str(error)}"
        return next(iter(survey.refused.values()), "what refuses in it cannot be found")


def restore(agent_class: type, state: AgentState, no_place: Callable[[Any, str], object] | None = None) -> Any:
    """Make an agent of `agent_class` with that state, without calling its constructor.

    Args:
        agent_class: the class.
        state: the state.
        no_place: told of an attribute that the class has no slot for, and of its agent; None: that is an error.

    Raises:
        StateError: the state does not load, or the class does not take it.
    """
    agent = _blank(agent_class)
    values = load_values(state, agent)
    values = {renames.todays_attribute(agent, name): value for name, value in values.items()}
    if state.form == "methods":
        _give_to_load_state(agent, _brought_back(agent_class, values, state.missing))
    else:
        for name, value in values.items():
            if no_place is None or has_place(agent, name):
                put(agent, name, value)
            else:
                no_place(agent, name)
    restoring.fill(agent, state.missing)
    return agent


def _brought_back(cls: type, values: dict[str, Any], missing: tuple[MissingMember, ...]) -> dict[str, Any]:
    """Return `values` as `load_state` gets them: with what can be made again."""
    found = {each.name: made for each in missing if each.name in values for made in [restoring.made(cls, each)]}
    return {**values, **{name: value for name, value in found.items() if value is not NOTHING}}


def load_values(state: AgentState, agent: Any) -> dict[str, Any]:
    """Return the state as a dict; where it refers to its agent, it refers to `agent`.

    Raises:
        StateError: it does not load today.
    """
    try:
        return joined(state.snapshot, agent)
    except Exception as error:
        lost = renames.lost(error, lambda: names_in(state.snapshot)) or "Restore the class or module it names."
        raise StateError(
            f"the saved state does not load: {type(error).__name__}: {error}. {lost} 'clearstone inspect' shows the "
            f"state without loading it."
        ) from error


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
    own = in_dict(agent) or {}  # not `inspect.getattr_static`: that asks for the hash of a class
    return callable(next((vars(base)[name] for base in type(agent).__mro__ if name in vars(base)), own.get(name)))


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
    return {**in_slots(agent), **(in_dict(agent) or {})}


def _native_base(cls: type) -> Any:
    """Return the nearest base that is made by C code of its own; `object` where the class is Python's all the way."""
    return next(base for base in cls.__mro__ if isinstance(vars(base).get("__new__"), BuiltinFunctionType))


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
        told = f"{type(agent).__qualname__}.load_state() raised {type(error).__name__}: {error}"
        raise StateError(f"{told}{_not_in(values, error, type(agent))}") from error


def _not_in(values: dict[str, Any], error: Exception, cls: type) -> str:
    """Say so where `load_state` asked for what the recorded state does not have."""
    name = error.args[0] if type(error) is KeyError and error.args else None
    if not isinstance(name, str) or name in values:
        return ""
    key = f"{cls.__module__}:{cls.__qualname__}"
    return (
        f". The recorded state has no {name!r}; {nearest(name, map(str, values))}. Let load_state() do without it "
        f"(state.get({name!r}, ...)), or say what it was called: --map {key}.OLD={key}.{name}."
    )
