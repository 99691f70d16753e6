"""A decorated call behaves as the undecorated one, and what it was given and gave is recorded."""

import asyncio
import contextlib
import copy
import functools
import inspect
import pickle
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearstone import traced
from clearstone.codec import payload
from clearstone.codec.exceptions import load_exception
from clearstone.errors import ConfigurationError
from clearstone.observability import Span, SpanKind, StatusCode, TracerProvider
from clearstone.record import faults, recording
from clearstone.run import suspended


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[TracerProvider]:
    made = TracerProvider(tmp_path / "t.db")
    yield made
    made.shutdown()


Record = Callable[[Callable[[], Any]], dict[str, Span]]


@pytest.fixture
def spans(provider: TracerProvider) -> Record:
    """Run something inside a root span and return the spans below it, by name (a later one of a name wins)."""

    def record(work: Callable[[], Any]) -> dict[str, Span]:
        with provider.get_tracer("test").span("root") as root, contextlib.suppress(ValueError):
            work()
        return {span.name: span for span in provider.trace_store.get_trace(root.trace_id)}

    return record


def input_of(span: Span) -> Any:
    assert span.input is not None
    return payload.load(span.input)


def output_of(span: Span) -> Any:
    assert span.outcome is not None
    assert span.outcome.value is not None
    return payload.load(span.outcome.value)


def chunks_of(span: Span) -> list[Any]:
    assert span.outcome is not None
    return [payload.load(chunk.value) for chunk in span.outcome.chunks]


@traced(span_type="tool")
def add(x: int, y: int = 1) -> int:
    """Add two numbers."""
    return x + y


class Agent:
    def __init__(self) -> None:
        self.log: list[Any] = []

    @traced
    def method(self, x: Any) -> Any:
        self.log.append(x)
        return [x]

    @traced
    @classmethod
    def above(cls, x: int) -> tuple[type, int]:
        return cls, x

    @classmethod
    @traced
    def below(cls, x: int) -> tuple[type, int]:
        return cls, x

    @traced
    @staticmethod
    def static(x: int) -> int:
        return x

    @traced(span_type="llm")
    async def ask(self, x: int) -> int:
        await asyncio.sleep(0)
        return x * 2

    @traced(span_type="llm")
    def stream(self, n: int) -> Generator[int, Any, str]:
        for i in range(n):
            sent = yield i
            if sent is not None:
                self.log.append(sent)
        return "done"

    @traced(span_type="llm")
    async def astream(self, n: int) -> AsyncGenerator[int, None]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    @traced
    def fails(self) -> None:
        raise ValueError("no")


def test_a_call_records_its_arguments_its_result_its_type_and_its_site(spans: Record) -> None:
    span = spans(lambda: add(1, y=2))["add"]
    assert (input_of(span), output_of(span)) == (((1,), {"y": 2}), 3)
    assert (span.span_type, span.replay, span.kind) == ("tool", "serve", SpanKind.INTERNAL)
    assert span.site == f"{__name__}:add"
    assert span.end_ns is not None
    assert span.end_ns >= span.start_ns


def test_self_is_not_recorded_as_an_argument(spans: Record) -> None:
    assert input_of(spans(lambda: Agent().method(5))["Agent.method"]) == ((5,), {})


def test_later_mutation_changes_neither_the_recorded_argument_nor_the_recorded_result(spans: Record) -> None:
    def work() -> None:
        argument = [1]
        result = Agent().method(argument)
        argument.append(2)
        result.append(3)

    span = spans(work)["Agent.method"]
    assert (input_of(span), output_of(span)) == ((([1],), {}), [[1]])


@pytest.mark.parametrize("name", ["above", "below"])
def test_classmethods_are_recorded_whichever_decorator_is_on_top(spans: Record, name: str) -> None:
    class Child(Agent):
        pass

    results: list[Any] = []
    span = spans(lambda: results.extend([getattr(Child, name)(1), getattr(Child(), name)(1)]))[f"Agent.{name}"]
    assert results == [(Child, 1), (Child, 1)]
    args, kwargs = input_of(span)
    assert (args[-1], kwargs) == (1, {})  # below @classmethod, Python 3.13 passes the class as an argument


