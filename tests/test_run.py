"""The hinge: which Run a call finds, and how the current span and the override reach threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import json
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import run, threads, traced
from clearstone.record.provider import TracerProvider
from clearstone.span import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clearstone.span import Payload, Span

own: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="the default")


@dataclass(eq=False)
class FakeSpan:
    """An open span as other rooms see it."""

    span_id: str = "5"
    trace_id: str = "t"
    in_boundary: bool = False
    inherited: bool = False
    name: str = "fake"
    databases: tuple[Path | None, ...] = ()
    is_outermost: bool = True

    @property
    def number(self) -> int:
        return int(self.span_id, 16)

    @property
    def recording(self) -> run.Run:
        return run.SUSPENDED

    def draws(self) -> None:
        """Nothing of it is kept."""

    def ticket(self) -> run.Ticket:
        raise NotImplementedError

    def snapshot(self) -> Span:
        raise NotImplementedError

    def given(self) -> Payload | None:
        raise NotImplementedError

    def trace_so_far(self, trace_id: str = "") -> Trace:
        return Trace(self.trace_id)

    def others_on(self, instance: Any) -> tuple[str, ...]:
        raise NotImplementedError


@contextmanager
def inside(span: FakeSpan, override: run.Run | None = None) -> Iterator[None]:
    """Be in a span, and under an override where one is given, with a context variable of the user's set."""
    tokens = run.current_span.set(span), run.override.set(override), own.set("set by the user")
    try:
        yield
    finally:
        run.current_span.reset(tokens[0])
        run.override.reset(tokens[1])
        own.reset(tokens[2])


def seen() -> tuple[Any, Any, str]:
    """Tell what the calling thread has: the span, the override, the user's variable."""
    return run.current_span.get(), run.override.get(), own.get()


@pytest.fixture(autouse=True)
def carrying() -> None:
    threads.carry_into_threads()


# --- into threads ----------------------------------------------------------------------------------------------------


class OwnThread(threading.Thread):
    """Overrides run, as users do."""

    def __init__(self, results: list[Any]) -> None:
        super().__init__()
        self.results = results

    def run(self) -> None:
        self.results.append(seen())


def in_a_thread() -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(seen()))
    thread.start()
    thread.join()
    return results[0]


def in_a_thread_of_a_subclass() -> Any:
    thread = OwnThread([])
    thread.start()
    thread.join()
    return thread.results[0]


def in_a_timer() -> Any:
    results: list[Any] = []
    timer = threading.Timer(0, lambda: results.append(seen()))
    timer.start()
    timer.join()
    return results[0]


def in_a_pool() -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(seen).result()


def in_a_pools_map() -> Any:
    with ThreadPoolExecutor(1) as pool:
        return next(pool.map(lambda _: seen(), [1]))


async def _in_an_executor(pool: ThreadPoolExecutor | None) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, seen)


def in_the_loops_executor() -> Any:
    return asyncio.run(_in_an_executor(None))


def in_an_executor_of_the_users() -> Any:
    with ThreadPoolExecutor(1) as pool:
        return asyncio.run(_in_an_executor(pool))


def in_to_thread() -> Any:
    return asyncio.run(asyncio.to_thread(seen))


def in_a_thread_of_a_thread() -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(in_a_thread()))
    thread.start()
    thread.join()
    return results[0]


