"""Files that earlier versions have written are read, and replayed, by this one (tests/golden/make.py made them)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.golden.agents import Agent, Note
from tests.golden.make import QUESTIONS

from clearstone.checkpoint import container, loading, state
from clearstone.checkpoint.manager import infos
from clearstone.debugging import ReplayEngine

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint

FILES = sorted(Path(__file__).parent.glob("*.[cp]*k*"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARSTONE_KEY", "golden")


def steps(path: Path) -> list[Checkpoint]:
    return [loading.load(path, info.step) for info in infos(path)]


def test_there_are_files_of_the_format_that_this_version_writes() -> None:
    version = ".".join(map(str, container.FORMAT))
    assert {path.name for path in FILES} >= {f"run_{version}.pack", f"failure_{version}.ckpt"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_step_holds_the_state_it_was_taken_of(path: Path) -> None:
    found = steps(path)
    moments = ["entry", *["entry"] * len(QUESTIONS), "failure"]
    assert [each.moment for each in found] == (moments if path.suffix == ".pack" else ["failure"])
    for each in found:
        assert not each.untrusted
        agent = state.restore(Agent, each.state)
        asked = agent.asked
        assert len(agent.messages) == 200 + asked
        assert agent.notes == {"first": Note("first", ["a"]), **{name: Note(name) for name in QUESTIONS[:asked]}}
        assert agent.alias is agent.messages[70]["n"]
        assert agent.itself[0] is agent
        assert agent.itself[1] is agent.messages


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_failure_is_replayed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = steps(path)[-1]
    assert failure.failure is not None
    assert failure.failure.message == "failed after 3 with 203 messages"
    assert [frame.function for frame in failure.stack] == ["Agent.run"]
    assert failure.state_at_end is not None
    assert len(state.restore(Agent, failure.state_at_end).messages) == 203
    engine = ReplayEngine(failure)
    with pytest.raises(ValueError, match="failed after 3 with 203 messages"):
        engine.replay_from_checkpoint()
    assert engine.served == 2 * len(QUESTIONS)
    assert engine.unused == 0