def test_staticmethods_are_recorded_from_class_and_instance(spans: Record) -> None:
    results: list[int] = []
    span = spans(lambda: results.extend([Agent.static(1), Agent().static(2)]))["Agent.static"]
    assert results == [1, 2]
    assert input_of(span) == ((2,), {})


def test_a_coroutine_is_recorded_with_what_it_returned(spans: Record) -> None:
    assert output_of(spans(lambda: asyncio.run(Agent().ask(4)))["Agent.ask"]) == 8


def test_a_stream_is_recorded_chunk_by_chunk_with_what_it_returned(spans: Record) -> None:
    span = spans(lambda: list(Agent().stream(3)))["Agent.stream"]
    assert (chunks_of(span), output_of(span)) == ([0, 1, 2], "done")
    assert span.outcome is not None
    assert (span.outcome.kind, span.outcome.complete) == ("streamed", True)


def test_a_stream_closed_early_is_recorded_as_incomplete(spans: Record) -> None:
    def work() -> None:
        stream = Agent().stream(10)
        next(stream)
        next(stream)
        stream.close()

    span = spans(work)["Agent.stream"]
    assert chunks_of(span) == [0, 1]
    assert span.outcome is not None
    assert not span.outcome.complete


def test_values_sent_and_exceptions_thrown_reach_the_generator(spans: Record) -> None:
    agent, caught = Agent(), []

    @traced
    def resilient() -> Generator[int, Any, None]:
        for i in range(3):
            try:
                yield i
            except KeyError as error:
                caught.append(error.args)

    def work() -> None:
        stream = agent.stream(3)
        next(stream)
        stream.send("hello")
        stream.close()
        thrown = resilient()
        next(thrown)
        assert thrown.throw(KeyError("k")) == 1
        thrown.close()

    spans(work)
    assert (agent.log, caught) == (["hello"], [("k",)])


def test_a_generator_that_is_never_started_is_no_call(spans: Record) -> None:
    assert set(spans(lambda: Agent().stream(3))) == {"root"}


def test_a_stream_is_current_only_while_its_own_code_runs(spans: Record) -> None:
    @traced
    def outer() -> Generator[int, None, None]:
        add(1)
        yield 1
        add(2)

    def work() -> None:
        for _ in outer():
            Agent.static(7)

    found = spans(work)
    assert found["add"].parent_id == found["outer"].span_id
    assert found["Agent.static"].parent_id == found["root"].span_id


def test_a_stream_made_in_a_step_and_read_outside_belongs_below_that_step(spans: Record) -> None:
    @traced
    def step() -> Generator[int, Any, str]:
        return Agent().stream(2)

    found = spans(lambda: list(step()))
    assert found["Agent.stream"].parent_id == found["step"].span_id


def test_an_async_stream_is_recorded_also_when_it_is_closed_early(spans: Record) -> None:
    async def all_of_it() -> list[int]:
        return [i async for i in Agent().astream(3)]

    async def only_one() -> None:
        stream = Agent().astream(3)
        await anext(stream)
        await stream.aclose()

    assert chunks_of(spans(lambda: asyncio.run(all_of_it()))["Agent.astream"]) == [0, 1, 2]
    closed = spans(lambda: asyncio.run(only_one()))["Agent.astream"]
    assert chunks_of(closed) == [0]
    assert closed.outcome is not None
    assert not closed.outcome.complete


def test_an_exception_is_recorded_and_goes_on_as_the_same_object_through_one_library_frame(spans: Record) -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            Agent().fails()
        except ValueError as error:
            raised.append(error)
            raise

    span = spans(work)["Agent.fails"]
    assert span.outcome is not None
    assert span.outcome.failure is not None
    assert isinstance(load_exception(span.outcome.failure), ValueError)
    assert (span.status.code, span.status.description) == (StatusCode.ERROR, "ValueError: no")
    library = [f for f in traceback.extract_tb(raised[0].__traceback__) if "/src/clearstone/" in f.filename]
    assert len(library) == 1


