"""Scripts: what ran as __main__ is replayed in a fresh process from today's file, or from the stored code."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
    import sys
    from dataclasses import dataclass
    from clearstone import checkpointable, traced
    import helper

    FACTOR = 10
    print("importing", __name__)

    @dataclass
    class Note:
        text: str

    def grade(note):
        return len(note.text) * FACTOR

    @traced(span_type="tool")
    def search(query):
        open("live", "a").write(query)
        return Note(query * 2)

    @checkpointable
    class Agent:
        def __init__(self):
            self.notes = [Note("first")]
            self.count = lambda: len(self.notes)
            self.grade = grade

        @traced(span_type="llm")
        def ask(self, q):
            open("live", "a").write(q)
            return helper.answer(q)

        def run(self, q):
            assert self.count() == 1
            found = search(self.ask(q))
            assert isinstance(found, Note) and isinstance(self.notes[0], Note)
            self.notes.append(found)
            assert self.count() == 2, "the closure belongs to another agent"
            return [self.grade(found), {}[q]]

    if __name__ == "__main__":
        Agent().run(sys.argv[1])
"""


class Project:
    """A folder with a script and a module beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.folder.mkdir()
        (self.folder / "helper.py").write_text("def answer(q):\n    return q + '!'\n")
        self.script = self.folder / "agent.py"
        self.script.write_text(textwrap.dedent(SCRIPT))

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"CLEARSTONE_HOME": str(self.folder / "home"), "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, *command], cwd=cwd or self.folder, env=env, capture_output=True, text=True, check=False
        )

    def replay(self, *options: str, cwd: Path | None = None) -> tuple[int, Any, str]:
        run = self.run("-m", "clearstone", "replay", "latest", "--json", *options, cwd=cwd)
        return run.returncode, json.loads(run.stdout) if run.stdout else None, run.stderr

    def edit(self, old: str, new: str) -> None:
        source = self.script.read_text()
        assert old in source
        self.script.write_text(source.replace(old, new))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    failed = made.run("agent.py", "q")
    assert "KeyError: 'q'" in failed.stderr, failed.stderr
    assert (made.folder / "live").read_text() == "qq!"
    return made


def test_a_script_is_imported_again_without_its_main_block_and_nothing_is_live(
    project: Project, tmp_path: Path
) -> None:
    code, told, stderr = project.replay(cwd=tmp_path)
    assert (code, told["error"]["type"]) == (1, "KeyError")
    assert "importing __clearstone_main__" in stderr
    assert (project.folder / "live").read_text() == "qq!"


def test_a_fix_in_the_file_is_what_replays_functions_of_the_state_included(project: Project, tmp_path: Path) -> None:
    project.edit("{}[q]", "{}.get(q)")
    project.edit("FACTOR = 10", "FACTOR = 100")
    code, told, _ = project.replay(cwd=tmp_path)
    assert (code, told["result"]) == (0, [400, None])


def test_the_stored_code_replays_when_asked_for_and_that_is_said(project: Project) -> None:
    project.edit("{}[q]", "{}.get(q)")
    code, told, stderr = project.replay("--code", "recorded")
    assert (code, told["error"]["type"]) == (1, "KeyError")
    assert "stored code of __main__ is used, as asked" in stderr
    assert "importing" not in stderr
    assert (project.folder / "live").read_text() == "qq!"


def test_the_stored_code_replays_when_the_file_is_gone_and_that_is_said(project: Project) -> None:
    project.script.unlink()
    code, told, stderr = project.replay()
    assert (code, told["error"]["type"]) == (1, "KeyError")
    assert "agent.py is gone: the stored code is used" in stderr
    assert (project.folder / "live").read_text() == "qq!"


def test_a_script_that_runs_its_agent_on_import_is_refused_with_the_line_to_add(project: Project) -> None:
    project.edit('if __name__ == "__main__":', "if True:")
    code, told, stderr = project.replay()
    assert (code, told) == (2, None)
    assert "__name__ ==" in stderr
    assert ", line 4" in stderr
    assert "Traceback" not in stderr
    assert (project.folder / "live").read_text() == "qq!"


def test_a_script_that_does_not_import_today_is_one_sentence(project: Project) -> None:
    project.edit("FACTOR = 10", "FACTOR = 1 / 0")
    code, _, stderr = project.replay()
    assert code == 2
    assert "does not import today: ZeroDivisionError" in stderr
    assert "Traceback" not in stderr


def test_a_script_whose_class_was_renamed_is_one_sentence_naming_the_nearest(project: Project) -> None:
    project.edit("class Agent:", "class Agents:")
    project.edit("Agent().run", "Agents().run")
    code, _, stderr = project.replay()
    assert code == 2
    assert "the nearest is 'Agents'" in stderr


def test_a_package_run_with_dash_m_is_imported_by_its_name(tmp_path: Path) -> None:
    project = Project(tmp_path)
    package = project.folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    project.script.rename(package / "agent.py")
    assert "KeyError" in project.run("-m", "package.agent", "q").stderr
    code, told, stderr = project.replay(cwd=tmp_path)
    assert (code, told["error"]["type"]) == (1, "KeyError")
    assert "importing package.agent" in stderr


def test_a_decorated_function_of_a_script_is_replayed_too(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.edit("Agent().run(sys.argv[1])", "checkpointed('q')")
    project.edit("@checkpointable\n    class".replace("    ", ""), "CHECK")
    source = "@checkpointable\ndef checkpointed(q):\n    return {}[search(q).text]\n\n@checkpointable\nclass"
    project.edit("CHECK", source)
    assert "KeyError: 'qq'" in project.run("agent.py").stderr
    code, told, _ = project.replay()
    assert (code, told["error"]) == (1, {"type": "KeyError", "message": "'qq'"})
    assert (project.folder / "live").read_text() == "q"


def test_the_running_script_replays_its_own_failure(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.edit(
        "Agent().run(sys.argv[1])",
        """try:
        Agent().run("q")
    except KeyError:
        from clearstone.debugging import CheckpointManager, ReplayEngine
        engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
        try:
            engine.replay_from_checkpoint()
        except KeyError as error:
            print("replayed", error, open("live").read())""",
    )
    run = project.run("agent.py")
    assert "replayed 'q' qq!" in run.stdout, run.stderr


def test_code_that_never_had_a_file_is_replayed_as_stored(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert "KeyError" in project.run("-c", project.script.read_text(), "q").stderr
    code, told, stderr = project.replay()
    assert (code, told["error"]["type"]) == (1, "KeyError")
    assert "had no file" in stderr
    assert (project.folder / "live").read_text() == "qq!"


def test_a_package_that_runs_its_agent_on_import_is_refused_too(tmp_path: Path) -> None:
    project = Project(tmp_path)
    package = project.folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    project.edit('if __name__ == "__main__":', "if True:")
    project.script.rename(package / "__main__.py")
    assert "KeyError" in project.run("-m", "package", "q").stderr
    code, _, stderr = project.replay()
    assert code == 2
    assert "__name__ ==" in stderr
    assert (project.folder / "live").read_text() == "qq!"


IN_THREADS = """
    from concurrent.futures import ThreadPoolExecutor
    from threading import Thread
    from clearstone import checkpointable, traced

    class Result:
        pass

    @checkpointable
    class Agent:
        @traced(span_type="llm")
        def ask(self, q):
            return Result()

        def run(self):
            found = [self.ask(1)]
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(self.ask, 2).result())
            thread = Thread(target=lambda: found.append(self.ask(3)))
            thread.start()
            thread.join()
            raise ValueError([isinstance(each, Result) for each in found])

    if __name__ == "__main__":
        Agent().run()
"""


def test_what_threads_are_answered_with_is_of_the_classes_of_today(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.script.write_text(textwrap.dedent(IN_THREADS))
    assert "ValueError: [True, True, True]" in project.run("agent.py").stderr
    assert "ValueError: [True, True, True]" in project.run("-m", "clearstone", "replay", "latest").stdout
