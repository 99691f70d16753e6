"""Streams that are no generators are handed on as they are, and recorded as they are read."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import copy
import copyreg
import csv
import gc
import io
import itertools
import numbers
import operator
import os
import pickle
import sqlite3
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import pytest
import wrapt

from clearstone import run, traced
from clearstone.run import Answer
from clearstone.streams import PLAIN, kind_of

if TYPE_CHECKING:
    from types import TracebackType

    from tests.calls.conftest import Recorded


@traced(span_type="tool")
def inner(x: Any = None) -> Any:
    return x


class Stream:
    """As model clients give them: an iterator, a context manager, and `close`; not picklable."""

    def __init__(self, items: list[Any], error: Exception | None = None) -> None:
        self.response = "the response"
        self.closed = False
        self._lock = threading.Lock()
        self._items = iter(items)
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        yield from self._items

    def __next__(self) -> Any:
        try:
            return inner(next(self._items))
        except StopIteration:
            if self._error is not None:
                raise self._error from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> str:
        self.closed = True
        return "closed"


class AsyncStream:
    """The same for `async for`."""

    def __init__(self, items: list[Any], error: Exception | None = None) -> None:
        self.closed = False
        self._items = iter(items)
        self._error = error

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return inner(next(self._items))
        except StopIteration:
            if self._error is not None:
                raise self._error from None
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


@traced(span_type="llm")
def ask(*items: Any, error: Exception | None = None) -> Stream:
    return Stream(list(items), error)


@traced(span_type="llm")
async def ask_async(*items: Any, error: Exception | None = None) -> AsyncStream:
    return AsyncStream(list(items), error)


@traced(span_type="llm")
def ask_for_async(*items: Any) -> AsyncStream:
    return AsyncStream(list(items))


# --- what is a stream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [[1], (1,), {"a": 1}, {1}, range(3), "text", b"x", 1, None, io.StringIO("a")])
def test_containers_values_and_open_files_are_no_streams(value: Any) -> None:
    assert type(value) in PLAIN or kind_of(type(value)) is None


def test_what_has_a_next_item_is_a_stream() -> None:
    async def agenerator() -> AsyncIterator[int]:
        yield 1

    for value in (iter([1]), map(str, [1]), zip([1], [2], strict=True), (x for x in [1]), Stream([])):
        assert kind_of(type(value)) == "iterator"
    assert kind_of(sqlite3.Cursor) == "iterator"
    assert kind_of(AsyncStream) == kind_of(type(agenerator())) == "async iterator"


def test_a_result_whose_class_is_odd_is_a_value(recorded: Recorded) -> None:
    class Unhashable(type):
        __hash__ = None  # type: ignore[assignment]

    class Raising(type):
        def __getattr__(cls, name: str) -> Any:
            raise ZeroDivisionError

    class Odd(metaclass=Unhashable): ...

    class Odder(metaclass=Raising): ...

    for result in (Odd(), Odder()):
        assert traced(name="give")(lambda result=result: result)() is result
    assert len(recorded.calls()) == 2


def test_a_user_container_is_returned_itself(recorded: Recorded) -> None:
    class Bag:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

    bag = Bag()
    assert traced(lambda: bag)() is bag


def test_an_iterator_that_returns_itself_stays_itself(recorded: Recorded) -> None:
    class Fluent(Stream):
        @traced
        def start(self) -> Fluent:
            return self

    fluent = Fluent([1])
    assert fluent.start() is fluent


# --- recording -------------------------------------------------------------------------------------------------------


def test_a_stream_looks_as_it_would_undecorated(recorded: Recorded) -> None:
    stream = ask(1)
    assert isinstance(stream, Stream)
    assert isinstance(stream, Iterator)
    assert (stream.response, stream.closed) == ("the response", False)
    stream.response = "another"
    assert stream.response == "another"
    assert not hasattr(stream, "send")
    assert not hasattr(stream, "__aiter__")
    assert not hasattr(asyncio.run(ask_async()), "__iter__")


@pytest.mark.parametrize("read", [list, lambda s: [next(s), next(s), *s], lambda s: [*iter(s)]])
def test_each_item_is_recorded_with_its_time_as_it_is_read(recorded: Recorded, read: Any) -> None:
    before = time.time_ns()
    stream = ask("a", "b", "c")
    assert recorded.one("ask").end is None, "it is open until it is read"
    assert read(stream) == ["a", "b", "c"]
    call = recorded.one("ask")
    assert (call.chunks, call.ended) == (["a", "b", "c"], ("streamed", True))
    times = [at for at, _ in call.items]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= (call.end.end_ns if call.end and call.end.end_ns else 0)


def test_reading_a_stream_past_its_end_records_nothing_more(recorded: Recorded) -> None:
    stream = ask(1)
    assert list(stream) == [1]
    assert list(stream) == []
    assert next(stream, "end") == "end"
    assert recorded.one("ask").chunks == [1]


def test_a_stream_that_is_closed_early_is_incomplete(recorded: Recorded) -> None:
    stream = ask(1, 2)
    assert next(stream) == 1
    assert stream.close() == "closed"
    assert stream.closed
    assert (recorded.one("ask").chunks, recorded.one("ask").ended) == ([1], ("streamed", False))


def test_leaving_its_with_block_ends_a_stream(recorded: Recorded) -> None:
    with ask(1, 2) as stream:
        assert isinstance(stream, Stream)
        assert next(stream) == 1
    assert stream.closed
    assert (recorded.one("ask").chunks, recorded.one("ask").ended) == ([1], ("streamed", False))


def test_an_error_of_the_consumer_in_the_with_block_is_not_the_streams(recorded: Recorded) -> None:
    with pytest.raises(KeyError), ask(1) as stream:
        next(stream)
        raise KeyError("the consumer's")
    call = recorded.one("ask")
    assert call.ended == ("streamed", False)
    assert call.end is not None
    assert call.end.status == "UNSET"


def test_an_error_in_a_stream_ends_it_and_goes_through_one_library_frame(recorded: Recorded) -> None:
    error = ValueError("broken off")
    with pytest.raises(ValueError, match="broken off") as raised:
        for _ in iter(ask(1, error=error).__next__, None):
            pass
    assert raised.value is error
    call = recorded.one("ask")
    assert (call.chunks, call.ended) == ([1], ("streamed", True))
    assert call.end is not None
    assert (call.end.status, call.end.status_text) == ("ERROR", "ValueError: broken off")
    assert len([f for f in traceback.extract_tb(error.__traceback__) if "/src/clearstone/" in f.filename]) == 1


def test_a_stream_nobody_finishes_ends_when_it_is_collected(recorded: Recorded) -> None:
    stream = ask(1, 2)
    next(stream)
    del stream
    gc.collect()
    assert (recorded.one("ask").chunks, recorded.one("ask").ended) == ([1], ("streamed", False))


def test_a_stream_kept_on_the_object_its_call_is_bound_to_is_collected_with_it(recorded: Recorded) -> None:
    class Holder:
        @traced(span_type="llm")
        def open(self) -> Stream:
            return Stream([1])

    holder = Holder()
    holder.stream = holder.open()  # type: ignore[attr-defined]
    del holder
    gc.collect()
    assert recorded.one("Holder.open").ended == ("streamed", False)


def test_the_span_is_current_only_while_the_streams_own_code_runs(recorded: Recorded) -> None:
    @traced
    def consumer(x: Any) -> None: ...

    stream = ask(1)
    consumer(next(stream))
    assert run.current_span.get() is None
    assert recorded.parent("inner") == "ask"
    assert recorded.one("consumer").row.parent_id is None


def test_a_stream_read_in_another_thread_is_one_stream(recorded: Recorded) -> None:
    stream = ask(1, 2)
    next(stream)
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    thread.join()
    assert recorded.one("ask").chunks == [1, 2]


def test_a_generator_returned_by_a_plain_function_keeps_send_throw_and_close(recorded: Recorded) -> None:
    caught: list[Any] = []

    def plain() -> Iterator[Any]:
        try:
            caught.append((yield 1))
            yield 2
        except KeyError:
            yield "thrown"

    @traced
    def give() -> Any:
        return plain()

    stream = give()
    assert next(stream) == 1
    assert stream.send("sent") == 2
    assert stream.throw(KeyError("k")) == "thrown"
    stream.close()
    assert caught == ["sent"]
    assert (recorded.one("give").chunks, recorded.one("give").ended) == ([1, 2, "thrown"], ("streamed", False))


def test_what_a_returned_generator_returns_is_recorded(recorded: Recorded) -> None:
    def plain() -> Any:
        yield 1
        return "done"

    def all_of_it() -> Any:
        return (yield from traced(name="give")(lambda: plain())())

    assert list(all_of_it()) == [1]
    assert (recorded.one("give").chunks, recorded.one("give").value) == ([1], "done")


def test_a_stream_returned_by_two_decorated_calls_is_recorded_by_both(recorded: Recorded) -> None:
    @traced
    def outer() -> Stream:
        return ask(1, 2)

    assert list(outer()) == [1, 2]
    (above,) = [call for call in recorded.calls() if call.name.endswith("outer")]
    below = recorded.one("ask")
    assert above.chunks == below.chunks == [1, 2]
    assert below.row.parent_id == above.row.span_id


def test_copying_and_pickling_give_what_they_give_undecorated(recorded: Recorded) -> None:
    @traced
    def give() -> Any:
        return iter([1, 2, 3])

    stream = give()
    next(stream)
    assert list(copy.copy(stream)) == [2, 3]
    assert list(pickle.loads(pickle.dumps(stream))) == [2, 3]
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(ask(1))
    assert recorded.one("give").chunks == [1]


class Rewinding:
    """It is copied in its own way, compares, and has a length."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, at: int = 0) -> None:
        self.at = at

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        self.at += 1
        return self.at

    def __copy__(self) -> Rewinding:
        return Rewinding(-1)

    def __deepcopy__(self, _: Any) -> Rewinding:
        return Rewinding(-2)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rewinding) and self.at == other.at

    def __len__(self) -> int:
        return 7

    def __getitem__(self, place: int) -> int:
        return place * 2

    def __del__(self) -> None:
        self.at = 0


