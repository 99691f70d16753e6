"""When a checkpoint is saved by itself, what it holds, and that nothing of it ever reaches the user's exception."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import os
import random
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import clearstone
from clearstone import checkpointable, home, run, traced
from clearstone.checkpoint import keeping, packs, state
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.codec import payload
from clearstone.codec.exceptions import load_exception
from clearstone.record.provider import TracerProvider
from clearstone.span import StatusCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from clearstone.checkpoint.model import Checkpoint

LIBRARY = str(Path(clearstone.__file__).parent)


class PlainBase:
    def inherited(self) -> NoReturn:
        raise ValueError("inherited")

    async def inherited_async(self) -> NoReturn:
        raise ValueError("inherited async")

    def inherited_stream(self) -> Iterator[int]:
        yield 1
        raise ValueError("inherited stream")


@checkpointable
class Agent(PlainBase):
    def __init__(self) -> None:
        self.memory: list[Any] = ["start"]

    def ok(self) -> str:
        self.memory.append("ok")
        return "done"

    def fail(self, *questions: Any, error: BaseException | None = None) -> NoReturn:
        self.memory.append("changed")
        raise error or ValueError("failed")

    def outer(self) -> NoReturn:
        self.memory.append("outer")
        self.middle()

    def middle(self) -> NoReturn:
        self.fail()

    def catching(self) -> str:
        try:
            self.fail()
        except ValueError:
            return "caught"

    async def fail_async(self, error: BaseException | None = None) -> NoReturn:
        await asyncio.sleep(0)
        raise error or ValueError("failed async")

    def stream(self, error: BaseException | None = None) -> Iterator[int]:
        yield 1
        self.memory.append("streaming")
        raise error or ValueError("failed stream")

    async def stream_async(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("failed async stream")

    @classmethod
    def of_class(cls) -> NoReturn:
        raise ValueError("failed class")

    @staticmethod
    def of_none(x: int) -> NoReturn:
        raise ValueError("failed static")

    @traced(span_type="tool", name="searching")
    def tool(self, question: str) -> NoReturn:
        raise ValueError("failed tool")

    def overridden(self) -> NoReturn:
        raise ValueError("base")

    @property
    def failing_property(self) -> NoReturn:
        raise ValueError("property")

    def _private(self) -> NoReturn:
        raise ValueError("private")

    def __call__(self) -> NoReturn:
        raise ValueError("call")

    def __len__(self) -> int:
        raise ValueError("len")


class SubAgent(Agent):
    def overridden(self) -> NoReturn:
        raise ValueError("overridden")

    def added(self) -> NoReturn:
        raise ValueError("added")


@checkpointable
def fail_function(x: int, *, y: int = 0) -> NoReturn:
    raise ValueError("function")


@checkpointable
async def fail_async_function() -> NoReturn:
    raise ValueError("async function")


class OneMethod:
    def __init__(self) -> None:
        self.n = 1

    @checkpointable
    @traced(span_type="chain")
    def above(self) -> NoReturn:
        raise ValueError("above")

    @traced(span_type="chain")
    @checkpointable
    def below(self) -> NoReturn:
        raise ValueError("below")

    @checkpointable()
    def with_parentheses(self) -> NoReturn:
        raise ValueError("parentheses")

    def plain(self) -> NoReturn:
        raise ValueError("plain")


@traced(span_type="llm")
def ask(question: str) -> str:
    return f"answer to {question}"


def saved() -> list[Checkpoint]:
    """Load every checkpoint that was saved, newest first."""
    manager = CheckpointManager(home.checkpoint_folder())
    return [manager.load_checkpoint(info.checkpoint_id) for info in manager.list_checkpoints()]


def the_saved() -> Checkpoint:
    (checkpoint,) = saved()
    return checkpoint


def first_line(method: Any) -> int:
    line: int = method.__wrapped__.__code__.co_firstlineno
    return line


def failing(call: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException:
    """Call something that fails and return what it raised."""
    with pytest.raises(BaseException) as caught:
        call(*args, **kwargs)
    return caught.value


# --- when ------------------------------------------------------------------------------------------------------------


def test_a_call_that_succeeds_saves_nothing() -> None:
    assert Agent().ok() == "done"
    assert saved() == []


def test_an_exception_that_leaves_saves_one_checkpoint_of_the_outermost_call() -> None:
    failing(Agent().outer)
    checkpoint = the_saved()
    assert checkpoint.call is not None
    assert checkpoint.call.method == "outer"
    assert [span.name for span in checkpoint.trace] == ["Agent.outer", "Agent.middle", "Agent.fail"]
    assert checkpoint.span.name == "Agent.outer"


def test_a_failure_that_is_caught_inside_saves_nothing() -> None:
    assert Agent().catching() == "caught"
    assert saved() == []


@checkpointable
class Lead:
    def __init__(self) -> None:
        self.helper = Agent()

    def delegate(self) -> NoReturn:
        self.helper.fail()


def test_of_two_agents_the_outer_one_is_saved() -> None:
    failing(Lead().delegate)
    assert the_saved().agent_class_name == "Lead"


class OwnBaseError(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("v"), ExceptionGroup("g", [ValueError()]), KeyboardInterrupt()])
def test_exceptions_and_keyboard_interrupts_count(error: BaseException) -> None:
    assert failing(Agent().fail, error=error) is error
    assert len(saved()) == 1


@pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), asyncio.CancelledError(), OwnBaseError()])
def test_what_only_ends_the_program_or_the_task_does_not_count(error: BaseException) -> None:
    assert failing(Agent().fail, error=error) is error
    assert saved() == []


async def _cancel() -> None:
    task = asyncio.ensure_future(Agent().fail_async())
    await asyncio.sleep(0)
    task.cancel()
    await task


def test_a_cancelled_task_saves_nothing() -> None:
    assert isinstance(failing(asyncio.run, _cancel()), asyncio.CancelledError)
    assert saved() == []


def test_a_stream_that_is_closed_early_saves_nothing() -> None:
    stream: Any = Agent().stream()
    assert next(stream) == 1
    stream.close()
    assert saved() == []


async def _drain(stream: AsyncIterator[int]) -> None:
    async for _ in stream:
        pass


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "method": (lambda: Agent().fail(), "Agent.fail"),
    "coroutine": (lambda: asyncio.run(Agent().fail_async()), "Agent.fail_async"),
    "generator": (lambda: list(Agent().stream()), "Agent.stream"),
    "async generator": (lambda: asyncio.run(_drain(Agent().stream_async())), "Agent.stream_async"),
    "classmethod": (lambda: Agent.of_class(), "Agent.of_class"),
    "classmethod of a subclass": (lambda: SubAgent.of_class(), "SubAgent.of_class"),
    "staticmethod": (lambda: Agent.of_none(1), "Agent.of_none"),
    "traced method": (lambda: Agent().tool("q"), "Agent.tool"),
    "unbound call": (lambda: Agent.fail(Agent()), "Agent.fail"),
    "override": (lambda: SubAgent().overridden(), "SubAgent.overridden"),
    "method of a subclass": (lambda: SubAgent().added(), "SubAgent.added"),
    "method of the base": (lambda: SubAgent().fail(), "Agent.fail"),
    "method of a plain base": (lambda: Agent().inherited(), "Agent.inherited"),
    "coroutine of a plain base": (lambda: asyncio.run(Agent().inherited_async()), "Agent.inherited_async"),
    "generator of a plain base": (lambda: list(Agent().inherited_stream()), "Agent.inherited_stream"),
    "function": (lambda: fail_function(1, y=2), "fail_function"),
    "async function": (lambda: asyncio.run(fail_async_function()), "fail_async_function"),
    "one method above": (lambda: OneMethod().above(), "OneMethod.above"),
    "one method below": (lambda: OneMethod().below(), "OneMethod.below"),
    "one method with parentheses": (lambda: OneMethod().with_parentheses(), "OneMethod.with_parentheses"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_boundary_is_every(kind: str) -> None:
    call, site = KINDS[kind]
    failing(call)
    checkpoint = the_saved()
    assert checkpoint.call is not None
    assert checkpoint.call.site == f"{__name__}:{site}"


@pytest.mark.parametrize(
    "call",
    [
        lambda: Agent().failing_property, lambda: Agent()._private(),
        lambda: Agent()(), lambda: len(Agent()), lambda: OneMethod().plain(),
    ],
)  # fmt: skip
def test_a_property_a_private_and_a_dunder_method_are_no_boundaries(call: Callable[[], Any]) -> None:
    failing(call)
    assert saved() == []


def test_descriptors_that_are_no_methods_stay_as_they_are() -> None:
    def plain(self: Any, *args: Any) -> Any:
        return "done", *args

    members = {
        "cached": functools.cached_property(plain),
        "partial": functools.partialmethod(plain, 1),
        "dispatched": functools.singledispatchmethod(plain),
    }
    agent: Any = checkpointable(type("WithDescriptors", (), dict(members)))()
    assert (agent.cached, agent.partial(), agent.dispatched(2)) == (("done",), ("done", 1), ("done", 2))


def test_a_method_of_a_plain_base_used_elsewhere_is_no_boundary() -> None:
    failing(PlainBase().inherited)
    assert saved() == []


def test_suspended_calls_save_nothing() -> None:
    with run.suspended():
        failing(Agent().fail)
    assert saved() == []


def test_a_failure_in_a_thread_of_the_boundary_is_not_the_outermost() -> None:
    @checkpointable
    def threaded() -> str:
        thread = threading.Thread(target=lambda: failing(Agent().fail))
        thread.start()
        thread.join()
        return "done"

    assert threaded() == "done"
    assert saved() == []


async def _both() -> list[BaseException]:
    return list(await asyncio.gather(Agent().fail_async(), Agent().fail_async(), return_exceptions=True))


def test_concurrent_boundaries_are_each_the_outermost() -> None:
    assert [type(error) for error in asyncio.run(_both())] == [ValueError, ValueError]
    assert len(saved()) == 2
    assert len({checkpoint.trace.trace_id for checkpoint in saved()}) == 2


# --- what it holds ---------------------------------------------------------------------------------------------------


def test_the_state_is_from_the_entry_and_the_state_at_the_failure_is_there_too() -> None:
    agent = Agent()
    agent.ok()
    failing(agent.outer)
    checkpoint = the_saved()
    assert checkpoint.agent_state == {"memory": ["start", "ok"]}
    assert checkpoint.state_at_end is not None
    at_failure = state.load_values(checkpoint.state_at_end, None)
    assert at_failure == {"memory": ["start", "ok", "outer", "changed"]}


def test_the_state_of_a_stream_is_from_when_its_code_began() -> None:
    agent = Agent()
    stream = agent.stream()
    agent.memory.append("before it began")
    failing(list, stream)
    assert the_saved().agent_state == {"memory": ["start", "before it began"]}


def test_the_arguments_are_those_of_the_call_as_they_were() -> None:
    @checkpointable
    def change(items: list[int], *, name: str) -> NoReturn:
        items.clear()
        raise ValueError(name)

    failing(change, [1, 2], name="n")
    checkpoint = the_saved()
    assert checkpoint.call is not None
    assert payload.load(checkpoint.call.input) == (([1, 2],), {"name": "n"})


def test_a_methods_call_names_the_method_and_a_functions_none() -> None:
    failing(Agent().fail, "q")
    failing(fail_function, 1)
    failing(Agent.of_class)
    by_site = {checkpoint.call.site.partition(":")[2]: checkpoint for checkpoint in saved() if checkpoint.call}
    methods = {site: checkpoint.call.method for site, checkpoint in by_site.items() if checkpoint.call}
    assert methods == {"Agent.fail": "fail", "fail_function": "", "Agent.of_class": ""}
    assert by_site["fail_function"].agent_class_name == ""
    assert by_site["fail_function"].agent_name == f"{__name__}.fail_function"
    assert by_site["fail_function"].agent_state == {}


def test_a_subclass_is_the_agent_whose_method_failed() -> None:
    failing(SubAgent().fail)
    assert the_saved().agent_name == f"{__name__}.SubAgent"


def test_randoms_state_and_the_timestamp_are_from_the_entry() -> None:
    @checkpointable
    def draw() -> NoReturn:
        random.random()
        raise ValueError("drawn")

    before = random.getstate()
    failing(draw)
    checkpoint = the_saved()
    assert checkpoint.random_state == before
    assert checkpoint.random_state != random.getstate()
    start_ns = checkpoint.span.start_ns
    assert int(checkpoint.timestamp.timestamp() * 1e6) == pytest.approx(start_ns // 1000, abs=1)
    assert checkpoint.created_ns > start_ns


def test_the_exception_is_there_as_it_was() -> None:
    error = failing(Agent().fail, error=KeyError("k"))
    failure = the_saved().failure
    assert failure is not None
    assert (failure.type_name, failure.message) == ("KeyError", "'k'")
    assert failure.raised_at == f"{__file__}:{first_line(Agent.fail) + 2}"
    assert failure.traceback.endswith("KeyError: 'k'\n")
    loaded = load_exception(failure)
    assert (type(loaded), loaded.args) == (type(error), error.args)


def test_the_trace_holds_every_outcome_so_far_and_the_open_spans_around(tmp_path: Path) -> None:
    @checkpointable
    def work() -> NoReturn:
        ask("one")
        with tracer.span("by hand"):
            ask("two")
            raise ValueError("failed")

    provider = TracerProvider(tmp_path / "traces.db")
    tracer = provider.get_tracer("app")
    with tracer.span("around"):
        failing(work)
    provider.shutdown()
    trace = the_saved().trace
    assert [span.name for span in trace] == ["around", "work", "ask", "by hand", "ask"]
    outcomes = [span.outcome.kind if span.outcome else None for span in trace]
    assert outcomes == [None, "raised", "returned", "raised", "returned"]
    assert [span.is_open for span in trace] == [True, False, False, False, False]
    assert trace.spans[1].status.code is StatusCode.ERROR
    assert trace.spans[1].span_type == "agent"


def test_a_boundary_that_is_traced_keeps_its_own_name_and_type() -> None:
    failing(Agent().tool, "q")
    assert (the_saved().span.name, the_saved().span.span_type) == ("searching", "tool")


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise ValueError("no")


def test_what_does_not_pickle_of_state_arguments_and_exception_costs_itself_only() -> None:
    agent: Any = Agent()
    agent.lock = threading.Lock()
    error = RuntimeError("kept", Unpicklable())
    assert failing(agent.fail, Unpicklable(), error=error) is error
    checkpoint = the_saved()
    assert checkpoint.agent_state["memory"] == ["start"]
    assert [member.path for member in checkpoint.state.missing] == ["self.lock"]
    assert checkpoint.failure is not None
    assert load_exception(checkpoint.failure).args[0] == "kept"


@checkpointable
class Careful:
    """Its own methods are decorated, and its state is taken through them."""

    def __init__(self) -> None:
        self.n = 1

    @traced
    def packed(self) -> int:
        return self.n

    def get_state(self) -> dict[str, Any]:
        return {"n": self.packed(), "answer": ask("inside get_state")}

    def load_state(self, state: dict[str, Any]) -> None:
        self.n = state["n"]

    def go(self) -> NoReturn:
        raise ValueError("failed")


def test_a_get_state_that_calls_decorated_methods_records_nothing() -> None:
    failing(Careful().go)
    checkpoint = the_saved()
    assert checkpoint.agent_state == {"n": 1, "answer": "answer to inside get_state"}
    assert [span.name for span in checkpoint.trace] == ["Careful.go"]


# --- what the user sees ----------------------------------------------------------------------------------------------


def frames_of_the_library(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if frame.filename.startswith(LIBRARY)]


@pytest.mark.parametrize(
    ("call", "decorated_calls"),
    [
        (lambda: Agent().fail(), 1),
        (lambda: Agent().outer(), 3),
        (lambda: asyncio.run(Agent().fail_async()), 1),
        (lambda: list(Agent().stream()), 1),
        (lambda: asyncio.run(_drain(Agent().stream_async())), 1),
        (lambda: Agent.of_class(), 1),
        (lambda: Agent().inherited(), 1),
        (lambda: asyncio.run(Agent().inherited_async()), 1),
        (lambda: list(Agent().inherited_stream()), 1),
    ],
)
def test_the_users_traceback_has_at_most_one_frame_of_ours_for_a_decorated_call(
    call: Callable[[], Any], decorated_calls: int
) -> None:
    error = failing(call)
    assert len(frames_of_the_library(error)) <= decorated_calls
    assert len(saved()) == 1


def test_the_users_exception_is_the_very_same_and_nothing_is_added_to_it() -> None:
    error = ValueError("mine")
    assert failing(Agent().fail, error=error) is error
    assert (error.args, error.__cause__, error.__context__) == (("mine",), None, None)
    assert vars(error) == {}


def test_one_line_on_standard_error_names_the_file_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    failing(Agent().outer)
    (path,) = home.checkpoint_folder().glob("*.pack")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"clearstone: Agent.outer failed with ValueError; checkpoint {the_saved().checkpoint_id} in {path}; next: "
        f"clearstone debug latest\n"
    )


def test_a_file_below_the_working_directory_is_named_from_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.ensure_home())
    failing(Agent().fail)
    assert " in checkpoints/" in capsys.readouterr().err


class RaisingStream(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError(errno.EPIPE, "Broken pipe")


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [None, closed_stream(), RaisingStream()])
def test_without_a_standard_error_the_checkpoint_is_saved_all_the_same(
    monkeypatch: pytest.MonkeyPatch, stderr: Any
) -> None:
    error = ValueError("mine")
    monkeypatch.setattr(sys, "stderr", stderr)
    assert failing(Agent().fail, error=error) is error
    monkeypatch.undo()
    home.set_home(None)
    assert error.__context__ is None


# --- snapshots that fail ---------------------------------------------------------------------------------------------


@checkpointable
class Unwilling:
    """Its get_state raises from the call on that is set."""

    def __init__(self, good_calls: int, refusal: BaseException | None = None) -> None:
        self.good_calls = good_calls
        self.refusal = refusal or ZeroDivisionError("unwilling")

    def get_state(self) -> dict[str, Any]:
        self.good_calls -= 1
        if self.good_calls < 0:
            raise self.refusal
        return {"good": True}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take nothing."""

    def go(self, error: BaseException) -> NoReturn:
        raise error

    def fine(self) -> str:
        return "fine"


