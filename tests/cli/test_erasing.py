"""``clearstone forget``, and what is left after it."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


def traces(shell: Shell) -> list[str]:
    return [each["trace_id"] for each in json.loads(shell("traces", "--json").stdout)]


# --- forget ----------------------------------------------------------------------------------------------------------


def test_forget_erases_spans_and_checkpoints_of_that_trace_alone(failed: Shell) -> None:
    (first,) = traces(failed)
    assert failed.python("agent.py").returncode == 1
    (second,) = set(traces(failed)) - {first}
    run = failed("forget", first[:10], "--yes")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"Erased trace {first}: 3 span(s), ")
    assert "1 checkpoint(s); " in run.stdout
    assert "freed." in run.stdout
    assert traces(failed) == [second]
    (seen,) = (failed.folder / ".clearstone" / "seen").iterdir()
    assert [line.split()[1] for line in seen.read_text().splitlines()] == [f"{second}.pack"]
    assert [info["trace_id"] for info in json.loads(failed("checkpoints", "--json").stdout)] == [second]


def test_forget_asks_first(failed: Shell) -> None:
    before = traces(failed)
    for typed in ("n\n", ""):
        run = failed("forget", "latest", typed=typed)
        assert run.returncode == 1
        assert f"Erase trace {before[0]} and 1 checkpoint(s)? This cannot be undone." in run.stdout
    assert traces(failed) == before
    assert failed("forget", "latest", typed="y\n").returncode == 0
    assert traces(failed) == []


def test_a_checkpoint_that_is_torn_or_has_another_name_is_erased_too(failed: Shell) -> None:
    folder = failed.folder / ".clearstone" / "checkpoints"
    (path,) = folder.iterdir()
    (folder / "renamed.ckpt").write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:50])
    assert failed("forget", "latest", "--yes").returncode == 0
    assert list(folder.iterdir()) == []


def test_a_trace_of_which_only_checkpoints_are_left_can_be_forgotten(failed: Shell) -> None:
    (trace,) = traces(failed)
    for file in (failed.folder / ".clearstone").glob("traces.db*"):
        if file.is_file():
            file.unlink()
    assert "0 span(s)" in failed("forget", trace[:6], "--yes").stdout
    assert list((failed.folder / ".clearstone" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("reference", ["zzz", "", "abcdef0123"])
def test_forgetting_what_is_not_there_is_one_sentence_and_erases_nothing(failed: Shell, reference: str) -> None:
    before = traces(failed)
    run = failed("forget", reference, "--yes")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("Error: no trace begins with")
    assert traces(failed) == before


# --- the dead --------------------------------------------------------------------------------------------------------

KILLED = """
    import os, signal
    from clearstone import traced

    @traced(span_type="llm")
    def ask(q):
        if q == "last":
            os.kill(os.getpid(), signal.SIGKILL)
        return "answered"

    @traced
    def run():
        ask("first")
        ask("last")

    run()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL") or os.name != "posix", reason="kills")
def test_what_a_killed_process_left_is_shown_as_interrupted(shell: Shell) -> None:
    (shell.folder / "killed.py").write_text(textwrap.dedent(KILLED))
    assert shell.python("killed.py").returncode == -9
    (summary,) = json.loads(shell("traces", "--json").stdout)
    assert (summary["spans"], summary["open_spans"], summary["interrupted"], summary["ended"]) == (3, 0, 2, None)
    assert "2 interrupted" in shell("traces").stdout
    tree = shell("show", "latest").stdout
    assert tree.count("interrupted") == 2
    assert "'answered'" in tree
    spans = json.loads(shell("show", "latest", "--json").stdout)["spans"]
    assert [span["interrupted"] for span in spans] == [True, False, True]
    found = json.loads(shell("search", "--status", "interrupted", "--json").stdout)
    assert [span["name"] for span in found] == ["ask", "run"]
