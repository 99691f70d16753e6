"""Of a checkpoint of another Python, what is plain data can be replayed, and no code in it is loaded."""

from __future__ import annotations

import collections
import datetime as dt
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.agents import Agent, look
from tests.checkpoint.oracle import form
from tests.checkpoint.test_segments import message

from clearstone import checkpointable, home
from clearstone.checkpoint import state
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.missing import Missing
from clearstone.checkpoint.plain import REASON, _of_state
from clearstone.debugging import ReplayEngine
from clearstone.errors import CheckpointError, MissingMemberError, StateError, UnservableOutcome

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint


@dataclass
class Point:
    x: int = 1


def restored(agent: Any) -> Any:
    return state.restore(type(agent), _of_state(state.take(agent, at_entry=True)))


def test_plain_data_comes_back_with_its_sharing_and_its_cycles() -> None:
    agent = Agent(n=1.5, text="t", raw=b"r", none=None, ms=[{"a": (1, {2})}], keys={(1, "a"): 1, None: 2})
    agent.itself, agent.alias = [agent, agent.ms], agent.ms
    agent.ms.append(agent.ms)
    assert form(restored(agent)) == form(agent)


def test_a_state_in_segments_comes_back_too() -> None:
    agent = Agent(ms=[message(i) for i in range(300)], n=1)
    for _ in range(2):
        state.take(agent, at_entry=True)
    agent.alias = agent.ms[70]
    assert form(restored(agent)) == form(agent)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda each: st.lists(each) | st.dictionaries(st.text() | st.integers(), each) | st.tuples(each, each),
        max_leaves=30,
    )
)
def test_any_plain_data_comes_back(value: Any) -> None:
    assert form(restored(Agent(value=value))) == form(Agent(value=value))


def test_objects_are_missing_by_their_paths_and_can_be_rebuilt() -> None:
    @checkpointable(rebuild={"tool.point": Point})
    class Rebuilding(Agent):
        def on_restore(self, missing: Any) -> None:
            self.told = [each.path for each in missing]

    agent = Rebuilding(
        n=1, lock=threading.Lock(), when=dt.date(2020, 1, 2), od=collections.OrderedDict(a=1), f=lambda: 1,
        points=[Point(), {"p": Point(2)}], keys={Point: 1, (1, 2): 3},
    )  # fmt: skip
    again = restored(agent)
    assert again.told == [
        "self.lock", "self.when", "self.od", "self.f", "self.points[0]", "self.points[1]['p']", "self.keys[...]",
    ]  # fmt: skip
    assert again.keys == {(1, 2): 3}
    assert again.n == 1
    with pytest.raises(MissingMemberError, match=rf"self.points\[0\] .*Point.* was not saved .*: {REASON}"):
        _ = again.points[0].x
    assert type(again.lock) is Missing


def made() -> Checkpoint:
    """A checkpoint that says it was taken on another Python."""

    @checkpointable
    class Asking(Agent):
        def run(self, what: str) -> None:
            self.seen.append(look(what))
            raise ValueError(f"no {self.seen}")

    Asking.__qualname__ = "Asking"
    globals()["Asking"] = Asking
    with pytest.raises(ValueError, match="no"):
        Asking(seen=[], f=lambda: 1).run("a")
    (info,) = CheckpointManager(home.checkpoint_folder()).list_checkpoints()
    found = CheckpointManager().load_checkpoint(info.checkpoint_id)
    return replace(found, environment=replace(found.environment, python="3.99.1"))


def test_a_checkpoint_of_another_python_is_refused_with_the_way_and_replayed_as_plain_data() -> None:
    checkpoint = made()
    with pytest.raises(CheckpointError, match=r"taken on Python 3\.99\.1.*with '--state-only data'"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    engine = ReplayEngine(checkpoint.of_plain_data())
    with pytest.raises(ValueError, match=r"no \['a is there'\]"):
        engine.replay_from_checkpoint()
    assert engine.served == 1


def test_a_value_that_holds_code_is_not_served() -> None:
    checkpoint = made()
    call = checkpoint.call
    assert call is not None
    coded = replace(call.input, data=b"cloudpickle" + call.input.data)
    with pytest.raises(UnservableOutcome, match=r"argument|recorded"):
        ReplayEngine(replace(checkpoint, call=replace(call, input=coded)).of_plain_data()).replay_from_checkpoint()


def test_a_state_that_is_no_dict_is_an_empty_one() -> None:
    checkpoint = made()
    from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot

    odd = replace(checkpoint.state, snapshot=Snapshot((), Placed(Segment(b"\x80\x05K\x01."))))
    assert replace(checkpoint, state=odd).of_plain_data().agent_state == {}
    with pytest.raises((StateError, CheckpointError)):
        _ = replace(checkpoint, state=odd).agent_state["seen"]