def test_a_get_state_that_raises_at_entry_costs_the_checkpoint_and_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("mine")
    assert failing(Unwilling(0).go, error) is error
    assert error.__context__ is None
    assert saved() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clearstone: no checkpoint of the failed {__name__}:Unwilling.go: ")
    assert "ZeroDivisionError: unwilling" in line


@pytest.mark.parametrize("good_calls", [0, 1])
def test_a_get_state_that_exits_never_takes_the_place_of_the_users_exception(good_calls: int) -> None:
    error = ValueError("mine")
    assert failing(Unwilling(good_calls, SystemExit("unwilling")).go, error) is error
    assert len(saved()) == good_calls


def test_a_get_state_that_raises_is_nothing_to_say_while_the_call_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert Unwilling(0).fine() == "fine"
    assert capsys.readouterr().err == ""


def test_a_get_state_that_raises_at_the_failure_costs_only_that_state(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("mine")
    assert failing(Unwilling(1).go, error) is error
    checkpoint = the_saved()
    assert checkpoint.agent_state == {"good": True}
    assert checkpoint.state_at_end is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "the state at the end could not be taken: ZeroDivisionError: unwilling" in said[0]


def test_a_full_disk_costs_the_checkpoint_and_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packs.Pack, "_write", full)
    error = ValueError("mine")
    assert failing(Agent().fail, error=error) is error
    assert error.__context__ is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "no checkpoint of the failed" in line
    assert "No space left on device" in line


