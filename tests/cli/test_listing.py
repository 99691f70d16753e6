"""``clearstone checkpoints``: which are listed, and what is shown of them."""

from __future__ import annotations

import io
import json
import textwrap
import time
from typing import TYPE_CHECKING

import pytest
from tests.checkpoint.test_manager import a_checkpoint, a_trace

from clearstone.checkpoint.manager import CheckpointManager
from clearstone.cli import checkpoint_list, printing

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

AGENT = """
    from clearstone import checkpointable, snapshot, traced

    @checkpointable(on="always")
    class Agent:
        def run(self, n):
            self.n = n
            snapshot("before the division")
            return 1 / n

    if __name__ == "__main__":
        Agent().run(1)
        Agent().run(0)
"""


@pytest.fixture
def ran(shell: Shell) -> Shell:
    (shell.folder / "agent.py").write_text(textwrap.dedent(AGENT))
    assert shell.python("agent.py").returncode == 1
    return shell


def listed(shell: Shell, *arguments: str) -> list[str]:
    run = shell("checkpoints", *arguments, "--json")
    assert run.returncode == 0, run.stderr
    return [each["moment"] for each in json.loads(run.stdout)]


ALL = ["failure", "made", "entry", "exit", "made", "entry"]


@pytest.mark.parametrize(
    ("arguments", "moments"),
    [
        ([], ALL),
        (["--moment", "exit"], ["exit"]),
        (["--error", "zerodivisionerror: division"], ["failure"]),
        (["--label", "before the division", "-n", "1"], ["made"]),
        (["--label", "before"], []),
        (["--since", "1h", "--until", "9999-12-31", "--larger-than", "10"], ALL),
        (["--until", "1h"], []),
        (["--larger-than", "1GB"], []),
        (["--trace", "zzz"], []),
    ],
)
def test_conditions_must_all_be_met(ran: Shell, arguments: list[str], moments: list[str]) -> None:
    assert listed(ran, *arguments) == moments


def test_those_of_one_trace_are_listed_by_the_beginning_of_its_id(ran: Shell) -> None:
    newest = json.loads(ran("traces", "--json").stdout)[0]["trace_id"]
    assert listed(ran, "--trace", newest[:24]) == ["failure", "made", "entry"]
    assert "No such checkpoint in " in ran("checkpoints", "--trace", "zzz").stderr


def test_moments_and_labels_are_shown_where_they_tell_checkpoints_apart(ran: Shell) -> None:
    shown = ran("checkpoints").stdout
    assert "MOMENT" in shown
    assert "before the division" in shown
    shown = ran("checkpoints", "--moment", "failure").stdout
    assert "MOMENT" not in shown
    assert "LABEL" not in shown
    assert "ZeroDivisionError" in shown


def test_a_limit_says_how_many_more_there_are(ran: Shell) -> None:
    run = ran("checkpoints", "-n", "2")
    assert len(run.stdout.splitlines()) == 3
    assert run.stderr == "4 more; -n 6 shows them.\n"


def test_a_table_shows_the_newest_twenty_and_json_all(shell: Shell) -> None:
    manager = CheckpointManager(shell.folder / ".checkpoints")
    for number in range(22):
        manager.save_checkpoint(a_checkpoint(a_trace(), created_ns=number))
    run = shell("checkpoints")
    assert len(run.stdout.splitlines()) == 21
    assert "2 more; -n 22 shows them." in run.stderr
    assert len(listed(shell)) == 22


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--moment", "never"], "never"),
        (["--larger-than", "much"], "'much' is no size; give a number and KB, MB or GB, as in 10MB"),
        (["--since", "yesterday"], "'yesterday' is no moment"),
        (["-n", "0"], "0"),
    ],
)
def test_careless_conditions_are_a_sentence_and_exit_code_2(shell: Shell, arguments: list[str], says: str) -> None:
    run = shell("checkpoints", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr


def test_a_long_table_has_the_same_columns_and_cannot_write_to_the_terminal(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(shell.folder / "folder")
    for label in ("plain", "\x1b[2Jhostile"):
        manager.save_checkpoint(a_checkpoint(a_trace(), metadata={"label": label}))
    found = manager.list_checkpoints()
    checkpoint_list.table(found)
    short = capsys.readouterr().out
    monkeypatch.setattr(checkpoint_list, "LARGEST_TABLE", 1)
    checkpoint_list.table(found)
    long = capsys.readouterr().out
    assert [line.split() for line in long.splitlines()] == [line.split() for line in short.splitlines()]
    assert "x1b[2Jhostile" in long
    assert "\x1b[2J" not in long


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_is_said_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printing, "PATIENCE_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    for stream, told in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        until = time.monotonic() + (10 if told else 0.1)
        with printing.patience("Reading"):
            while "Reading" not in stream.getvalue() and time.monotonic() < until:
                time.sleep(0.01)
        assert ("Reading" in stream.getvalue()) is told


def test_what_does_not_take_long_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with printing.patience("Reading"):
        pass
    assert "Reading" not in stream.getvalue()
