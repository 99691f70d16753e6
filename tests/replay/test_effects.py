"""What a served call did to its object and its arguments is done again."""

import asyncio
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import CheckpointManager, ReplayEngine

ran: list[str] = []


class Base:
    __slots__ = ("slot",)


@checkpointable
class Agent(Base):
    __slots__ = ("__dict__", "__weakref__", "unset")

    def __init__(self) -> None:
        self.slot = 1
        self.number: float = 0
        self.gone = "here"
        self.items: list[Any] = [1, 2]
        self.many = list(range(100))
        self.queue: deque[Any] = deque([1], maxlen=3)
        self.by_name: dict[str, Any] = {"a": 1}
        self.counter = Counter("aab")
        self.ordered = OrderedDict(a=1)
        self.lists: defaultdict[str, list[int]] = defaultdict(list, a=[1])
        self.members = {1, 2}
        self.data = bytearray(b"abc")
        self.part: Any = None

    @property
    def guarded(self) -> Any:
        return self.__dict__.get("guarded", "nothing")

    @guarded.setter
    def guarded(self, value: Any) -> None:
        raise AssertionError("a setter of the user's ran")

    @traced(span_type="tool")
    def change(self, what: str) -> str:
        ran.append(what)
        CHANGES[what](self)
        return what

    @traced(span_type="tool")
    async def change_later(self, what: str, pause: float) -> None:
        ran.append(what)
        await asyncio.sleep(pause)
        CHANGES[what](self)

    @traced(span_type="tool", record_effects=True)
    def fill(self, items: list[int], by_name: dict[str, int], part: Any) -> None:
        ran.append("fill")
        items.append(9)
        by_name["new"] = 1
        part.value = "set"

    def run(self, *what: str) -> None:
        for each in what:
            self.change(each)
        raise RuntimeError(self.told())

    async def run_together(self, *what: str) -> None:
        await asyncio.gather(*(self.change_later(each, 0.03 - number / 100) for number, each in enumerate(what)))
        raise RuntimeError(self.told())

    def fills(self) -> None:
        items, by_name, part = [1], {"a": 1}, Part()
        self.fill(items, by_name, part)
        raise RuntimeError(items, by_name, part.value)

    def told(self) -> str:
        slots = {name: getattr(self, name, "unset") for name in ("slot", "unset")}
        return repr({**self.__dict__, **slots, "lists": dict(self.lists)})


class Part:
    value = "unset"


def set_guarded(agent: Agent) -> None:
    agent.__dict__["guarded"] = 5


def spend(agent: Agent) -> None:
    agent.number += 1


def swap(agent: Agent) -> None:
    agent.items, agent.number = [*reversed(agent.items)], agent.number + 1


CHANGES: dict[str, Callable[[Any], Any]] = {
    "set": lambda agent: setattr(agent, "number", 1.5),
    "set a new one": lambda agent: setattr(agent, "late", {"a": [1]}),
    "set a slot": lambda agent: setattr(agent, "slot", 7),
    "set an unset slot": lambda agent: setattr(agent, "unset", 7),
    "delete": lambda agent: delattr(agent, "gone"),
    "delete a slot": lambda agent: delattr(agent, "slot"),
    "past a property": set_guarded,
    "append": lambda agent: agent.items.append({"a": 1}),
    "append to many": lambda agent: agent.many.extend([5, 6]),
    "replace": lambda agent: agent.items.__setitem__(0, "x"),
    "shrink": lambda agent: agent.many.clear(),
    "queue": lambda agent: agent.queue.extend([2, 3, 4]),
    "add": lambda agent: agent.by_name.update(b=2),
    "remove": lambda agent: agent.by_name.pop("a"),
    "count": lambda agent: agent.counter.update("bbc"),
    "order": lambda agent: agent.ordered.update(z=1, b=2),
    "default": lambda agent: agent.lists["b"].append(1),
    "members": lambda agent: agent.members.symmetric_difference_update({2, 3}),
    "bytes": lambda agent: agent.data.extend(b"def"),
    "swap": swap,
    "spend": spend,
}


def replayed_as_recorded(call: Callable[[], Any]) -> ReplayEngine:
    """Let a call fail, replay it three times: each ends with the recorded message, and nothing served runs."""
    with pytest.raises(RuntimeError) as recorded:
        call()
    checkpoint = CheckpointManager().load_checkpoint("latest")
    ran.clear()
    for _ in range(3):
        engine = ReplayEngine(checkpoint)
        with pytest.raises(RuntimeError) as again:
            engine.replay_from_checkpoint()
        assert again.value.args == recorded.value.args
        assert ran == []
    return engine


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_served_call_changed_is_changed_again(what: str) -> None:
    engine = replayed_as_recorded(lambda: Agent().run(what))
    assert engine.ledger.count("reused") == 1


def test_many_changes_after_one_another_come_to_the_same_state() -> None:
    once = [each for each in CHANGES if not each.startswith(("delete", "remove"))]
    twice = [each for each in once if each != "default"]  # deep in what stays the same object nothing is seen
    engine = replayed_as_recorded(lambda: Agent().run(*once, *twice))
    assert engine.ledger.count("reused") == len(once) + len(twice)


def test_what_calls_that_overlapped_did_comes_to_the_same_state_and_is_said() -> None:
    engine = replayed_as_recorded(
        lambda: asyncio.run(
            Agent().run_together("spend", "append", "spend", "add", "members", "count", "spend", "append")
        )
    )
    told = [entry.told[-1] for entry in engine.ledger if entry.verdict == "ambiguous"]
    assert told
    assert all(each.startswith("calls on this object overlapped") for each in told)


def test_arguments_that_a_call_changed_are_changed_again_where_that_was_recorded() -> None:
    replayed_as_recorded(lambda: Agent().fills())


def test_what_could_not_be_recorded_is_said_and_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(agent: Agent) -> None:
        agent.part, agent.number = threading.Lock(), 3

    monkeypatch.setitem(CHANGES, "both", both)
    with pytest.raises(RuntimeError):
        Agent().run("both")
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(RuntimeError, match="'number': 3"):
        engine.replay_from_checkpoint()
    (entry,) = [each for each in engine.ledger if each.target.endswith("change")]
    assert entry.verdict == "ambiguous"
    assert entry.told[0].startswith("self.part is not set as it was: <not recorded: ")


def test_a_container_that_is_another_one_today_is_left_alone_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError):
        Agent().run("append")
    checkpoint = CheckpointManager().load_checkpoint("latest")

    def run(self: Agent, *_: str) -> None:
        self.items = ("a",)  # type: ignore[assignment]
        self.change("append")
        raise RuntimeError(self.items)

    monkeypatch.setattr(Agent, "run", run)
    engine = ReplayEngine(checkpoint)
    with pytest.raises(RuntimeError, match="'a'"):
        engine.replay_from_checkpoint("run")
    assert "self.items is not extended as it was: it is tuple now" in [
        told for each in engine.ledger for told in each.told
    ]
