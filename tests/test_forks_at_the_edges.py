"""Forks of agents that cancel, that answer with what they are given, and that would go out behind the fork's back."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from clearstone import checkpointable, configure, traced
from clearstone.checkpoint.keeping import KEPT_PER_FAILURE
from clearstone.debugging import Checkpoint, CheckpointManager, Fork, ReplayEngine
from clearstone.errors import BeyondRecord, ConfigurationError, LiveCallRefused, ReplayError, StateError, TargetError
from clearstone.observability import Trace
from clearstone.replay.alignment import partings
from clearstone.whatif import INSTEAD

live: list[Any] = []
today: dict[str, Any] = {}


@dataclass
class Answer:
    text: str
    more: dict[str, int]


def goes_out(*_: Any) -> None:
    """Ask for a name that nobody has."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo("localhost", 80)
        live.append("went out")


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.model, self.total, self.log = "small", 0, ["made"]

    @traced(span_type="llm")
    def ask(self, prompt: str) -> Answer:
        live.append(prompt)
        self.total = len(prompt)
        self.log.append(prompt)
        return Answer(f"{self.model} {prompt}", {"a": 1})

    @traced(span_type="llm")
    async def slow(self, seconds: float) -> str:
        live.append(seconds)
        await asyncio.sleep(seconds)
        return "slow"

    @traced(span_type="tool")
    async def gives_up(self) -> None:
        live.append("gives up")
        raise asyncio.CancelledError("by itself")

    @traced(span_type="tool")
    async def fails(self) -> None:
        live.append("fails")
        await asyncio.sleep(0.01)
        raise ValueError("failed")

    @traced(span_type="tool")
    def interrupts(self) -> None:
        raise KeyboardInterrupt

    @traced
    def run(self, *prompts: str) -> Any:
        got = [self.ask(each).text for each in prompts]
        today.get("then", lambda _: None)(self)
        raise RuntimeError(got, self.model, self.total, self.log)

    @traced
    async def in_a_group(self) -> Any:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(self.slow(3600))
            group.create_task(self.fails())
        raise RuntimeError(slow.result())

    @traced
    async def times_out(self) -> Any:
        try:
            async with asyncio.timeout(0.05):
                got = await self.slow(3600)
        except TimeoutError:
            got = "timed out"
        raise RuntimeError(got, self.ask("after").text)

    @traced
    async def is_left(self) -> Any:
        try:
            await self.gives_up()
        except asyncio.CancelledError as error:
            raise RuntimeError(error.args, time.time()) from None

    @traced
    def is_interrupted(self) -> None:
        self.ask("a")
        self.interrupts()

    @traced
    def swallows(self, *prompts: str) -> Any:
        got = []
        for each in prompts:
            try:
                got.append(self.ask(each).text)
            except Exception as error:
                raise OSError("wrapped") from error
        raise RuntimeError(got)

    @traced
    def takes(self, first: str, *others: str, **named: Any) -> None:
        raise RuntimeError(first, others, named, self.ask("a").text)

    @traced
    def by_hand(self) -> None:
        with configure().get_tracer().span("by hand", attributes={"step": 1}):
            text = self.ask("a").text
        today.get("then", lambda _: None)(self)
        with configure().get_tracer().span("llm by hand", "tool" if "then" in today else ""):
            raise RuntimeError(text)


@pytest.fixture(autouse=True)
def _as_recorded() -> Iterator[None]:
    live.clear()
    today.clear()
    yield
    today.clear()


def failed(method: str, *args: Any, error: Any = RuntimeError) -> Checkpoint:
    with pytest.raises(error):
        made = getattr(Agent(), method)(*args)
        asyncio.run(made)
    configure().flush()
    live.clear()
    return CheckpointManager().load_checkpoint("latest")


def engine(checkpoint: Checkpoint, **options: Any) -> ReplayEngine:
    return ReplayEngine(checkpoint, configure().trace_store, **options)


def trace(fork: Fork) -> Trace:
    return configure().trace_store.get_trace(fork.trace_id)


# --- cancelled calls -------------------------------------------------------------------------------------------------


