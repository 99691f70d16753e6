"""What a call did to the object it is bound to is recorded: values only of what changed."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import traced
from clearstone.codec import payload
from clearstone.observability import Span, TracerProvider
from clearstone.record import effects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Agent:
    __slots__ = ("__dict__", "__private", "__weakref__", "slot")

    def __init__(self) -> None:
        self.history: list[Any] = [{"n": n} for n in range(10_000)]
        self.cost, self.gone = 0.0, "soon"
        self.index: dict[str, int] = {"a": 1}
        self.ordered = OrderedDict(first=1)
        self.seen = {1, 2}
        self.queue = deque([1, 2], maxlen=3)
        self.slot = "before"
        self.usage, self.log, self.__private = {"total": 0}, [1, 2], 1

    @traced(span_type="llm")
    def ask(self, change: Callable[[Agent], Any]) -> None:
        change(self)

    def change_private(self) -> None:
        self.__private = 2

    @traced
    def step(self) -> None:
        self.cost += 1


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[TracerProvider]:
    made = TracerProvider(tmp_path / "t.db")
    yield made
    made.shutdown()


@pytest.fixture
def recorded(provider: TracerProvider) -> Callable[[Callable[[], Any]], list[Span]]:
    """Run something and return the spans below it."""

    def record(work: Callable[[], Any]) -> list[Span]:
        with provider.get_tracer().span("root") as root:
            work()
        return [span for span in provider.trace_store.get_trace(root.trace_id) if span.name != "root"]

    return record


def effects_of(span: Span) -> dict[str, Any] | None:
    assert span.outcome is not None
    found: dict[str, Any] | None = payload.load(span.outcome.effects) if span.outcome.effects is not None else None
    if found is not None:
        assert ("order" in found) is bool(found.keys() - {"order", "task", "ambiguous", "arguments"})
    return found


def changes_of(span: Span) -> dict[str, Any] | None:
    found = effects_of(span)
    return found and {what: value for what, value in found.items() if what not in ("order", "task")}


def set_and_delete(agent: Agent) -> None:
    agent.cost, agent.slot, agent.new = 2.5, "after", None  # type: ignore[attr-defined]  # set from outside
    del agent.gone


def put_first(agent: Agent) -> None:
    agent.history[:] = ["new", agent.history[0]]


def change_usage(agent: Agent) -> None:
    agent.usage["total"] += 1
    agent.usage["new"] = 1


CHANGES: list[tuple[Callable[[Agent], Any], dict[str, Any]]] = [
    (lambda agent: agent.history.append("new"), {"extended": {"history": ["new"]}}),
    (put_first, {"contents": {"history": ["new", {"n": 0}]}}),
    (lambda agent: agent.history.__delitem__(slice(1, None)), {"contents": {"history": [{"n": 0}]}}),
    (lambda agent: agent.index.update(b=2, c=3), {"added": {"index": {"b": 2, "c": 3}}}),
    (lambda agent: agent.index.pop("a") and agent.index.update(b=2, c=3), {"contents": {"index": {"b": 2, "c": 3}}}),
    (lambda agent: agent.ordered.update(second=2), {"added": {"ordered": {"second": 2}}}),
    (change_usage, {"contents": {"usage": {"total": 1, "new": 1}}}),
    (lambda agent: agent.log.__setitem__(1, 9), {"contents": {"log": [1, 9]}}),
    (lambda agent: agent.log.append(3), {"extended": {"log": [3]}}),
    (lambda agent: agent.change_private(), {"set": {"_Agent__private": 2}}),
    (lambda agent: agent.seen.add(3), {"contents": {"seen": {1, 2, 3}}}),
    (lambda agent: agent.queue.append(3), {"extended": {"queue": [3]}}),
    (lambda agent: agent.queue.appendleft(0), {"contents": {"queue": deque([0, 1, 2], maxlen=3)}}),
    (set_and_delete, {"set": {"cost": 2.5, "slot": "after", "new": None}, "deleted": ["gone"]}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "effect"), CHANGES, ids=range(len(CHANGES)))
def test_what_changed_is_recorded_and_nothing_else(recorded: Any, change: Any, effect: dict[str, Any]) -> None:
    agent = Agent()
    (span,) = recorded(lambda: agent.ask(change))
    assert changes_of(span) == effect | {"ambiguous": False}


def test_a_call_that_changes_nothing_has_no_effect(recorded: Any) -> None:
    agent = Agent()
    (span,) = recorded(lambda: agent.ask(len_of_history))
    assert effects_of(span) is None


def len_of_history(agent: Agent) -> int:
    return len(agent.history)


def test_a_call_that_fails_has_its_effects_recorded_too(recorded: Any) -> None:
    def fail(agent: Agent) -> None:
        agent.cost = 7
        raise ValueError("after the change")

    def work() -> None:
        with pytest.raises(ValueError, match="after"):
            Agent().ask(fail)

    (span,) = recorded(work)
    assert changes_of(span) == {"set": {"cost": 7}, "ambiguous": False}


def test_a_step_that_runs_again_in_a_replay_has_none(recorded: Any) -> None:
    (span,) = recorded(Agent().step)
    assert effects_of(span) is None


def test_an_object_has_one_number_as_long_as_it_lives_and_another_object_another(recorded: Any) -> None:
    first, second = Agent(), Agent()
    spans = recorded(lambda: (first.step(), second.step(), first.ask(len_of_history)))
    one, two, again = (span.instance for span in spans)
    assert one == again != two
    assert one.startswith(f"{__name__}:Agent#")


def test_the_number_of_a_dead_object_is_not_given_again(recorded: Any) -> None:
    def work() -> None:
        for _ in range(20):
            Agent().step()
            gc.collect()

    assert len({span.instance for span in recorded(work)}) == 20


class NoReferences:
    __slots__ = ("cost",)

    def __init__(self) -> None:
        self.cost = 0

    @traced(span_type="tool")
    def ask(self, change: Callable[[Any], Any]) -> None:
        change(self)


def test_an_object_that_takes_no_reference_has_a_class_and_no_number(recorded: Any) -> None:
    (span,) = recorded(lambda: NoReferences().ask(add_to_cost))
    assert span.instance == f"{__name__}:NoReferences"
    assert changes_of(span) == {"set": {"cost": 1}, "ambiguous": False}
    assert not [each for each in effects._objects.values() if each.text == span.instance]


def add_to_cost(agent: Any) -> None:
    agent.cost += 1


@pytest.mark.parametrize("make", [Agent, NoReferences])
def test_calls_on_one_object_that_overlap_are_told_as_ambiguous(recorded: Any, make: type[Agent]) -> None:
    agent, both = make(), threading.Barrier(2, timeout=10)

    def change(agent: Agent) -> None:
        both.wait()
        agent.cost += 1
        both.wait()

    def work() -> None:
        threads = [threading.Thread(target=agent.ask, args=(change,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    told = [effects_of(span) for span in recorded(work)]
    assert [each and each["ambiguous"] for each in told] == [True, True]


def test_of_calls_in_many_threads_each_change_is_told_once_and_the_last_one_is_the_last(recorded: Any) -> None:
    agent, adding, often = Agent(), threading.Lock(), sys.getswitchinterval()
    agent.history, agent.log = [], []

    def change(agent: Agent) -> None:
        with adding:
            agent.cost += 1
            agent.history.append(agent.cost)

    def work() -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(agent.ask, [change] * 200))

    sys.setswitchinterval(1e-6)
    try:
        told = [effect for span in recorded(work) if (effect := effects_of(span))]
    finally:
        sys.setswitchinterval(often)
    added = [each for effect in told for each in effect.get("extended", effect.get("contents", {})).get("history", ())]
    assert sorted(added) == agent.history
    _, last = max((effect["order"], effect["set"]["cost"]) for effect in told if "set" in effect)
    assert last == agent.cost


def test_a_call_made_by_a_call_on_the_same_object_is_not_ambiguous(recorded: Any) -> None:
    agent = Agent()
    spans = recorded(lambda: agent.ask(lambda inner: inner.ask(lambda each: each.history.append(1))))
    assert [changes_of(span) for span in spans] == [{"extended": {"history": [1]}, "ambiguous": False}] * 2


def test_tasks_that_take_turns_on_one_object_are_told_as_ambiguous(recorded: Any) -> None:
    class Model:
        def __init__(self) -> None:
            self.asked = 0

        @traced(span_type="llm")
        async def ask(self) -> None:
            await asyncio.sleep(0)
            self.asked += 1

    async def both() -> None:
        model = Model()
        await asyncio.gather(model.ask(), model.ask())

    told = [effects_of(span) for span in recorded(lambda: asyncio.run(both()))]
    assert [each and each["ambiguous"] for each in told] == [True] * 2


def test_what_does_not_pickle_among_the_effects_is_described_alone(recorded: Any) -> None:
    def change(agent: Agent) -> None:
        agent.cost, agent.lock = 1.0, threading.Lock()  # type: ignore[attr-defined]  # set from outside

    (span,) = recorded(lambda: Agent().ask(change))
    told = effects_of(span)
    assert told is not None
    assert told["set"]["cost"] == 1.0
    assert "_thread.lock" in repr(told["set"]["lock"])


def test_a_length_that_is_the_users_code_is_not_asked_for(recorded: Any) -> None:
    class Odd(list[int]):
        def __len__(self) -> int:
            raise AssertionError("asked")

    def change(agent: Agent) -> None:
        agent.cost = 1

    agent = Agent()
    agent.odd = Odd()  # type: ignore[attr-defined]  # set from outside
    (span,) = recorded(lambda: agent.ask(change))
    assert changes_of(span) == {"set": {"cost": 1}, "ambiguous": False}
