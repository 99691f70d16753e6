"""`await engine.areplay()`: a replay beside an event loop that goes on; timeouts and groups in it end as they did."""

import asyncio
import contextvars
import dataclasses
import datetime as dt
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import ReplayDivergence

live: list[str] = []
who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
engines: list[ReplayEngine] = []
"""Replays that a replayed agent makes."""


class Meeting:
    """A place in an agent's code where a test meets it."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def here(self) -> None:
        self.reached.set()
        assert self.go.wait(60)

    async def met(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)


meeting = Meeting()


class OddError(Exception):
    pass


@checkpointable
class Agent:
    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.seen: list[Any] = []

    @traced(span_type="llm")
    def ask(self, prompt: str) -> str:
        live.append(prompt)
        return f"{self.name}: {prompt}"

    @traced(span_type="llm")
    async def aask(self, prompt: str, seconds: float, fails: bool = False) -> str:
        live.append(prompt)
        await asyncio.sleep(seconds)
        if fails:
            raise OddError(prompt)
        return prompt

    @traced(span_type="llm")
    async def astream(self, *pauses: float) -> AsyncIterator[float]:
        for pause in pauses:
            live.append("item")
            await asyncio.sleep(pause)
            yield pause

    @traced
    def step(self, number: int) -> int:
        return number

    def asks(self) -> None:
        for prompt in "ab":
            self.seen.append((self.ask(prompt), random.random(), float(np.random.rand()), time.time()))  # noqa: NPY002
        raise RuntimeError(self.seen)

    async def aasks(self) -> None:
        for prompt in "ab":
            self.seen.append((await self.aask(prompt, 0.01), random.random(), time.time()))
        raise RuntimeError(self.seen)

    # --- what a recording has of timeouts, groups and cancellation ---

    async def too_slow(self) -> None:
        try:
            await asyncio.wait_for(self.aask("slow", 5), 0.05)
        except TimeoutError:
            self.seen.append("too slow")
        raise RuntimeError(self.seen, await self.aask("next", 0.01))

    async def group(self) -> None:
        seen: list[Any] = []  # what undecorated code adds to the agent while calls overlap belongs to none of them
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.notes_its_end(seen, "waits", 5))
                tasks.create_task(self.notes_its_end(seen, "fails", 0.02, fails=True))
                tasks.create_task(self.notes_its_end(seen, "ends", 0.01))
        except* OddError as errors:
            seen.append([str(error) for error in errors.exceptions])
        raise RuntimeError(seen)

    async def notes_its_end(self, seen: list[Any], prompt: str, seconds: float, fails: bool = False) -> None:
        try:
            seen.append(await self.aask(prompt, seconds, fails))
        except asyncio.CancelledError:
            seen.append(f"{prompt} was cancelled")
            raise

    async def gathers(self) -> None:
        asked = (self.aask("a", 0.03), self.aask("b", 0.01, fails=True), self.aask("c", 0.02))
        found = await asyncio.gather(*asked, return_exceptions=True)
        raise RuntimeError([str(each) if isinstance(each, OddError) else each for each in found])

    async def cancels(self) -> None:
        task = asyncio.create_task(self.aask("waits", 5))
        await self.aask("quick", 0.01)
        task.cancel("enough")
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        raise RuntimeError(type(ended).__name__, task.cancelled())

    async def stream_too_slow(self) -> None:
        seen: list[Any] = []
        try:
            async with asyncio.timeout(0.1):
                async for item in self.astream(0.01, 0.02, 5):
                    seen.append(item)  # noqa: PERF401 - it is broken off
        except TimeoutError:
            seen.append("too slow")
        raise RuntimeError(seen)

    async def stream_beside_a_task(self) -> None:
        seen: list[Any] = []

        async def ticks() -> None:
            for _ in range(3):
                await asyncio.sleep(0.04)
                seen.append("tick")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks())
            async for item in self.astream(0.06, 0.04, 0.04):
                seen.append(item)  # noqa: PERF401 - the task adds to it meanwhile
        raise RuntimeError(seen)

    # --- what only a replay calls ---

    def meets(self) -> list[Any]:
        self.seen.append((random.random(), time.time() < 1e9))
        meeting.here()
        seen = who.get()
        who.set("the agent")
        return [*self.seen, random.random(), seen]

    async def waits_for_ever(self) -> None:
        meeting.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            live.append("cleaned up")

    def steps_for_ever(self) -> None:
        for number in range(10**9):
            if self.step(number) == 100:
                meeting.reached.set()

    async def replays_others(self) -> list[Any]:
        return await asyncio.gather(*(engine.areplay("meets_not") for engine in engines))

    def meets_not(self) -> list[Any]:
        return [self.name, random.random()]


def fail(call: Callable[[Agent], Any], agent: Agent | None = None) -> tuple[Checkpoint, tuple[Any, ...]]:
    with pytest.raises(RuntimeError) as caught:
        result = call(agent or Agent())
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    live.clear()
    return CheckpointManager().load_checkpoint("latest"), caught.value.args


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    live.clear()
    engines.clear()
    monkeypatch.setitem(globals(), "meeting", Meeting())


KINDS = [
    Agent.asks,
    Agent.aasks,
    Agent.too_slow,
    Agent.group,
    Agent.gathers,
    Agent.cancels,
    Agent.stream_too_slow,
    Agent.stream_beside_a_task,
]


@pytest.mark.parametrize("call", KINDS)
def test_it_ends_as_the_recorded_call_and_as_a_replay_that_blocks(call: Callable[[Agent], Any]) -> None:
    checkpoint, recorded = fail(call)
    engine, blocking = ReplayEngine(checkpoint), ReplayEngine(checkpoint)
    with pytest.raises(RuntimeError) as awaited:
        asyncio.run(engine.areplay())
    with pytest.raises(RuntimeError) as blocked:
        blocking.replay_from_checkpoint()
    assert awaited.value.args == blocked.value.args
    if call not in {Agent.asks, Agent.aasks}:  # which look at the clock between two calls
        assert awaited.value.args == recorded
    assert [(each.verdict, each.site) for each in engine.ledger] == [
        (each.verdict, each.site) for each in blocking.ledger
    ]
    assert engine.ledger.count("reused") == sum(span.span_type == "llm" for span in checkpoint.trace)
    assert engine.ledger.count("diverged", "beyond", "unused", "live") == 0
    assert live == []


def test_its_arguments_and_refusals_are_those_of_a_replay_that_blocks() -> None:
    engine = ReplayEngine(fail(Agent.asks)[0])
    assert asyncio.run(engine.areplay("step", 7)) == 7
    assert asyncio.run(engine.areplay(function_name="step", number=8)) == 8
    with pytest.raises(ReplayDivergence):
        asyncio.run(engine.areplay("ask", "other"))
    with pytest.raises(StopAsyncIteration):  # a coroutine may raise what a future may not hold
        asyncio.run(engine.areplay("raises", StopAsyncIteration()))


def _raises(_: Agent, error: Exception) -> None:
    raise error


Agent.raises = _raises  # type: ignore[attr-defined]


def test_other_tasks_go_on_with_the_real_clock_and_their_own_random_numbers() -> None:
    checkpoint = dataclasses.replace(fail(Agent.asks)[0], timestamp=dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
    meeting.go.set()
    alone = contextvars.copy_context().run(ReplayEngine(checkpoint).replay_from_checkpoint, "meets")
    meeting.reached.clear()
    meeting.go.clear()

    async def main() -> tuple[Any, list[float], float]:
        replaying = asyncio.create_task(ReplayEngine(checkpoint).areplay("meets"))
        await meeting.met()
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() >= begun + 0.01
        drawn, now = [random.random() for _ in range(3)], time.time()
        meeting.go.set()
        return await replaying, drawn, now

    random.seed(5)
    found, drawn, now = asyncio.run(main())
    assert drawn == [each.random() for each in [random.Random(5)] for _ in range(3)]
    assert abs(now - time.clock_gettime(time.CLOCK_REALTIME)) < 60
    assert found == alone
    assert found[0][1], "the agent saw the real clock"


def test_the_agent_sees_the_callers_context_variables_and_its_own_stay_in_the_replay() -> None:
    checkpoint, _ = fail(Agent.asks)
    meeting.go.set()

    async def main() -> tuple[Any, str]:
        who.set("the caller")
        return await ReplayEngine(checkpoint).areplay("meets"), who.get()

    found, after = asyncio.run(main())
    assert (found[-1], after) == ("the caller", "the caller")


@pytest.mark.parametrize("method", ["waits_for_ever", "steps_for_ever"])
def test_cancelling_it_ends_the_replay_and_leaves_nothing_patched(method: str) -> None:
    engine = ReplayEngine(fail(Agent.asks)[0])
    before = (time.time, time.sleep, random.random, type(random._inst))

    async def main() -> None:
        replaying = asyncio.create_task(engine.areplay(method))
        await meeting.met()
        replaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replaying
        assert (time.time, time.sleep, random.random, type(random._inst)) == before
        assert not [thread for thread in threading.enumerate() if thread.name == "clearstone-replay"]

    asyncio.run(main())
    assert live == (["cleaned up"] if method == "waits_for_ever" else [])
    assert asyncio.run(engine.areplay("step", 1)) == 1


def test_a_timeout_around_it_is_one() -> None:
    engine = ReplayEngine(fail(Agent.asks)[0])

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.areplay("waits_for_ever"), 0.2)

    asyncio.run(main())
    assert live in (["cleaned up"], [])  # it may have ended before the agent was restored


def test_one_that_is_dropped_ends_too() -> None:
    engine = ReplayEngine(fail(Agent.asks)[0])

    async def main() -> None:
        replaying = engine.areplay("waits_for_ever")
        waiting = replaying.send(None)  # its turn: nobody is before it
        while not meeting.reached.is_set():
            await asyncio.sleep(0.01)
            if waiting.done():
                waiting = replaying.send(None)
        replaying.close()

    asyncio.run(main())
    assert live == ["cleaned up"]


def test_of_several_at_once_each_is_right_and_one_that_is_cancelled_keeps_nobody_waiting() -> None:
    checkpoints = [fail(Agent.asks, Agent(name))[0] for name in ("one", "two", "three")]
    alone = []
    for checkpoint in checkpoints:
        with pytest.raises(RuntimeError) as caught:
            ReplayEngine(checkpoint).replay_from_checkpoint()
        alone.append(caught.value.args)

    async def main() -> list[Any]:
        first = asyncio.create_task(ReplayEngine(checkpoints[0]).areplay("meets"))
        await meeting.met()
        given_up = asyncio.create_task(ReplayEngine(checkpoints[1]).areplay())
        waiting = [asyncio.create_task(ReplayEngine(checkpoint).areplay()) for checkpoint in checkpoints]
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert not any(task.done() for task in (first, *waiting))
        meeting.go.set()
        await first
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = asyncio.run(main())
    assert [each.args for each in found] == alone
    assert live == []


def test_replays_within_a_replay_take_turns_of_their_own() -> None:
    engines.extend(ReplayEngine(fail(Agent.asks, Agent(name))[0]) for name in ("one", "two"))
    expected = [engine.replay_from_checkpoint("meets_not") for engine in engines]
    outer = ReplayEngine(fail(Agent.asks)[0])
    assert asyncio.run(outer.areplay("replays_others")) == expected


def test_a_replay_that_blocks_works_inside_a_running_loop_too() -> None:
    checkpoint, recorded = fail(Agent.gathers)

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            ReplayEngine(checkpoint).replay_from_checkpoint()
        assert caught.value.args == recorded

    asyncio.run(main())
