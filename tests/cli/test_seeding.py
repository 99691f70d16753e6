"""The hash seed of a replay: the recorded one where that can be had, and said where it matters."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

AGENT = """
import os, sys
from clearstone import checkpointable, traced
{first}

@checkpointable
class Agent:
    @traced(span_type="llm")
    def ask(self, q):
        return q

    def run(self, words):
        print("a hash", hash("a text"), os.environ.get("PYTHONHASHSEED"), [k for k in os.environ if "STARTED" in k])
        {body}
        raise ValueError("end")

if __name__ == "__main__":
    Agent().run({{"red", "green", "blue", "black"}})
"""
HARMLESS, ORDERED = "self.ask('a')", "self.ask(' '.join(words))"
UNLIKE = "Its hash seed was random and is another one here"


def agent(shell: Shell, body: str, first: str = "", **env: str) -> str:
    (shell.folder / "agent.py").write_text(AGENT.format(body=body, first=first))
    run = shell.python("agent.py", **env)
    assert "ValueError: end" in run.stderr, run.stderr
    return run.stdout


def replayed(shell: Shell, *options: str, **env: str) -> tuple[int, dict[str, Any], str]:
    run = shell("replay", "latest", "--json", *options, **env)
    return run.returncode, json.loads(run.stdout), run.stderr


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no exec")


@posix
@pytest.mark.parametrize("here", ["", "7", "random", "0"])
def test_a_replay_runs_with_the_hash_seed_that_was_chosen_then(shell: Shell, here: str) -> None:
    then = agent(shell, ORDERED, PYTHONHASHSEED="42")
    code, told, stderr = replayed(shell, PYTHONHASHSEED=here)
    assert (code, told["as_recorded"]) == (1, True)
    assert told["hash_seed"] == {"recorded": "42", "same": True}
    assert then in stderr
    assert UNLIKE not in stderr


@posix
def test_a_debugging_session_has_that_seed_too_and_its_standard_input(shell: Shell) -> None:
    agent(shell, ORDERED, PYTHONHASHSEED="42")
    run = shell("debug", "latest", typed="p 'typed', hash('a text')\nq\n", PYTHONHASHSEED="7")
    known = shell.python("-c", "print(('typed', hash('a text')))", PYTHONHASHSEED="42").stdout.strip()
    assert f"(Pdb) {known}" in run.stdout
    assert run.returncode == 0


def test_a_seed_that_the_program_has_set_too_late_is_tried_once(shell: Shell) -> None:
    then = agent(shell, HARMLESS, "os.environ['PYTHONHASHSEED'] = '42'", PYTHONHASHSEED="")
    code, told, stderr = replayed(shell, PYTHONHASHSEED="")
    assert (code, told["as_recorded"]) == (1, True)
    assert told["hash_seed"] == {"recorded": "42", "same": False}
    assert then.split()[2] not in stderr
    assert UNLIKE not in stderr


def test_a_random_seed_is_said_to_be_another_where_the_code_depends_on_it(shell: Shell) -> None:
    then = agent(shell, ORDERED, PYTHONHASHSEED="")
    for seed in map(str, range(1, 20)):  # of 4 words there are 24 orders
        code, told, _ = replayed(shell, PYTHONHASHSEED=seed)
        assert told["hash_seed"] == {"recorded": "random", "same": False}
        if told["ledger"]["diverged"]:
            break
    assert code == 1
    assert UNLIKE in told["error"]["message"]
    assert "clearstone doctor" in told["error"]["message"]
    assert then


def test_nothing_is_said_of_it_where_the_replay_ends_as_recorded(shell: Shell) -> None:
    agent(shell, HARMLESS, PYTHONHASHSEED="")
    run = shell("replay", "latest", PYTHONHASHSEED="1")
    assert "failed as recorded" in run.stdout
    assert "hash seed" not in run.stdout + run.stderr


def test_another_end_is_told_with_the_seed_but_not_where_the_code_has_changed(shell: Shell) -> None:
    agent(shell, "words = [len(os.environ['WORDS'])]; self.ask('a'); assert words == [1]", WORDS="1", PYTHONHASHSEED="")
    _, told, stderr = replayed(shell, WORDS="22", PYTHONHASHSEED="1")
    assert told["as_recorded"] is False
    assert f"Note: {UNLIKE}" in stderr
    source = shell.folder / "agent.py"
    source.write_text(source.read_text().replace("raise ValueError", "return"))
    _, told, stderr = replayed(shell, WORDS="1", PYTHONHASHSEED="1")
    assert told["error"] is None
    assert "Note: Changed since" in stderr
    assert UNLIKE not in stderr


@posix
def test_a_fork_runs_with_the_hash_seed_that_was_chosen_then(shell: Shell) -> None:
    then = agent(shell, ORDERED, PYTHONHASHSEED="42")
    run = shell("fork", "latest", "--json", PYTHONHASHSEED="7")
    assert json.loads(run.stdout)["ledger"]["reused"] == 1
    assert then in run.stderr