WAYS: list[Callable[[], Any]] = [
    in_a_thread, in_a_thread_of_a_subclass, in_a_timer, in_a_pool, in_a_pools_map, in_the_loops_executor,
    in_an_executor_of_the_users, in_to_thread, in_a_thread_of_a_thread,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_span_and_the_override_are_carried(way: Callable[[], Any]) -> None:
    span = FakeSpan()
    with inside(span, run.SUSPENDED):
        assert way()[:2] == (span, run.SUSPENDED)


@pytest.mark.parametrize("way", WAYS)
def test_where_there_is_neither_nothing_is_carried(way: Callable[[], Any]) -> None:
    assert way()[:2] == (None, None)


@pytest.mark.parametrize("way", [way for way in WAYS if way is not in_to_thread])
def test_other_context_variables_are_not_carried(way: Callable[[], Any]) -> None:
    with inside(FakeSpan()):
        assert way()[2] == "the default"


def test_to_thread_keeps_to_pythons_rule_for_other_context_variables() -> None:
    with inside(FakeSpan()):
        assert in_to_thread()[2] == "set by the user"


def test_a_pools_worker_keeps_nothing_of_the_job_it_was_started_for() -> None:
    with ThreadPoolExecutor(1) as pool:
        first, second = FakeSpan("first"), FakeSpan("second")
        with inside(first, run.SUSPENDED):
            assert pool.submit(seen).result()[:2] == (first, run.SUSPENDED)
        assert pool.submit(seen).result()[:2] == (None, None)
        with inside(second):
            assert pool.submit(seen).result()[:2] == (second, None)
        assert pool.submit(seen).result()[:2] == (None, None)


def test_a_pools_initializer_belongs_to_no_span() -> None:
    results: list[Any] = []
    with inside(FakeSpan()), ThreadPoolExecutor(1, initializer=lambda: results.append(seen())) as pool:
        pool.submit(seen).result()
    assert results == [(None, None, "the default")]


def test_a_thread_that_a_job_starts_belongs_to_the_jobs_span() -> None:
    with inside(span := FakeSpan()), ThreadPoolExecutor(1) as pool:
        assert pool.submit(in_a_thread).result()[0] is span


def test_a_thread_belongs_to_where_it_was_started_not_made() -> None:
    thread = OwnThread([])
    with inside(span := FakeSpan()):
        thread.start()
    thread.join()
    assert thread.results[0][0] is span


def test_results_exceptions_and_every_argument_pass_through() -> None:
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def fail() -> None:
        raise KeyError("mine")

    with inside(FakeSpan()), ThreadPoolExecutor(1) as pool:
        arguments = {"self": 1, "fn": 2, "function": 3, "span": 4, "run": 5}
        assert pool.submit(echo, 0, **arguments).result() == ((0,), arguments)
        with pytest.raises(KeyError, match="mine"):
            pool.submit(fail).result()


def test_a_thread_outside_of_spans_is_left_as_it_is() -> None:
    thread = OwnThread([])
    thread.start()
    thread.join()
    assert "run" not in vars(thread)


def test_a_thread_cannot_be_started_twice_still() -> None:
    with inside(FakeSpan()):
        thread = OwnThread([])
        thread.start()
        with pytest.raises(RuntimeError, match="can only be started once"):
            thread.start()
        thread.join()
    assert len(thread.results) == 1


def test_a_finished_thread_is_freed() -> None:
    span = FakeSpan("freed")
    with inside(span):
        in_a_thread_of_a_subclass()
    del span
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, FakeSpan) and each.span_id == "freed"]


def test_carrying_twice_is_carrying_once() -> None:
    before = threading.Thread.start, ThreadPoolExecutor.submit
    threads.carry_into_threads()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == before


def test_the_patched_methods_look_as_pythons_own() -> None:
    assert threading.Thread.start.__name__ == "start"
    assert list(inspect.signature(threading.Thread.start).parameters) == ["self"]
    assert list(inspect.signature(ThreadPoolExecutor.submit).parameters) == ["self", "fn", "args", "kwargs"]


