"""``clearstone fork``, and forks among traces, from the command line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


def traces(shell: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell("traces", "--json").stdout)
    return found


def calls_made(shell: Shell) -> str:
    return (shell.folder / "live").read_text()


def test_a_response_is_changed_and_nothing_is_called(failed: Shell) -> None:
    before = calls_made(failed)
    run = failed("fork", "latest", "--respond", "llm[2]=21", "--name", "twice")
    assert run.returncode == 0, run.stderr
    assert "Fork 'twice' ran through: reused 1" in run.stdout
    assert "  changed llm[2]: 21" in run.stdout
    assert "Result: ['[bold]markup[/bold]', 2, 42]" in run.stdout
    assert "compare: clearstone diff" in run.stdout
    assert calls_made(failed) == before


def test_the_state_is_changed_and_what_follows_is_called_and_recorded(failed: Shell) -> None:
    before = calls_made(failed)
    run = failed("fork", "latest", "--set", 'self.notes[0]="other"', "--then", "live")
    assert run.returncode == 1
    assert "changed self.notes[0]: '[bold]markup[/bold]' -> 'other'" in run.stdout
    assert calls_made(failed) == before + "ab"
    assert "fork of" in run.stdout
    (checkpoint,) = re.findall(r"clearstone debug (ckpt_\w+)", run.stdout)
    assert f"next: clearstone debug {checkpoint}" in run.stderr
    replay = failed("replay", checkpoint)
    assert "Replay failed as recorded: reused 2" in replay.stdout
    assert calls_made(failed) == before + "ab"


@pytest.mark.parametrize(
    ("value", "given"), [("@reply.json", 5), ("7", 7), ("@words.txt", "some words"), ("words", "words")]
)
def test_values_are_json_python_text_or_files(failed: Shell, value: str, given: Any) -> None:
    (failed.folder / "reply.json").write_text("5")
    (failed.folder / "words.txt").write_text("some words")
    told = json.loads(failed("fork", "latest", "--set", f"notes={value}", "--json").stdout)
    assert told["fork"]["changes"] == [f"self.notes: ['[bold]markup[/bold]'] -> {given!r}"]


def test_a_fork_is_told_below_the_trace_it_comes_from(failed: Shell) -> None:
    told = json.loads(failed("fork", "latest", "--respond", "llm[2]=1", "--name", "one", "--json").stdout)
    parent, fork = told["fork"]["parent"], told["fork"]["trace_id"]
    assert {each["trace_id"]: each["parent"] for each in traces(failed)} == {parent: None, fork: parent}
    lines = failed("traces").stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith(parent[:16])]
    assert "└ one" in lines[at + 1]
    diff = failed("diff", fork)
    assert diff.returncode == 1
    assert diff.stdout.splitlines()[0].endswith("Agent.ask outcome first difference")
    assert "None -> 1" in diff.stdout
    assert failed("diff", parent, fork).stdout == diff.stdout
    same = failed("diff", parent, parent)
    assert (same.returncode, same.stdout) == (0, "")


def test_a_replay_past_the_record_says_how_to_go_on(shell: Shell) -> None:
    shell.python("agent.py")
    source = shell.folder / "agent.py"
    source.write_text(
        source.read_text().replace("return self.notes", "self.ask('c')").replace('"a": 1', '"a": 1, "b": 2')
    )
    source.write_text(source.read_text().replace("self.double(self.ask(q))", "self.double(self.ask(q) or 0)"))
    run = shell("replay", "latest")
    assert run.returncode == 3, run.stdout + run.stderr
    assert "clearstone fork ckpt_" in run.stdout
    assert "--then live" in run.stdout
    before = calls_made(shell)
    run = shell("fork", "latest", "--then", "live")
    assert run.returncode == 0, run.stdout + run.stderr
    assert calls_made(shell) == before + "c"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--set", "notes"], "--set 'notes' must be PLACE=VALUE"),
        (["--set", "note=1"], "self has no attribute 'note'; the nearest is 'notes'"),
        (["--set", "notes=[1"], "'[1' is neither JSON nor a Python value"),
        (["--respond", "llm"], "--respond 'llm' must be CALL=VALUE"),
        (["--respond", "llm=1"], "'llm' names several calls"),
        (["--respond", "llm[1]=@gone.json"], "No such file or directory: 'gone.json'"),
        (["--respond", "llm[1]=@agent.json"], "agent.json is no JSON"),
        (["--arg", "1=2"], "--arg '1=2' must be NAME=VALUE"),
        (["--arg", "other=2"], "takes no argument 'other'"),
        (["--at", "s77"], "there is no s77"),
        (["--then", "later"], "'later' is not one of 'recorded', 'live'"),
    ],
)
def test_a_slip_of_the_pen_is_told_with_what_there_is(failed: Shell, typed: list[str], told: str) -> None:
    (failed.folder / "agent.json").write_text("not json")
    run = failed("fork", "latest", *typed)
    assert run.returncode == 2
    assert told in run.stderr
    assert len(traces(failed)) == 1


def test_a_trace_that_is_no_fork_needs_another_to_be_compared_with(failed: Shell) -> None:
    (trace,) = traces(failed)
    run = failed("diff", trace["trace_id"])
    assert run.returncode == 2
    assert "is no fork: name another trace" in run.stderr
    run = failed("diff", trace["trace_id"], "beef")
    assert run.returncode == 2


def test_a_fork_of_a_parent_that_was_erased_needs_another_to_be_compared_with(failed: Shell) -> None:
    told = json.loads(failed("fork", "latest", "--respond", "llm[2]=1", "--json").stdout)
    assert failed("forget", told["fork"]["parent"], "--yes").returncode == 0
    run = failed("diff", told["fork"]["trace_id"])
    assert run.returncode == 2
    assert f"is a fork of {told['fork']['parent']}, which is not recorded here any more" in run.stderr


SHAPES = """
import datetime as dt
import enum
from collections import Counter
from pathlib import Path
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple
from clearstone import checkpointable, traced