def test_a_decorated_callable_keeps_its_name_signature_docstring_and_kind() -> None:
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Add two numbers.", __name__)
    assert str(inspect.signature(add)) == "(x: int, y: int = 1) -> int"
    assert inspect.iscoroutinefunction(Agent.ask)
    assert inspect.isgeneratorfunction(Agent.stream)
    assert inspect.isasyncgenfunction(Agent.astream)
    assert inspect.isfunction(add)


def test_a_decorated_function_is_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(add)) is add
    assert pickle.loads(pickle.dumps(functools.partial(add, 1)))() == 2


def test_a_partial_a_lambda_and_a_callable_object_can_be_decorated(spans: Record) -> None:
    class Doubler:
        def __call__(self, x: int) -> int:
            return 2 * x

    results: list[int] = []
    partly = traced(functools.partial(add, 1))
    found = spans(lambda: results.extend([partly(2), traced(lambda: 3)(), traced(name="double")(Doubler())(4)]))
    assert results == [3, 3, 8]
    assert {"<lambda>", "double"} <= set(found)


def test_recursion_gives_a_chain_of_spans(provider: TracerProvider) -> None:
    @traced
    def count(n: int) -> int:
        return n and count(n - 1)

    with provider.get_tracer().span("root") as root:
        count(3)
    chain = provider.trace_store.get_trace(root.trace_id).spans
    assert [span.parent_id for span in chain[1:]] == [span.span_id for span in chain[:-1]]


def test_decorating_twice_gives_one_span_with_the_outer_decorators_words(spans: Record) -> None:
    twice = traced(span_type="llm", name="outer")(traced(span_type="tool", name="inner")(abs))
    found = spans(lambda: twice(-1))
    assert set(found) == {"root", "outer"}
    assert found["outer"].span_type == "llm"


def test_gathered_coroutines_are_siblings_below_their_own_parents(provider: TracerProvider) -> None:
    @traced
    async def child(name: str) -> str:
        await asyncio.sleep(0)
        return name

    @traced
    async def worker(name: str) -> str:
        await asyncio.sleep(0)
        return await child(name)

    async def main() -> None:
        await asyncio.gather(*(worker(str(i)) for i in range(20)))

    with provider.get_tracer().span("root") as root:
        asyncio.run(main())
    trace = provider.trace_store.get_trace(root.trace_id)
    by_id = {span.span_id: span for span in trace}
    children = [span for span in trace if span.name.endswith("child")]
    assert len(children) == 20
    assert all(input_of(by_id[child.parent_id or ""])[0] == input_of(child)[0] for child in children)


def test_calls_in_threads_and_executors_belong_below_the_span_that_started_them(provider: TracerProvider) -> None:
    with provider.get_tracer().span("root") as root:
        thread = threading.Thread(target=add, args=(1,))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, [2, 3]))
    parents = {span.parent_id for span in provider.trace_store.get_trace(root.trace_id) if span.name == "add"}
    assert parents == {root.span_id}


def test_a_call_without_a_tracer_outside_any_span_goes_to_the_default_provider(tmp_path: Path) -> None:
    add(1)
    assert (tmp_path / "home" / ".gitignore").read_text() == "*\n"
    from clearstone.record.default import default_provider

    default = default_provider()
    assert default is not None
    assert [summary.name for summary in default.trace_store.traces()] == ["add"]


