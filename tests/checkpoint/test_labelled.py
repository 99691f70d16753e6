"""`clearstone.snapshot`: a checkpoint wherever the code says so."""

from __future__ import annotations

from typing import Any

import pytest
from tests.checkpoint.agents import look

import clearstone
from clearstone import checkpointable, home, run, traced
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.debugging import ReplayEngine
from clearstone.errors import ConfigurationError


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.files: list[Any] = []

    def go(self, *questions: str) -> list[str]:
        for question in questions:
            self.seen.append(look(question))
            self.note()
        return self.seen

    @traced
    def note(self) -> None:
        self.files.append(clearstone.snapshot(f"after {len(self.seen)}"))

    def fails(self) -> None:
        self.note()
        raise ValueError("no")


def test_it_has_the_state_of_the_moment_the_trace_so_far_and_its_label() -> None:
    agent = Agent()
    agent.go("a", "b")
    first, second = (CheckpointManager().load_checkpoint(path) for path in agent.files)
    assert first.agent_state["seen"] == ["a is there"]
    assert second.agent_state["seen"] == ["a is there", "b is there"]
    assert first.metadata == {"label": "after 1"}
    assert [span.name for span in first.trace] == ["Agent.go", "look", "Agent.note"]
    assert len(second.trace) > len(first.trace)
    labels = {info.metadata["label"] for info in CheckpointManager(home.checkpoint_folder()).list_checkpoints()}
    assert labels == {"after 1", "after 2"}


def test_a_state_of_its_own_can_be_called_again() -> None:
    agent = Agent()
    agent.go("a")
    checkpoint = CheckpointManager().load_checkpoint(agent.files[0])
    assert ReplayEngine(checkpoint).replay_from_checkpoint("go") == ["a is there"]


def test_an_agent_that_holds_nothing_yet_is_an_agent() -> None:
    @checkpointable
    class Empty:
        def __len__(self) -> int:
            return 0

        def go(self) -> Any:
            return clearstone.snapshot()

    assert CheckpointManager().load_checkpoint(Empty().go()).agent_class_name.endswith("Empty")


def test_another_object_may_be_named() -> None:
    @traced
    def step() -> Any:
        other = Agent()
        other.seen.append("by hand")
        return clearstone.snapshot(agent=other)

    checkpoint = CheckpointManager().load_checkpoint(step())
    assert checkpoint.agent_state["seen"] == ["by hand"]
    assert checkpoint.metadata == {}


def test_in_a_replay_it_saves_nothing() -> None:
    with pytest.raises(ValueError, match="no"):
        Agent().fails()
    folder = home.checkpoint_folder()
    before = set(folder.iterdir())
    failed = next(path for path in before if not CheckpointManager().load_checkpoint(path).metadata)
    with pytest.raises(ValueError, match="no"):
        ReplayEngine(CheckpointManager().load_checkpoint(failed)).replay_from_checkpoint()
    assert set(folder.iterdir()) == before


def test_where_nothing_is_recorded_it_saves_nothing() -> None:
    with run.suspended():
        assert clearstone.snapshot("label", agent=Agent()) is None
    assert not home.checkpoint_folder().exists()


def test_outside_any_recorded_call_and_without_an_agent_it_is_an_error_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"outside any recorded call; call it in a function .*@traced"):
        clearstone.snapshot("label", agent=Agent())
    with pytest.raises(ConfigurationError, match=r"name one with snapshot\(label, agent="):
        traced(clearstone.snapshot)("label")
    with pytest.raises(ConfigurationError, match="the label must be a text"):
        clearstone.snapshot(Agent())  # type: ignore[arg-type]
