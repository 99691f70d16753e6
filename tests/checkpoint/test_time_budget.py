"""Snapshots take no more of the time than they may, and a call that had to do without one is replayed from the last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.checkpoint.agents import look

from clearstone import checkpointable, home, traced
from clearstone.checkpoint import budget, loading
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.debugging import ReplayEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.checkpoint.model import Checkpoint

LIVE: list[str] = []


@traced(span_type="llm")
def ask(question: str) -> str:
    LIVE.append(question)
    if question == "refuse":
        raise LookupError("refused")
    return f"answer {len(LIVE)} to {question}"


class _Agent:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def ask(self, question: str, *, fail: bool = False) -> str:
        self.seen.append(ask(question))
        if fail:
            raise ValueError(f"failed after {len(self.seen)}")
        return self.seen[-1]

    async def later(self, question: str) -> str:
        await asyncio.sleep(0)
        return self.ask(question)


@checkpointable(budget=0)
class Agent(_Agent):
    """Has what there is to begin with, and no more."""


@pytest.fixture(autouse=True)
def spent(monkeypatch: pytest.MonkeyPatch) -> None:
    LIVE.clear()
    monkeypatch.setattr(budget, "TO_BEGIN_WITH_NS", 1)


def the_saved() -> Checkpoint:
    (info,) = CheckpointManager(home.checkpoint_folder()).list_checkpoints()
    return CheckpointManager().load_checkpoint(info.checkpoint_id)


def failing(agent: Any, *questions: str) -> str:
    """Ask so that each but the first goes without a snapshot and the last fails; return with what."""
    for question in questions[:-1]:
        agent.ask(question)
    with pytest.raises(ValueError, match="failed after") as caught:
        agent.ask(questions[-1], fail=True)
    return str(caught.value)


def test_a_call_without_a_snapshot_is_replayed_from_the_last_one_through_the_calls_since() -> None:
    agent = Agent()
    told = failing(agent, "a", "b", "a")
    checkpoint = the_saved()
    assert checkpoint.agent_state == {"seen": []}
    assert [each.method for each in checkpoint.earlier] == ["ask", "ask"]
    assert checkpoint.state_at_end is not None
    live = list(LIVE)
    engine = ReplayEngine(checkpoint)
    with pytest.raises(ValueError, match=told):
        engine.replay_from_checkpoint()
    assert live == LIVE
    assert engine.served == 3
    assert engine.unused == 0
    assert any("2 earlier call(s) on the agent are made again first" in note for note in engine.notes)


def test_an_earlier_call_that_failed_fails_again_and_the_replay_goes_on() -> None:
    agent = Agent()
    agent.ask("a")
    with pytest.raises(LookupError):
        agent.ask("refuse")
    (first,) = CheckpointManager(home.checkpoint_folder()).list_checkpoints()
    first.path.unlink()
    told = failing(agent, "b")
    with pytest.raises(ValueError, match=told):
        ReplayEngine(the_saved()).replay_from_checkpoint()
    assert LIVE == ["a", "refuse", "b"]


def test_an_earlier_coroutine_is_awaited() -> None:
    agent = Agent()
    asyncio.run(agent.later("a"))
    told = failing(agent, "b")
    with pytest.raises(ValueError, match=told):
        ReplayEngine(the_saved()).replay_from_checkpoint()


def test_another_method_is_called_on_the_agent_as_it_was_at_the_failing_call() -> None:
    failing(Agent(), "a", "b")
    assert ReplayEngine(the_saved()).replay_from_checkpoint("ask", "b") == "answer 2 to b"


def test_the_limit_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent()
    for _ in range(5):
        agent.ask("a")
    told = capsys.readouterr().err
    assert told.count("snapshots take more than 0% of the time") == 1
    assert "budget=None above the class takes them all" in told


def test_after_many_calls_a_snapshot_is_taken_whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_CALLS", 3)
    failing(Agent(), *"abcde")
    checkpoint = the_saved()
    assert len(checkpoint.agent_state["seen"]) == 3
    assert len(checkpoint.earlier) == 1


def test_without_a_limit_each_call_has_its_own_snapshot() -> None:
    @checkpointable(budget=None)
    class Free(_Agent):
        pass

    failing(Free(), "a", "b", "c")
    checkpoint = the_saved()
    assert len(checkpoint.agent_state["seen"]) == 2
    assert checkpoint.earlier == ()


def test_a_share_of_the_time_is_there_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10**9]
    monkeypatch.setattr(budget, "perf_counter_ns", lambda: now[0])
    ledger = budget.Ledger()
    assert ledger.allows(0.01, 0)
    now[0] += 5_000_000
    assert ledger.spend(10**9) == 5_000_000
    assert not ledger.allows(0.01, 5_000_000)
    now[0] += 100 * 5_000_000 * 2
    assert ledger.allows(0.01, 5_000_000)
    assert ledger.allows(None, 10**12)


def test_a_call_inside_another_goes_without_and_the_outer_one_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    @checkpointable(on="entry", nested=True, budget=0)
    class Nested:
        def __init__(self) -> None:
            self.n = 0

        def outer(self, *, fail: bool = False) -> None:
            self.n += 1
            self.inner(fail=fail)

        def inner(self, *, fail: bool) -> str:
            if fail:
                raise ValueError("inner")
            return look("a")

    agent = Nested()
    agent.outer()
    with pytest.raises(ValueError, match="inner"):
        agent.outer(fail=True)
    found = CheckpointManager(home.checkpoint_folder()).list_checkpoints()
    loaded = [loading.load(info.path, info.step) for info in reversed(found)]
    assert [(each.span.name.rpartition(".")[2], each.moment, len(each.earlier)) for each in loaded] == [
        ("outer", "entry", 0), ("outer", "entry", 1), ("outer", "failure", 1),
    ]  # fmt: skip
    assert "no checkpoint of the failed" in capsys.readouterr().err
    with pytest.raises(ValueError, match="inner"):
        ReplayEngine(loaded[-1]).replay_from_checkpoint()


def streamed(agent: Any) -> None:
    for _ in agent.stream():
        return


def interrupted(agent: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        agent.interrupt()


def through_another(agent: Any) -> None:
    Outer(agent).run()


@checkpointable
class Outer:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def run(self) -> None:
        self.inner.ask("through another")


@checkpointable(budget=0)
class Various(_Agent):
    def stream(self) -> Iterator[str]:
        self.seen.append("streamed")
        yield "one"
        self.seen.append("never")

    def interrupt(self) -> None:
        self.seen.append("interrupted")
        raise KeyboardInterrupt

    def large(self, data: bytes) -> None:
        self.seen.append(f"{len(data)} bytes")


@pytest.mark.parametrize(
    "between",
    [streamed, interrupted, through_another, lambda agent: agent.large(bytes(17 << 20))],
    ids=["a stream", "one that ended the program", "one through another agent", "large arguments"],
)
def test_what_no_replay_could_make_again_is_followed_by_a_snapshot(between: Any) -> None:
    agent = Various()
    agent.ask("a")
    between(agent)
    expected = list(agent.seen)
    for info in CheckpointManager(home.checkpoint_folder()).list_checkpoints():
        info.path.unlink()
    told = failing(agent, "b")
    checkpoint = the_saved()
    assert checkpoint.agent_state["seen"] == expected
    with pytest.raises(ValueError, match=told):
        ReplayEngine(checkpoint).replay_from_checkpoint()


def test_a_call_is_not_saved_at_its_exit_while_there_is_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    @checkpointable(on="exit", budget=0)
    class Ending(_Agent):
        pass

    agent = Ending()
    for _ in range(3):
        agent.ask("a")
    assert CheckpointManager(home.checkpoint_folder()).list_checkpoints() == []
    assert "snapshots take more than" in capsys.readouterr().err


def test_a_call_that_is_saved_at_its_entry_takes_the_earlier_calls_from_the_database() -> None:
    @checkpointable(on="entry", budget=0)
    class Entering(_Agent):
        pass

    agent = Entering()
    for question in "abc":
        agent.ask(question)
    last = CheckpointManager(home.checkpoint_folder()).list_checkpoints()[0]
    checkpoint = CheckpointManager().load_checkpoint(last.checkpoint_id)
    assert len(checkpoint.earlier) == 2
    live, engine = list(LIVE), ReplayEngine(checkpoint)
    assert engine.replay_from_checkpoint() == "answer 3 to c"
    assert (live, engine.served) == (LIVE, 3)


def test_a_saved_file_holds_the_earlier_calls_too(tmp_path: Path) -> None:
    told = failing(Agent(), "a", "b", "c")
    path = CheckpointManager(tmp_path).save_checkpoint(the_saved(), "alone.ckpt")
    alone = CheckpointManager().load_checkpoint(path)
    assert alone.earlier == the_saved().earlier
    with pytest.raises(ValueError, match=told):
        ReplayEngine(alone).replay_from_checkpoint()