STREAMS: dict[str, Callable[[], Any]] = {
    "generator": lambda: (x for x in [1, 2, 3]),
    "map": lambda: map(str, [1, 2, 3]),
    "list iterator": lambda: iter([1, 2, 3]),
    "tee": lambda: itertools.tee([1, 2, 3])[0],
    "reader": lambda: csv.reader(["a,b", "c"]),
    "user's": lambda: Stream([1, 2]),
    "user's async": lambda: AsyncStream([1, 2]),
    "rewinding": lambda: Rewinding(),
}
ABSTRACT = [
    *(getattr(collections.abc, name) for name in collections.abc.__all__ if name != "ByteString"),
    contextlib.AbstractContextManager,
    contextlib.AbstractAsyncContextManager,
    os.PathLike,
    numbers.Number,
]


def told(question: Callable[[], Any]) -> Any:
    """What a question about an object comes to, errors too."""
    try:
        return question()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_and_can_what_it_is_and_can_undecorated(recorded: Recorded, kind: str) -> None:
    plain, proxied = STREAMS[kind](), traced(STREAMS[kind])()
    assert type(proxied) is not type(plain)
    assert [isinstance(proxied, each) for each in ABSTRACT] == [isinstance(plain, each) for each in ABSTRACT]
    classes = (collections.abc.Generator, wrapt.BaseObjectProxy, list, int)
    names = {
        name for cls in classes for name in dir(cls) if callable(getattr(cls, name, None)) and "_self_" not in name
    }
    names -= {"__getattr__"}
    assert {name for name in names if hasattr(proxied, name)} == {name for name in names if hasattr(plain, name)}
    assert dir(proxied) == dir(plain)
    assert (proxied.__class__, proxied.__doc__, proxied.__module__ if kind == "user's" else "") == (
        (plain.__class__, plain.__doc__, plain.__module__ if kind == "user's" else "")
    )
    for question in (
        operator.length_hint,
        len,
        bool,
        lambda x: x[3],
        lambda x: x + 1,
        lambda x: x == iter(()),
        os.fspath,
    ):
        asked: Callable[[Any], Any] = question
        mine, theirs = told(partial(asked, proxied)), told(partial(asked, plain))
        assert mine[0] == theirs[0] if isinstance(theirs, tuple) else mine == theirs  # errors of one type
    assert (type(told(lambda: hash(proxied))) is int) == (type(told(lambda: hash(plain))) is int)


