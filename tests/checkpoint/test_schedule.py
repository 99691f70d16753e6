"""What is saved of calls that do not fail: as often as was said, and never in their way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from clearstone import checkpointable, home, traced
from clearstone.checkpoint import schedule
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.debugging import Checkpoint, ReplayEngine
from clearstone.errors import ConfigurationError, StoreError
from clearstone.observability import TracerProvider
from clearstone.record.default import default_provider
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVE: list[str] = []


@traced(span_type="tool")
def look(what: str) -> str:
    LIVE.append(what)
    return f"{what} is there"


def made(**options: Any) -> Any:
    """An agent of a class of its own, so that nothing counts across tests."""

    @checkpointable(**options)
    class Agent:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def go(self, what: str = "a") -> str:
            self.seen.append(look(what))
            return self.seen[-1]

        def fail(self) -> None:
            raise ValueError("no")

        def twice(self) -> str:
            return self.go() + self.go()

        async def ago(self) -> str:
            return self.go()

        def stream(self) -> Iterator[str]:
            yield self.go()

    for each in vars(Agent).values():
        site = getattr(each, "_self_site", None)
        if site is not None:
            schedule._counts.pop(site.key, None)
            schedule._last.pop(site.key, None)
    return Agent()


def saved() -> list[Checkpoint]:
    """The checkpoints, the oldest first."""
    manager = CheckpointManager(home.checkpoint_folder())
    return [manager.load_checkpoint(info.checkpoint_id) for info in reversed(manager.list_checkpoints())]


def moments() -> list[str]:
    return [each.moment for each in saved()]


@pytest.mark.parametrize(
    ("on", "expected"),
    [("error", []), ("entry", ["entry"]), ("exit", ["exit"]), ("always", ["entry", "exit"])],
)
def test_a_call_that_does_not_fail_is_saved_when_it_was_said(on: str, expected: list[str]) -> None:
    assert made(on=on).go() == "a is there"
    assert moments() == expected


def test_a_failure_is_saved_whatever_was_said() -> None:
    with pytest.raises(ValueError, match="no"):
        made(on="entry").fail()
    assert moments() == ["entry", "failure"]


def test_at_its_exit_a_call_has_its_state_before_and_after_its_outcome_and_no_failure() -> None:
    made(on="exit").go("x")
    (checkpoint,) = saved()
    assert checkpoint.agent_state["seen"] == []
    assert [str(each) for each in checkpoint.diff()] == ["added self.seen[0]: 'x is there'"]
    assert checkpoint.failure is None
    assert [span.is_open for span in checkpoint.trace] == [False, False]


def test_a_wrong_answer_can_be_replayed_without_a_call_going_out() -> None:
    agent = made(on="exit")
    agent.go("x")
    LIVE.clear()
    assert ReplayEngine(saved()[0]).replay_from_checkpoint() == "x is there"
    assert LIVE == []


def test_at_its_entry_a_call_has_its_arguments_its_state_before_and_a_trace_that_goes_on() -> None:
    made(on="entry").go("x")
    (checkpoint,) = saved()
    assert checkpoint.agent_state["seen"] == []
    assert checkpoint.state_at_end is None
    assert checkpoint.call is not None
    provider = default_provider()
    assert provider is not None
    assert provider.flush()
    (checkpoint,) = saved()
    assert [span.name.rpartition(".")[2] for span in checkpoint.trace] == ["go", "look"]
    LIVE.clear()
    assert ReplayEngine(checkpoint).replay_from_checkpoint() == "x is there"
    assert LIVE == []


def test_coroutines_and_generators_are_saved_when_they_end() -> None:
    agent = made(on="exit")
    assert asyncio.run(agent.ago()) == "a is there"
    assert list(agent.stream()) == ["a is there"]
    stream = agent.stream()
    next(stream)
    stream.close()
    assert moments() == ["exit"] * 3


def test_of_so_many_calls_one() -> None:
    agent = made(on="exit", every=3)
    for n in range(7):
        agent.go(str(n))
    assert [each.diff()[0].after for each in saved()] == ["0 is there", "3 is there", "6 is there"]


def test_none_for_so_many_seconds_after_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(schedule, "monotonic", lambda: now)
    agent = made(on="exit", interval=2.5)
    for n in range(7):
        agent.go(str(n))
        now += 1
    assert [each.diff()[0].after for each in saved()] == ["0 is there", "3 is there", "6 is there"]


def test_only_calls_of_which_the_user_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    agent = made(on="exit", when=lambda agent: len(agent.seen) == 1)
    for n in range(3):
        agent.go(str(n))
    assert len(saved()) == 1
    odd = made(on="exit", when=lambda agent: agent.no_such)
    assert odd.go() == "a is there"
    assert len(saved()) == 1
    assert "when= of " in capsys.readouterr().err


def test_of_each_trace_the_newest_are_kept() -> None:
    agent = made(on="exit", keep=2)

    @traced
    def run() -> None:
        for n in range(5):
            agent.go(str(n))

    run()
    run()
    found = saved()
    assert [each.diff()[0].after for each in found] == ["3 is there", "4 is there"] * 2
    assert len({each.trace.trace_id for each in found}) == 2


def test_the_newest_runs_that_did_not_fail_are_kept() -> None:
    agent = made(keep_runs=2)
    for n in range(5):
        agent.go(str(n))
    with pytest.raises(ValueError, match="no"):
        agent.fail()
    assert moments() == ["exit", "exit", "failure"]
    assert [each.diff()[0].after for each in saved()[:2]] == ["3 is there", "4 is there"]


def test_a_boundary_inside_another_counts_where_it_was_said() -> None:
    made(on="exit").twice()
    assert len(saved()) == 1
    made(on="exit", nested=True).twice()
    assert len(saved()) == 1 + 3


def test_one_method_or_function_may_have_a_schedule_of_its_own() -> None:
    @checkpointable(on="exit")
    def step(n: int) -> int:
        return n + 1

    class Agent:
        @checkpointable(on="always")
        def go(self) -> int:
            return 1

        @checkpointable(on="exit")
        @classmethod
        def make(cls) -> int:
            return 2

    assert (step(1), Agent().go(), Agent.make()) == (2, 1, 2)
    assert sorted(moments()) == ["entry", "exit", "exit", "exit"]


def test_a_classmethod_follows_the_schedule_of_its_class() -> None:
    @checkpointable(on="exit")
    class Agent:
        @classmethod
        def make(cls) -> str:
            return look("it")

    assert Agent.make() == "it is there"
    assert moments() == ["exit"]


def test_a_call_of_a_signal_handler_that_came_while_another_was_counted_is_counted_too() -> None:
    agent = made(on="exit")
    with schedule._lock:
        assert agent.go() == "a is there"
    assert moments() == ["exit"]


def test_a_child_that_was_forked_while_a_call_was_counted_counts_its_own() -> None:
    agent = made(on="exit")
    held, forked = threading.Event(), threading.Event()

    def count() -> None:
        with schedule._lock:
            held.set()
            forked.wait()

    counting = threading.Thread(target=count)
    counting.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for a lock of the parent's
        os._exit(0 if agent.go() == "a is there" else 1)
    forked.set()
    counting.join()
    assert os.waitpid(child, 0)[1] == 0


def test_of_calls_at_the_same_time_one_is_due_in_an_interval() -> None:
    both = threading.Barrier(2)
    agent = made(on="exit", interval=1000, when=lambda _: both.wait(10) >= 0)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(agent.go, ["a", "b"])) == ["a is there", "b is there"]
    assert moments() == ["exit"]


def test_a_trace_that_cannot_be_read_costs_the_checkpoint_and_not_the_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Any, trace_id: str) -> NoReturn:
        raise StoreError("no disk")

    agent = made(on="always")
    with monkeypatch.context() as patched:
        patched.setattr(TracerProvider, "trace_so_far", broken)
        assert agent.go("x") == "x is there"
    assert "no checkpoint at the exit of" in capsys.readouterr().err
    provider = default_provider()
    assert provider is not None
    assert provider.flush()
    store = SQLiteTraceStore(home.trace_file())
    (trace,) = (store.get_trace(each.trace_id) for each in store.traces())
    store.close()
    assert [span.name.rpartition(".")[2] for span in trace] == ["go", "look"]
    assert not any(span.is_open for span in trace)


def test_a_folder_that_cannot_be_written_is_said_and_the_call_goes_on(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = made(on="always")
    agent.go()
    (tmp_path / "a file").touch()
    monkeypatch.setattr(home, "checkpoint_folder", lambda: tmp_path / "a file" / "checkpoints")
    assert agent.go() == "a is there"
    told = capsys.readouterr().err
    assert "no checkpoint at the entry of" in told
    assert "no checkpoint at the exit of" in told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"on": "failure"}, "on='failure' is none of 'error', 'entry', 'exit', 'always'"),
        ({"on": "exit", "every": 0}, "every=0 is no number of calls"),
        ({"on": "exit", "every": True}, "every=True is no number of calls"),
        ({"on": "exit", "interval": -1}, "interval=-1 is no number of seconds"),
        ({"on": "exit", "interval": "1s"}, "interval='1s' is no number of seconds"),
        ({"on": "exit", "when": 3}, "when=3 cannot be called with the agent"),
        ({"on": "exit", "keep": 0}, "keep=0 is no number of checkpoints"),
        ({"keep_runs": -1}, "keep_runs=-1 is no number of runs"),
        ({"every": 5}, "say on='exit'"),
        ({"keep": 5}, "say on='exit'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        checkpointable(**options)
