"""Generators and async generators behave as undecorated ones, and are recorded as they run."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import time
import traceback
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import run, traced

if TYPE_CHECKING:
    from tests.calls.conftest import Recorded


@traced(name="inner")
def inner(x: Any = None) -> Any:
    return x


def plain(n: int) -> Generator[Any, Any, str]:
    """Give n items; what is sent in is given back, a KeyError too, closing runs a call."""
    try:
        for i in range(n):
            try:
                sent = yield inner(i)
            except KeyError as error:
                sent = error.args
            if sent is not None:
                yield sent
    finally:
        inner("last")
    return "done"


async def aplain(n: int) -> AsyncGenerator[Any, Any]:
    """The same, async."""
    try:
        for i in range(n):
            try:
                sent = yield inner(i)
            except KeyError as error:
                sent = error.args
            if sent is not None:
                yield sent
    finally:
        await asyncio.sleep(0)
        inner("last")


stream = traced(span_type="llm", name="stream")(plain)
astream = traced(span_type="llm", name="astream")(aplain)


def steps(made: Callable[[int], Any]) -> list[Any]:
    """Everything one may do with a generator."""
    seen: list[Any] = []
    first = made(2)
    seen += [next(first), first.send("sent"), next(first), first.throw(KeyError("thrown")), first.close()]
    seen.append(list(first))
    second = made(1)
    with pytest.raises(TypeError, match="can't send non-None value to a just-started generator"):
        second.send(1)
    next(second)
    with pytest.raises(StopIteration) as end:
        next(second)
    seen.append(end.value.value)
    third = made(1)
    with pytest.raises(LookupError):
        third.throw(LookupError("before it started"))
    fourth = made(3)
    next(fourth)
    with pytest.raises(LookupError, match="through"):
        fourth.throw(LookupError("through"))
    seen += [list(fourth), [*made(0)]]
    return seen


async def asteps(made: Callable[[int], Any]) -> list[Any]:
    seen: list[Any] = []
    first = made(2)
    seen += [await anext(first), await first.asend("sent"), await anext(first)]
    seen += [await first.athrow(KeyError("thrown")), await first.aclose(), [x async for x in first]]
    second = made(3)
    await anext(second)
    with pytest.raises(LookupError, match="through"):
        await second.athrow(LookupError("through"))
    seen.append([x async for x in second])
    third = made(3)
    await third.aclose()
    return seen


def test_each_step_gives_what_the_undecorated_generator_gives(recorded: Recorded) -> None:
    assert steps(stream) == steps(plain)
    assert asyncio.run(asteps(astream)) == asyncio.run(asteps(aplain))


def test_a_generator_object_is_a_generator_of_that_name(recorded: Recorded) -> None:
    assert inspect.isgenerator(stream(1))
    assert stream(1).__qualname__ == "plain"  # type: ignore[attr-defined]
    assert inspect.isasyncgen(astream(1))
    assert astream(1).__qualname__ == "aplain"  # type: ignore[attr-defined]


@pytest.mark.parametrize("made", [stream, astream])
def test_wrong_arguments_fail_at_the_call(recorded: Recorded, made: Any) -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'n'"):
        made()
    assert recorded.calls() == []


def test_each_chunk_has_its_time_and_what_was_sent_and_returned_is_there(recorded: Recorded) -> None:
    before = time.time_ns()
    steps(stream)
    calls = [call for call in recorded.calls() if call.name == "stream"]
    assert [call.chunks for call in calls] == [[0, "sent", 1, ("thrown",)], [0], [0], []]
    assert [call.ended for call in calls] == [("streamed", complete) for complete in (False, True, True, True)]
    assert [call.value for call in calls] == [None, "done", None, "done"]
    assert [call.end and call.end.error_type for call in calls] == [None, None, "LookupError", None]
    for call in calls:
        times = [at for at, _ in call.items]
        assert times == sorted(times)
        assert all(before <= at <= ((call.end and call.end.end_ns) or 0) for at in times)


def test_an_error_thrown_in_passes_one_library_frame(recorded: Recorded) -> None:
    error = LookupError("through")
    made: Any = stream(1)
    next(made)
    with pytest.raises(LookupError):
        made.throw(error)
    assert len([f for f in traceback.extract_tb(error.__traceback__) if "/src/clearstone/" in f.filename]) == 1


def test_yield_from_passes_everything_on(recorded: Recorded) -> None:
    @traced(name="outer")
    def outer() -> Generator[Any, Any, str]:
        return (yield from stream(1)) + "!"

    made: Any = outer()
    assert next(made) == 0
    assert made.send("sent") == "sent"
    with pytest.raises(StopIteration) as end:
        next(made)
    assert end.value.value == "done!"
    assert recorded.one("outer").chunks == recorded.one("stream").chunks == [0, "sent"]
    assert recorded.parent("stream") == "outer"


@pytest.mark.parametrize("how", ["collected", "closed"])
def test_a_generator_that_is_left_unfinished_ends_and_its_last_calls_are_below_it(recorded: Recorded, how: str) -> None:
    made: Any = stream(3)
    next(made)
    if how == "closed":
        made.close()
    del made
    gc.collect()
    call = recorded.one("stream")
    assert (call.chunks, call.ended) == ([0], ("streamed", False))
    assert [each.row.parent_id for each in recorded.calls()[1:]] == [call.row.span_id] * 2


def test_a_generator_that_ignores_being_closed_is_an_error_as_undecorated(recorded: Recorded) -> None:
    def stubborn() -> Generator[int, None, None]:
        try:
            yield 1
        except GeneratorExit:
            yield 2
        yield 3

    for make in (stubborn, traced(name="stubborn")(stubborn)):
        made = make()
        next(made)
        with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
            made.close()


def test_an_async_generator_is_closed_once_by_the_loop(recorded: Recorded) -> None:
    kept: list[Any] = []
    errors: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        for _ in range(5):
            kept.append(astream(3))
            await anext(kept[-1])

    asyncio.run(main())
    assert errors == []
    calls = [call for call in recorded.calls() if call.name == "astream"]
    assert [call.ended for call in calls] == [("streamed", False)] * 5
    lasts = [call for call in recorded.calls() if call.name == "inner" and call.args == ("last",)]
    assert {call.row.parent_id for call in lasts} == {call.row.span_id for call in calls}


def test_an_async_generator_that_is_dropped_is_closed_by_the_loop(recorded: Recorded) -> None:
    async def main() -> None:
        async for _ in astream(3):
            break
        gc.collect()
        await asyncio.sleep(0.01)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
    assert recorded.one("astream").ended == ("streamed", False)


def test_a_cancelled_async_generator_ends(recorded: Recorded) -> None:
    @traced(name="slow")
    async def slow() -> AsyncGenerator[int, None]:
        yield 1
        await asyncio.sleep(60)

    async def read() -> None:
        async for _ in slow():
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    end = recorded.one("slow").end
    assert end is not None
    assert (end.status_text, recorded.one("slow").chunks) == ("cancelled", [1])


def test_the_span_never_lives_across_a_yield(recorded: Recorded) -> None:
    for _ in stream(2):
        assert run.current_span.get() is None

    async def read() -> None:
        async for _ in astream(2):
            assert run.current_span.get() is None

    asyncio.run(read())


def test_steps_in_different_contexts_leave_each_as_it_was(recorded: Recorded) -> None:
    made = stream(3)
    contexts = [contextvars.Context() for _ in range(3)]
    for context in contexts:
        context.run(next, made)
        assert context.run(run.current_span.get) is None
    contextvars.Context().run(made.close)
    call = recorded.one("stream")
    assert call.chunks == [0, 1, 2]
    assert {each.row.parent_id for each in recorded.calls() if each.name == "inner"} == {call.row.span_id}


def test_decorated_generators_make_context_managers(recorded: Recorded) -> None:
    @contextmanager
    @traced(name="opened")
    def opened() -> Generator[str, None, None]:
        try:
            yield "here"
        except KeyError:
            inner("handled")

    @asynccontextmanager
    @traced(name="aopened")
    async def aopened() -> AsyncGenerator[str, None]:
        yield "here"

    with opened() as there:
        assert there == "here"
        raise KeyError

    async def main() -> None:
        async with aopened() as there:
            assert there == "here"

    asyncio.run(main())
    assert recorded.parent("inner") == "opened"
    assert recorded.one("opened").ended == recorded.one("aopened").ended == ("streamed", True)


class Item:
    """Something that can be seen to go."""


class StoppedError(Exception):
    """An error that can be seen to go."""


def test_a_suspended_generator_holds_no_item_and_nothing_that_was_sent_or_thrown_in(recorded: Recorded) -> None:
    @traced
    def items() -> Generator[Item, Any, None]:
        while True:
            with contextlib.suppress(StoppedError):
                yield Item()

    made = items()
    seen: list[weakref.ref[Any]] = [
        weakref.ref(next(made)),
        weakref.ref(made.send(None)),
        weakref.ref(made.throw(StoppedError())),
    ]
    sent, thrown = Item(), StoppedError()
    seen += [weakref.ref(sent), weakref.ref(thrown)]
    made.send(sent)
    made.throw(thrown)
    del sent, thrown
    assert [each() for each in seen] == [None] * 5
    made.close()


def test_a_suspended_async_generator_holds_no_item_and_nothing_that_was_sent_in(recorded: Recorded) -> None:
    @traced
    async def items() -> AsyncGenerator[Item, Any]:
        while True:
            yield Item()

    async def main() -> None:
        made = items()
        sent = Item()
        seen = [weakref.ref(await anext(made)), weakref.ref(await made.asend(sent)), weakref.ref(sent)]
        del sent
        assert [each() for each in seen] == [None] * 3
        await made.aclose()

    asyncio.run(main())
