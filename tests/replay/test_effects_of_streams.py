"""What a served stream did to its object is done again at its items, and not what its consumer did between them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone import checkpointable, traced
from clearstone.debugging import CheckpointManager, ReplayEngine

Steps = list[str]

streamed: list[str] = []
"""What streams really did."""


@checkpointable
class Reader:
    def __init__(self) -> None:
        self.count = 0
        self.items: list[Any] = ["first"]
        self.many: list[Any] = [*range(50)]
        self.by_name: dict[str, Any] = {}
        self.members: set[Any] = set()
        self.view: list[Any] = []
        self.third: list[Any] = []
        self.notes: list[Any] = []

    @traced(span_type="llm")
    def stream(self, steps: list[Steps]) -> Iterator[int]:
        for number, doing in enumerate(steps):
            self.do("stream", number, doing)
            streamed.extend(doing)
            yield number
        self.count *= 2

    @traced(span_type="llm")
    async def astream(self, steps: list[Steps]) -> AsyncIterator[int]:
        for number, doing in enumerate(steps):
            self.do("stream", number, doing)
            streamed.extend(doing)
            yield number
        self.count *= 2

    @traced(span_type="tool")
    def look_up(self) -> int:
        self.count += 1
        streamed.append("look up")
        return self.count

    def do(self, who: str, number: int, doing: Steps) -> None:
        for each in doing:
            DOINGS[each](self, f"{who} {number}")

    def read(self, steps: list[Steps], between: list[Steps], most: int) -> None:
        stream = self.stream(steps)
        for number, item in enumerate(stream):
            self.do("consumer", number, between[item % len(between)])
            if number + 1 == most:
                break
        stream.close()  # type: ignore[attr-defined]  # a generator
        raise RuntimeError(self.told())

    async def aread(self, steps: list[Steps], between: list[Steps], most: int) -> None:
        stream = self.astream(steps)
        number = 0
        async for item in stream:
            self.do("consumer", number, between[item % len(between)])
            number += 1
            if number == most:
                break
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator
        raise RuntimeError(self.told())

    def read_and_look_up(self) -> None:
        for _ in self.stream([["count"], ["count"], ["append"]]):
            self.look_up()
        raise RuntimeError(self.told())

    def read_two_in_turns(self) -> None:
        for _ in zip(self.stream([["count"], ["append"]]), self.stream([["append"], ["count"]]), strict=True):
            self.count += 10
        raise RuntimeError(self.told())

    @traced(span_type="llm")
    def alias(self, fill: str) -> Iterator[str]:
        self.items = self.view = []
        self.notes = [{"text": ""}]
        yield "a"
        self.items.append("x")
        self.third = self.view
        if fill == "itself":
            self.notes[0]["text"] += "a"
        yield "b"

    def follow_names(self, fill: str) -> None:
        for item in self.alias(fill):
            if fill == "consumer":
                self.notes[0]["text"] += item
        raise RuntimeError(self.items, self.view, self.third, self.items is self.view is self.third, self.notes)

    def leave_one_unfinished(self) -> None:
        self.kept = self.stream([["count"], ["append"]])
        next(self.kept)
        self.count += 10
        raise RuntimeError(self.count, self.items)

    def told(self) -> str:
        return repr({**vars(self), "members": sorted(self.members)})


def count(agent: Reader, _: str) -> None:
    agent.count += 1


def rebind(agent: Reader, who: str) -> None:
    agent.items = [who]


DOINGS: dict[str, Callable[[Reader, str], Any]] = {
    "count": count,
    "append": lambda agent, who: agent.items.append(who),
    "append to many": lambda agent, who: agent.many.append(who),
    "rebind": rebind,
    "add": lambda agent, who: agent.by_name.update({who: 1}),
    "remove": lambda agent, _: agent.by_name.popitem() if agent.by_name else None,
    "member": lambda agent, who: agent.members.add(who),
}


def replayed_as_recorded(name: str, *args: Any) -> ReplayEngine:
    """Let a method of a new agent fail; its replay ends in the same state, and no stream runs."""
    agent = Reader()
    with pytest.raises(RuntimeError) as recorded:
        made = getattr(agent, name)(*args)
        asyncio.run(made)
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    streamed.clear()
    with pytest.raises(RuntimeError) as again:
        engine.replay_from_checkpoint()
    assert again.value.args == recorded.value.args
    assert streamed == []
    return engine


doings = st.lists(st.sampled_from(sorted(DOINGS)), max_size=3)


@pytest.mark.once
@given(
    name=st.sampled_from(["read", "aread"]),
    steps=st.lists(doings, max_size=4),
    between=st.lists(doings, min_size=1, max_size=4),
    most=st.integers(1, 6),
)
def test_the_state_is_as_it_was_whatever_a_stream_and_its_consumer_do_in_turns(
    name: str, steps: list[Steps], between: list[Steps], most: int
) -> None:
    engine = replayed_as_recorded(name, steps, between, most)
    assert engine.ledger.count("ambiguous") == 0


def test_a_call_that_the_consumer_makes_between_two_items_is_not_ambiguous() -> None:
    engine = replayed_as_recorded("read_and_look_up")
    assert engine.ledger.count("reused") == 4
    assert engine.ledger.count("ambiguous") == 0


def test_streams_that_are_read_in_turns_are_told_apart() -> None:
    engine = replayed_as_recorded("read_two_in_turns")
    assert engine.ledger.count("ambiguous") == 0


@pytest.mark.parametrize("fill", ["nobody", "itself"])
def test_names_of_one_list_stay_names_of_one_list(fill: str) -> None:
    engine = replayed_as_recorded("follow_names", fill)
    assert engine.ledger.count("ambiguous") == (fill == "itself")


def test_what_the_consumer_changes_deep_in_what_the_stream_put_there_is_said() -> None:
    with pytest.raises(RuntimeError):
        Reader().follow_names("consumer")
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(RuntimeError):
        engine.replay_from_checkpoint()
    (told,) = [each.told for each in engine.ledger if each.verdict == "ambiguous"]
    assert told[0].startswith("what the stream put into self.items, self.view, self.notes was changed deeper down")


def test_a_stream_that_nobody_ends_has_done_what_it_did_before_its_items() -> None:
    replayed_as_recorded("leave_one_unfinished")


def test_a_stream_that_is_left_earlier_than_it_was_says_what_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError):
        Reader().read([["count"], ["count"], ["append"]], [[]], 5)

    def read(self: Reader, steps: list[Steps], *_: Any) -> None:
        for _item in self.stream(steps):
            break
        raise RuntimeError(self.count, self.items)

    monkeypatch.setattr(Reader, "read", checkpointable(read))
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(RuntimeError, match=r"1, \['first'\]"):
        engine.replay_from_checkpoint("read", [["count"], ["count"], ["append"]])
    (entry,) = [each for each in engine.ledger if each.target.endswith("stream")]
    assert entry.told == ("its stream is left earlier than it was: what it did after that is not done",)
