"""An agent's state taken and given back: whole, without its constructor, and with what could not be saved named."""

from __future__ import annotations

import abc
import asyncio
import collections
import copy
import functools
import importlib
import pickle
import random
import sys
import threading
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clearstone import traced
from clearstone.checkpoint import state
from clearstone.checkpoint.missing import Missing
from clearstone.checkpoint.state import AgentState
from clearstone.codec.redact import active
from clearstone.errors import MissingMemberError, StateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Agent:
    """Takes any attributes; its constructor must not run again."""

    def __init__(self, /, **attributes: Any) -> None:
        self.__dict__.update(attributes)
        self.constructed = True


def restored(agent: Any) -> Any:
    return state.restore(type(agent), state.take(agent))


# --- where the state is ----------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=10,
)


@settings(deadline=None)
@example({"self": None})
@given(st.dictionaries(st.text().filter(lambda name: not active().is_secret_key(name)), values))
def test_attributes_of_any_name_and_value_come_back_equal_and_separate(attributes: dict[str, Any]) -> None:
    agent = Agent(**attributes)
    again = restored(agent)
    assert type(again) is Agent
    assert vars(again) == vars(agent)
    assert list(vars(again)) == list(vars(agent))


class Unhashable(type):
    def __eq__(cls, other: object) -> bool:
        return cls is other

    __hash__ = None  # type: ignore[assignment]


class OfOne(metaclass=Unhashable):
    __slots__ = ("public",)

    def __init__(self) -> None:
        self.public = [1]


def test_an_object_whose_class_has_no_hash_has_a_state_and_costs_one_only_itself() -> None:
    assert restored(OfOne()).public == [1]
    again = restored(Agent(part=OfOne(), n=1))  # pickle asks every class for its hash
    assert again.n == 1
    assert isinstance(again.part, Missing)


class Slots:
    __slots__ = ("__private", "public", "unset")

    def __init__(self) -> None:
        self.public = [1]
        self.__private = "p"

    def private(self) -> str:
        return self.__private


class SlotsBelow(Slots):
    __slots__ = ("__private", "own")

    def __init__(self) -> None:
        super().__init__()
        self.own = self.public
        self.__private = "below"

    def private_below(self) -> str:
        return self.__private


class SlotsAndDict(SlotsBelow):
    def __init__(self) -> None:
        super().__init__()
        self.extra = self.own


class OneSlot:
    __slots__ = "only"  # noqa: PLC0205 - as users may write it


class __Underscored:
    __slots__ = ("__hidden",)

    def __init__(self) -> None:
        self.__hidden = 1

    def hidden(self) -> int:
        return self.__hidden


def test_slots_come_back_inherited_and_private_ones_too() -> None:
    agent = restored(SlotsAndDict())
    assert agent.public is agent.own is agent.extra
    assert agent.public == [1]
    assert (agent.private(), agent.private_below()) == ("p", "below")
    assert not hasattr(agent, "unset")


def test_a_single_slot_written_as_a_string_comes_back() -> None:
    agent = OneSlot()
    agent.only = 3  # type: ignore[attr-defined]
    assert restored(agent).only == 3


def test_private_slots_of_a_class_with_leading_underscores_come_back() -> None:
    assert restored(__Underscored()).hidden() == 1


class Answering:
    __slots__ = ("set_later",)

    def __getattr__(self, name: str) -> str:
        return f"computed {name}"


def test_an_unset_slot_stays_unset_though_getattr_answers_for_it() -> None:
    agent = restored(Answering())
    assert agent.set_later == "computed set_later"
    with pytest.raises(AttributeError):
        object.__getattribute__(agent, "set_later")