def test_what_also_asks_to_be_carried_is_carried_in_its_block_only() -> None:
    def bind(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda: ["more", function()]

    with threads.carrying_also(bind), ThreadPoolExecutor(1) as pool:
        result: Any = pool.submit(lambda: "result").result()
    assert result == ["more", "result"]
    assert threads.carried(seen) is seen


def test_decorated_calls_in_threads_are_recorded_below_the_span_that_started_them(tmp_path: Path) -> None:
    @traced
    def work(n: int) -> int:
        return n

    provider = TracerProvider(tmp_path / "traces.db")
    with ThreadPoolExecutor(2) as pool:
        with provider.get_tracer().span("root") as root:
            assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
        with provider.get_tracer().span("later") as later:
            assert pool.submit(work, 5).result() == 5
    provider.shutdown()
    for span, calls in ((root, 4), (later, 1)):
        spans = provider.trace_store.get_trace(span.trace_id).spans
        assert [each.parent_id for each in spans[1:]] == [span.span_id] * calls


# --- overriding ------------------------------------------------------------------------------------------------------


class NotingRun:
    def __init__(self) -> None:
        self.calls: list[run.BoundCall] = []

    def begin(self, *call: Any) -> run.OpenCall:
        self.calls.append(run.BoundCall(*call))
        return run.PASSING


class Tool:
    @traced(span_type="tool")
    def use(self, x: int, *, y: int = 0) -> int:
        return x + y


def test_an_override_gets_every_decorated_call_with_object_and_arguments() -> None:
    noting, tool = NotingRun(), Tool()
    with run.overriding(noting):
        assert tool.use(1, y=2) == 3
    (call,) = noting.calls
    assert (call.instance, call.args, dict(call.kwargs), call.streams) == (tool, (1,), {"y": 2}, False)
    assert call.site.key == f"{__name__}:Tool.use"


def test_an_override_leaves_the_current_span_and_comes_back_to_it() -> None:
    span, noting = FakeSpan(), NotingRun()
    with inside(span):
        with run.overriding(noting):
            assert seen()[:2] == (None, noting)
            with run.suspended():
                assert seen()[:2] == (None, run.SUSPENDED)
                Tool().use(1)
            assert seen()[:2] == (None, noting)
        assert seen()[:2] == (span, None)
    assert noting.calls == []


def test_an_override_ends_when_its_block_raises() -> None:
    with pytest.raises(ValueError, match="mine"), run.suspended():
        raise ValueError("mine")
    assert run.override.get() is None


def test_a_passing_call_takes_everything_and_answers_nothing() -> None:
    call: run.OpenCall = run.SUSPENDED.begin(run.BoundCall(run.site_of(Tool.use), None, (), {}))  # type: ignore[arg-type]
    assert call.answer is None
    assert not call.is_span
    assert run.enter(call) is None
    for report in (call.chunk, call.returned, call.raised):
        report(ValueError())
    call.closed()


def test_the_site_of_a_decorated_callable_is_found_on_functions_methods_and_bound_ones() -> None:
    sites = [run.site_of(target) for target in (Tool.use, Tool().use, vars(Tool)["use"])]
    assert [site.key if site else None for site in sites] == [f"{__name__}:Tool.use"] * 3
    assert run.site_of(len) is None
    assert run.site_of(in_a_pool) is None


# --- open spans ------------------------------------------------------------------------------------------------------


def test_an_open_span_is_found_until_it_is_closed() -> None:
    span = FakeSpan("f00d")
    run.opened(span)
    assert run.find_open_span("f00d") is span
    assert span in run.open_spans()
    run.closed(span)
    run.closed(span)
    assert run.find_open_span("f00d") is None
    assert run.find_open_span("not an id") is None
    assert span not in run.open_spans()


def test_the_span_of_a_stream_that_is_dropped_is_forgotten() -> None:
    @traced
    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    stream = numbers()
    assert next(stream) == 1
    (span,) = run.open_spans()
    assert run.find_open_span(span.span_id) is span
    del stream
    gc.collect()
    assert run.open_spans() == ()


def test_an_object_that_keeps_its_unfinished_stream_is_collected_and_the_stream_ends(tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "t.db")

    class Agent:
        @traced(span_type="llm", tracer=provider.get_tracer())
        def numbers(self) -> Iterator[int]:
            yield 1
            yield 2

        @traced(span_type="llm", tracer=provider.get_tracer())
        def returned(self) -> Iterator[int]:
            return iter([1, 2])

    agent = Agent()
    agent.kept = [agent.numbers(), agent.returned()]  # type: ignore[attr-defined]  # set from outside
    assert [next(stream) for stream in agent.kept] == [1, 1]  # type: ignore[attr-defined]
    assert len(run.open_spans()) == 2
    dead = weakref.ref(agent)
    del agent
    gc.collect()
    assert dead() is None
    assert run.open_spans() == ()
    spans = [span for one in provider.trace_store.traces() for span in provider.trace_store.get_trace(one.trace_id)]
    assert [(span.outcome is not None and span.outcome.complete, span.is_open) for span in spans] == [
        (False, False)
    ] * 2
    provider.shutdown()


# --- disabled --------------------------------------------------------------------------------------------------------

DISABLED = textwrap.dedent("""
    import json, pathlib
    from clearstone import checkpointable, run, traced

    @checkpointable
    class Agent:
        @traced(span_type="llm")
        def ask(self):
            raise ValueError("mine")

    try:
        Agent().ask()
    except ValueError as error:
        print(json.dumps([run.is_disabled(), str(error), pathlib.Path("home").exists()]))
""")


@pytest.mark.parametrize(("value", "disabled"), [("1", True), ("0", False), ("", False)])
def test_disabled_by_the_environment_decorators_pass_everything_through(
    tmp_path: Path, value: str, *, disabled: bool
) -> None:
    environment = {**os.environ, "CLEARSTONE_DISABLED": value, "CLEARSTONE_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", DISABLED], cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == [disabled, "mine", not disabled]
    assert (done.stderr == b"") is disabled
