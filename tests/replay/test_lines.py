"""A replay says which line made a call when it was recorded, which makes it now, and where what it raises came out."""

from __future__ import annotations

import asyncio
import json
import linecache
import os
import subprocess
import sys
import textwrap
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clearstone import checkpointable, traced
from clearstone.checkpoint.fingerprints import Fingerprint
from clearstone.debugging import CheckpointManager, ReplayEngine
from clearstone.errors import ReplayDivergence
from clearstone.replay.lines import quoted_then

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HELPERS = """
    def ask_again(agent, text):
        return agent.ask(text + "?")
"""
SCRIPT = """
    from clearstone import checkpointable, traced
    import helpers

    @checkpointable
    class Agent:
        @traced(span_type="llm")
        def ask(self, prompt):
            return prompt.upper()

        @traced(span_type="tool")
        def search(self, query):
            return query

        def plan(self, goal):
            return self.ask(f"plan {goal}")

        def run(self, goal):
            answers = [self.plan(goal), helpers.ask_again(self, goal), self.search(goal)]
            raise ValueError(answers)

    if __name__ == "__main__":
        Agent().run("tea")
"""


class Project:
    """A folder with a script that failed, and a module beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "helpers.py").write_text(textwrap.dedent(HELPERS))
        (folder / "agent.py").write_text(textwrap.dedent(SCRIPT))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"CLEARSTONE_HOME": str(self.folder / "home"), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )

    def replay(self, *options: str) -> list[str]:
        run = self.run("-m", "clearstone", "replay", "latest", *options)
        return [line.strip() for line in run.stdout.splitlines()]

    def edit(self, old: str, new: str, file: str = "agent.py") -> None:
        source = (self.folder / file).read_text()
        assert old in source
        (self.folder / file).write_text(source.replace(old, new))

    def place(self, text: str, file: str = "agent.py") -> str:
        """Return the place of the one line with this text, as it is now."""
        lines = (self.folder / file).read_text().split("\n")
        (number,) = [number for number, line in enumerate(lines, 1) if text in line]
        return f"{self.folder / file}:{number}"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path.resolve())
    assert "ValueError" in made.run("agent.py").stderr
    return made


PLAN = 'return self.ask(f"plan {goal}")'
AGAIN = 'return agent.ask(text + "?")'


def test_a_divergence_quotes_the_line_of_then_as_it_was_and_the_line_of_now(project: Project) -> None:
    then = project.place(PLAN)
    project.edit("@checkpointable", "# a line more\n@checkpointable")
    project.edit("plan {goal}", "a plan for {goal}")
    told = project.replay()
    now = project.place("a plan for")
    assert f'now at {now}: return self.ask(f"a plan for {{goal}}")' in told
    assert told.count(f"recorded at {then}: {PLAN}") == 1
    assert then != now


def test_of_a_line_in_no_recorded_function_the_file_is_quoted_while_it_is_as_it_was(project: Project) -> None:
    place = project.place(AGAIN, "helpers.py")
    project.edit("plan {goal}", "a plan for {goal}")
    assert f"recorded at {place}: {AGAIN}" in project.replay()
    project.edit("text", "words", "helpers.py")
    assert f"recorded at {place}" in project.replay(), "an edited file is not quoted"


def test_a_file_that_is_gone_is_named_and_not_quoted(project: Project) -> None:
    place = project.place(AGAIN, "helpers.py")
    project.edit("plan {goal}", "a plan for {goal}")
    project.edit("import helpers", "import types; helpers = types.SimpleNamespace()")
    (project.folder / "helpers.py").unlink()
    assert f"recorded at {place}" in project.replay()


def test_code_that_takes_another_way_is_told_where_the_next_recorded_call_was_made(project: Project) -> None:
    then = project.place("self.search(goal)]")
    project.edit("self.search(goal)]", "self.ask(goal)]")
    told = "\n".join(project.replay())
    assert "Recorded but not called yet: __main__.Agent.search." in told
    assert f"was recorded at {then}: answers = [self.plan(goal)," in told


def test_the_ledger_has_both_lines_of_a_served_call(project: Project) -> None:
    then = [project.place(PLAN), project.place(AGAIN, "helpers.py"), project.place("self.search(goal)")]
    project.edit("@checkpointable", "# a line more\n@checkpointable")
    run = project.run("-m", "clearstone", "replay", "latest", "--json")
    calls = {each["recorded_line"]: each["line"] for each in json.loads(run.stdout)["calls"] if each["recorded_line"]}
    now = [project.place(PLAN), project.place(AGAIN, "helpers.py"), project.place("self.search(goal)")]
    assert calls == dict(zip(then, now, strict=True))


def test_the_ledger_says_where_an_unused_call_was_made(project: Project) -> None:
    then = project.place("self.search(goal)]")
    project.edit(", self.search(goal)]", "]")
    run = project.run("-m", "clearstone", "replay", "latest", "--json")
    (unused,) = [each for each in json.loads(run.stdout)["calls"] if each["verdict"] == "unused"]
    assert (unused["line"], unused["recorded_line"]) == (None, then)


def test_a_checkpoint_that_stands_alone_carries_the_lines(project: Project) -> None:
    assert project.run("-m", "clearstone", "export", "latest", "-o", "one.ckpt").returncode == 0
    found = CheckpointManager(project.folder).load_checkpoint("one.ckpt")
    served = [span.called_at for span in found.trace if span.replay == "serve"]
    assert served == [project.place(PLAN), project.place(AGAIN, "helpers.py"), project.place("self.search(goal)")]


# --- quoting ---------------------------------------------------------------------------------------------------------

CODE = [Fingerprint("m:f", "", "", "def f():\n    return g()", "m.py:3"), Fingerprint("m:C", "", "", "class C: ...")]


@pytest.mark.parametrize(
    ("line", "told"),
    [("m.py:4", ": return g()"), ("m.py:3", ": def f():"), ("m.py:5", ""), ("m.py:2", ""), ("n.py:4", ""), ("", "")],
)
def test_a_line_is_quoted_from_what_was_recorded_of_its_function(line: str, told: str) -> None:
    assert quoted_then(line, CODE, 10**30) == told


def test_a_file_is_quoted_as_it_is_on_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text("first\n")
    linecache.getline(str(file), 1)
    file.write_text("the second\n")
    changed = file.stat().st_mtime_ns
    assert quoted_then(f"{file}:1", [], changed + 1) == ": the second"
    assert quoted_then(f"{file}:1", [], changed) == ""


# --- what is raised --------------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """What the outside answers."""


@checkpointable
class Caller:
    @traced(span_type="llm")
    def ask(self) -> str:
        raise RefusedError("no")

    @traced(span_type="llm")
    async def aask(self) -> str:
        raise RefusedError("no")

    @traced(span_type="llm")
    def stream(self) -> Iterator[int]:
        yield 1
        raise RefusedError("no")

    @traced(span_type="llm")
    async def astream(self) -> AsyncIterator[int]:
        yield 1
        raise RefusedError("no")

    def asks(self) -> None:
        self.ask()  # here: asks

    async def awaits(self) -> None:
        await self.aask()  # here: awaits

    async def gathers(self) -> None:
        await asyncio.gather(self.waits())

    async def waits(self) -> None:
        await self.aask()  # here: gathers

    def reads(self) -> None:
        for _ in self.stream():  # here: reads
            pass

    async def areads(self) -> None:
        async for _ in self.astream():  # here: areads
            pass

    def in_a_thread(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.asks_there).result()

    def asks_there(self) -> None:
        self.ask()  # here: in_a_thread


@pytest.mark.parametrize("way", ["asks", "awaits", "gathers", "reads", "areads", "in_a_thread"])
def test_a_served_exception_comes_out_at_the_users_call(way: str) -> None:
    with pytest.raises(RefusedError):
        made = getattr(Caller(), way)()
        asyncio.run(made) if made is not None else None
    with pytest.raises(RefusedError) as caught:
        ReplayEngine(CheckpointManager().load_checkpoint("latest")).replay_from_checkpoint()
    own = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == __file__]
    assert str(own[-1].line).endswith(f"# here: {way}")


@pytest.mark.parametrize("way", ["ask", "aask", "stream"])
def test_the_command_line_ends_a_traceback_with_the_users_call(tmp_path: Path, way: str) -> None:
    project = Project(tmp_path.resolve())
    calls = {"ask": "self.ask(1)", "aask": "asyncio.run(self.aask(1))", "stream": "list(self.stream(1))"}
    (project.folder / "agent.py").write_text(
        textwrap.dedent(
            f"""
            import asyncio
            from clearstone import checkpointable, traced

            @checkpointable
            class Agent:
                @traced(span_type="llm")
                def ask(self, n): raise KeyError(n)

                @traced(span_type="llm")
                async def aask(self, n): raise KeyError(n)

                @traced(span_type="llm")
                def stream(self, n):
                    yield n
                    raise KeyError(n)

                def run(self):
                    {calls[way]}

            if __name__ == "__main__":
                Agent().run()
            """
        )
    )
    assert "KeyError: 1" in project.run("agent.py").stderr
    told = project.replay()
    assert told[-1] == "KeyError: 1"
    last = [line for line in told if line.startswith("File ")][-1]
    file, _, number = project.place(calls[way]).rpartition(":")
    assert last == f'File "{file}", line {number}, in run'


def test_a_divergence_comes_out_at_the_users_call_too() -> None:
    with pytest.raises(RefusedError):
        Caller().asks()
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(ReplayDivergence) as caught:
        engine.replay_from_checkpoint("reads")
    own = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == __file__]
    assert str(own[-1].line).endswith("# here: reads")
