"""A folder with an agent in it, and the command line to be typed there."""

import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

AGENT = """
    from clearstone import checkpointable, traced

    @checkpointable
    class Agent:
        def __init__(self):
            self.notes, self.double = ["[bold]markup[/bold]"], lambda n: 2 * n

        @traced(span_type="llm")
        def ask(self, q):
            open("live", "a").write(q)
            return {"a": 1}.get(q)

        def run(self, *questions):
            print("the agent prints")
            for q in questions:
                self.notes.append(self.double(self.ask(q)))
            return self.notes

    if __name__ == "__main__":
        Agent().run("a", "b")
"""


class Shell:
    """Runs the command line in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "agent.py").write_text(textwrap.dedent(AGENT))

    def python(self, *arguments: str, typed: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, *arguments], typed, env)

    def piped(self, arguments: str, reader: str) -> subprocess.CompletedProcess[str]:
        command = f"{shlex.quote(sys.executable)} -m clearstone {arguments} | {reader}"
        return self._run(["/bin/sh", "-c", command], "", {})

    def _run(self, command: list[str], typed: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "CLEARSTONE_HOME"}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=kept | {"PYTHONIOENCODING": "utf-8"} | env,
            input=typed,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def __call__(self, *arguments: str, typed: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "clearstone", *arguments, typed=typed, **env)

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="session")
def a_failure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the agent failed, made once, with what the machine's key is in there."""
    folder = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        _fail(Shell(folder))
    return folder


@pytest.fixture
def failed(a_failure: Path, shell: Shell) -> Shell:
    """The folder of a failure, as a copy: its script is another file than the one that failed."""
    config = Path(os.environ["XDG_CONFIG_HOME"])
    shutil.copytree(a_failure, shell.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("config"))
    shutil.copytree(a_failure / "config", config, dirs_exist_ok=True)
    return shell


@pytest.fixture
def failed_here(shell: Shell) -> Shell:
    """The folder of a failure, for who changes the script, or asks where it is."""
    _fail(shell)
    return shell


def _fail(shell: Shell) -> None:
    run = shell.python("agent.py")
    assert run.returncode == 1
    (told,) = [line for line in run.stderr.splitlines() if line.startswith("clearstone:")]
    assert "Agent.run failed with TypeError" in told
    assert told.endswith("next: clearstone debug latest")