def test_a_call_that_nobody_cancels_any_more_has_no_answer() -> None:
    checkpoint = failed("in_a_group", error=BaseExceptionGroup)
    fork = engine(checkpoint).fork(respond={"tool[1]": None})
    assert isinstance(fork.error, BeyondRecord)
    assert "Agent.slow was cancelled when it was recorded, and nobody cancels it now" in str(fork.error)
    assert live == []
    (slow,) = [span for span in trace(fork) if span.name == "Agent.slow"]
    assert "clearstone.cancelled_itself" not in slow.attributes
    assert slow.outcome is not None
    assert slow.outcome.failure is not None
    assert slow.outcome.failure.type_name.endswith("BeyondRecord")


def test_a_call_that_nobody_cancels_any_more_does_not_keep_a_live_fork_waiting_for_ever() -> None:
    checkpoint = failed("in_a_group", error=BaseExceptionGroup)
    began = time.monotonic()
    fork = engine(checkpoint).fork(respond={"tool[1]": None}, then="live")
    assert isinstance(fork.error, BeyondRecord)
    assert time.monotonic() - began < 300  # and not a year


def test_a_timeout_ends_a_call_in_a_fork_as_it_did() -> None:
    fork = engine(failed("times_out")).fork(respond={"llm[2]": Answer("other", {})}, then="live")
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args == ("timed out", "other")
    assert live == []


def test_a_response_in_place_of_a_call_that_timed_out_comes_in_time() -> None:
    fork = engine(failed("times_out")).fork(respond={"llm[1]": "fast"})
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args == ("fast", "small after")


def test_what_a_call_raises_as_cancelled_by_itself_comes_again_at_its_time() -> None:
    checkpoint = failed("is_left")
    engines = [engine(checkpoint) for _ in range(2)]
    seen = []
    for each in engines:
        with pytest.raises(RuntimeError) as caught:
            each.replay_from_checkpoint()
        seen.append(caught.value.args)
    assert seen[0] == seen[1]
    assert seen[0][0] == ("by itself",)
    assert abs(seen[0][1] - checkpoint.timestamp.timestamp()) < 3600
    assert live == []


def test_a_fork_of_an_interrupted_call_says_how_it_ended() -> None:
    fork = engine(failed("is_interrupted", error=KeyboardInterrupt)).fork(respond={"llm[1].text": "b"})
    assert isinstance(fork.error, KeyboardInterrupt)
    assert [span.name for span in trace(fork)][2:] == ["Agent.ask", "Agent.interrupts"]


# --- the state -------------------------------------------------------------------------------------------------------


def test_what_a_served_call_did_does_not_undo_what_the_fork_changes() -> None:
    fork = engine(failed("run", "a", "bcd")).fork(state={"self.total": 100, "self.log": []})
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args == (["small a", "small bcd"], "small", 100, ["a", "bcd"])
    (told, *_) = [each.told for each in fork.ledger if each.verdict == "ambiguous"]
    assert told == ("self.total stays what the fork has made of it: what the recorded call put there is left out",)


def test_what_a_function_changes_of_the_state_stays_too() -> None:
    fork = engine(failed("run", "a", "bcd")).fork(state=lambda agent: setattr(agent, "total", 100), at="s3")
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[2] == 100


@pytest.mark.parametrize("at", ["", "s3"])
def test_a_function_that_changes_the_state_does_not_go_out(at: str) -> None:
    checkpoint = failed("run", "a", "b")
    error: BaseException | None
    try:
        error = engine(checkpoint).fork(state=goes_out, at=at).error
    except LiveCallRefused as refusal:
        error = refusal
    assert "the replayed code was about to go out" in str(error)
    assert live == []


def test_a_response_that_a_function_makes_does_not_go_out() -> None:
    fork = engine(failed("run", "a")).fork(respond={"llm[1]": goes_out})
    assert isinstance(fork.error, LiveCallRefused)
    assert live == []


def test_a_function_that_fails_at_a_call_ends_the_fork_whatever_the_agent_makes_of_it() -> None:
    def breaks(agent: Agent) -> None:
        raise LookupError(agent.model)

    fork = engine(failed("swallows", "a", "b")).fork(state=breaks, at="s3")
    assert isinstance(fork.error, ReplayError)
    assert "the state was not changed at Agent.ask: LookupError: small" in str(fork.error)
    assert isinstance(fork.error.__cause__, LookupError | OSError)


