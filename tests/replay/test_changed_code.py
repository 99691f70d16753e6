"""A replay says which functions changed since the checkpoint was made: real scripts, edited before they replay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
    from clearstone import checkpointable, traced
    import tools

    def tidy(text):
        return text.strip()

    def unused(text):
        return text

    @traced(span_type="llm")
    def ask(question):
        return tidy(question)

    @checkpointable
    class Agent:
        MODEL = "small"

        def plan(self, question):
            while True:
                return [ask(question), tools.search(question)]

        def run(self, question):
            answers = self.plan(question)
            return {}[answers[0]]

    if __name__ == "__main__":
        Agent().run(" q ")
"""
TOOLS = """
    from clearstone import traced

    @traced(span_type="tool")
    def search(query):
        return query * 2
"""
CODE = ["__main__:Agent", "__main__:Agent.plan", "__main__:Agent.run", "__main__:ask", "tools:search", "__main__:tidy"]


class Project:
    """A folder with an agent that failed, in a script or in a module of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write("agent.py", SCRIPT)
        self._write("tools.py", TOOLS)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"CLEARSTONE_HOME": str(self.folder / "home"), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=env, capture_output=True, text=True, check=False, input=""
        )

    def clearstone(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "clearstone", *command)

    def replay(self, *options: str) -> tuple[list[str], list[str]]:
        """Replay, and return the notes on what changed and the names in the JSON."""
        run = self.clearstone("replay", "latest", "--json", *options)
        notes = [line for line in run.stderr.splitlines() if " since: " in line]
        return notes, json.loads(run.stdout)["changed_code"]

    def edit(self, *edits: tuple[str, str], file: str = "agent.py") -> None:
        source = (self.folder / file).read_text()
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        (self.folder / file).write_text(source)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    failed = made.run("agent.py")
    assert "KeyError: 'q'" in failed.stderr, failed.stderr
    return made


def test_of_an_unchanged_script_nothing_is_said(project: Project) -> None:
    assert project.replay() == ([], [])


LAYOUT = (
    "while True:\n            return [ask(question),",
    "while True: return [  # a comment\n                ask(question),",
)
EDITS: dict[str, tuple[list[tuple[str, str]], str, list[str]]] = {
    "the layout": ([LAYOUT, ('"llm"', "'llm'"), ("import tools\n", "import tools\n\n\n")], "", []),
    "a function that is not the agent's": ([("return text\n", "return 1\n")], "", []),
    "a method": (
        [("{}[answers[0]]", "{}.get(answers[0])")],
        "Note: Changed since: __main__:Agent.run.",
        ["__main__:Agent.run"],
    ),
    "an outside call and what it calls": (
        [('"llm"', '"llm", name="asking"'), ("text.strip()", "text.strip().lower()")],
        "Note: Changed since: __main__:ask, __main__:tidy.",
        ["__main__:ask", "__main__:tidy"],
    ),
    "an attribute of the class": (
        [('MODEL = "small"', 'MODEL = "large"')],
        "Note: Changed since: __main__:Agent.",
        ["__main__:Agent"],
    ),
    "two that were renamed": (
        [("tidy", "tidied"), ("self.plan(", "self.make("), ("def plan(", "def make(")],
        (
            "Note: Changed since: __main__:Agent.run, __main__:ask; gone: __main__:Agent.plan, __main__:tidy; "
            "new: __main__:Agent.make."
        ),
        ["__main__:Agent.plan", "__main__:Agent.run", "__main__:ask", "__main__:tidy", "__main__:Agent.make"],
    ),
}


@pytest.mark.parametrize(("edits", "note", "names"), EDITS.values(), ids=EDITS)
def test_what_was_edited_is_named(project: Project, edits: list[tuple[str, str]], note: str, names: list[str]) -> None:
    project.edit(*edits)
    assert project.replay() == ([note] if note else [], names)


def test_a_module_is_compared_too_and_the_stored_code_of_the_script_is_not(project: Project) -> None:
    project.edit(("query * 2", "query * 3"), file="tools.py")
    project.edit(("text.strip()", "text.lstrip()"))
    assert project.replay()[1] == ["tools:search", "__main__:tidy"]
    assert project.replay("--code", "recorded") == (["Note: Changed since: tools:search."], ["tools:search"])


def test_an_agent_of_a_module_is_compared_by_its_name_and_the_script_is_not_imported(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "main.py").write_text("import agent\nagent.Agent().run(' q ')\n")
    assert "KeyError: 'q'" in project.run("main.py").stderr
    assert project.replay() == ([], [])
    project.edit(("text.strip()", "text.strip().lower()"))
    assert project.replay() == (["Note: Changed since: agent:tidy."], ["agent:tidy"])


def test_a_module_that_ran_as_a_program_is_compared_by_its_name(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert "KeyError: 'q'" in project.run("-m", "agent").stderr
    assert project.replay() == ([], [])
    project.edit(("text.strip()", "text.strip().lower()"))
    assert project.replay() == (["Note: Changed since: agent:tidy."], ["agent:tidy"])


def test_what_the_main_block_defines_is_not_gone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.edit(
        ("Agent().run(", "\n    @traced\n    def start(question):\n        Agent().run(question)\n\n    start(")
    )
    assert "KeyError: 'q'" in project.run("agent.py").stderr
    project.edit(("        Agent().run(", "        print()\n        Agent().run("))
    assert project.replay() == ([], [])


def test_the_changes_are_told_before_a_divergence_and_in_the_debugger(project: Project) -> None:
    project.edit(("ask(question), ", 'ask("other"), '))
    run = project.clearstone("replay", "latest")
    assert run.returncode == 1
    assert "Note: Changed since: __main__:Agent.plan.\n" in run.stderr
    assert "ReplayDivergence" in run.stdout
    told = project.clearstone("debug", "latest").stdout
    assert told.index("Note: Changed since: __main__:Agent.plan.") < told.index("Pre-flight")


def test_the_engine_has_the_changes_with_their_differences(project: Project) -> None:
    project.edit(("text.strip()", "text.strip().lower()"))
    (project.folder / "look.py").write_text(
        textwrap.dedent("""
        from clearstone.debugging import CheckpointManager, ReplayEngine
        engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
        for _ in range(2):
            try:
                engine.replay_from_checkpoint()
            except KeyError:
                print(engine.notes)
        print(engine.changed_code[0].diff())
        """)
    )
    first, second, *diff = project.run("look.py").stdout.splitlines()
    assert first == second == "('Changed since: __main__:tidy.',)"
    assert diff[-2:] == ["-    return text.strip()", "+    return text.strip().lower()"]


def test_inspect_names_the_functions_whose_code_a_checkpoint_has(project: Project) -> None:
    told: Any = json.loads(project.clearstone("inspect", "latest", "--json").stdout)["code"]
    assert [each["name"] for each in told] == CODE
    assert all(set(each) == {"name", "code", "tree"} and len(each["tree"]) == 64 for each in told)
    shown = " ".join(project.clearstone("inspect", "latest").stdout.split())
    assert f"Code of {', '.join(CODE)} " in shown
