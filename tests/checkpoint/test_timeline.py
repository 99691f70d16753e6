"""`Checkpoint.timeline`: what an expression gives at every checkpoint of a trace."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.checkpoint.agents import look
from tests.checkpoint.test_manager import a_checkpoint, a_trace

from clearstone import checkpointable, run, snapshot, traced
from clearstone.checkpoint import state
from clearstone.checkpoint.making import new_checkpoint
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.packs import Pack
from clearstone.codec.keys import Key
from clearstone.errors import CheckpointError, ConfigurationError, StateError, UntrustedCheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.checkpoint.timeline import Reading

TRACE = a_trace("c" * 32)


class Agent:
    def __init__(self, n: int) -> None:
        self.n = n

    def above(self, least: int) -> int:
        if self.n < least:
            raise ValueError(f"{self.n} is below {least}")
        return self.n


@checkpointable(on="always")
class Counter:
    def __init__(self) -> None:
        self.count = 0

    @traced
    def counted(self) -> int:
        return self.count

    def to(self, number: int) -> None:
        while self.count < number:
            self.count += 1
            snapshot(f"at {self.count}")


class Fragile:
    def get_state(self) -> dict[str, Any]:
        return {}

    def load_state(self, values: dict[str, Any]) -> None:
        raise OSError("no")


class Out:
    def get_state(self) -> dict[str, Any]:
        return {}

    def load_state(self, values: dict[str, Any]) -> None:
        look("outside")


def saved(manager: CheckpointManager, *numbers: int) -> Checkpoint:
    for number in numbers:
        manager.save_checkpoint(a_checkpoint(TRACE, Agent(number)))
    return manager.load_checkpoint("latest")


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "folder")


def values(read: tuple[Reading, ...]) -> list[Any]:
    return [each.value if each.error is None else type(each.error) for each in read]


def test_each_checkpoint_of_the_trace_gives_a_value_oldest_first(manager: CheckpointManager) -> None:
    manager.save_checkpoint(a_checkpoint(a_trace(), Agent(100)))  # another trace's
    assert values(saved(manager, 3, 1, 2).timeline("self.n * 10")) == [30, 10, 20]


def test_a_run_gives_the_states_at_entry_between_and_at_the_end_each_once() -> None:
    Counter().to(2)
    read = CheckpointManager().load_checkpoint("latest").timeline("self.count")
    assert [(each.moment, each.label, each.value) for each in read] == [
        ("entry", "", 0), ("made", "at 1", 1), ("made", "at 2", 2), ("exit", "", 2)
    ]  # fmt: skip
    assert all(each.agent == f"{__name__}.Counter" and each.span_name == "Counter.to" for each in read)
    assert list(read) == sorted(read, key=lambda each: each.at)


def test_the_states_are_those_of_the_checkpoints_though_the_agent_went_on(manager: CheckpointManager) -> None:
    checkpoint = saved(manager, 1)
    assert checkpoint.timeline("setattr(self, 'n', 7) or self.n")[0].value == 7
    assert checkpoint.timeline("self.n")[0].value == 1


def test_what_the_expression_raises_is_one_readings_error(manager: CheckpointManager) -> None:
    one, two, three = saved(manager, 5, 1, 7).timeline("self.above(4)")
    assert (one.value, two.value, three.value) == (5, None, 7)
    assert str(two.error) == "1 is below 4"
    assert isinstance(saved(manager).timeline("__import__('sys').exit(3)")[0].error, SystemExit)


def test_an_agent_that_cannot_be_restored_is_one_readings_error(manager: CheckpointManager) -> None:
    manager.save_checkpoint(a_checkpoint(TRACE, Fragile()))
    manager.save_checkpoint(a_checkpoint(TRACE, Out()))
    assert values(saved(manager, 1).timeline("self.n")) == [StateError, StateError, 1]


def test_names_of_the_agents_module_are_there(manager: CheckpointManager) -> None:
    (read,) = saved(manager, 1).timeline("[random.__name__, Agent(self.n).n, len([x for x in 'ab' if self])]")
    assert read.value == [random.__name__, 1, 2]


def test_nothing_is_recorded_and_outside_calls_are_refused() -> None:
    Counter().to(1)
    checkpoint = CheckpointManager().load_checkpoint("latest")
    before = len(CheckpointManager().load_checkpoint("latest").timeline("1"))
    assert values(checkpoint.timeline("self.counted()")) == [0, 1, 1]
    problem = checkpoint.timeline("look('out')")[0].error
    assert isinstance(problem, ConfigurationError)
    assert "look is an outside call, and a timeline makes none" in str(problem)
    assert len(checkpoint.timeline("1")) == before
    assert run.override.get() is None


@pytest.mark.parametrize("expression", ["self.", "x = 1", "", "\0", "(" * 1000, "await self"])
def test_what_is_no_expression_is_refused_at_once(manager: CheckpointManager, expression: str) -> None:
    with pytest.raises(ConfigurationError, match="is no expression"):
        saved(manager, 1).timeline(expression)


def test_a_syntax_error_says_where(manager: CheckpointManager) -> None:
    with pytest.raises(ConfigurationError) as caught:
        saved(manager, 1).timeline("  self.n +* 2")
    assert str(caught.value).endswith("\n  self.n +* 2\n          ^")


def test_a_checkpoint_that_was_made_here_has_no_others(manager: CheckpointManager) -> None:
    with pytest.raises(CheckpointError, match="was not loaded from a file"):
        a_checkpoint(TRACE).timeline("self")


def test_what_nobody_trusted_signed_is_not_loaded(manager: CheckpointManager) -> None:
    checkpoint = saved(manager, 1)
    pack = Pack(manager.checkpoint_dir / "strange.pack", Key(b""))
    strange = new_checkpoint(
        Agent(2), state.take(Agent(2)), trace=TRACE, span=TRACE.spans[0], taken_ns=1, random_state=random.getstate()
    )
    pack.append(strange, trace=TRACE)
    assert values(checkpoint.timeline("self.n")) == [1, UntrustedCheckpointError]
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint(strange.checkpoint_id).timeline("self.n")
    trusted = manager.load_checkpoint(strange.checkpoint_id, trust=True)  # this one, this once
    assert sorted(values(trusted.timeline("self.n"))) == [1, 2]


def test_a_checkpoint_whose_file_has_an_odd_name_is_read_too(manager: CheckpointManager) -> None:
    saved(manager, 1)
    (path,) = manager.checkpoint_dir.iterdir()
    odd = path.rename(path.with_name("odd name"))
    assert values(manager.load_checkpoint(odd).timeline("self.n")) == [1]


def test_a_checkpoint_of_a_function_has_no_agent_to_read() -> None:
    @checkpointable(on="always")
    def work() -> None:
        pass

    work()
    assert CheckpointManager().load_checkpoint("latest").timeline("self") == ()


def test_a_class_that_is_gone_is_the_readings_error(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(manager, 1)
    monkeypatch.delattr(sys.modules[__name__], "Agent")
    assert checkpoint.timeline("1")[0].error is not None
