"""A replay with one thing changed, recorded as a trace of its own; and the agent at any call of a trace."""

import asyncio
import http.server
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from clearstone import checkpointable, configure, traced
from clearstone.codec import payload
from clearstone.debugging import Checkpoint, CheckpointManager, Fork, ReplayEngine, checkpoints
from clearstone.errors import (
    BeyondRecord,
    ConfigurationError,
    LiveCallRefused,
    ReplayDivergence,
    ReplayError,
    TargetError,
)
from clearstone.observability import Span, Trace

live: list[Any] = []
today: dict[str, Any] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        live.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path[1:].upper().encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    global url
    url = f"http://127.0.0.1:{server.server_address[1]}"
    yield
    server.shutdown()
    server.server_close()
    thread.join()


url = ""


@dataclass
class Reply:
    text: str
    tokens: int = 1


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.config = {"model": "small"}
        self.spent, self.limit, self.seen = 0, 3, ["start"]

    @traced(span_type="llm")
    def ask(self, prompt: str) -> Reply:
        with urllib.request.urlopen(f"{url}/{self.config['model']}-{prompt}") as response:  # noqa: S310 - loopback
            self.spent += 1
            return Reply(response.read().decode())

    @traced(span_type="llm")
    async def aask(self, prompt: str) -> Reply:
        return await asyncio.to_thread(Agent.ask.__wrapped__, self, prompt)  # type: ignore[attr-defined]

    @traced(span_type="tool")
    def items(self, count: int) -> Any:
        yield from range(count)

    @traced
    def step(self, prompt: str) -> str:
        text = self.ask(prompt).text
        self.seen.append(text)
        return text

    @traced
    async def astep(self, prompt: str) -> str:
        return (await self.aask(prompt)).text

    @traced
    def run(self, first: str = "a", *, more: int = 2) -> Any:
        got = [self.step(first), self.step("b"), list(self.items(more)), self.step("c")]
        today.get("then", lambda _: None)(self)
        if "B" in got:
            return got
        raise RuntimeError(got, self.spent)

    @traced
    async def arun(self) -> Any:
        got = await asyncio.gather(self.astep("a"), self.astep("b"), self.astep("c"))
        raise RuntimeError(got)

    @traced
    def in_threads(self) -> Any:
        with ThreadPoolExecutor(3) as pool:
            raise RuntimeError(list(pool.map(self.step, "abc")))

    @traced
    def tells_time(self) -> Any:
        before, steady = time.time(), time.monotonic()
        first = self.ask("a").text
        time.sleep(0.01)
        raise RuntimeError(before, time.time(), time.monotonic() - steady, uuid.uuid4(), first)


@pytest.fixture(autouse=True)
def _as_recorded() -> None:
    live.clear()
    today.clear()


def failed(call: Any) -> Checkpoint:
    with pytest.raises(RuntimeError):
        call()
    configure().flush()
    live.clear()
    return CheckpointManager().load_checkpoint("latest")


@pytest.fixture
def checkpoint() -> Checkpoint:
    return failed(lambda: Agent().run("a"))


def engine(checkpoint: Checkpoint) -> ReplayEngine:
    return ReplayEngine(checkpoint, configure().trace_store)


def trace(fork: Fork) -> Trace:
    return configure().trace_store.get_trace(fork.trace_id)


def calls(found: Trace) -> list[str]:
    return [span.name for span in found]


# --- a fork -----------------------------------------------------------------------------------------------------------


