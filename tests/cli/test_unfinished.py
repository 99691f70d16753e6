"""A process that was killed, hangs or is told to end leaves a checkpoint that can be looked at and replayed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from clearstone import checkpointable, checkpoints, configure, home
from clearstone.checkpoint.loading import load
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

SCRIPT = """
    import os, signal, sys, time
    from clearstone import checkpointable, configure, traced

    @checkpointable(entry="durable")
    class Agent:
        def __init__(self):
            self.seen = []

        @traced(span_type="llm")
        def ask(self, question):
            open("live", "a").write(question + " ")
            if question == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if question == "hang":
                print("hanging", flush=True)
                sys.stdin.readline()
            return f"answer to {question}"

        def run(self, *questions):
            for question in questions:
                self.seen.append(self.ask(question))
            return self.seen

    if __name__ == "__main__":
        configure(signals=("SIGTERM", "SIGUSR1"))
        agent = Agent()
        agent.run("one")
        agent.run("two", sys.argv[1])
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture
def shell(shell: Shell) -> Shell:
    (shell.folder / "agent.py").write_text(textwrap.dedent(SCRIPT))
    return shell


def listed(shell: Shell) -> list[tuple[str, str]]:
    found = json.loads(shell("checkpoints", "--json").stdout)
    return [(each["moment"], each["metadata"].get("signal", "")) for each in found]


def test_a_killed_agent_is_replayed_up_to_where_it_was_killed(shell: Shell) -> None:
    assert shell.python("agent.py", "kill").returncode == -signal.SIGKILL
    assert listed(shell) == [("unfinished", "")]
    inspected = json.loads(shell("inspect", "latest", "--json").stdout)
    assert inspected["state"] == {"seen": ["answer to one"]}
    live = (shell.folder / "live").read_text()
    run = shell("replay", "latest")
    assert (shell.folder / "live").read_text() == live
    assert run.returncode == 3, run.stderr
    assert "reused 1 · diverged 0" in run.stdout


def test_a_call_that_ends_leaves_nothing_and_one_that_fails_its_failure(shell: Shell) -> None:
    assert shell.python("agent.py", "three").returncode == 0
    assert listed(shell) == []
    assert not list((shell.folder / ".clearstone" / "checkpoints").iterdir())
    run = shell.python("-c", "import agent; agent.Agent.ask = lambda *_: 1 / 0; agent.Agent().run('a')")
    assert run.returncode == 1
    assert listed(shell) == [("failure", "")]


def hanging(shell: Shell) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "agent.py", "hang"],
        cwd=shell.folder,
        env={name: value for name, value in os.environ.items() if name != "CLEARSTONE_HOME"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "hanging\n"
    return process


def test_a_chosen_signal_saves_a_checkpoint_of_a_process_that_runs_on(shell: Shell) -> None:
    process = hanging(shell)
    assert process.stderr is not None
    process.send_signal(signal.SIGUSR1)
    assert process.stderr.readline() == "clearstone: SIGUSR1: 1 checkpoint(s) saved; next: clearstone debug latest\n"
    assert listed(shell) == [("signal", "SIGUSR1"), ("unfinished", "")]
    inspected = json.loads(shell("inspect", "latest", "--json").stdout)
    assert [frame["function"] for frame in inspected["stack"]] == ["<module>", "Agent.run", "Agent.ask"]
    assert inspected["state_at_end"] == {"seen": ["answer to one", "answer to two"]}
    assert shell("replay", "latest").returncode == 3
    process.communicate("go on\n")
    assert process.returncode == 0
    assert listed(shell) == [("signal", "SIGUSR1")]


def test_a_process_that_is_told_to_end_saves_a_checkpoint_and_ends(shell: Shell) -> None:
    process = hanging(shell)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert "SIGTERM: 1 checkpoint(s) saved" in told
    assert listed(shell)[0] == ("signal", "SIGTERM")
    assert shell("replay", "latest").returncode == 3


# --- in this process -------------------------------------------------------------------------------------------------


def test_a_handler_that_was_there_before_is_called_and_comes_back_when_no_signal_is_chosen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    came: list[int] = []
    original = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    try:
        configure(signals=["SIGUSR2"])

        @checkpointable
        def go() -> str:
            signal.raise_signal(signal.SIGUSR2)
            return "went on"

        assert go() == "went on"
        signal.raise_signal(signal.SIGUSR2)
        assert came == [signal.SIGUSR2] * 2
        told = capsys.readouterr().err
        assert "SIGUSR2: 1 checkpoint(s) saved" in told
        assert "SIGUSR2: no @checkpointable call runs" in told
        configure(signals=())
        signal.raise_signal(signal.SIGUSR2)
        assert len(came) == 3
        assert capsys.readouterr().err == ""
    finally:
        configure(signals=())
        signal.signal(signal.SIGUSR2, original)


def test_a_call_of_another_thread_is_saved_without_the_frames_that_were_interrupted_here() -> None:
    began, ended = threading.Event(), threading.Event()

    @checkpointable
    def elsewhere() -> None:
        began.set()
        ended.wait()

    @checkpointable
    def here() -> None:
        began.wait()
        signal.raise_signal(signal.SIGUSR2)
        ended.set()

    configure(signals=["SIGUSR2"])
    try:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        here()
        thread.join()
    finally:
        configure(signals=())
    found = [load(info.path, info.step) for info in checkpoints()]
    assert {each.span.name.rpartition(".")[2]: bool(each.stack) for each in found} == {"elsewhere": False, "here": True}


def test_a_signal_that_saves_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @checkpointable
    def go() -> None:
        signal.raise_signal(signal.SIGUSR2)

    (tmp_path / "a file").touch()
    configure(signals=["SIGUSR2"])
    try:
        monkeypatch.setattr(home, "checkpoint_folder", lambda: tmp_path / "a file" / "checkpoints")
        go()
    finally:
        configure(signals=())
    assert "clearstone: SIGUSR2: no checkpoint was saved" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGNOTHING", "usr1", "SIGKILL", 10])
def test_what_is_no_signal_that_can_be_handled_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=str(name)):
        configure(signals=[name])


def test_signals_are_chosen_in_the_main_thread() -> None:
    errors: list[BaseException] = []

    def choose() -> None:
        try:
            configure(signals=["SIGUSR2"])
        except ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=choose)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_a_folder_that_cannot_be_written_is_said_and_the_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @checkpointable(entry="durable")
    def go() -> str:
        return "gone"

    (tmp_path / "a file").touch()
    monkeypatch.setattr(home, "checkpoint_folder", lambda: tmp_path / "a file" / "checkpoints")
    assert go() == "gone"
    assert "no checkpoint at the entry of" in capsys.readouterr().err