def test_an_agent_whose_state_cannot_be_taken_says_what_to_define(capsys: pytest.CaptureFixture[str]) -> None:
    @checkpointable
    class DictAgent(dict[str, int]):
        def go(self) -> NoReturn:
            raise ValueError("mine")

    assert str(failing(DictAgent().go)) == "mine"
    assert "define get_state() and load_state()" in capsys.readouterr().err


# --- identical failures ----------------------------------------------------------------------------------------------


@dataclass
class Lines:
    """Fails on one of two lines, with one of two types."""

    n: int = 0

    @checkpointable
    def go(self, line: int, error: type[Exception] = ValueError) -> NoReturn:
        if line == 1:
            raise error("first line")
        raise error("second line")


def test_of_identical_failures_the_newest_twenty_are_kept_and_all_are_counted() -> None:
    for n in range(25):
        failing(Lines(n).go, 1)
    found = saved()
    assert keeping.KEPT_PER_FAILURE == 20
    assert [checkpoint.agent_state["n"] for checkpoint in found] == list(range(24, 4, -1))
    assert [checkpoint.occurrences for checkpoint in found] == list(range(25, 5, -1))


def test_another_line_and_another_type_are_other_failures() -> None:
    for _ in range(3):
        failing(Lines().go, 1)
    failing(Lines().go, 2)
    failing(Lines().go, 1, KeyError)
    counted = {(checkpoint.failure.type_name, checkpoint.failure.raised_at, checkpoint.occurrences)
               for checkpoint in saved() if checkpoint.failure}  # fmt: skip
    first = first_line(Lines.go) + 3
    expected = [("ValueError", first, n) for n in (1, 2, 3)] + [("ValueError", first + 1, 1), ("KeyError", first, 1)]
    assert counted == {(name, f"{__file__}:{line}", n) for name, line, n in expected}


