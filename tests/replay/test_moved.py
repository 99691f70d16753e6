"""Code that was moved or renamed since: replayed with ``--map``, and told of without; real projects, rearranged."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from clearstone.codec.renames import Renames
from clearstone.debugging import CheckpointManager, ReplayEngine
from clearstone.errors import ConfigurationError

AGENTS = """
    import threading
    from dataclasses import dataclass
    from clearstone import checkpointable, traced

    @dataclass
    class Message:
        text: str

    class Refused(Exception):
        def __init__(self, message):
            super().__init__(message)
            self.message = message

    class Client:
        def __init__(self):
            self.lock = threading.Lock()

    @traced(span_type="tool")
    def search(message, client):
        open("live", "a").write("search")
        raise Refused(message)

    @checkpointable
    class Agent:
        def __init__(self):
            self.history = [Message("hello")]
            self.last = None

        @traced(span_type="llm")
        def ask(self, message):
            open("live", "a").write("ask")
            self.last = Message(message.text.upper())
            return self.last

        @traced
        def plan(self, message):
            answer = self.ask(message)
            self.history.append(answer)
            return answer

        def run(self, text):
            answer = self.plan(Message(text))
            try:
                search(answer, Client())
            except Refused as refused:
                raise Refused([refused.message, *self.history, self.last])

    if __name__ == "__main__":
        Agent().run("hi")