class Handed:
    def __init__(self) -> None:
        self.n = 1

    def get_state(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state(self, state: dict[str, Any]) -> None:
        pytest.fail("it is not the agent")


class Delegating:
    """Hands everything on to another object, before it has one too."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_an_agent_that_hands_everything_on_is_saved_with_what_it_holds_itself() -> None:
    again = restored(Delegating(Handed()))
    assert type(again) is Delegating
    assert type(again.inner) is Handed
    assert again.get_state() == {"n": 1}


@dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    items: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.name == "restored":
            raise AssertionError("the constructor ran")


@dataclass
class Plain:
    name: str
    parent: Any = None


def test_dataclasses_come_back_frozen_ones_with_slots_too() -> None:
    assert restored(Frozen("a", [1])) == Frozen("a", [1])
    assert restored(Plain("a")) == Plain("a")


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="allow")

    name: str
    tags: list[str] = []
    _secret: int = pydantic.PrivateAttr(default=1)


def test_pydantic_models_come_back_with_extra_and_private_fields() -> None:
    model = Model(name="a", tags=["t"], other=3)  # type: ignore[call-arg]
    model._secret = 5
    again = restored(model)
    assert again == model
    assert (again._secret, again.other, again.model_fields_set) == (5, 3, {"name", "tags", "other"})


class Cached:
    def __init__(self) -> None:
        self.calls = 0

    @functools.cached_property
    def value(self) -> int:
        self.calls += 1
        return self.calls


def test_a_cached_property_stays_cached() -> None:
    agent = Cached()
    assert agent.value == 1
    assert (restored(agent).value, restored(agent).calls) == (1, 1)


class Guarded:
    def __init__(self) -> None:
        object.__setattr__(self, "value", 1)

    def __new__(cls, *args: Any) -> Any:
        if args != ("made by the test",):
            raise AssertionError("the constructor ran")
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AssertionError("setattr ran")


def test_restoring_calls_neither_new_nor_init_nor_setattr(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = object.__new__(Guarded)
    agent.__init__()  # type: ignore[misc]
    monkeypatch.setattr(Guarded, "__init__", lambda self: pytest.fail("the constructor ran"))
    assert restored(agent).value == 1


def test_a_namespace_comes_back() -> None:
    assert restored(types.SimpleNamespace(a=1)) == types.SimpleNamespace(a=1)


def test_numpy_arrays_come_back_with_type_shape_and_values() -> None:
    arrays = [np.arange(6, dtype=np.int16).reshape(2, 3), np.array([np.nan, 1.5]), np.array(["a", None], dtype=object)]
    again = restored(Agent(arrays=arrays, same=arrays[0]))
    for array, expected in zip(again.arrays, arrays, strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(array, expected)
    assert again.same is again.arrays[0]


def test_pandas_frames_come_back_with_types_index_and_values_and_are_one_where_they_were() -> None:
    days = pd.date_range("2024-03-30", periods=3, tz="Europe/Berlin")
    frame = pd.DataFrame(
        {"n": [1, 2, 3], "text": ["a", None, "c"], "kind": pd.Categorical(["x", "y", "x"])}, index=days
    )
    many = pd.Series(np.arange(3.0), index=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]), name="many")
    again = restored(Agent(frame=frame, history=[frame, frame.tail(1)], many=many))
    pd.testing.assert_frame_equal(again.frame, frame)
    pd.testing.assert_frame_equal(again.history[1], frame.tail(1))
    pd.testing.assert_series_equal(again.many, many)
    assert again.history[0] is again.frame
    again.frame.loc[days[0], "n"] = 7
    assert frame.loc[days[0], "n"] == 1


# --- identity inside the state ---------------------------------------------------------------------------------------


def test_aliases_between_attributes_are_aliases_again() -> None:
    messages = ["a"]
    again = restored(Agent(messages=messages, last={"from": messages}))
    assert again.last["from"] is again.messages


def test_cycles_come_back() -> None:
    loop: list[Any] = []
    loop.append(loop)
    agent = Agent(loop=loop)
    agent.me = agent  # type: ignore[attr-defined]
    agent.child = Plain("child", parent=agent)  # type: ignore[attr-defined]
    again = restored(agent)
    assert again.loop[0] is again.loop
    assert again.me is again
    assert again.child.parent is again


class Tooled:
    def __init__(self) -> None:
        self.n = 1
        self.f = lambda: self
        self.deep = {"functions": [lambda n: self.n + n]}
        self.tools = {"plain": self.plain, "traced": self.decorated}
        self.partial = functools.partial(self.plain, 1)

    def plain(self, n: int) -> int:
        return self.n + n

    @traced
    def decorated(self, n: int) -> int:
        return self.n + n


def test_closures_and_bound_methods_belong_to_the_restored_agent() -> None:
    agent = Tooled()
    again = restored(agent)
    again.n = 41
    assert again.f() is again
    assert again.f.__closure__[0].cell_contents is again
    assert again.deep["functions"][0](1) == 42
    assert [again.tools[name](1) for name in ("plain", "traced")] == [42, 42]
    assert again.tools["traced"].__self__ is again
    assert again.partial() == 42
    assert agent.n == 1


class AwkwardError(Exception):
    def __init__(self, *, agent: Any) -> None:
        super().__init__("no constructor takes this")
        self.agent = agent


def test_an_exception_the_agent_keeps_comes_back_whatever_its_constructor_wants() -> None:
    agent: Any = Agent()
    agent.last = AwkwardError(agent=agent)
    agent.errors = [agent.last]
    again = restored(agent)
    assert again.last is again.errors[0]
    assert again.last.args == ("no constructor takes this",)
    assert again.last.agent is again


def test_another_agent_in_the_state_is_saved_with_its_own_state() -> None:
    again = restored(Agent(helper=Tooled()))
    assert again.helper.f() is again.helper


def test_taking_is_a_copy_and_changes_nothing() -> None:
    agent = Agent(items=["a"], lock=threading.Lock())
    before = dict(vars(agent))
    taken = state.take(agent)
    assert vars(agent) == before
    agent.items.append("b")  # type: ignore[attr-defined]
    assert state.restore(Agent, taken).items == ["a"]
    assert state.restore(Agent, taken).items is not state.restore(Agent, taken).items


# --- get_state and load_state ----------------------------------------------------------------------------------------


class WithMethods:
    def __init__(self, n: int) -> None:
        self.n = n
        self.lock = threading.Lock()

    def get_state(self) -> dict[str, Any]:
        return {"packed": str(self.n), "call": lambda: self}

    def load_state(self, state: dict[str, Any]) -> None:
        self.n = int(state["packed"])
        self.call = state["call"]
        self.lock = threading.Lock()


def test_get_state_and_load_state_are_used_where_both_are_there() -> None:
    taken = state.take(WithMethods(3))
    assert (taken.form, taken.missing) == ("methods", ())
    again = state.restore(WithMethods, taken)
    assert again.n == 3
    assert again.call() is again
    assert set(vars(again)) == {"n", "call", "lock"}


class OnlyGet:
    def get_state(self) -> dict[str, Any]:
        return {}


class OnlyLoad:
    def load_state(self, state: dict[str, Any]) -> None:
        """Take nothing."""


@pytest.mark.parametrize(
    ("agent", "sentence"),
    [
        (OnlyGet(), r"OnlyGet has get_state\(\) but no load_state\(\); define both, or neither"),
        (OnlyLoad(), r"OnlyLoad has load_state\(\) but no get_state\(\); define both, or neither"),
    ],
)
def test_only_one_of_the_two_methods_is_refused_and_named(agent: Any, sentence: str) -> None:
    with pytest.raises(StateError, match=sentence):
        state.take(agent)


@pytest.mark.parametrize("value", [None, [], "text", [("a", 1)], Agent()])
def test_a_state_that_is_no_dict_is_refused_and_named(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr(WithMethods, "get_state", lambda self: value)
    with pytest.raises(StateError, match=rf"get_state\(\) returned {type(value).__name__}; it must return a dict"):
        state.take(WithMethods(1))


def test_what_get_state_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: WithMethods) -> NoReturn:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(WithMethods, "get_state", failing)
    with pytest.raises(ZeroDivisionError, match="mine"):
        state.take(WithMethods(1))


def test_what_load_state_raises_is_said_with_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = state.take(WithMethods(1))

    def failing(self: WithMethods, state: dict[str, Any]) -> NoReturn:
        raise KeyError("unpacked")

    monkeypatch.setattr(WithMethods, "load_state", failing)
    with pytest.raises(StateError, match=r"WithMethods\.load_state\(\) raised KeyError: 'unpacked'"):
        state.restore(WithMethods, taken)


def test_a_class_that_lost_its_load_state_is_said() -> None:
    with pytest.raises(StateError, match=r"saved through get_state\(\), but Agent has no load_state\(\) today"):
        state.restore(Agent, state.take(WithMethods(1)))


class DictAgent(dict[str, Any]):
    pass


class DictWithMethods(dict[str, Any]):
    def get_state(self) -> dict[str, Any]:
        return dict(self)

    def load_state(self, state: dict[str, Any]) -> None:
        self.update(state)


class DequeAgent(collections.deque[int]):
    pass


class RandomAgent(random.Random):
    pass


class ErrorAgent(Exception):  # noqa: N818 - an agent
    pass


class ArrayAgent(np.ndarray[Any, Any]):
    pass


@pytest.mark.parametrize(
    ("agent", "base"),
    [
        (DictAgent(a=1), "dict"), (DequeAgent([1]), "deque"), (RandomAgent(1), "Random"),
        (ErrorAgent("e"), "Exception"), (np.zeros(2).view(ArrayAgent), "ndarray"), ([1], "list"),
        ("text", "str"), (3, "int"),
    ],
)  # fmt: skip
def test_content_that_is_not_in_attributes_is_refused_with_a_way_out(agent: Any, base: str) -> None:
    with pytest.raises(StateError, match=rf"is built on {base}, .*; define get_state\(\) and load_state\(\)"):
        state.take(agent)


def test_a_dict_subclass_with_both_methods_comes_back() -> None:
    again = restored(DictWithMethods(a=1))
    assert type(again) is DictWithMethods
    assert again == {"a": 1}


# --- what cannot be saved --------------------------------------------------------------------------------------------


class Unreprable:
    def __reduce__(self) -> NoReturn:
        raise ValueError("no")

    def __repr__(self) -> NoReturn:
        raise ValueError("no repr")


def test_a_member_that_does_not_pickle_costs_itself_only() -> None:
    agent = Agent(lock=threading.Lock(), odd=Unreprable(), items=["a"], nested={"deep": [threading.Lock()]})
    agent.f = lambda: (agent, agent.items)  # type: ignore[attr-defined]
    taken = state.take(agent)
    assert {each.path for each in taken.missing} == {"self.lock", "self.odd", "self.nested['deep'][0]"}
    again = state.restore(Agent, taken)
    assert again.items == ["a"]
    assert again.f() == (again, again.items)
    for member in (again.lock, again.odd, again.nested["deep"][0]):
        assert isinstance(member, Missing)


def test_an_entry_of_get_state_that_does_not_pickle_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WithMethods, "get_state", lambda self: {"packed": "7", "call": threading.Lock()})
    taken = state.take(WithMethods(1))
    assert [each.path for each in taken.missing] == ["self.call"]
    assert state.restore(WithMethods, taken).n == 7


def test_a_missing_member_tells_its_path_type_reason_and_the_way_out() -> None:
    (member,) = state.take(Agent(lock=threading.Lock())).missing
    sentence = str(member)
    assert sentence.startswith("self.lock (_thread.lock) was not saved in the checkpoint: ")
    assert "cannot pickle" in sentence
    assert sentence.endswith("with @checkpointable(rebuild={'lock': ...}), or in on_restore(self, missing).")


def test_a_missing_member_of_ones_own_get_state_names_that_as_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WithMethods, "get_state", lambda self: {"packed": "7", "call": threading.Lock()})
    (member,) = state.take(WithMethods(1)).missing
    assert str(member).endswith("Leave it out in get_state() and rebuild it in load_state().")


async def awaited(value: Any) -> Any:
    return await value


async def entered(value: Any) -> None:
    async with value:
        pass


async def iterated(value: Any) -> None:
    async for _ in value:
        pass


def with_block(value: Any) -> None:
    with value:
        pass


def set_item(value: Any) -> None:
    value["k"] = 1


def delete_item(value: Any) -> None:
    del value["k"]


def set_attribute(value: Any) -> None:
    value.name = 1


def delete_attribute(value: Any) -> None:
    del value.name


TOUCHES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda m: m.acquire, "method": lambda m: m.acquire(), "hasattr": lambda m: hasattr(m, "acquire"),
    "call": lambda m: m(), "with": with_block, "for": list, "next": next, "len": len, "bool": bool,
    "in": lambda m: 1 in m, "item": lambda m: m["k"], "set item": set_item, "delete item": delete_item,
    "set attribute": set_attribute,
    "delete attribute": delete_attribute, "reversed": reversed, "await": lambda m: asyncio.run(awaited(m)),
    "async with": lambda m: asyncio.run(entered(m)), "async for": lambda m: asyncio.run(iterated(m)), "int": int,
    "float": float, "index": lambda m: [1][m], "less": lambda m: m < 1, "more": lambda m: m > 1,
    "at most": lambda m: m <= 1, "at least": lambda m: m >= 1, "add": lambda m: m + 1,
    "add to": lambda m: 1 + m, "add in place": lambda m: sum([m]), "times": lambda m: 2 * m, "divide": lambda m: m / 2,
    "modulo": lambda m: m % 2, "or": lambda m: m | {}, "negative": lambda m: -m, "unpack": lambda m: [*m],
    "keywords": lambda m: dict(**m), "if": lambda m: 1 if m else 2,
}  # fmt: skip


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_a_missing_member_raises_its_sentence_when_touched(touch: Callable[[Any], Any]) -> None:
    lock = vars(restored(Agent(lock=threading.Lock())))["lock"]
    with pytest.raises(MissingMemberError, match=r"self\.lock \(_thread\.lock\) was not saved"):
        touch(lock)


def test_looking_at_a_missing_member_copying_and_pickling_it_raise_nothing() -> None:
    lock = vars(restored(Agent(lock=threading.Lock())))["lock"]
    assert repr(lock) == str(lock) == "<missing _thread.lock self.lock>"
    assert lock == lock  # noqa: PLR0124
    assert lock is not None
    assert lock != 1
    assert lock in {lock}
    assert isinstance(lock, Missing)
    for again in (copy.copy(lock), copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
        assert repr(again) == repr(lock)


def test_a_restored_agent_with_a_missing_member_can_be_taken_again() -> None:
    again = restored(restored(Agent(lock=threading.Lock(), n=1)))
    assert again.n == 1
    with pytest.raises(MissingMemberError):
        again.lock.acquire()


def test_a_missing_member_can_be_replaced() -> None:
    again = restored(Agent(lock=threading.Lock()))
    again.lock = lock = threading.Lock()
    assert again.lock is lock


# --- what does not load ----------------------------------------------------------------------------------------------


def test_a_state_whose_class_is_gone_is_said_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gone_state.py").write_text("class Tool: ...\n")
    taken = state.take(Agent(tool=importlib.import_module("gone_state").Tool()))
    monkeypatch.delitem(sys.modules, "gone_state")
    (tmp_path / "gone_state.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(StateError, match=r"does not load: ModuleNotFoundError.*gone_state.*clearstone inspect"):
        state.restore(Agent, taken)


def test_a_class_without_the_slot_today_is_said() -> None:
    class Fewer:
        __slots__ = ("public",)

    with pytest.raises(StateError, match=r"Fewer has no slot '_Slots__private' today"):
        state.restore(Fewer, state.take(Slots()))


def test_attributes_that_became_slots_and_slots_that_became_attributes_come_back() -> None:
    assert restored_as(OneSlot, Agent_without_flag(only=1)).only == 1
    assert vars(restored_as(Agent, SlotsBelow()))["own"] == [1]


def Agent_without_flag(**attributes: Any) -> Agent:  # noqa: N802
    agent = Agent(**attributes)
    del agent.constructed
    return agent


def restored_as(cls: type, agent: Any) -> Any:
    return state.restore(cls, state.take(agent))


def test_a_class_that_became_abstract_is_said() -> None:
    class Today(abc.ABC):
        @abc.abstractmethod
        def run(self) -> None: ...

    with pytest.raises(StateError, match="Today cannot be made without its constructor"):
        restored_as(Today, Agent())


def test_the_state_of_no_agent_is_empty() -> None:
    assert state.load_values(state.NO_STATE, None) == {}
    assert state.NO_STATE.form == "none"


def test_a_state_names_what_form_it_has() -> None:
    taken = state.take(Agent(n=1))
    assert isinstance(taken, AgentState)
    assert taken.form == "attributes"
    assert state.load_values(taken, None) == {"n": 1, "constructed": True}