@pytest.mark.parametrize("kind", ["generator", "map", "list iterator", "tee", "reader", "user's", "rewinding"])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_stream_is_copied_and_pickled_as_undecorated(recorded: Recorded, kind: str, duplicate: Any) -> None:
    def taken(stream: Any) -> Any:
        twin = duplicate(stream)
        return type(twin), list(itertools.islice(twin, 4))

    made = STREAMS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 says that it will copy no iterators any more
        assert told(lambda: taken(traced(made)())) == told(lambda: taken(made()))


def test_a_class_registered_with_copyreg_is_pickled_as_registered(recorded: Recorded) -> None:
    copyreg.dispatch_table[Stream] = lambda _: (str, ("as registered",))
    try:
        copied: Any = copy.copy(ask(1))
        assert pickle.loads(pickle.dumps(ask(1))) == copied == "as registered"
    finally:
        del copyreg.dispatch_table[Stream]


@pytest.mark.parametrize("kind", ["generator", "map", "list iterator", "tee"])
def test_tee_of_a_stream_gives_every_item_to_both(recorded: Recorded, kind: str) -> None:
    left, right = itertools.tee(traced(STREAMS[kind])())
    assert list(left) == list(right) == list(STREAMS[kind]())


def _giving(cls: Any) -> Callable[[], Any]:
    return lambda: cls([1])


