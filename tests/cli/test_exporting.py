"""``clearstone export`` of a checkpoint: one file, from which a colleague debugs."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.conftest import Shell

from clearstone.cli import sizes

if TYPE_CHECKING:
    from subprocess import CompletedProcess


def moved(shell: Shell, name: str, folder: Path) -> Shell:
    """Take one file elsewhere, and away what was recorded and the script; this machine's key stays."""
    there = Shell(folder)
    (folder / "agent.py").unlink()
    (shell.folder / "agent.py").unlink()
    shutil.move(shell.folder / name, folder / name)
    shutil.rmtree(shell.folder / ".clearstone")
    return there


def replayed(run: CompletedProcess[str]) -> str:
    return str((json.loads(run.stdout)["error"] or {}).get("type"))


def test_the_file_alone_replays_in_another_folder_without_database_and_script(
    failed: Shell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = failed("export", "latest", "-o", "bug.ckpt")
    assert run.stdout == "bug.ckpt\n"
    assert "It stands alone (3 recorded call(s), " in run.stderr
    there = moved(failed, "bug.ckpt", tmp_path_factory.mktemp("elsewhere"))
    assert replayed(there("replay", "bug.ckpt", "--json")) == "TypeError"
    assert "reused 2 · diverged 0" in there("replay", "bug.ckpt").stdout
    assert [path.name for path in there.folder.iterdir()] == ["bug.ckpt"]


def test_on_another_machine_it_replays_once_it_is_trusted(
    failed: Shell, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed("export", "latest", "-o", "bug.ckpt")
    there = moved(failed, "bug.ckpt", tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("another machine")))
    assert there("replay", "bug.ckpt").returncode == 2
    again = there("export", "bug.ckpt", "-o", "mine.ckpt")  # it would be signed with this machine's key
    assert (again.returncode, again.stdout) == (2, "")
    assert "clearstone trust" in again.stderr
    assert there("trust", "bug.ckpt", "--yes").returncode == 0
    assert replayed(there("replay", "bug.ckpt", "--json")) == "TypeError"


ENTRIES = """
    from clearstone import checkpointable, traced

    @checkpointable(on="entry")
    class Agent:
        @traced(span_type="llm")
        def ask(self, q):
            return q.upper()

        def run(self, *questions):
            return [self.ask(q) for q in questions]

    if __name__ == "__main__":
        Agent().run("a", "b")
"""


def test_the_checkpoint_of_an_entry_is_exported_with_what_followed(
    shell: Shell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (shell.folder / "agent.py").write_text(textwrap.dedent(ENTRIES))
    assert shell.python("agent.py").returncode == 0
    (info,) = json.loads(shell("checkpoints", "--json").stdout)
    assert shell("export", info["checkpoint_id"]).stdout == f"{info['checkpoint_id']}.ckpt\n"
    there = moved(shell, f"{info['checkpoint_id']}.ckpt", tmp_path_factory.mktemp("elsewhere"))
    run = there("replay", f"{info['checkpoint_id']}.ckpt", "--json")
    assert json.loads(run.stdout)["result"] == ["A", "B"]


def test_what_is_named_says_what_is_exported(failed: Shell) -> None:
    (info,) = json.loads(failed("checkpoints", "--json").stdout)
    made = ["id.ckpt", "pack.ckpt", "latest.ckpt", "prefix.ckpt"]
    named = [info["checkpoint_id"], info["path"], "latest", info["checkpoint_id"][5:10]]
    for name, reference in zip(made, named, strict=True):
        form = ["--format", "ckpt"] if reference == "latest" else []
        assert failed("export", reference, *form, "-o", name).stdout == f"{name}\n"
        inspected = json.loads(failed("inspect", name, "--json").stdout)
        assert inspected["checkpoint_id"] == info["checkpoint_id"]
    lines = failed("export", "latest").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["Agent.run", "Agent.ask", "Agent.ask"]


def test_a_file_that_is_there_is_replaced_only_when_asked(failed: Shell) -> None:
    assert failed("export", "latest", "--format", "ckpt").returncode == 0
    (path,) = failed.folder.glob("ckpt_*.ckpt")
    path.write_text("mine")
    run = failed("export", path.stem)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"{path.name} is there already; --force replaces it" in run.stderr
    assert path.read_text() == "mine"
    assert failed("export", path.stem, "--force").stdout == f"{path.name}\n"
    assert json.loads(failed("inspect", path.name, "--json").stdout)["checkpoint_id"] == path.stem


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--all", "--format", "ckpt"], "--all is of traces"),
        (["ckpt_zzz"], "no checkpoint 'ckpt_zzz'"),
        (["latest", "--format", "ckpt", "-o", "bug.json"], "the file of a checkpoint ends in .ckpt"),
        (["latest", "--format", "ckpt", "-o", "-"], "the file of a checkpoint ends in .ckpt"),
        (["latest", "-o", "no/such/bug.ckpt"], "there is no folder no/such"),
    ],
)
def test_careless_input_is_a_sentence_and_nothing_is_written(failed: Shell, arguments: list[str], says: str) -> None:
    before = failed.files()
    run = failed("export", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert failed.files() == before


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KB"), (3 << 20, "3.0 MB"), (-2048, "-2.0 KB")],
)
def test_sizes_are_read_by_people(number: int, text: str) -> None:
    assert sizes.size(number) == text
    if number >= 0:
        assert sizes.in_bytes(text) == number


@pytest.mark.parametrize(("text", "number"), [("500", 500), ("1k", 1024), ("2 gb", 2 << 30), ("10MB", 10 << 20)])
def test_sizes_are_typed_in_several_ways(text: str, number: int) -> None:
    assert sizes.in_bytes(text) == number
