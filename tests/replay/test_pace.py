"""The clock of a replay goes as it went: served calls take as long as they took, and tasks go on in the same order."""

import asyncio
import datetime as dt
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.span import Span

live: list[str] = []
NEAR = 1e-4
"""Seconds: each read of a steady clock adds a microsecond."""


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.done: list[str] = []

    @traced(span_type="llm")
    def ask(self, prompt: str, seconds: float = 0.05) -> str:
        live.append(prompt)
        time.sleep(seconds)
        return prompt

    @traced(span_type="llm")
    async def aask(self, prompt: str, seconds: float) -> str:
        live.append(prompt)
        await asyncio.sleep(seconds)
        self.done.append(prompt)
        return prompt

    @traced(span_type="llm")
    def stream(self) -> Iterator[int]:
        for number in range(3):
            live.append("item")
            time.sleep(0.02)
            yield number

    @traced(span_type="llm")
    async def astream(self) -> AsyncIterator[int]:
        for number in range(3):
            live.append("item")
            await asyncio.sleep(0.02)
            yield number

    def elapsed(self) -> None:
        found = []
        for clock in (time.monotonic, time.perf_counter, time.time, lambda: dt.datetime.now(tz=dt.UTC).timestamp()):
            begun = clock()
            self.ask("x")
            found.append(clock() - begun)
        raise RuntimeError(found)

    def read(self) -> None:
        begun = time.monotonic()
        raise RuntimeError([time.monotonic() - begun for _ in self.stream()])

    async def aread(self) -> None:
        begun = time.monotonic()
        raise RuntimeError([time.monotonic() - begun async for _ in self.astream()])

    def in_threads(self) -> None:
        begun = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self.ask, "abc", (0.06, 0.04, 0.02)))
        raise RuntimeError([time.monotonic() - begun])

    async def as_they_come(self) -> None:
        asked = [self.aask(name, seconds) for name, seconds in (("a", 0.09), ("b", 0.03), ("c", 0.06))]
        raise RuntimeError([await each for each in asyncio.as_completed(asked)], self.done)

    async def seen_meanwhile(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.aask("slow", 0.08))
            await self.aask("quick", 0.02)
            seen = list(self.done)
        raise RuntimeError(seen, self.done)

    async def in_time(self) -> None:
        """What computes for a while before each call, whose timeout it only just keeps, or does not."""
        found = []
        for seconds in (0.05, 0.15):
            busy(0.06)
            try:
                found.append(await asyncio.wait_for(self.aask("x", seconds), 0.1))
            except TimeoutError:
                found.append("too late")
        raise RuntimeError(found)

    async def turns(self) -> None:
        order: list[Any] = []

        async def ticks() -> None:
            for number in range(4):
                await asyncio.sleep(0.05)
                order.append(number)

        async def asks() -> None:
            for name, seconds in (("a", 0.075), ("b", 0.05)):
                order.append(await self.aask(name, seconds))

        await asyncio.gather(ticks(), asks())
        raise RuntimeError(order)

    def now(self) -> float:
        self.ask("x")
        return time.time()


def busy(seconds: float) -> None:
    until = time.clock_gettime(time.CLOCK_MONOTONIC) + seconds
    while time.clock_gettime(time.CLOCK_MONOTONIC) < until:
        continue


@pytest.fixture(autouse=True)
def _nothing_live() -> None:
    live.clear()


def failed(call: Callable[[Agent], Any]) -> tuple[Checkpoint, tuple[Any, ...]]:
    with pytest.raises(RuntimeError) as caught:
        result = call(Agent())
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    live.clear()
    return CheckpointManager().load_checkpoint("latest"), caught.value.args


def replayed(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Replay twice; both end alike, and nothing is live."""
    found = []
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(RuntimeError) as caught:
            ReplayEngine(checkpoint).replay_from_checkpoint()
        assert time.monotonic() - begun < 30
        found.append(caught.value.args)
    assert found[0] == found[1]
    assert live == []
    return found[0]


def asked(checkpoint: Checkpoint) -> list[Span]:
    return [span for span in checkpoint.trace if span.span_type == "llm"]


def since(checkpoint: Checkpoint, *moments: int | None) -> list[float]:
    """Return moments of the record in seconds after the replayed call began."""
    return [(moment or 0) / 1e9 - checkpoint.timestamp.timestamp() for moment in moments]


def test_elapsed_times_are_those_of_the_recorded_calls_on_every_clock() -> None:
    checkpoint, _ = failed(Agent.elapsed)
    (found,) = replayed(checkpoint)
    ends = [0, *since(checkpoint, *(span.end_ns for span in asked(checkpoint)))]
    assert found == pytest.approx([end - begun for begun, end in pairwise(ends)], abs=NEAR)


@pytest.mark.parametrize("read", [Agent.read, Agent.aread])
def test_the_items_of_a_stream_come_at_their_times(read: Callable[[Agent], Any]) -> None:
    checkpoint, _ = failed(read)
    (found,) = replayed(checkpoint)
    (span,) = asked(checkpoint)
    assert found == pytest.approx(since(checkpoint, *(chunk.at_ns for chunk in span.chunks)), abs=NEAR)


def test_calls_that_overlap_in_threads_take_as_long_as_the_longest() -> None:
    checkpoint, _ = failed(Agent.in_threads)
    ((found,),) = replayed(checkpoint)
    (whole,) = since(checkpoint, max(span.end_ns or 0 for span in asked(checkpoint)))
    assert found == pytest.approx(whole, abs=NEAR)


@pytest.mark.parametrize("call", [Agent.as_they_come, Agent.seen_meanwhile, Agent.in_time, Agent.turns])
def test_tasks_go_on_in_the_order_they_did_and_timeouts_are_as_long(call: Callable[[Agent], Any]) -> None:
    checkpoint, recorded = failed(call)
    assert replayed(checkpoint) == recorded


def test_after_a_call_it_is_the_time_it_was_after_the_recorded_one() -> None:
    checkpoint, _ = failed(Agent.elapsed)
    engine = ReplayEngine(checkpoint)
    (span, *_) = asked(checkpoint)
    assert span.end_ns is not None
    assert engine.replay_from_checkpoint("now") == pytest.approx(span.end_ns / 1e9, abs=NEAR)


def test_with_a_written_configuration_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = failed(Agent.elapsed)
    monkeypatch.setattr("sys.stdin", io.StringIO("c\n"))
    now = ReplayEngine(checkpoint).start_debugging_session("now", mock_config={"llm": f"{__name__}.Agent.ask"})
    assert now == checkpoint.timestamp.timestamp()