def test_streams_of_one_class_share_a_proxy_class_that_goes_with_it(recorded: Recorded) -> None:
    give: Any = traced(_giving(type("Own", (Stream,), {})))
    assert type(give()) is type(give())
    seen = weakref.ref(give().__class__), weakref.ref(type(give()))
    del give
    gc.collect()
    gc.collect()  # a class is a cycle: the second goes after the first
    assert [each() for each in seen] == [None, None]


def test_streams_whose_classes_say_that_they_are_equal_keep_their_own_methods(recorded: Recorded) -> None:
    class Alike(type):
        def __eq__(cls, other: object) -> bool:
            return isinstance(other, Alike)

        def __hash__(cls) -> int:
            return 1

    class Short(Stream, metaclass=Alike):
        pass

    class Long(Stream, metaclass=Alike):
        def __len__(self) -> int:
            return 5

    short, long = traced(lambda: Short([1]))(), traced(lambda: Long([1]))()
    assert (hasattr(short, "__len__"), len(long)) == (False, 5)
    assert (list(short), list(long)) == ([1], [1])


def test_a_stream_whose_class_cannot_be_looked_through_is_a_value(recorded: Recorded) -> None:
    class Closed(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__mro__":
                raise RuntimeError("no")
            return super().__getattribute__(name)

    class Hidden(metaclass=Closed):
        def __next__(self) -> int:
            return 1

    assert type(traced(lambda: Hidden())()) is Hidden


def test_a_stream_made_in_a_suspended_block_is_the_users_own(recorded: Recorded) -> None:
    with run.suspended():
        assert type(ask(1)) is Stream
    assert recorded.calls() == []


# --- async -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [True, False])
def test_an_async_stream_is_recorded_as_it_is_read(recorded: Recorded, awaited: bool) -> None:
    async def main() -> list[Any]:
        stream = await ask_async("a", "b") if awaited else ask_for_async("a", "b")
        assert isinstance(stream, AsyncStream)
        return [item async for item in stream]

    assert asyncio.run(main()) == ["a", "b"]
    call = recorded.one("ask_async" if awaited else "ask_for_async")
    assert (call.chunks, call.ended) == (["a", "b"], ("streamed", True))


def test_an_async_stream_ends_when_closed_left_failed_or_collected(recorded: Recorded) -> None:
    async def close() -> None:
        stream = await ask_async(1, 2)
        await anext(aiter(stream))
        await stream.close()
        assert stream.closed

    async def leave() -> None:
        async with await ask_async(1, 2) as stream:
            await anext(aiter(stream))
        assert stream.closed

    async def fail() -> None:
        with pytest.raises(ValueError, match="broken"):
            _ = [item async for item in await ask_async(1, error=ValueError("broken"))]

    async def drop() -> None:
        await anext(aiter(await ask_async(1, 2)))
        gc.collect()

    for way in (close, leave, fail, drop):
        asyncio.run(way())
    calls = [call for call in recorded.calls() if call.name == "ask_async"]
    assert [call.chunks for call in calls] == [[1]] * 4
    assert [call.ended for call in calls] == [("streamed", complete) for complete in (False, False, True, False)]
    assert [call.end and call.end.status for call in calls] == ["UNSET", "UNSET", "ERROR", "UNSET"]


def test_an_async_streams_span_is_current_only_while_its_own_code_runs(recorded: Recorded) -> None:
    async def main() -> None:
        async for _ in await ask_async(1):
            assert run.current_span.get() is None

    asyncio.run(main())
    assert recorded.parent("inner") == "ask_async"


def test_two_async_streams_read_in_turn_do_not_mix(recorded: Recorded) -> None:
    async def read(name: str) -> None:
        async for item in await traced(name=name)(ask_async)(name, name):
            assert item == name

    async def main() -> None:
        await asyncio.gather(*(read(str(n)) for n in range(10)))

    asyncio.run(main())
    for n in range(10):
        assert recorded.one(str(n)).chunks == [str(n)] * 2


# --- replaying -------------------------------------------------------------------------------------------------------


class Answering:
    """A Run that answers everything with one answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def begin(self, *_: Any) -> run.OpenCall:
        call = run.PassingCall()
        call.answer = self._answer  # type: ignore[assignment]
        return call


def test_a_served_stream_is_read_and_closed_as_the_recorded_one() -> None:
    with run.overriding(Answering(Answer(chunks=[1, 2, 3]))):
        with ask() as stream:
            assert next(stream) == 1
            assert list(stream) == [2, 3]
        stream = ask()
        next(stream)
        stream.close()
        assert list(stream) == []
        thrown: Any = ask()
        next(thrown)
        with pytest.raises(KeyError):
            thrown.throw(KeyError("k"))


def test_a_served_stream_ends_with_the_recorded_error() -> None:
    with run.overriding(Answering(Answer(chunks=[1], error=ValueError("broken")))):
        stream = ask()
        assert next(stream) == 1
        with pytest.raises(ValueError, match="broken"):
            next(stream)


def test_a_served_stream_says_that_it_has_no_other_attribute() -> None:
    with run.overriding(Answering(Answer(chunks=[1]))):
        assert not hasattr(ask(), "__aiter__")
        with pytest.raises(AttributeError, match="holds its items and not its attribute 'response'"):
            ask().response


def test_a_served_async_stream_is_read_and_closed_as_the_recorded_one() -> None:
    async def main() -> None:
        async with await ask_async() as stream:
            assert [item async for item in stream] == [1, 2]
        again = ask_for_async()
        assert await anext(aiter(again)) == 1
        await again.close()
        assert [item async for item in again] == []

    with run.overriding(Answering(Answer(chunks=[1, 2], stream="async iterator"))):
        asyncio.run(main())


def test_a_served_stream_that_was_closed_early_ends_with_what_the_record_ends_with() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("the record ends")

    with run.overriding(Answering(Answer(chunks=items(), complete=False))), contextlib.closing(ask()) as stream:
        assert next(stream) == 1
        with pytest.raises(LookupError):
            next(stream)