class Mood(enum.Enum):
    GOOD, BAD = "good", "bad"

class Colour(str, enum.Enum):
    RED, BLUE = "red", "blue"

class Point(NamedTuple):
    x: int
    y: int

@dataclass
class Part:
    size: int

@dataclass
class Reply:
    text: str
    part: Part
    mood: Mood = Mood.GOOD
    at: Point = Point(1, 2)
    parts: list = field(default_factory=lambda: [Part(1)])
    names: frozenset = frozenset("a")
    colour: Colour = Colour.RED
    place: Path = Path("/tmp")
    when: dt.date = dt.date(2026, 1, 1)
    more: Counter = field(default_factory=Counter)

@checkpointable
class Agent:
    @traced(span_type="llm")
    def ask(self):
        return Reply('{"a": 1}', Part(3))

    @traced(span_type="tool")
    def parts(self):
        yield Part(1)
        yield Part(2)

    def __init__(self):
        self.api_key, self.lock, self.place = "sk-proj-0123456789abcdefghij0123", Lock(), Path("/tmp")

    def run(self, limit="3"):
        print(self.ask(), list(self.parts()), repr(limit))
        raise ValueError(limit)

if __name__ == "__main__":
    Agent().run()
"""


@pytest.fixture
def shapes(shell: Shell) -> Shell:
    (shell.folder / "agent.py").write_text(SHAPES)
    assert "ValueError: 3" in shell.python("agent.py").stderr
    return shell


def test_what_is_typed_takes_the_shape_of_what_was_recorded(shapes: Shell) -> None:
    whole = {"text": "t", "part": {"size": 4}, "mood": "bad", "at": [3, 4], "parts": [{"size": 5}, {"size": 6}]}
    run = shapes("fork", "latest", "--respond", f"llm[1]={json.dumps(whole)}", "--respond", 'tool[1]=[{"size": 7}]')
    told = "Reply(text='t', part=Part(size=4), mood=<Mood.BAD: 'bad'>, at=Point(x=3, y=4), parts=[Part(size=5), "
    assert f"{told}Part(size=6)], names=frozenset({{'a'}}), " in run.stdout, run.stdout + run.stderr
    assert " [Part(size=7)] '3'" in run.stdout, run.stdout + run.stderr
    run = shapes(
        "fork", "latest",
        *("--respond", 'llm.text={"b": 2}'), *("--respond", 'llm.part={"size": 8}'), *("--respond", 'llm.names=["b"]'),
        *("--respond", "llm.at.x=9"), *("--arg", "limit=4"),
    )  # fmt: skip
    assert run.returncode == 2
    assert "llm.at.x cannot be set: AttributeError: can't set attribute" in run.stderr
    run = shapes(
        "fork", "latest",
        *("--respond", 'llm.text={"b": 2}'), *("--respond", 'llm.part={"size": 8}'), *("--respond", 'llm.names=["b"]'),
        *("--arg", "limit=4"),
    )  # fmt: skip
    assert "Reply(text='{\"b\": 2}', part=Part(size=8), mood=<Mood.GOOD: 'good'>" in run.stdout, run.stdout + run.stderr
    assert "names=frozenset({'b'})" in run.stdout
    assert " [Part(size=1), Part(size=2)] '4'" in run.stdout
    assert "changed the argument limit: '3' -> '4'" in run.stdout or "not given -> '4'" in run.stdout


def test_texts_and_values_of_other_kinds_take_their_shape_too(shapes: Shell) -> None:
    given = {"llm.colour": "blue", "llm.place": "/etc", "llm.when": "2026-02-03", "llm.more": '{"a": 2}'}
    run = shapes("fork", "latest", *(each for name in given for each in ("--respond", f"{name}={given[name]}")))
    told = (
        "colour=<Colour.BLUE: 'blue'>, place=PosixPath('/etc'), when=datetime.date(2026, 2, 3), more=Counter({'a': 2}))"
    )
    assert told in run.stdout, run.stdout + run.stderr


def test_what_was_not_recorded_is_set_as_it_is_typed(shapes: Shell) -> None:
    given = ["self.api_key=sk-proj-abcdefghij0123456789abcd", "self.lock=5", "self.place=/etc"]
    run = shapes("fork", "latest", *(each for text in given for each in ("--set", text)))
    assert run.returncode == 1, run.stderr
    assert "changed self.lock: " in run.stdout
    assert "changed self.place: PosixPath('/tmp') -> PosixPath('/etc')" in run.stdout
    assert "sk-proj-abc" not in run.stdout


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("llm.mood=worse", "'worse' is no Mood, as was recorded"),
        ('llm.part={"length": 1}', "is no Part, as was recorded: TypeError"),
        ("llm[1]=5", "a Reply was recorded, which 5 does not make"),
        ("llm.when=soon", "'soon' is no date, as was recorded"),
        ("tool[1]=5", "tool[1] is a stream; give a list of its items, not 5"),
        ("llm.prt=5", "has no attribute 'prt'"),
    ],
)
def test_what_cannot_take_that_shape_is_refused(shapes: Shell, typed: str, told: str) -> None:
    run = shapes("fork", "latest", "--respond", typed)
    assert run.returncode == 2
    assert told in run.stderr


def test_a_fork_with_the_stored_code_is_a_checkpoint_of_the_same_script(failed_here: Shell) -> None:
    run = failed_here("fork", "latest", "--code", "recorded", "--respond", "llm[1]=7", "--json")
    assert "TypeError" in run.stdout, run.stdout + run.stderr
    for code in ("recorded", "today"):
        again = failed_here("replay", json.loads(run.stdout)["fork"]["checkpoint"], "--code", code, "--json")
        assert json.loads(again.stdout)["as_recorded"] is True, again.stdout + again.stderr
        assert "This run is itself a fork of" in again.stderr
        assert "with llm[1]: 7." in again.stderr


def test_a_fork_that_answers_otherwise_is_not_warned_of_answering_nothing(shapes: Shell) -> None:
    run = shapes("fork", "latest", "--respond", 'llm.text="x"', "--respond", 'tool[1]=[{"size": 7}]')
    assert "Warning" not in run.stdout