def test_a_fork_without_changes_is_the_replay_recorded_once_more(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork()
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args == (["SMALL-A", "SMALL-B", [0, 1], "SMALL-C"], 3)
    assert live == []
    made = trace(fork)
    assert calls(made) == [made.spans[0].name, *calls(checkpoint.trace)]
    assert [each.outcome and each.outcome.kind for each in made.spans[1:]] == [
        each.outcome and each.outcome.kind for each in checkpoint.trace
    ]


def test_a_fork_is_a_trace_of_its_own_that_names_its_parent(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(name="once more", state={"self.limit": 9})
    (summary,) = [each for each in configure().trace_store.traces() if each.trace_id == fork.trace_id]
    assert (summary.name, summary.parent) == ("once more", checkpoint.trace.trace_id)
    told = trace(fork).spans[0].attributes
    assert told["clearstone.fork.checkpoint"] == checkpoint.checkpoint_id
    assert told["clearstone.fork.changes"] == ["self.limit: 3 -> 9"]
    assert fork.parent == checkpoint.trace.trace_id


def test_two_forks_of_one_checkpoint_have_ids_of_their_own(checkpoint: Checkpoint) -> None:
    forks = [engine(checkpoint).fork() for _ in range(2)]
    assert len({fork.trace_id for fork in forks}) == 2
    ids = [info.checkpoint_id for info in checkpoints()]
    assert len(ids) == len(set(ids)) == 3


def test_a_changed_response_is_given_and_the_rest_comes_from_the_record(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(respond={"llm[2]": Reply("B")})
    assert fork.result == ["SMALL-A", "B", [0, 1], "SMALL-C"]
    assert live == []
    assert fork.changes == ("llm[2]: Reply(text='B', tokens=1)",)
    assert [entry.target.rpartition(".")[2] for entry in fork.ledger if entry.verdict == "changed"] == [
        "ask",
        "step",
        "run",
    ]


def test_a_place_in_a_response_is_changed_alone(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(respond={"Agent.ask[2].text": "B"})
    assert fork.result == ["SMALL-A", "B", [0, 1], "SMALL-C"]
    assert fork.changes == ("Agent.ask[2].text: 'SMALL-B' -> 'B'",)


def test_a_response_may_be_made_by_a_function_raised_or_be_a_stream(checkpoint: Checkpoint) -> None:
    made = engine(checkpoint).fork(respond={"llm[2]": lambda prompt: Reply(prompt.upper())})
    assert made.result == ["SMALL-A", "B", [0, 1], "SMALL-C"]
    raised = engine(checkpoint).fork(respond={"s5": TimeoutError("slow")})
    assert isinstance(raised.error, TimeoutError)
    streamed = engine(checkpoint).fork(respond={"tool": [7, 8, 9]})
    assert isinstance(streamed.error, RuntimeError)
    assert streamed.error.args[0][2] == [7, 8, 9]


def test_after_a_changed_response_calls_are_made_for_real_where_that_is_wanted(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(respond={"llm[2]": Reply("B")}, then="live")
    assert fork.result == ["SMALL-A", "B", [0, 1], "SMALL-C"]
    assert live == ["/small-c"]
    assert fork.ledger.count("live") == 2  # the stream and the last question
    assert fork.agent.spent == 3


def test_with_another_state_every_call_is_made_for_real(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(state={'self.config["model"]': "large"}, then="live")
    assert isinstance(fork.error, RuntimeError)
    assert live == ["/large-a", "/large-b", "/large-c"]
    assert fork.changes == ("self.config[\"model\"]: 'small' -> 'large'",)


def test_the_state_is_changed_at_a_call_and_what_is_before_it_is_answered(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(at="s4", state={"config['model']": "large"}, then="live")
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[0] == ["SMALL-A", "LARGE-B", [0, 1], "LARGE-C"]
    assert live == ["/large-b", "/large-c"]
    replayed = engine(checkpoint).fork(at="s4", state=lambda agent: agent.seen.clear())
    assert replayed.agent.seen == ["SMALL-B", "SMALL-C"]


def test_other_arguments_are_given_by_name(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(arguments={"more": 3, "first": "z"}, then="live")
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[0] == ["SMALL-Z", "SMALL-B", [0, 1, 2], "SMALL-C"]


def test_from_the_record_alone_other_arguments_diverge_and_nothing_goes_out(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(arguments={"first": "z"})
    assert isinstance(fork.error, ReplayDivergence)
    assert live == []
    assert len(checkpoints()) == 1  # a refusal is no failure of the agent's


def test_code_that_gets_past_the_record_goes_on_for_real_where_that_is_wanted(checkpoint: Checkpoint) -> None:
    today["then"] = lambda agent: agent.step("more")
    assert isinstance(engine(checkpoint).fork().error, BeyondRecord)
    assert live == []
    fork = engine(checkpoint).fork(then="live")
    assert isinstance(fork.error, RuntimeError)
    assert live == ["/small-more"]
    assert fork.ledger.count("reused", "live") == 5


def test_the_guard_holds_until_the_change(checkpoint: Checkpoint) -> None:
    today["then"] = lambda agent: Agent.ask.__wrapped__(agent, "secretly")  # type: ignore[attr-defined]
    fork = engine(checkpoint).fork(respond={"llm[1]": Reply("A")})
    assert isinstance(fork.error, LiveCallRefused)
    assert live == []


def test_tasks_and_threads_fork_too() -> None:
    checkpoint = failed(lambda: asyncio.run(Agent().arun()))
    fork = engine(checkpoint).fork(respond={"llm[1].text": "A!"})
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[0] == ["A!", "SMALL-B", "SMALL-C"]
    again = engine(checkpoint).fork(state={"self.config['model']": "large"}, then="live")
    assert isinstance(again.error, RuntimeError)
    assert again.error.args[0] == ["LARGE-A", "LARGE-B", "LARGE-C"]
    checkpoint = failed(lambda: Agent().in_threads())
    fork = engine(checkpoint).fork()
    assert isinstance(fork.error, RuntimeError)
    assert fork.error.args[0] == ["SMALL-A", "SMALL-B", "SMALL-C"]
    parents = {span.span_id: span.name for span in trace(fork)}
    assert {parents[span.parent_id or ""] for span in trace(fork) if span.name == "Agent.step"} == {"Agent.in_threads"}


def test_the_clock_is_the_record_s_until_the_change_and_then_the_real_one() -> None:
    checkpoint = failed(lambda: Agent().tells_time())
    began = time.time()
    fork = engine(checkpoint).fork(respond={"llm[1].text": "A!"}, then="live")
    assert isinstance(fork.error, RuntimeError)
    before, after, steady, _, text = fork.error.args
    assert text == "A!"
    assert before < began <= after
    assert 0.01 <= steady < 60
    (step,) = [span for span in trace(fork) if span.name == "Agent.tells_time"]
    assert step.end_ns is not None
    assert step.end_ns / 1e9 >= after  # the record's times are those that the code saw
    ids = [engine(checkpoint).fork(respond={"llm": Reply("x")}, then="live").error for _ in range(2)]
    assert ids[0].args[3] != ids[1].args[3]  # type: ignore[union-attr]


def test_a_fork_that_failed_is_replayed_and_forked_itself(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(state={'self.config["model"]': "large"}, then="live", name="large")
    configure().flush()
    live.clear()
    made = CheckpointManager().load_checkpoint(fork.checkpoint)
    assert made.trace.trace_id == fork.trace_id
    assert made.created_ns > checkpoint.created_ns
    replay = engine(made)
    with pytest.raises(RuntimeError, match="LARGE-A"):
        replay.replay_from_checkpoint()
    assert replay.ledger.count("diverged", "unused", "live") == 0
    below = engine(made).fork(respond={"llm[2].text": "B"})
    assert below.result == ["LARGE-A", "B", [0, 1], "LARGE-C"]
    assert below.parent == fork.trace_id
    assert live == []


def test_what_a_fork_does_not_come_to_is_noted(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(respond={"llm[1]": ValueError("early"), "llm[3]": Reply("C")})
    assert isinstance(fork.error, ValueError)
    assert any("did not come to s8 (Agent.ask)" in note for note in fork.notes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"respond": {"llm": 1}}, TargetError, r"'llm' names several calls: .* llm\[1\] \(s3\), llm\[2\] \(s5\)"),
        ({"respond": {"llm[9]": 1}}, TargetError, r"'llm\[9\]' names no call"),
        ({"respond": {"lmm[1]": 1}}, TargetError, "the nearest is 'llm'"),
        ({"respond": {"s2": 1}}, TargetError, "is no outside call: it runs again"),
        ({"respond": {"tool": 1}}, ConfigurationError, "tool is a stream; give a list"),
        ({"respond": {"llm[1].txt": 1}}, ConfigurationError, "has no attribute 'txt'; the nearest is 'text'"),
        ({"state": {"self.limt": 1}}, ConfigurationError, "self has no attribute 'limt'; the nearest is 'limit'"),
        ({"state": {"self.config.x": 1}}, ConfigurationError, "self.config has no attribute 'x'"),
        ({"state": {"self.seen[7]": 1}}, ConfigurationError, r"self.seen has no item 7"),
        ({"state": {"self": 1}}, ConfigurationError, "is the whole agent"),
        ({"state": {"self.f()": 1}}, ConfigurationError, "is no place in a value"),
        ({"state": {"self.config[x]": 1}}, ConfigurationError, "x is no constant; quote a key"),
        ({"state": {"self.": 1}}, ConfigurationError, "is no place in a value"),
        ({"arguments": {"frst": 1}}, ConfigurationError, "takes no argument 'frst'; the nearest is 'first'"),
        ({"at": "s99"}, TargetError, "there is no s99: the trace has 8 call"),
        ({"at": "zz"}, TargetError, "'zz' names no call"),
        ({"then": "later"}, ConfigurationError, "then='later' is neither 'recorded' nor 'live'"),
        ({"function_name": "rum"}, TargetError, "the nearest is 'run'"),
    ],
)
def test_what_cannot_be_changed_is_refused_before_anything_runs(
    checkpoint: Checkpoint, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    traces = len(configure().trace_store.traces())
    with pytest.raises(error, match=message):
        engine(checkpoint).fork(**changes)
    assert len(configure().trace_store.traces()) == traces
    assert live == []


def test_a_secret_that_is_set_is_neither_told_nor_recorded(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(state={"self.config['password']": "hunter3long", "self.limit": 4})
    assert fork.agent.config["password"] == "hunter3long"  # noqa: S105 - a made-up one
    assert "hunter3long" not in str(fork.changes) + str(trace(fork).spans[0].attributes)
    assert fork.changes[1] == "self.limit: 3 -> 4"


def test_a_place_that_is_none_when_the_call_is_come_to_ends_the_fork(checkpoint: Checkpoint) -> None:
    fork = engine(checkpoint).fork(at="s4", state={"self.limt": 1})
    assert isinstance(fork.error, ReplayError)
    assert "self has no attribute 'limt'" in str(fork.error)


# --- a position ------------------------------------------------------------------------------------------------------


def test_the_agent_is_had_at_the_beginning_of_any_call(checkpoint: Checkpoint) -> None:
    found = [engine(checkpoint).at(f"s{number}") for number in range(1, 9)]
    assert [agent.spent for agent in found] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert [len(agent.seen) for agent in found] == [1, 1, 1, 2, 2, 3, 3, 3]
    assert type(found[0]) is Agent
    assert live == []


def test_an_agent_at_a_call_is_a_new_object_each_time_and_works(checkpoint: Checkpoint) -> None:
    one, other = engine(checkpoint).at("s4"), engine(checkpoint).at("s4")
    one.seen.append("mine")
    assert other.seen == ["start", "SMALL-A"]
    assert one.step("more") == "SMALL-MORE"


def test_a_call_that_the_code_does_not_come_to_has_no_agent(checkpoint: Checkpoint) -> None:
    steps: list[Span] = [span for span in checkpoint.trace if span.name == "Agent.step"]
    today["then"] = lambda agent: agent.step("more")
    assert engine(checkpoint).at(steps[2].span_id).spent == 2
    with pytest.raises(TargetError, match="there is no s9"):
        engine(checkpoint).at("s9")


def test_a_position_in_tasks_is_come_to() -> None:
    checkpoint = failed(lambda: asyncio.run(Agent().arun()))
    place = next(f"s{number}" for number, span in enumerate(checkpoint.trace, 1) if span.name == "Agent.aask")
    assert engine(checkpoint).at(place).spent == 0


class Stepped:
    def __init__(self) -> None:
        self.done: list[int] = []

    @checkpointable(on="entry", nested=True, budget=None)
    def step(self, number: int) -> None:
        live.append(number)
        self.look(number)
        self.done.append(number)

    @traced(span_type="tool")
    def look(self, number: int) -> int:
        return number

    @checkpointable
    def run(self, count: int) -> None:
        for number in range(1, count + 1):
            self.step(number)
        raise RuntimeError(self.done)


def test_the_way_to_a_position_begins_at_the_nearest_checkpoint_before_it() -> None:
    checkpoint = failed(lambda: Stepped().run(30))
    (look,) = [span for span in checkpoint.trace if span.name.endswith("look") and "(20,)" in str(payload_of(span))]
    assert engine(checkpoint).at(look.span_id).done == list(range(1, 20))
    assert live == [20]


def payload_of(span: Span) -> Any:
    assert span.input is not None
    return payload.load(span.input)