def test_checkpoints_made_by_hand_are_neither_counted_nor_removed() -> None:
    failing(Lines().go, 1)
    trace = the_saved().trace
    manager = CheckpointManager(home.checkpoint_folder())
    mine = manager.save_checkpoint(manager.create_checkpoint(Lines(), trace, trace.spans[0].span_id))
    for _ in range(21):
        failing(Lines().go, 1)
    assert mine.exists()
    assert saved()[0].occurrences == 22


def test_a_torn_file_of_the_same_failure_does_not_stop_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    failing(Lines().go, 1)
    failing(Lines().go, 1)
    newest = CheckpointManager(home.checkpoint_folder()).list_checkpoints()[0].path
    newest.write_bytes(newest.read_bytes()[:50])
    (seen_file,) = (home.home() / "seen").iterdir()
    seen_file.write_bytes(seen_file.read_bytes() + b"\xff\n3 4\nx y z\n")
    failing(Lines().go, 1)
    assert [checkpoint.occurrences for checkpoint in saved()] == [3, 1]
    assert "no checkpoint" not in capsys.readouterr().err


def test_a_copied_folder_with_other_file_times_counts_the_same() -> None:
    for n in range(3):
        failing(Lines(n).go, 1)
    for info in CheckpointManager(home.checkpoint_folder()).list_checkpoints():
        os.utime(info.path, ns=(2 * 10**18 - info.created_ns, 2 * 10**18 - info.created_ns))  # the oldest looks newest
    failing(Lines(3).go, 1)
    assert [checkpoint.occurrences for checkpoint in saved()] == [4, 3, 2, 1]
