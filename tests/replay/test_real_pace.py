"""With ``pace=True`` the items of streams take the time they took; nothing else does."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.span import Trace

NEAR = 1e-4
HOUR = 3600 * 10**9
reached = threading.Event()


def really() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@checkpointable
class Agent:
    @traced(span_type="llm")
    def stream(self, *pauses: float) -> Iterator[float]:
        for pause in pauses:
            time.sleep(pause)
            yield pause

    @traced(span_type="llm")
    async def astream(self, *pauses: float) -> AsyncIterator[float]:
        for pause in pauses:
            await asyncio.sleep(pause)
            yield pause

    @traced(span_type="llm")
    def ask(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def reads(self) -> None:
        found = [self.looked()]
        for _ in self.stream(0.05, 0.15, 0.01):
            reached.set()
            found.append(self.looked())
        raise RuntimeError(found)

    async def areads(self) -> None:
        found = [self.looked()]
        async for _ in self.astream(0.05, 0.15, 0.01):
            reached.set()
            found.append(self.looked())
        raise RuntimeError(found)

    async def areads_beside_tasks(self) -> None:
        seen: list[Any] = []

        async def ticks() -> None:
            for number in range(4):
                await asyncio.sleep(0.04)
                seen.append(number)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticks())
            async for item in self.astream(0.06, 0.04, 0.04):
                seen.append(item)  # noqa: PERF401 - the task adds to it meanwhile
        raise RuntimeError(seen)

    async def areads_while_woken(self) -> None:
        ended, loop = threading.Event(), asyncio.get_running_loop()
        thread = threading.Thread(target=keep_waking, args=(loop, ended))
        thread.start()
        try:
            raise RuntimeError([item async for item in self.astream(0.05, 0.05)])
        finally:
            ended.set()
            await asyncio.to_thread(thread.join)

    def looked(self) -> tuple[float, float]:
        return time.time(), really()

    def asks(self) -> None:
        raise RuntimeError(self.ask(0.01))


def keep_waking(loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
    while not ended.is_set():
        loop.call_soon_threadsafe(int)


def failed(call: Callable[[Agent], Any]) -> tuple[Checkpoint, tuple[Any, ...]]:
    with pytest.raises(RuntimeError) as caught:
        result = call(Agent())
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    reached.clear()
    return CheckpointManager().load_checkpoint("latest"), caught.value.args


def replayed(checkpoint: Checkpoint, *, pace: bool) -> tuple[Any, ...]:
    with pytest.raises(RuntimeError) as caught:
        ReplayEngine(checkpoint, pace=pace).replay_from_checkpoint()
    return caught.value.args


def later(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint in which all but the first item of a stream, and the end of any call, are an hour later."""
    spans = []
    for span in checkpoint.trace:
        if span.span_type == "llm" and span.outcome is not None and span.end_ns is not None:
            chunks = [replace(each, at_ns=each.at_ns + HOUR * bool(n)) for n, each in enumerate(span.chunks)]
            outcome = replace(span.outcome, chunks=tuple(chunks))
            span = replace(span, outcome=outcome, end_ns=span.end_ns + HOUR)
        spans.append(span)
    return replace(checkpoint, trace=Trace(checkpoint.trace.trace_id, tuple(spans)))


@pytest.mark.parametrize("call", [Agent.reads, Agent.areads])
def test_the_items_come_at_their_times_on_the_replays_clock_and_on_the_real_one(call: Callable[[Agent], Any]) -> None:
    checkpoint, _ = failed(call)
    (found,) = replayed(checkpoint, pace=True)
    (span,) = (span for span in checkpoint.trace if span.span_type == "llm")
    times = [each / 1e9 for each in (span.start_ns, *(chunk.at_ns for chunk in span.chunks))]
    assert [now for now, _ in found[1:]] == pytest.approx(times[1:], abs=NEAR)
    for (then, now), ((_, before), (_, after)) in zip(pairwise(times), pairwise(found), strict=True):
        assert after - before > now - then - NEAR


@pytest.mark.parametrize("call", [Agent.reads, Agent.areads])
def test_without_it_nobody_waits_for_an_hour(call: Callable[[Agent], Any]) -> None:
    (found,) = replayed(later(failed(call)[0]), pace=False)
    assert max(now - then for (then, _), (now, _) in pairwise(found)) > 3600


def test_with_it_calls_that_are_no_streams_are_answered_at_once() -> None:
    checkpoint, recorded = failed(Agent.asks)
    assert replayed(later(checkpoint), pace=True) == recorded


def test_other_tasks_go_on_meanwhile_in_the_order_they_did() -> None:
    checkpoint, recorded = failed(Agent.areads_beside_tasks)
    assert replayed(checkpoint, pace=True) == recorded == replayed(checkpoint, pace=False)


def test_who_keeps_waking_the_loop_does_not_delay_an_item() -> None:
    checkpoint, recorded = failed(Agent.areads_while_woken)
    assert replayed(checkpoint, pace=True) == recorded


@pytest.mark.parametrize("call", [Agent.reads, Agent.areads])
def test_a_replay_that_is_awaited_can_be_cancelled_while_it_waits(call: Callable[[Agent], Any]) -> None:
    checkpoint = later(failed(call)[0])

    async def main() -> None:
        replaying = asyncio.create_task(ReplayEngine(checkpoint, pace=True).areplay())
        assert await asyncio.to_thread(reached.wait, 60)
        replaying.cancel()
        await asyncio.wait([replaying])
        assert replaying.cancelled()

    asyncio.run(main())


def test_a_written_configuration_has_it_too() -> None:
    checkpoint, _ = failed(Agent.areads)
    engine, begun = ReplayEngine(checkpoint, pace=True), really()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError) as caught:
        patch.setattr("sys.stdin", io.StringIO("c\nc\n"))
        engine.start_debugging_session(mock_config={"llm": f"{__name__}.Agent.astream"})
    (found,) = caught.value.args
    assert really() - begun > found[-1][0] - found[0][0] > 0.2


INTERRUPTED = """
    import sys
    sys.path.insert(0, {folder!r})
    import test_real_pace as tests
    from clearstone.debugging import ReplayEngine
    checkpoint, _ = tests.failed(tests.Agent.{call})
    tests.reached.set = lambda: print("waiting", flush=True)
    ReplayEngine(tests.later(checkpoint), pace=True).replay_from_checkpoint()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for one process")
@pytest.mark.parametrize("call", ["reads", "areads"])
def test_ctrl_c_ends_it_while_it_waits(call: str, tmp_path: Path) -> None:
    code = textwrap.dedent(INTERRUPTED).format(folder=str(Path(__file__).parent), call=call)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert told.rstrip().endswith("KeyboardInterrupt"), told
