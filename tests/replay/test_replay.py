"""Headless replays: what is served, what runs again, and how a replay ends that takes another way."""

import asyncio
import datetime
import importlib
import itertools
import random
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearstone import run
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import (
    BeyondRecord,
    CheckpointError,
    ConfigurationError,
    ReplayDivergence,
    ReplayError,
    StateError,
    TargetError,
    UnservableOutcome,
)
from clearstone.observability import TracerProvider

names = itertools.count()

AGENT = """
    import asyncio, random, threading, time, uuid
    from concurrent.futures import ThreadPoolExecutor
    from clearstone import checkpointable, traced

    LIVE = []

    class Refused(Exception):
        def __init__(self, code, *, body):
            super().__init__(f"refused with {code}")
            self.code, self.body = code, body

    @traced(span_type="tool")
    def search(query):
        LIVE.append(query)
        return [query.upper()]

    @traced(span_type="llm")
    def lock():
        LIVE.append("lock")
        return threading.Lock()

    @traced(span_type="database")
    def unused():
        LIVE.append("unused")

    @traced(span_type="llm")
    def outer_call(q):
        LIVE.append(q)
        return search(q)

    @checkpointable
    class Agent:
        def __init__(self):
            self.memory, self.seed = [], 0

        @traced(span_type="llm")
        def ask(self, q):
            LIVE.append(q)
            if q == "bad":
                raise Refused(429, body={"retry": 3})
            return {"answer": q * 2}

        @traced(span_type="llm")
        async def aask(self, q):
            LIVE.append(q)
            await asyncio.sleep(0)
            return q * 2

        @traced(span_type="llm")
        def stream(self, n):
            for i in range(n):
                LIVE.append(i)
                yield {"delta": i}
            return "end"

        @traced(span_type="llm")
        async def astream(self, n):
            for i in range(n):
                LIVE.append(i)
                yield i

        @traced
        def step(self, q):
            self.memory.append(q)
            return self.ask(q)

        def fail(self, *what):
            got = [self._do(w) for w in what]
            self.memory.append("end")
            raise RuntimeError(got)

        def _do(self, w):
            return getattr(self, w)("x") if isinstance(w, str) else w(self)

        async def afail(self, *questions):
            raise RuntimeError(await asyncio.gather(*(self.aask(q) for q in questions)))

        def threads(self, *questions):
            with ThreadPoolExecutor(3) as pool:
                raise RuntimeError(list(pool.map(self.ask, questions)))

        def streams(self):
            raise RuntimeError([list(self.stream(3)), next(self.stream(3))])

        async def astreams(self):
            raise RuntimeError([i async for i in self.astream(3)])

        def recovers(self):
            try:
                self.ask("bad")
            except Refused as error:
                raise RuntimeError(error.code, error.body, str(error)) from error

        def times(self):
            raise RuntimeError(random.random(), random.Random(7).random())

        def locks(self):
            lock()
            raise RuntimeError

        def nested(self):
            raise RuntimeError(outer_call("q"))

        def asks(self, *questions):
            raise RuntimeError([self.ask(q) for q in questions])

        @traced(span_type="llm")
        async def slow(self):
            LIVE.append("slow")
            await asyncio.sleep(30)

        async def times_out(self):
            try:
                await asyncio.wait_for(self.slow(), 0.02)
            except TimeoutError:
                raise RuntimeError("timed out")

        def stops_early(self):
            for chunk in self.stream(3):
                raise RuntimeError(chunk)

        def generates(self):
            yield self.ask("a")
            yield self.ask("b")
            raise RuntimeError

    @checkpointable
    def function(q):
        raise RuntimeError(search(q))
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    name = f"replay_app_{next(names)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(AGENT))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return importlib.import_module(name)


Failed = Callable[[Callable[[], Any]], tuple[Checkpoint, BaseException]]


@pytest.fixture
def failed(app: Any) -> Failed:
    """Let a call fail live; return its checkpoint and its exception, and forget that anything was live."""

    def fail(call: Callable[[], Any]) -> tuple[Checkpoint, BaseException]:
        with pytest.raises(Exception) as caught:
            call()
        app.LIVE.clear()
        return CheckpointManager().load_checkpoint("latest"), caught.value

    return fail


CALLS: dict[str, Callable[[Any], Any]] = {
    "sync": lambda app: app.Agent().asks("a", "b", "a"),
    "gather": lambda app: asyncio.run(app.Agent().afail("c", "a", "b")),
    "threads": lambda app: app.Agent().threads("c", "a", "b"),
    "streams": lambda app: app.Agent().streams(),
    "async streams": lambda app: asyncio.run(app.Agent().astreams()),
    "exception": lambda app: app.Agent().recovers(),
    "random": lambda app: app.Agent().times(),
    "nested outside calls": lambda app: app.Agent().nested(),
    "function": lambda app: app.function("q"),
    "timeout": lambda app: asyncio.run(app.Agent().times_out()),
    "stream left early": lambda app: app.Agent().stops_early(),
    "generator": lambda app: list(app.Agent().generates()),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_replay_fails_as_the_call_did_twice_without_a_live_call_or_a_new_trace(
    app: Any, failed: Failed, call: str
) -> None:
    checkpoint, error = failed(lambda: CALLS[call](app))
    traces = _count_traces()
    for _ in range(2):
        with pytest.raises(RuntimeError) as replayed:
            ReplayEngine(checkpoint).replay_from_checkpoint()
        assert type(replayed.value) is type(error)
        assert repr(replayed.value.args) == repr(error.args)
    assert app.LIVE == []
    assert _count_traces() == traces


def _count_traces() -> int:
    from clearstone.record.default import default_provider

    provider = default_provider()
    assert provider is not None
    return len(provider.trace_store.traces())


def test_a_served_exception_has_its_type_attributes_and_message(app: Any, failed: Failed) -> None:
    checkpoint, error = failed(lambda: app.Agent().recovers())
    assert error.args == (429, {"retry": 3}, "refused with 429")
    with pytest.raises(RuntimeError) as replayed:
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert isinstance(replayed.value.__cause__, app.Refused)


def test_the_state_is_that_of_the_entry_each_time(app: Any, failed: Failed) -> None:
    agent = app.Agent()
    agent.memory.append("before")
    checkpoint, _ = failed(lambda: agent.fail("step"))
    assert checkpoint.agent_state["memory"] == ["before"]
    assert agent.memory == ["before", "x", "end"]


def test_a_method_can_be_named_with_other_arguments(app: Any, failed: Failed) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().asks("a", "b"))[0])
    assert engine.replay_from_checkpoint("step", "b") == {"answer": "bb"}
    assert engine.replay_from_checkpoint("a", function_name="step") == {"answer": "aa"}
    assert engine.replay_from_checkpoint(function_name="step", q="a") == {"answer": "aa"}


def test_a_call_with_other_arguments_is_a_divergence_that_names_the_difference(app: Any, failed: Failed) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().asks("a", "b"))[0])
    with pytest.raises(ReplayDivergence, match=r"recorded 'a', now 'z'"):
        engine.replay_from_checkpoint("step", "z")
    assert app.LIVE == []


def test_a_call_past_the_end_of_the_record_is_beyond(app: Any, failed: Failed) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().asks("a"))[0])
    with pytest.raises(BeyondRecord, match="the record holds 1"):
        engine.replay_from_checkpoint("asks", "a", "a")


def test_a_call_of_a_site_that_was_never_called_while_others_wait_is_a_divergence(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))
    app.Agent.other = lambda self: app.search("s")
    with pytest.raises(ReplayDivergence, match=r"not called yet: .*Agent\.ask"):
        ReplayEngine(checkpoint).replay_from_checkpoint("other")


def test_a_refusal_is_latched_however_the_users_code_swallows_it(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a", "b"))
    served: list[Any] = []

    def stubborn(self: Any) -> str:
        for q in ("z", "a", "b"):
            try:
                served.append(self.ask(q))
            except Exception:
                served.append(None)
        return "fine"

    app.Agent.stubborn = stubborn
    with pytest.raises(ReplayDivergence):
        ReplayEngine(checkpoint).replay_from_checkpoint("stubborn")
    assert served == [None, None, None]


def test_an_outcome_that_could_not_be_recorded_is_refused_with_its_reason(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().locks())
    with pytest.raises(UnservableOutcome, match=r"_thread\.lock.*does not pickle"):
        ReplayEngine(checkpoint).replay_from_checkpoint()


def test_only_calls_below_the_failed_one_are_served(app: Any, failed: Failed, tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "t.db")

    def two_runs() -> None:
        agent = app.Agent()
        with provider.get_tracer().span("main"):
            with pytest.raises(RuntimeError):
                agent.asks("a")
            agent.asks("b")

    checkpoint, _ = failed(two_runs)
    engine = ReplayEngine(checkpoint, provider.trace_store)
    assert engine.mock_config == {"llm": [f"{app.__name__}.Agent.ask"]}
    with pytest.raises(ReplayDivergence):
        engine.replay_from_checkpoint("step", "a")
    provider.shutdown()


def test_a_site_that_lost_its_decorator_is_refused_before_anything_runs(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.function("q"))
    app.search = app.search.__wrapped__
    with pytest.raises(ConfigurationError, match=r"search was recorded as an outside call and is not decorated today"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert app.LIVE == []


def test_a_hand_written_span_of_an_outside_call_is_refused_where_nothing_would_answer_it(
    app: Any, failed: Failed, tmp_path: Path
) -> None:
    provider = TracerProvider(tmp_path / "t.db")
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))

    def by_hand(self: Any) -> None:
        with provider.get_tracer().span("plain"):
            pass
        with provider.get_tracer().span("call", span_type="llm"):
            app.LIVE.append("live")

    app.Agent.by_hand = by_hand
    with pytest.raises(ReplayError, match="hand-written span 'call'"):
        ReplayEngine(checkpoint).replay_from_checkpoint("by_hand")
    assert app.LIVE == []
    provider.shutdown()


def test_time_stands_at_the_checkpoint_until_something_sleeps(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))

    def clock(self: Any) -> tuple[float, ...]:
        first = time.time()
        time.sleep(100)
        return first, time.time(), datetime.datetime.now().timestamp()

    app.Agent.clock = clock
    first, second, third = ReplayEngine(checkpoint).replay_from_checkpoint("clock")
    assert first == pytest.approx(checkpoint.timestamp.timestamp(), abs=1e-3)
    assert (second - first, third - first) == (pytest.approx(100), pytest.approx(100))


def test_a_loop_that_only_polls_the_clock_is_stopped_with_its_line(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))

    def waits(self: Any) -> None:
        deadline = time.time() + 10
        while time.time() < deadline:
            pass

    app.Agent.waits = waits
    with pytest.raises(TimeoutError, match=r"test_replay\.py"):
        ReplayEngine(checkpoint).replay_from_checkpoint("waits")


def test_randomness_is_as_it_was_and_identifiers_repeat(app: Any, failed: Failed) -> None:
    random.seed(5)
    checkpoint, error = failed(lambda: app.Agent().times())
    app.Agent.ids = lambda self: (uuid.uuid4(), uuid.uuid1(), random.getrandbits(64))
    engine = ReplayEngine(checkpoint)
    assert engine.replay_from_checkpoint("ids") == engine.replay_from_checkpoint("ids")
    with pytest.raises(RuntimeError) as replayed:
        engine.replay_from_checkpoint()
    assert replayed.value.args == error.args


def test_nothing_is_left_of_a_replay(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))
    state = random.getstate()
    with pytest.raises(RuntimeError):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert random.getstate() == state
    assert run.override.get() is None
    assert abs(time.time() - checkpoint.created_ns / 1e9) < 600


@pytest.mark.parametrize("name", ["ask_", "nothing", "memory", "_missing"])
def test_a_method_the_agent_lacks_is_one_sentence(app: Any, failed: Failed, name: str) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().asks("a"))[0])
    with pytest.raises(TargetError, match=f"has no method '{name}'"):
        engine.replay_from_checkpoint(name)


def test_arguments_without_a_method_are_refused(app: Any, failed: Failed) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().asks("a"))[0])
    with pytest.raises(ConfigurationError, match="name the method too"):
        engine.replay_from_checkpoint(q=1)
    with pytest.raises(ConfigurationError, match="is no method name"):
        engine.replay_from_checkpoint(3)


def test_a_checkpoint_made_by_hand_has_no_failed_call(app: Any, tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "t.db")
    with provider.get_tracer().span("work") as span:
        trace = provider.trace_store.get_trace(span.trace_id)
        checkpoint = CheckpointManager(tmp_path).create_checkpoint(app.Agent(), trace, span.span_id)
    with pytest.raises(ConfigurationError, match="made by hand"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    provider.shutdown()


def test_an_agent_whose_class_is_gone_is_one_sentence_naming_the_nearest(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))
    app.Agents = app.Agent
    del app.Agent
    with pytest.raises(TargetError, match="nearest is 'Agents'"):
        ReplayEngine(checkpoint).replay_from_checkpoint()


def test_an_agent_whose_module_is_gone_is_one_sentence(app: Any, failed: Failed, tmp_path: Path) -> None:
    import sys

    checkpoint, _ = failed(lambda: app.Agent().asks("a"))
    (tmp_path / f"{app.__name__}.py").unlink()
    module = sys.modules.pop(app.__name__)
    with pytest.raises(TargetError, match="cannot be imported here"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    sys.modules[app.__name__] = module


def test_code_of_another_python_is_refused_before_anything_loads(app: Any, failed: Failed) -> None:
    from dataclasses import replace

    checkpoint, _ = failed(lambda: app.Agent().asks("a"))
    elsewhere = replace(checkpoint.environment, python="3.9.1")
    foreign = replace(checkpoint, environment=elsewhere, holds_code=True)
    with pytest.raises(CheckpointError, match=r"taken on Python 3\.9\.1"):
        ReplayEngine(foreign).replay_from_checkpoint()
    with pytest.raises(CheckpointError, match=r"taken on Python 3\.9\.1"):
        _ = foreign.agent_state


def test_an_outside_call_that_restoring_the_agent_makes_is_refused(
    app: Any, failed: Failed, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = app.Agent()
    agent.lock = threading.Lock()
    checkpoint, _ = failed(lambda: agent.asks("a"))
    app.LIVE.clear()
    monkeypatch.setattr(app.Agent, "on_restore", lambda self, _: self.ask("again"), raising=False)
    with pytest.raises(StateError, match=r"on_restore.* was called before the replay began"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert app.LIVE == []


def test_an_agent_defined_inside_a_function_is_replayed_with_its_stored_code(app: Any, failed: Failed) -> None:
    from clearstone import checkpointable, traced

    live: list[str] = []

    def make() -> Any:
        @checkpointable
        class Local:
            @traced(span_type="llm")
            def ask(self, q: str) -> str:
                live.append(q)
                return q * 2

            def go(self, q: str) -> None:
                raise RuntimeError(self.ask(q))

        return Local()

    checkpoint, _ = failed(lambda: make().go("a"))
    with pytest.raises(RuntimeError, match="aa"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert live == ["a"]


def test_reading_a_stream_past_where_its_recorded_consumer_stopped_is_beyond(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().stops_early())
    app.Agent.reads_on = lambda self: list(self.stream(3))
    with pytest.raises(BeyondRecord, match="recorded consumer stopped"):
        ReplayEngine(checkpoint).replay_from_checkpoint("reads_on")


def test_a_loop_that_retries_for_ever_is_ended(app: Any, failed: Failed) -> None:
    checkpoint, _ = failed(lambda: app.Agent().asks("a"))

    def retries(self: Any) -> Any:
        while True:
            try:
                return self.ask("z")
            except Exception:
                time.sleep(1)

    app.Agent.retries = retries
    with pytest.raises(ReplayDivergence):
        ReplayEngine(checkpoint).replay_from_checkpoint("retries")


def test_a_failed_outside_call_is_served_and_said_and_runs_again_when_its_decorator_says_so(
    app: Any, failed: Failed
) -> None:
    checkpoint, _ = failed(lambda: app.Agent().ask("bad"))
    engine = ReplayEngine(checkpoint)
    with pytest.raises(app.Refused):
        engine.replay_from_checkpoint()
    assert "is itself an outside call" in engine.notes[0]
    assert app.LIVE == []

    from clearstone import checkpointable, traced

    def ask(self: Any, q: str) -> Any:
        return app.search(q), "mended"

    ask.__qualname__, ask.__module__ = "Agent.ask", app.__name__
    app.Agent.ask = checkpointable(traced(span_type="llm", replay="run")(ask))
    with pytest.raises(BeyondRecord, match="search was called 1"):
        ReplayEngine(checkpoint).replay_from_checkpoint()


def test_calls_with_an_argument_that_does_not_pickle_are_told_apart_by_the_others(app: Any, failed: Failed) -> None:
    import threading

    from clearstone import checkpointable, traced

    @traced(span_type="llm")
    def ask(lock: Any, q: str) -> str:
        app.LIVE.append(q)
        return q * 2

    def go(self: Any, lock: Any = None) -> None:
        raise RuntimeError([ask(threading.Lock(), q) for q in app.ORDER])

    app.ORDER = ["a", "b"]
    go.__qualname__, go.__module__ = "Agent.go", app.__name__
    app.Agent.go = checkpointable(go)
    checkpoint, _ = failed(lambda: app.Agent().go())
    app.ORDER = ["b", "a"]
    with pytest.raises(RuntimeError, match=r"\['bb', 'aa'\]"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert app.LIVE == []
    checkpoint, _ = failed(lambda: app.Agent().go(threading.Lock()))
    with pytest.raises(UnservableOutcome, match="argument 0 of the failed call does not pickle"):
        ReplayEngine(checkpoint).replay_from_checkpoint()
