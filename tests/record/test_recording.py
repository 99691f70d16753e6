"""The recorder beside the program: what goes wrong in it costs a record at most, and it keeps nothing of the user's."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import clearstone
from clearstone import run, traced
from clearstone.codec import payload
from clearstone.codec.redact import MARKER
from clearstone.observability import Span, TracerProvider
from clearstone.record import provider as providers
from clearstone.record import recording
from clearstone.record.recording import RecordedCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from clearstone.record.tracer import Tracer


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[TracerProvider]:
    made = TracerProvider(tmp_path / "t.db")
    yield made
    made.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer()


def all_spans(provider: TracerProvider) -> list[Span]:
    provider.flush()
    store = provider.trace_store
    spans = [span for one in store.traces() for span in store.get_trace(one.trace_id)]
    return sorted(spans, key=lambda span: (span.start_ns, span.order))


@pytest.mark.parametrize("end", ["close", "collect"])
def test_a_coroutine_that_ends_in_another_context_leaves_what_is_current_there(
    provider: TracerProvider, tracer: Tracer, end: str
) -> None:
    @traced(tracer=tracer)
    async def forever() -> None:
        await asyncio.Event().wait()

    @traced(tracer=tracer)
    def inner() -> None: ...

    @traced(tracer=tracer)
    def outer(held: list[Any]) -> None:
        if end == "close":
            held.pop().close()
        else:
            held.clear()
            gc.collect()
        inner()

    held = [forever()]

    async def begin() -> None:
        contextvars.copy_context().run(held[0].send, None)

    asyncio.run(begin())
    outer(held)
    spans = {span.name.rpartition(".")[2]: span for span in all_spans(provider)}
    assert spans["inner"].parent_id == spans["outer"].span_id
    assert not spans["forever"].is_open


def test_rules_count_from_the_next_call_on_and_stay_until_others_are_given(tmp_path: Path) -> None:
    provider = clearstone.configure(db_path=tmp_path / "t.db")

    @traced(span_type="tool")
    def use(**options: Any) -> None: ...

    use(badge="B-1")
    clearstone.configure(provider=provider, redact_keys=["badge"])
    use(badge="B-2")
    clearstone.configure(provider=provider)
    use(badge="B-3")
    clearstone.configure(provider=provider, redact_keep=["badge"])
    use(badge="B-4")
    clearstone.configure(provider=provider, redact_keys=(), redact_keep=())
    use(badge="B-5")
    given = [payload.load(span.input)[1]["badge"] for span in all_spans(provider) if span.input is not None]
    assert given == ["B-1", MARKER, MARKER, "B-4", "B-5"]


def cyclic() -> list[Any]:
    made: list[Any] = [threading.Lock()]
    made.append(made)
    return made


def test_an_exception_that_cannot_be_taken_apart_is_the_users_and_ends_the_span(
    provider: TracerProvider, tracer: Tracer
) -> None:
    @traced(tracer=tracer)
    def fail(value: Any) -> None:
        raise ValueError("the user's own", value)

    with pytest.raises(ValueError, match="the user's own"), tracer.span("by hand"):
        fail(cyclic())
    assert [(span.name.rpartition(".")[2], span.is_open, span.status.code) for span in all_spans(provider)] == [
        ("by hand", False, "ERROR"),
        ("fail", False, "ERROR"),
    ]


@pytest.mark.usefixtures("faults_allowed")
def test_an_object_that_cannot_be_looked_at_costs_its_effect_and_not_the_call(
    provider: TracerProvider, tracer: Tracer
) -> None:
    class Closing:
        closed = False

        @traced(span_type="tool", tracer=tracer)
        def close(self) -> str:
            self.closed = True
            return "closed"

        def __getattribute__(self, name: str) -> Any:
            if name == "__dict__" and object.__getattribute__(self, "closed"):
                raise RuntimeError("it is closed")
            return object.__getattribute__(self, name)

    assert Closing().close() == "closed"
    (span,) = all_spans(provider)
    assert not span.is_open
    assert not run.open_spans()


class Refusing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error

    def __repr__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_a_signal_handler_that_leaves_while_a_value_is_recorded_leaves_and_no_span_stays_open(
    tracer: Tracer, error: BaseException
) -> None:
    @traced(tracer=tracer)
    def same(value: Any) -> Any:
        return value

    @traced(tracer=tracer)
    def made() -> Any:
        return Refusing(error)

    for call in (made, lambda: same(Refusing(error))):
        with pytest.raises(type(error)):
            call()
        assert not run.open_spans()


@pytest.mark.parametrize("packings", ["STARTS", "ENDS"])
@pytest.mark.parametrize("first", ["", "flush", "shutdown"])
def test_a_signal_handler_that_leaves_right_after_a_record_was_copied_leaves_and_the_record_stays(
    provider: TracerProvider, tracer: Tracer, monkeypatch: pytest.MonkeyPatch, packings: str, first: str
) -> None:
    @traced(tracer=tracer, name="step")
    def step(number: int) -> int:
        return number

    real = getattr(recording, packings)

    class Left(dict[int, Any]):
        def __missing__(self, size: int) -> Any:
            pack, length, room = real[size]

            def pack_and_leave(*fields: Any) -> None:
                pack(*fields)
                leave()

            return pack_and_leave, length, room

    def leave() -> None:  # as a handler does that runs where the copy returns
        monkeypatch.undo()
        step(2)
        if first:
            assert getattr(provider, first)(20)
        step(3)
        raise KeyboardInterrupt

    step(0)
    monkeypatch.setattr(recording, packings, Left())
    with pytest.raises(KeyboardInterrupt):
        step(1)
    step(4)
    spans = all_spans(provider)
    assert [payload.load(span.input) for span in spans if span.input] == [((number,), {}) for number in range(5)]
    assert not any(span.is_open for span in spans)
    values = [payload.load(span.outcome.value) if span.outcome and span.outcome.value else None for span in spans]
    assert values == [0, 1 if packings == "ENDS" else None, 2, 3, 4]


def test_names_of_spans_events_and_attributes_hold_no_secrets(provider: TracerProvider, tracer: Tracer) -> None:
    with tracer.span("GET https://ann:hunter2@host/x") as span:
        span.add_event("POST https://ann:hunter2@host/y", {"https://ann:hunter2@host/z": 1})
        span.set_attribute("https://ann:hunter2@host/a", "https://ann:hunter2@host/b")
        span.set_status("ERROR", "https://ann:hunter2@host/c")
    (found,) = all_spans(provider)
    assert "hunter2" not in repr(found)
    assert "host/x" in found.name


def test_a_child_that_reads_its_parents_stream_records_nothing_of_it(provider: TracerProvider, tracer: Tracer) -> None:
    @traced(span_type="llm", tracer=tracer)
    def numbers() -> Iterator[int]:
        yield from range(4)

    stream = numbers()
    next(stream)
    child = os.fork()
    if not child:
        next(stream)
        next(stream)
        provider.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert list(stream) == [1, 2, 3]
    (span,) = all_spans(provider)
    assert span.outcome is not None
    assert [payload.load(chunk.value) for chunk in span.outcome.chunks] == [0, 1, 2, 3]


def recorded_calls() -> int:
    gc.collect()
    return sum(isinstance(each, RecordedCall) for each in gc.get_objects())


def test_callbacks_that_schedule_the_next_keep_no_ended_spans(provider: TracerProvider, tracer: Tracer) -> None:
    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        @traced(tracer=tracer)
        def step(left: int) -> None:
            loop.call_soon(step, left - 1) if left else done.set()

        step(300)
        await done.wait()

    before = recorded_calls()
    asyncio.run(main())
    assert recorded_calls() - before < 10
    assert len(all_spans(provider)) == 301


def test_jobs_that_submit_the_next_keep_no_ended_spans(provider: TracerProvider, tracer: Tracer) -> None:
    done = threading.Event()
    with ThreadPoolExecutor(2) as pool:

        @traced(tracer=tracer)
        def step(left: int) -> None:
            pool.submit(step, left - 1) if left else done.set()

        step(300)
        done.wait(60)
        assert recorded_calls() < 20
    spans = all_spans(provider)
    assert [span.parent_id for span in spans[1:]] == [span.span_id for span in spans[:-1]]


def test_the_items_of_a_long_stream_are_not_kept_and_are_there_for_who_looks(
    provider: TracerProvider, tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_CHUNK_BYTES", 1000)

    @traced(span_type="llm", tracer=tracer)
    def items() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    stream = items()
    for _ in range(40):
        next(stream)
    (span,) = run.open_spans()
    assert isinstance(span, RecordedCall)
    assert not span.chunks
    (seen,) = span.trace_so_far()
    assert seen.outcome is not None
    assert (len(seen.outcome.chunks), seen.is_open) == (40, True)
    assert len(list(stream)) == 10
    (ended,) = all_spans(provider)
    assert ended.outcome is not None
    assert (len(ended.outcome.chunks), ended.outcome.complete) == (50, True)


def test_an_object_lives_no_longer_for_having_been_called(tracer: Tracer) -> None:
    started = []

    class Agent:
        @traced(span_type="tool", tracer=tracer)
        def start(self, stop: threading.Event) -> None:
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)

    agent, stop = Agent(), threading.Event()
    agent.start(stop)
    dead = weakref.ref(agent)
    del agent
    gc.collect()
    assert dead() is None
    stop.set()
    started[0].join()


def test_a_text_of_an_exception_is_cut_for_people_and_whole_in_the_data(
    provider: TracerProvider, tracer: Tracer
) -> None:
    @traced(tracer=tracer)
    def fail() -> None:
        raise ValueError("x" * 300_000)

    with pytest.raises(ValueError, match="xxx"):
        fail()
    (span,) = all_spans(provider)
    assert span.outcome is not None
    failure = span.outcome.failure
    assert failure is not None
    assert len(failure.message) + len(failure.traceback) + len(span.status.description) < 120_000
    assert "more characters" in failure.message
    assert len(payload.load(failure.value).args[0]) == 300_000


def test_a_child_forked_while_the_default_database_is_opened_opens_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on, original = threading.Event(), threading.Event(), providers._open_store

    def slow(db_path: Any) -> Any:
        inside.set()
        go_on.wait(60)
        return original(db_path)

    @traced
    def work() -> int:
        return 1

    with monkeypatch.context() as patch:
        patch.setattr(providers, "_open_store", slow)
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(60)
        go_on_in_child: Callable[[], object] = go_on.set
        child = os.fork()
        if not child:
            go_on_in_child()
            os._exit(work() - 1)
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        thread.join()


def test_an_async_stream_left_in_the_middle_ends_its_span(provider: TracerProvider, tracer: Tracer) -> None:
    @traced(span_type="llm", tracer=tracer)
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main() -> None:
        async for _ in items():
            break
        gc.collect()
        await asyncio.sleep(0.01)  # for the loop to close it

    asyncio.run(main())
    (span,) = all_spans(provider)
    assert span.outcome is not None
    assert (span.is_open, span.outcome.complete) == (False, False)
