"""``clearstone fork``, and forks among traces, from the command line."""

from __future__ import annotations

import json
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
    replay = failed("replay", "latest")  # the fork failed, and is a checkpoint itself
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