"""


class Project:
    """A folder with an agent that failed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("agents.py", AGENTS)
        self.write("main.py", "import agents\nagents.Agent().run('hi')\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        if not path.parent.exists():
            path.parent.mkdir()
            (path.parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(text))

    def edit(self, *edits: tuple[str, str], file: str = "agents.py") -> None:
        source = (self.folder / file).read_text()
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        (self.folder / file).write_text(source)

    def move(self, to: str = "core/agents.py") -> None:
        source = (self.folder / "agents.py").read_text()
        (self.folder / "agents.py").unlink()
        (self.folder / "live").unlink()
        self.write(to, source)

    def run(self, *command: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        env = os.environ | {"CLEARSTONE_HOME": str(self.folder / "home"), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            input=typed,
        )

    def clearstone(self, *command: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return self.run("-m", "clearstone", *command, typed=typed)

    def replay(self, *options: str) -> tuple[Any, str]:
        run = self.clearstone("replay", "latest", "--json", *options)
        assert run.stdout, run.stderr
        assert not (self.folder / "live").exists(), "a call was made"
        return json.loads(run.stdout), run.stderr

    def refused(self, *options: str, command: str = "replay") -> str:
        run = self.clearstone(command, "latest", *options)
        assert (run.returncode, run.stdout) == (2, ""), run.stdout
        return run.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    failed = made.run("main.py")
    assert "agents.Refused: [Message(text='HI'), Message(text='hello')" in failed.stderr, failed.stderr
    return made


def as_recorded(told: Any) -> None:
    assert told["as_recorded"], told
    found = {verdict: number for verdict, number in told["ledger"].items() if number}
    assert found == {"reused": 1, "reused by order": 1, "again": 2}  # a client does not pickle: it is known by its type


def test_a_module_that_was_moved_is_found_everywhere(project: Project) -> None:
    project.move()
    told, notes = project.replay("--map", "agents=core.agents")
    as_recorded(told)
    assert told["error"]["type"] == "core.agents.Refused"
    assert told["changed_code"] == []
    assert {call["call"].rpartition(".")[0] for call in told["calls"]} == {"core.agents.Agent", "core.agents"}
    assert notes == ""


def test_without_a_mapping_it_is_said_what_was_recorded_and_how_to_go_on(project: Project) -> None:
    project.move()
    for command in ("replay", "debug"):
        told = project.refused(command=command)
        assert "module 'agents' of the recorded class Agent cannot be imported" in told
        assert re.search(r"there are .*\bcore\b.*\bmain\b", told)
        assert "--map agents=NEW.MODULE" in told


RENAMED = [("class Agent", "class Worker"), ("Agent()", "Worker()")]


def test_a_class_that_was_renamed(project: Project) -> None:
    project.edit(*RENAMED)
    (project.folder / "live").unlink()
    told = project.refused()
    assert "agents has no 'Agent'" in told
    assert "--map agents:Agent=NEW.MODULE:NAME" in told
    told, _ = project.replay("--map", "agents:Agent=agents:Worker")
    as_recorded(told)
    assert told["changed_code"] == ["agents:Worker"]


def test_a_class_of_values_that_was_renamed(project: Project) -> None:
    project.edit(("Message", "Note"))
    (project.folder / "live").unlink()
    told = project.refused()
    assert "It names agents:Message, and there is no 'Message' today; " in told
    assert "--map agents:Message=NEW.MODULE:NAME" in told
    told, _ = project.replay("--map", "agents:Message=agents:Note")
    assert told["ledger"] | {"reused": 1, "reused by order": 1, "diverged": 0} == told["ledger"]


def test_functions_and_methods_that_were_renamed(project: Project) -> None:
    project.edit(("def run(", "def work("), (".run(", ".work("), ("def ask(", "def call("), ("self.ask(", "self.call("))
    project.edit(("def search(", "def look("), ("search(answer", "look(answer"))
    (project.folder / "live").unlink()
    told = project.refused("--map", "agents:search=agents:look")
    assert "agents.Agent has no method 'run'" in told
    assert "--map agents:Agent.run=agents:Agent.NEW" in told
    maps = ["agents:Agent.run=agents:Agent.work", "agents:Agent.ask=agents:Agent.call", "agents:search=agents:look"]
    told, _ = project.replay(*(word for each in maps for word in ("--map", each)))
    as_recorded(told)
    assert set(told["changed_code"]) == {"agents:Agent.work", "agents:Agent.call", "agents:Agent.plan", "agents:look"}


def test_an_attribute_that_was_renamed_also_in_what_calls_did_to_it(project: Project) -> None:
    project.edit(("self.history", "self.notes"), ("self.last", "self.newest"))
    (project.folder / "live").unlink()
    told, notes = project.replay()
    assert told["error"]["type"] == "AttributeError"
    assert "agents.Agent has no attribute 'notes' in the restored state" in notes
    assert "--map agents:Agent.OLD=agents:Agent.notes" in notes
    maps = ["agents:Agent.history=agents:Agent.notes", "agents:Agent.last=agents:Agent.newest"]
    told, notes = project.replay(*(word for each in maps for word in ("--map", each)))
    as_recorded(told)
    assert "made no difference" not in notes


@pytest.mark.parametrize("how", [["agents.py"], ["-m", "agents"]])
def test_what_a_script_defines_is_known_by_its_type_where_it_does_not_pickle(tmp_path: Path, how: list[str]) -> None:
    project = Project(tmp_path)
    assert "Refused" in project.run(*how).stderr
    (project.folder / "live").unlink()
    as_recorded(project.replay()[0])


def test_the_code_of_a_script_that_became_a_module(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert "Refused" in project.run("agents.py").stderr
    project.move("agentsmodule.py")
    told, _ = project.replay("--map", "__main__=agentsmodule")
    as_recorded(told)
    assert told["error"]["type"] == "agentsmodule.Refused"


def test_a_module_that_ran_as_a_program_and_was_moved(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert "Refused" in project.run("-m", "agents").stderr
    project.move()
    told, _ = project.replay("--map", "agents=core.agents")
    as_recorded(told)


def test_a_divergence_tells_of_what_differs_and_not_of_names(project: Project) -> None:
    project.move()
    project.edit(("self.plan(Message(text))", "self.plan(Message(text * 2))"), file="core/agents.py")
    told, _ = project.replay("--map", "agents=core.agents")
    assert told["error"]["type"] == "clearstone.errors.ReplayDivergence"
    assert "message.text: recorded 'hi', now 'hihi'" in told["error"]["message"]
    assert "agents.Message" not in told["error"]["message"]


def test_mock_targets_and_live_calls_may_be_named_as_they_were(project: Project) -> None:
    project.move()
    maps = ("--map", "agents=core.agents")
    out = project.clearstone(
        "debug", "latest", *maps, "--mock", "llm=agents.Agent.ask", "--mock", "tool=agents.search", typed="c\n"
    )
    assert "Mocking 'core.agents.Agent.ask'" in out.stdout
    assert "Replay Failed: Refused ---\n[Message(text='HI')" in out.stdout
    project.clearstone("replay", "latest", *maps, "--live", "agents.Agent.ask")
    assert (project.folder / "live").read_text() == "ask"


CARELESS = {
    "foo": "'foo' says of nothing where it is now",
    "agents=": "'agents=' says of nothing where it is now",
    "agents=core agents": "says of nothing where it is now",
    "agents=core.agents:Agent": "names a module on one side and something in one on the other",
    "agents=core.nowhere": "'core.nowhere' cannot be imported here (No module named 'core.nowhere'); there are",
    "agents=core.agnts": "cannot be imported here (No module named 'core.agnts'); the nearest is 'core.agents'.",
    "agents=core.agents.Agent": "What is in a module is named with a colon",
    "agents:Agent=core.agents:Agnet": "core.agents has no 'Agnet'; the nearest is 'Agent'",
}


@pytest.mark.parametrize("given", CARELESS)
def test_a_mapping_that_cannot_be_meant_is_refused_with_its_reason(project: Project, given: str) -> None:
    project.move()
    assert CARELESS[given] in " ".join(project.refused("--map", given).split())


def test_two_mappings_of_one_name_are_refused(project: Project) -> None:
    assert "says otherwise" in project.refused("--map", "a=agents", "--map", "a=json")


def test_a_mapping_of_what_was_not_recorded_is_said_to_make_no_difference(project: Project) -> None:
    (project.folder / "live").unlink()
    told, notes = project.replay("--map", "agnets=agents")
    as_recorded(told)
    assert "Nothing that was looked for is called 'agnets': agnets=agents made no difference." in notes


@pytest.mark.parametrize("renamed", ["a=b", {"a": 1}, {"a": "b:c"}, {"": "b"}, {1: "b"}])
def test_an_engine_refuses_what_cannot_be_meant(renamed: Any, project: Project) -> None:
    checkpoint = CheckpointManager().load_checkpoint(next((project.folder / "home").rglob("*.pack")))
    with pytest.raises(ConfigurationError):
        ReplayEngine(checkpoint, renamed=renamed)


@pytest.mark.parametrize(
    ("key", "today"),
    [
        ("old.a:X", "new.a:X"),
        ("old:Y.m", "new:Y.m"),
        ("old.deep:Y", "other:Y"),
        ("old.deep.er:Y", "other.er:Y"),
        ("old.deep:X", "x:Z"),
        ("old.deep:X.m.<locals>.f", "x:Z.m.<locals>.f"),
        ("old.deep:XY", "other:XY"),
        ("older:X", "older:X"),
        ("old", "new"),
        ("", ""),
    ],
)
def test_the_most_particular_rule_holds_once(key: str, today: str) -> None:
    renames = Renames.of({"old": "new", "new": "newest", "old.deep": "other", "old.deep:X": "x:Z"})
    assert renames.key(key) == today
    if key and "<" not in key:
        assert renames.dotted(key.replace(":", ".")) == today.replace(":", ".")
