"""Cancelled calls, timeouts and task groups."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import traced
from clearstone.cli.values import outcome_text
from clearstone.codec.exceptions import load_exception
from clearstone.observability import TracerProvider
from clearstone.span import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from tests.calls.conftest import Call, Recorded


@traced
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@traced
async def step(seconds: float) -> str:
    return await sleep(seconds)


def ended_with(call: Call) -> tuple[str | None, str, str, str | None]:
    assert call.end is not None
    return call.end.outcome, call.end.status, call.end.status_text, call.end.error_type


CANCELLED = ("raised", "ERROR", "cancelled", "asyncio.exceptions.CancelledError")


def test_a_cancelled_call_is_recorded_as_cancelled_and_so_is_what_waits_for_it(recorded: Recorded) -> None:
    async def main() -> None:
        task = asyncio.create_task(step(60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert [ended_with(recorded.one(name)) for name in ("step", "sleep")] == [CANCELLED] * 2
    assert recorded.parent("sleep") == "step"


def test_the_words_it_was_cancelled_with_are_kept(recorded: Recorded) -> None:
    async def main() -> None:
        task = asyncio.create_task(sleep(60))
        await asyncio.sleep(0.01)
        task.cancel("enough")
        await asyncio.wait([task])

    asyncio.run(main())
    assert ended_with(recorded.one("sleep"))[2] == "cancelled: enough"


def test_a_call_that_is_cancelled_before_it_starts_was_never_made(recorded: Recorded) -> None:
    async def main() -> None:
        task = asyncio.create_task(sleep(60))
        task.cancel()
        await asyncio.wait([task])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()
    assert recorded.calls() == []


def test_a_timeout_cancels_what_is_inside_and_the_call_around_it_fails_with_it(recorded: Recorded) -> None:
    @traced(name="patient")
    async def patient() -> None:
        async with asyncio.timeout(0.01):
            await sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(patient())
    assert ended_with(recorded.one("sleep")) == CANCELLED
    assert ended_with(recorded.one("patient"))[3] == "TimeoutError"


def test_a_call_that_catches_its_cancellation_returns(recorded: Recorded) -> None:
    @traced(name="stubborn")
    async def stubborn() -> str:
        try:
            await sleep(60)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        return await sleep(0)

    async def main() -> str:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0.01)
        task.cancel()
        return await task

    assert asyncio.run(main()) == "slept"
    assert recorded.one("stubborn").value == "slept"
    assert [call.row.parent_id for call in recorded.calls()[1:]] == [recorded.one("stubborn").row.span_id] * 2


def test_in_a_task_group_one_failure_cancels_the_others(recorded: Recorded) -> None:
    @traced(name="fails")
    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("mine")

    @traced(name="group")
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sleep(60))
            tasks.create_task(fails())

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(group())
    assert raised.group_contains(ValueError, match="mine")
    assert ended_with(recorded.one("sleep")) == CANCELLED
    assert ended_with(recorded.one("fails"))[2] == "ValueError: mine"
    assert recorded.parent("sleep") == recorded.parent("fails") == "group"


def test_a_coroutine_that_is_closed_before_its_end_has_ended(recorded: Recorded) -> None:
    coroutine: Any = sleep(1)

    async def start() -> None:
        coroutine.send(None)
        coroutine.close()

    asyncio.run(start())
    assert ended_with(recorded.one("sleep"))[:2] == ("raised", "ERROR")


def test_a_recorded_cancellation_loads_as_one(recorded: Recorded) -> None:
    async def main() -> None:
        await asyncio.wait_for(sleep(60), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    end = recorded.one("sleep").end
    assert end is not None
    assert end.error is not None
    from clearstone.codec import payload

    value = payload.of_raw(*end.error)
    assert isinstance(load_exception(Failure("", "", "", "", value)), asyncio.CancelledError)


def test_showing_a_cancelled_call_says_so(tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "traces.db")

    async def main() -> None:
        with provider.get_tracer().span("root") as root:
            told.append(root.trace_id)
            task = asyncio.create_task(sleep(60))
            await asyncio.sleep(0.01)
            task.cancel("enough")
            await asyncio.wait([task])

    told: list[str] = []
    asyncio.run(main())
    (span,) = provider.trace_store.get_trace(told[0]).spans[1:]
    assert (outcome_text(span.outcome), str(span.status)) == ("cancelled: enough", "ERROR: cancelled: enough")
    provider.shutdown()