def test_a_refusal_that_the_agent_wraps_is_saved_as_no_failure() -> None:
    checkpoint = failed("swallows", "a", "b")
    fork = engine(checkpoint).fork(arguments={"prompts": ["a", "other"]})
    assert isinstance(fork.error, ReplayError)
    assert fork.checkpoint == ""


@pytest.mark.once
def test_forks_are_not_the_latest_checkpoint_and_no_occurrences_of_a_failure() -> None:
    checkpoint = failed("run", "a")
    forks = [engine(checkpoint).fork(respond={"llm[1].text": "x"}) for _ in range(KEPT_PER_FAILURE + 2)]
    manager = CheckpointManager()
    assert manager.load_checkpoint("latest").checkpoint_id == checkpoint.checkpoint_id
    assert manager.load_checkpoint(forks[-1].checkpoint).metadata == {"fork_of": checkpoint.checkpoint_id}
    assert failed("run", "a").occurrences == 2


def test_a_run_that_is_a_fork_says_so_and_what_a_replay_of_it_lacks() -> None:
    parent = failed("run", "a", "b")
    fork = engine(parent).fork(state={"self.model": "large"}, at="s3", then="live")
    again = engine(CheckpointManager().load_checkpoint(fork.checkpoint))
    told = f"This run is itself a fork of {parent.trace.trace_id[:12]}, as {parent.checkpoint_id} with "
    assert again.notes[:2] == (
        f"{told}self.model: 'small' -> 'large'.",
        "Its state was changed in the middle of it, at a call; a replay does not do that again.",
    )


# --- several changes -------------------------------------------------------------------------------------------------


def test_several_places_of_one_response_are_all_changed() -> None:
    fork = engine(failed("run", "a")).fork(respond={"llm[1].text": "x", "llm[1].more['a']": 2})
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[0] == ["x"]
    assert fork.changes == ("llm[1].text: 'small a' -> 'x'", "llm[1].more['a']: 1 -> 2")


def test_a_response_is_not_changed_as_a_whole_and_in_a_place() -> None:
    with pytest.raises(ConfigurationError, match=r"'ask\[1\].text' and 'llm\[1\]' are the same response"):
        engine(failed("run", "a")).fork(respond={"llm[1]": Answer("x", {}), "ask[1].text": "y"})


def test_a_fork_goes_live_past_the_last_of_its_changes() -> None:
    checkpoint = failed("run", "a", "b", "c", "d")
    fork = engine(checkpoint).fork(
        respond={"llm[1].text": "x", "llm[3].text": "z"}, state={"self.model": "large"}, then="live"
    )
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[0] == ["x", "small b", "z", "large d"]
    assert live == ["d"]


def test_a_place_may_follow_a_name_that_means_one_call() -> None:
    fork = engine(failed("run", "a")).fork(respond={"Agent.ask.text": "x"})
    assert fork.changes == ("Agent.ask.text: 'small a' -> 'x'",)
    with pytest.raises(TargetError, match=r"'llm' names several calls: .*llm\[1\] \(s2\), llm\[2\] \(s3\)"):
        engine(failed("run", "a", "b")).fork(respond={"llm.text": "x"})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda: "x", "does not take the call's arguments"),
        (lambda *_: (yield), "is answered by a plain function"),
        (Agent.slow, "is answered by a plain function"),
    ],
)
def test_a_function_that_cannot_answer_is_refused(value: Any, told: str) -> None:
    checkpoint = failed("run", "a")
    error: BaseException | None
    try:
        error = engine(checkpoint).fork(respond={"llm[1]": value}).error
    except ConfigurationError as refusal:
        error = refusal
    assert told in str(error)


def test_arguments_are_changed_by_name_also_those_that_are_many() -> None:
    checkpoint = failed("takes", "a", "b")
    fork = engine(checkpoint).fork(arguments={"others": ["c", "d"], "key": 2, "first": "z"})
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args == ("z", ("c", "d"), {"key": 2}, "small a")
    assert fork.changes == (
        "the argument others: ('b',) -> ('c', 'd')",
        "the argument key: not given -> 2",
        "the argument first: 'a' -> 'z'",
    )
    with pytest.raises(ConfigurationError, match=r"\*others takes a list of arguments, not 'c'"):
        engine(checkpoint).fork(arguments={"others": "c"})