def test_the_tracer_given_to_the_decorator_wins_over_the_open_span(provider: TracerProvider, tmp_path: Path) -> None:
    other = TracerProvider(tmp_path / "other.db")

    @traced(tracer=other.get_tracer("mine", version="2"), attributes={"team": "a"})
    def work() -> None: ...

    with provider.get_tracer().span("root") as root:
        work()
    (span,) = other.trace_store.get_trace(root.trace_id)
    assert (span.tracer_name, span.tracer_version, span.parent_id) == ("mine", "2", root.span_id)
    assert span.attributes == {"team": "a"}
    other.shutdown()


@pytest.mark.parametrize(
    ("span_type", "replay", "mode"),
    [("", None, "run"), ("step", None, "run"), ("llm", None, "serve"), ("mine", None, "serve"), ("llm", "run", "run")],
)
def test_what_a_replay_does_with_a_site_follows_from_its_type_unless_it_is_said(
    spans: Record, span_type: str, replay: Any, mode: str
) -> None:
    assert spans(lambda: traced(span_type=span_type, replay=replay, name="x")(abs)(1))["x"].replay == mode


def test_a_replay_mode_that_is_neither_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'again' is neither 'serve' nor 'run'"):
        traced(replay="again")  # type: ignore[call-overload]


@pytest.mark.parametrize("target", [3, Agent])
def test_what_is_no_function_cannot_be_traced(target: Any) -> None:
    with pytest.raises(ConfigurationError):
        traced(target)


def test_nothing_is_recorded_while_recording_is_suspended(spans: Record) -> None:
    def work() -> None:
        with suspended():
            assert add(1) == 2
            assert list(Agent().stream(2)) == [0, 1]

    assert set(spans(work)) == {"root"}


def test_a_value_that_does_not_pickle_is_described_and_the_call_and_its_other_arguments_are_untouched(
    spans: Record,
) -> None:
    @traced(name="work")
    def work(lock: Any, number: int) -> Any:
        assert lock.acquire(blocking=False)
        return lock

    span = spans(lambda: work(threading.Lock(), number=3))["work"]
    (described,), kwargs = input_of(span)
    assert "_thread.lock" in repr(described)
    assert kwargs == {"number": 3}
    assert span.outcome is not None
    assert span.outcome.value is not None
    assert span.outcome.value.codec == "stand-in"


@pytest.mark.usefixtures("faults_allowed")
def test_a_fault_of_the_recorder_is_counted_and_never_reaches_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> int:
        raise AssertionError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(recording, "time_ns", broken)
        assert [add(1), add(2)] == [2, 3]
        assert faults.counts() == {"AssertionError": 2}
    told = capsys.readouterr().err
    assert told.count("broken on purpose") == 1


def test_bound_and_unbound_methods_are_pickled_and_copied_as_methods_are() -> None:
    agent = Agent()
    agent.log.append("mine")
    loaded = pickle.loads(pickle.dumps(agent.method))
    assert loaded("x") == ["x"]
    assert pickle.loads(pickle.dumps(Agent.method))(agent, 1) == [1]
    copied = copy.deepcopy({"tool": agent.method, "function": add})
    assert copied["function"] is add
    copied["tool"]("y")
    assert agent.log == ["mine", 1]


@pytest.mark.parametrize(
    ("decorate", "says"),
    [
        (lambda: traced("llm"), r"write @traced\(span_type='llm'\)"),  # type: ignore[call-overload]
        (lambda: traced(span_type=3), "span_type=3 is no text"),  # type: ignore[call-overload]
        (lambda: traced(property(abs)), "put @property above"),  # type: ignore[call-overload]
    ],
)
def test_a_decorator_that_is_written_wrongly_says_how_to_write_it(decorate: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        decorate()


def test_closing_a_generator_gives_what_closing_the_undecorated_one_gives(spans: Record) -> None:
    def resilient() -> Generator[int, None, int]:
        try:
            yield 1
        except GeneratorExit:
            return 42
        return 0

    given: list[Any] = []

    def work() -> None:
        streams: list[Any] = [resilient(), traced(resilient)()]
        for stream in streams:
            next(stream)
            given.append(stream.close())

    spans(work)
    assert given[0] == given[1]
