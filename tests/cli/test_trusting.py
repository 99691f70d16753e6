"""A checkpoint from elsewhere: it may be looked at, and runs nothing until its user says yes to just that file."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.checkpoint.loading import load
from clearstone.checkpoint.packs import Pack
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.codec.keys import Key
from clearstone.span import Payload, Trace

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

    from clearstone.checkpoint.model import Checkpoint


@pytest.fixture
def elsewhere(failed: Shell, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A folder as it is cloned on a machine with another key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("another machine")))
    return failed


@pytest.mark.parametrize("command", ["replay", "debug"])
def test_a_checkpoint_of_another_machine_is_refused_in_one_sentence(elsewhere: Shell, command: str) -> None:
    run = elsewhere(command, "latest")
    assert run.returncode == 2
    assert "was signed with a key that this machine does not trust" in run.stderr
    assert "clearstone trust" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_it_can_be_looked_at_and_says_that_it_is_not_trusted(elsewhere: Shell) -> None:
    run = elsewhere("inspect", "latest")
    assert run.returncode == 0
    assert "Trusted      no" in run.stdout
    assert "markup" in run.stdout
    assert json.loads(elsewhere("inspect", "latest", "--json").stdout)["trusted"] is False


def test_trust_lists_what_would_be_imported_and_asks(elsewhere: Shell) -> None:
    before = elsewhere.files()
    run = elsewhere("trust", "latest", typed="n\n")
    assert run.returncode == 1
    assert "made on" in run.stderr
    assert "clearstone.codec.payload:begin_definition" in run.stderr
    assert "It holds code of its own" in run.stderr
    assert elsewhere("replay", "latest").returncode == 2
    said = elsewhere("trust", "latest", typed="y\n")
    assert said.returncode == 0
    assert "is trusted: noted in" in said.stdout
    assert elsewhere.files() == before
    assert json.loads(elsewhere("replay", "latest", "--json").stdout)["error"]["type"] == "TypeError"
    assert "is trusted already" in elsewhere("trust", "latest").stderr


def test_trust_need_not_ask(elsewhere: Shell) -> None:
    assert elsewhere("trust", "latest", "--yes").returncode == 0
    assert elsewhere("replay", "latest").returncode == 1


def test_a_key_of_the_other_machine_will_do(shell: Shell) -> None:
    shell.python("agent.py", CLEARSTONE_KEY="theirs")
    assert shell("replay", "latest").returncode == 2
    assert shell("replay", "latest", CLEARSTONE_KEY="ours, theirs").returncode == 1
    assert json.loads(shell("inspect", "latest", "--json", CLEARSTONE_KEY="ours,theirs").stdout)["trusted"] is True


class Hostile:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


COMMANDS = [
    ("traces",), ("show", "latest"), ("search", "a"), ("checkpoints",), ("inspect", "latest"),
    ("inspect", "latest", "--json"), ("trust", "latest"), ("replay", "latest"), ("debug", "latest"),
    ("timeline", "latest", "self"), ("annotate", "latest", "label=mine"), ("export", "latest", "--format", "ckpt"),
    ("export", "--all"), ("gc", "--older-than", "1d"), ("forget", "latest", "--yes"),
]  # fmt: skip


def forge(path: Path, checkpoint: Checkpoint) -> None:
    """Put a file in the place of `path` that nobody has signed."""
    path.unlink()
    pack = Pack(path, Key(b""))
    pack.append(checkpoint, trace=checkpoint.trace)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_cloned_folder_with_a_hostile_checkpoint_and_script_runs_nothing(elsewhere: Shell, command: Any) -> None:
    mark = elsewhere.folder / "it ran"
    (path,) = (elsewhere.folder / ".clearstone" / "checkpoints").glob("*.pack")
    found = load(path)
    code = Payload("pickle", pickle.dumps(Hostile(str(mark))))
    state = replace(found.state, snapshot=Snapshot((), Placed(Segment(code.data))))
    forged = replace(found, agent_class=code, state=state, state_at_end=None)
    forge(path, forged)
    script = elsewhere.folder / "agent.py"
    script.write_text(f"import os\nos.mkdir({str(mark)!r})\n{script.read_text()}")
    run = elsewhere(*command)
    assert "Traceback" not in run.stderr
    assert not mark.exists()
    assert not (elsewhere.folder / "live").exists() or Path(elsewhere.folder / "live").read_text() == "ab"


def test_trust_lists_also_what_a_served_call_would_give(elsewhere: Shell) -> None:
    (path,) = (elsewhere.folder / ".clearstone" / "checkpoints").glob("*.pack")
    found = load(path)
    hostile = Payload("pickle", pickle.dumps(Hostile("never made")))
    first, *_ = (span for span in found.trace if span.outcome is not None and span.outcome.value is not None)
    assert first.outcome is not None
    forged = replace(first, outcome=replace(first.outcome, value=hostile))
    spans = tuple(forged if span.span_id == first.span_id else span for span in found.trace)
    forge(path, replace(found, trace=Trace(found.trace.trace_id, spans)))
    assert f"  {os.mkdir.__module__}:mkdir\n" in elsewhere("trust", "latest", typed="n\n").stderr


WITH_A_LOCK = """
import threading
from clearstone import checkpointable
class Config:
    limit = 3
@checkpointable
class Agent:
    def __init__(self):
        self.config, self.lock = Config(), threading.Lock()
    def run(self):
        raise ValueError(self.config.limit)
if __name__ == "__main__":
    Agent().run()
"""


def test_what_does_not_pickle_costs_no_code_of_the_script(shell: Shell) -> None:
    (shell.folder / "locked.py").write_text(WITH_A_LOCK)
    shell.python("locked.py")
    (shell.folder / "locked.py").unlink()
    run = shell("replay", "latest", "--json")
    assert json.loads(run.stdout)["error"] == {"type": "ValueError", "message": "3"}