# --- what is recorded of a fork --------------------------------------------------------------------------------------


def test_spans_written_by_hand_are_recorded_in_a_fork() -> None:
    fork = engine(failed("by_hand")).fork(respond={"llm[1].text": "x"})
    found = trace(fork)
    assert [span.name for span in found][1:] == ["Agent.by_hand", "by hand", "Agent.ask", "llm by hand"]
    assert found.spans[2].attributes["step"] == 1
    assert found.spans[3].parent_id == found.spans[2].span_id
    assert [each.told for each in fork.ledger if each.target.endswith("ask")] == [(INSTEAD,)]


def test_a_span_of_an_outside_type_is_refused_until_the_fork_is_live() -> None:
    checkpoint = failed("by_hand")
    today["then"] = lambda _: None
    refused = engine(checkpoint).fork()
    assert "the hand-written span 'llm by hand'" in str(refused.error)
    fork = engine(checkpoint).fork(state={"self.model": "large"}, then="live")
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args == ("large a",)


def test_other_traces_that_are_open_meanwhile_keep_their_times() -> None:
    checkpoint = failed("run", "a")
    with configure().get_tracer().span("beside") as beside:
        began = time.time_ns()
        engine(checkpoint).fork(state={"self.model": "large"}, then="live")
        took = time.time_ns() - began
    (span,) = configure().trace_store.get_trace(beside.trace_id)
    assert span.end_ns is not None
    assert took <= span.end_ns - span.start_ns < took + 60 * 10**9


def test_what_a_served_call_did_is_recorded_of_the_fork_too() -> None:
    fork = engine(failed("run", "a")).fork(respond={"llm[1].text": "x"})
    (again,) = [span for span in trace(fork) if span.name == "Agent.ask"]
    assert again.outcome is not None
    assert again.outcome.effects is not None
    with pytest.raises(RuntimeError) as caught:
        engine(CheckpointManager().load_checkpoint(fork.checkpoint)).replay_from_checkpoint()
    assert isinstance(fork.error, RuntimeError)
    assert caught.value.args == fork.error.args


# --- positions -------------------------------------------------------------------------------------------------------


def test_a_position_in_a_task_group_is_come_to() -> None:
    checkpoint = failed("in_a_group", error=BaseExceptionGroup)
    place = next(f"s{number}" for number, span in enumerate(checkpoint.trace, 1) if span.name == "Agent.fails")
    assert engine(checkpoint).at(place).model == "small"


class Restored:
    def __init__(self) -> None:
        self.count = 0

    def get_state(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state(self, state: dict[str, int]) -> None:
        self.count = state["count"]
        today.get("restored", lambda _: None)(self)

    @traced(span_type="tool")
    def look(self) -> int:
        self.count += 1
        return self.count

    @checkpointable
    def run(self) -> None:
        self.look()
        self.look()
        raise RuntimeError(self.count)


def test_restoring_at_a_position_does_not_go_out() -> None:
    with pytest.raises(RuntimeError):
        Restored().run()
    checkpoint = CheckpointManager().load_checkpoint("latest")
    assert engine(checkpoint).at("s3").count == 1
    restored: list[Any] = []

    def goes_out_the_second_time(agent: Any) -> None:
        restored.append(agent)
        if len(restored) > 1:  # the first is for the way there
            goes_out()

    today["restored"] = goes_out_the_second_time
    with contextlib.suppress(ReplayError, StateError):
        engine(checkpoint).at("s3")
    assert len(restored) == 2
    assert live == []


# --- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_two_long_traces_that_part_in_the_middle_are_compared_call_by_call() -> None:
    checkpoint = failed("run", *"a" * 600)
    fork = engine(checkpoint).fork(respond={"llm[300].text": "other"})
    found = list(partings(checkpoint.trace, trace(fork)))
    assert (found[0].what, found[0].before, found[0].after) == ("outcome", "s301", "s302")
    shorter = engine(checkpoint).fork(arguments={"prompts": ["a"] * 599})
    found = list(partings(checkpoint.trace, trace(shorter)))
    assert [(each.what, each.before, each.after) for each in found][:2] == [
        ("arguments", "s1", "s2"),
        ("removed", "s601", ""),
    ]
