"""``clearstone gc``: what is old goes, and takes nothing with it that is not."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Shell

AGENT = """
    import sys
    from clearstone import checkpointable, traced

    @checkpointable(on="always")
    class Agent:
        @traced(span_type="llm")
        def ask(self, q):
            return q

        def run(self, q):
            return 1 / len(self.ask(q))

    if __name__ == "__main__":
        for q in sys.argv[1:]:
            Agent().run(q)
"""


@pytest.fixture
def ran(shell: Shell) -> Shell:
    """A run that went well and one that failed, both with checkpoints."""
    (shell.folder / "agent.py").write_text(textwrap.dedent(AGENT))
    assert shell.python("agent.py", "well", "").returncode == 1
    return shell


def files(shell: Shell) -> list[Path]:
    return sorted((shell.folder / ".clearstone" / "checkpoints").iterdir())


def moments(shell: Shell) -> list[str]:
    return [each["moment"] for each in json.loads(shell("checkpoints", "--json").stdout)]


def traces(shell: Shell) -> int:
    return len(json.loads(shell("traces", "--json").stdout))


def test_what_is_older_goes_with_its_checkpoints_and_a_dry_run_only_tells(ran: Shell) -> None:
    size = sum(path.stat().st_size for path in files(ran))
    for arguments in (["1d"], ["1d", "--dry-run"]):
        said = ran("gc", "--older-than", *arguments).stdout
        assert "0 trace(s) with 0 span(s)" in said
        assert "0 checkpoint(s) in 0 file(s), 0 bytes" in said
    told = ran("gc", "--older-than", "0s", "--dry-run").stdout
    assert told.startswith("Would erase 2 trace(s) with 4 span(s), about ")
    assert f"Would erase 4 checkpoint(s) in 2 file(s), {size / 1024:.1f} KB to be freed." in told
    assert (traces(ran), len(moments(ran))) == (2, 4)
    said = ran("gc", "--older-than", "0s").stdout
    assert said.startswith("Erased 2 trace(s) with 4 span(s), ")
    assert f"Erased 4 checkpoint(s) in 2 file(s), {size / 1024:.1f} KB freed." in said
    assert (traces(ran), files(ran)) == (0, [])


def test_what_failed_can_be_kept_with_every_checkpoint_of_its_run(ran: Shell) -> None:
    assert "Erased 2 checkpoint(s) in 1 file(s)" in ran("gc", "--older-than", "0s", "--keep-failed").stdout
    assert (traces(ran), moments(ran)) == (1, ["failure", "entry"])
    assert json.loads(ran("replay", "latest", "--json").stdout)["error"]["type"] == "ZeroDivisionError"


def test_a_failure_whose_database_is_gone_is_kept_too(ran: Shell) -> None:
    for path in (ran.folder / ".clearstone").glob("traces.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = ran("gc", "--older-than", "0s", "--keep-failed").stdout
    assert said.startswith("Erased 0 trace(s) with 0 span(s)")
    assert moments(ran) == ["failure", "entry"]
    assert "Erased 2 checkpoint(s) in 1 file(s)" in ran("gc", "--older-than", "0s").stdout


def test_a_pack_of_a_trace_that_still_lives_loses_nothing(shell: Shell) -> None:
    (shell.folder / "agent.py").write_text(
        textwrap.dedent(AGENT).replace(
            "for q in sys.argv[1:]:\n        Agent().run(q)",
            "@traced\n    def session():\n        Agent().run('early')\n        time.sleep(3)\n    session()",
        ).replace("import sys", "import time")
    )  # fmt: skip
    assert shell.python("agent.py").returncode == 0
    before = [path.read_bytes() for path in files(shell)]
    ended = time.time()
    assert len(moments(shell)) == 2
    age = int(time.time() - ended) + 2  # its checkpoints are older than that, and its last call's end is not
    assert "Erased 0 checkpoint(s)" in shell("gc", "--older-than", f"{age}s").stdout
    assert [path.read_bytes() for path in files(shell)] == before


def test_the_users_own_folder_and_what_cannot_be_read_stay(ran: Shell) -> None:
    (ran.folder / ".checkpoints").mkdir()
    shutil.copy(files(ran)[0], ran.folder / ".checkpoints" / "mine.pack")
    torn = files(ran)[0].with_name("torn.ckpt")
    torn.write_bytes(b"CLRSTONE")
    assert ran("gc", "--older-than", "0s").returncode == 0
    assert files(ran) == [torn]
    assert (ran.folder / ".checkpoints" / "mine.pack").exists()


def test_with_another_database_checkpoints_stay(ran: Shell) -> None:
    shutil.copy(ran.folder / ".clearstone" / "traces.db", ran.folder / "other.db")
    said = ran("gc", "--older-than", "0s", "--db", "other.db").stdout
    assert "Erased 2 trace(s)" in said
    assert "Erased 0 checkpoint(s)" in said
    assert len(moments(ran)) == 4


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1y", "", "1.5h"])
def test_an_age_that_is_none_is_a_sentence_and_exit_code_2(ran: Shell, age: str) -> None:
    before = ran.files()
    run = ran("gc", "--older-than", age)
    assert (run.returncode, run.stdout) == (2, "")
    assert "is no duration; give a number and s, m, h, d or w" in " ".join(run.stderr.split())
    assert ran.files() == before


def test_gc_wants_to_be_told_an_age(shell: Shell) -> None:
    assert shell("gc").returncode == 2


def test_gc_where_nothing_was_recorded_creates_nothing(shell: Shell) -> None:
    before = shell.files()
    assert shell("gc", "--older-than", "30d").returncode == 0
    assert shell.files() == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="a folder that its owner may not write to")
def test_a_file_that_cannot_be_erased_is_told_and_not_counted(ran: Shell) -> None:
    folder = files(ran)[0].parent
    folder.chmod(0o500)
    run = ran("gc", "--older-than", "0s")
    folder.chmod(0o700)
    assert "Erased 0 checkpoint(s)" in run.stdout
    assert run.stderr.count(" stays: ") == 2
