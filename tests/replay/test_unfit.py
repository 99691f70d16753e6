"""Agents that lost something since they were recorded: what fits is restored, and the rest is told with its name."""

import importlib
import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import StateError, TargetError

names = itertools.count()

AGENT = """
    from clearstone import checkpointable, traced

    class Note:
        __slots__ = ("text", "rank")
        def __init__(self):
            self.text, self.rank = "a note", 1

    @checkpointable
    class Agent:
        __slots__ = ("cache", "memory", "notes")
        def __init__(self):
            self.memory, self.cache, self.notes = ["m"], {"c": 1}, [Note()]

        @traced(span_type="llm")
        def ask(self, q):
            self.memory = [*self.memory, q]
            self.cache = {}
            return q

        def run(self):
            self.ask("q")
            return {}[self.memory[-1]]

        # more
"""

App = Callable[..., tuple[Any, Checkpoint]]


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """Record the failing agent, edit its module, and return today's module and the checkpoint."""
    name = f"unfit_app_{next(names)}"
    file = tmp_path / f"{name}.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(*edits: tuple[str, str]) -> Any:
        source = textwrap.dedent(AGENT)
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        file.write_text(source)
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        exec(compile(source, str(file), "exec"), vars(module))  # noqa: S102 - as `importlib.reload`, past its cache
        return module

    def make(*edits: tuple[str, str], before: tuple[tuple[str, str], ...] = ()) -> tuple[Any, Checkpoint]:
        agent = load(*before).Agent()
        with pytest.raises(KeyError):
            agent.run()
        return load(*before, *edits), CheckpointManager().load_checkpoint("latest")

    return make


def test_an_agent_without_a_slot_it_had_is_restored_without_it_and_that_is_said(edited: App) -> None:
    module, checkpoint = edited(
        ('("cache", "memory", "notes")', '("memory", "notes")'), (", self.cache,", ", _,"), ("self.cache = {}", "pass")
    )
    engine = ReplayEngine(checkpoint)
    with pytest.raises(KeyError, match="q"):
        engine.replay_from_checkpoint()
    (told,) = (note for note in engine.notes if "slots" in note)
    assert f"{module.__name__}.Agent has no place for the recorded attribute 'cache' today" in told
    assert "(its __slots__ have memory, notes)" in told
    assert f"--map {module.__name__}:Agent.cache={module.__name__}:Agent.NEW" in told
    (served,) = (entry for entry in engine.ledger if entry.span_type == "llm")
    assert served.told == ("self.cache is not set as it was: its class has no place for it now",)


def test_a_slot_that_was_renamed_is_filled_with_a_mapping(edited: App) -> None:
    module, checkpoint = edited(('"cache"', '"store"'), ("self.cache", "self.store"))
    key = f"{module.__name__}:Agent"
    engine = ReplayEngine(checkpoint, renamed={f"{key}.cache": f"{key}.store"})
    with pytest.raises(KeyError, match="q"):
        engine.replay_from_checkpoint()
    assert not [note for note in engine.notes if "slots" in note or "made no difference" in note]
    assert engine.ledger.count("reused") == 1


def test_an_attribute_that_today_s_code_needs_and_the_record_lacks_is_named(edited: App) -> None:
    module, checkpoint = edited(
        ('"notes")', '"notes", "memories")'), ("return {}[self.memory[-1]]", "return self.memories")
    )
    engine = ReplayEngine(checkpoint)
    with pytest.raises(AttributeError):
        engine.replay_from_checkpoint()
    (told,) = (note for note in engine.notes if "restored state" in note)
    assert (
        f"{module.__name__}.Agent has no attribute 'memories' in the restored state; the nearest is 'memory'." in told
    )
    assert "give it a default in the class's body" in told


def test_a_recorded_failure_of_that_kind_is_left_as_it_is(edited: App) -> None:
    _, checkpoint = edited()
    engine = ReplayEngine(checkpoint)
    with pytest.raises(KeyError):
        engine.replay_from_checkpoint()
    assert not [note for note in engine.notes if "not seen by the guard" not in note]  # of what other tests loaded


METHODS = (
    "# more",
    """def get_state(self):
        return {"memory": self.memory}

    def load_state(self, state):
        self.memory, self.cache, self.notes = state["memory"], {}, []""",
)


def test_a_name_that_load_state_misses_is_told_with_what_there_is(edited: App) -> None:
    module, checkpoint = edited(('state["memory"]', 'state["memories"]'), before=(METHODS,))
    with pytest.raises(StateError) as caught:
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert (
        "load_state() raised KeyError: 'memories'. The recorded state has no 'memories'; the nearest is 'memory'."
        in str(caught.value)
    )
    key = f"{module.__name__}:Agent"
    assert "state.get('memories', ...)" in str(caught.value)
    assert f"--map {key}.OLD={key}.memories" in str(caught.value)
    engine = ReplayEngine(checkpoint, renamed={f"{key}.memory": f"{key}.memories"})
    with pytest.raises(KeyError, match="q"):
        engine.replay_from_checkpoint()


def test_a_value_whose_setstate_needs_what_is_new_is_named(edited: App) -> None:
    module, checkpoint = edited(
        (
            'self.text, self.rank = "a note", 1',
            """pass

    def __setstate__(self, state):
        self.text = state[1]["title"]""",
        )
    )
    with pytest.raises(StateError) as caught:
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert "does not load: KeyError: 'title'" in str(caught.value)
    assert f"{module.__name__}.Note.__setstate__() does not take what was recorded" in str(caught.value)


def test_a_value_without_a_slot_it_had_is_named_with_what_to_do(edited: App) -> None:
    _, checkpoint = edited(('("text", "rank")', '("text",)'), ("self.text, self.rank =", "self.text, _ ="))
    with pytest.raises(StateError) as caught:
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert "'Note' object has no attribute 'rank'" in str(caught.value)
    assert "Give the class its attribute back, or a __setstate__() that does without it." in str(caught.value)


def test_the_methods_new_name_may_be_given(edited: App) -> None:
    module, checkpoint = edited(("def run(", "def start("))
    with pytest.raises(TargetError) as caught:
        ReplayEngine(checkpoint).replay_from_checkpoint()
    key = f"{module.__name__}:Agent"
    assert (
        f"Agent has no method 'run'; it has ask, start. If it was moved or renamed, say where it is: "
        f"--map {key}.run={key}.NEW" in str(caught.value)
    )
    with pytest.raises(KeyError, match="q"):
        ReplayEngine(checkpoint, renamed={f"{key}.run": f"{key}.start"}).replay_from_checkpoint()
    with pytest.raises(TargetError) as caught:
        ReplayEngine(checkpoint).replay_from_checkpoint("rnu")
    assert "--map" not in str(caught.value)
