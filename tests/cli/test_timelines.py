"""``clearstone timeline``: one expression, every checkpoint of a run."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

AGENT = """
    from clearstone import checkpointable, snapshot, traced

    @checkpointable
    class Agent:
        def __init__(self):
            self.memory, self.double = [], lambda n: 2 * n

        @traced(span_type="llm")
        def ask(self, q):
            open("live", "a").write(q)
            return q

        @property
        def last(self):
            print("the agent prints")
            return self.memory[-1]

        def run(self, *questions):
            for q in questions:
                self.memory.append(self.ask(q))
                snapshot(f"after {q}")
            raise LookupError

    if __name__ == "__main__":
        Agent().run("a", "b")
"""


@pytest.fixture
def ran(shell: Shell) -> Shell:
    (shell.folder / "agent.py").write_text(textwrap.dedent(AGENT))
    assert shell.python("agent.py").returncode == 1
    return shell


def read(shell: Shell, *arguments: str, code: int = 0) -> list[Any]:
    run = shell("timeline", *arguments, "--json")
    assert run.returncode == code, run.stderr
    found: list[Any] = json.loads(run.stdout)
    return found


def test_the_value_at_every_state_is_told_oldest_first(ran: Shell) -> None:
    trace = json.loads(ran("traces", "--json").stdout)[0]["trace_id"]
    for reference in ("latest", trace[:8]):
        found = read(ran, reference, "len(self.memory)")
        assert [each["value"] for each in found] == [0, 1, 2, 2]
    assert [each["moment"] for each in found] == ["entry", "made", "made", "failure"]
    assert [each["label"] for each in found] == [None, "after a", "after b", None]
    assert set(found[0]) == {"checkpoint_id", "at", "moment", "agent", "span", "label", "value", "error"}
    shown = ran("timeline", "latest", "self.double(len(self.memory))").stdout.splitlines()
    assert [line.split()[-1] for line in shown] == ["VALUE", "0", "2", "4", "4"]


def test_what_the_expression_raises_is_that_readings_error(ran: Shell) -> None:
    run = ran("timeline", "latest", "self.last", "--json")
    first, second, *_ = json.loads(run.stdout)
    assert first["error"] == {"type": "IndexError", "message": "list index out of range"}
    assert (second["value"], second["error"]) == ("a", None)
    assert "the agent prints" in run.stderr
    assert "IndexError" in ran("timeline", "latest", "self.last").stdout
    assert {each["error"]["type"] for each in read(ran, "latest", "self.gone", code=1)} == {"AttributeError"}


def test_nothing_goes_out_and_nothing_is_recorded(ran: Shell) -> None:
    before = ran.files()
    found = read(ran, "latest", "self.ask('z')", code=1)
    assert "Agent.ask is an outside call, and a timeline makes none" in found[0]["error"]["message"]
    assert ran.files() == before


def test_a_script_is_used_as_it_is_today_or_as_it_was(ran: Shell) -> None:
    script = ran.folder / "agent.py"
    script.write_text(script.read_text().replace("self.memory[-1]", "len(self.memory)"))
    assert [each["value"] for each in read(ran, "latest", "self.last")] == [0, 1, 2, 2]
    assert read(ran, "latest", "self.last", "--code", "recorded")[1]["value"] == "a"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("len(self.", "'len(self.' is no expression: '(' was never closed\n  len(self.\n     ^"),
        ("x = 1", "invalid syntax"),
        ("", "is no expression"),
    ],
)
def test_what_is_no_expression_is_a_usage_error_that_says_where(ran: Shell, expression: str, says: str) -> None:
    run = ran("timeline", "latest", expression)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert "Traceback" not in run.stderr


def test_what_is_not_trusted_is_not_loaded(
    ran: Shell, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("another machine")))
    run = ran("timeline", "latest", "1")
    assert (run.returncode, run.stdout) == (2, "")
    assert "clearstone trust" in run.stderr
