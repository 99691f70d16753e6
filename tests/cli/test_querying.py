"""``clearstone search`` and ``clearstone export``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from clearstone.cli import moments

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["Agent.ask", "Agent.ask", "Agent.run"]),
        (["unsupported operand"], ["Agent.run"]),
        (['"operand type"', "--type", "agent"], ["Agent.run"]),
        (["operand", "--type", "llm"], []),
        (["--type", "llm", "-n", "1"], ["Agent.ask"]),
        (["--name", "Agent.run"], ["Agent.run"]),
        (["--status", "error"], ["Agent.run"]),
        (["--status", "interrupted"], []),
        (["--since", "1h"], ["Agent.ask", "Agent.ask", "Agent.run"]),
        (["--until", "1h"], []),
        (["--since", "2000-01-01", "--until", "2001-01-01T10:00+01:00"], []),
        (["--until", "9999-12-31"], ["Agent.ask", "Agent.ask", "Agent.run"]),
        (["--since", "0001-01-01", "--until", "9999-12-31T23:59"], ["Agent.ask", "Agent.ask", "Agent.run"]),
    ],
)
def test_search_finds_by_text_and_metadata(failed: Shell, arguments: list[str], names: list[str]) -> None:
    run = failed("search", *arguments, "--json")
    assert run.returncode == 0, run.stderr
    assert [span["name"] for span in json.loads(run.stdout)] == names
    shown = failed("search", *arguments)
    assert (shown.returncode, bool(shown.stdout)) == (0, bool(names))
    assert ("No such span" in shown.stderr) is not bool(names)


def test_search_shows_the_text_it_found(failed: Shell) -> None:
    assert "unsupported operand type" in failed("search", "operand").stdout


def test_search_json_tells_metadata_and_no_values(failed: Shell) -> None:
    (span,) = json.loads(failed("search", "--name", "Agent.run", "--json").stdout)
    assert set(span) == {
        "trace_id", "span_id", "parent_id", "name", "span_type", "site", "instance", "called_at", "started", "ended",
        "interrupted", "status", "status_description", "error",
    }  # fmt: skip
    assert span["instance"] == "__main__:Agent#1"
    assert span["error"]["type"] == "TypeError"


def test_search_where_nothing_was_recorded_finds_nothing_and_creates_nothing(shell: Shell) -> None:
    before = shell.files()
    assert shell("search", "word", "--json").stdout.strip() == "[]"
    assert shell.files() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["!!!"], "holds no word to search for"),
        (["--since", "yesterday"], "'yesterday' is no moment; give 2025-01-31"),
        (["--since", "2025-13-01"], "is no moment"),
        (["--since", "1h", "--until", "2h"], "--since is not before --until"),
        (["--status", "bad"], "bad"),
        (["-n", "0"], "0"),
        (["one", "two"], "two"),
    ],
)
def test_careless_search_input_is_a_sentence_and_exit_code_2(failed: Shell, arguments: list[str], says: str) -> None:
    run = failed("search", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr


# --- export ----------------------------------------------------------------------------------------------------------


def test_export_writes_one_span_a_line_as_show_does(failed: Shell) -> None:
    shown = json.loads(failed("show", "latest", "--json").stdout)
    for run in (failed("export", "latest"), failed("export", "--all"), failed("export", "--all", "-o", "-")):
        assert [json.loads(line) for line in run.stdout.splitlines()] == shown["spans"]
    assert failed("export", shown["trace_id"][:8], "--format", "jsonl", "-o", "out.jsonl").stdout == ""
    written = (failed.folder / "out.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in written] == shown["spans"]


def test_export_loads_nothing(failed: Shell) -> None:
    (failed.folder / "agent.py").write_text("raise SystemExit('imported')")
    assert failed("export", "--all").returncode == 0


def test_export_works_with_a_reader_that_goes_away(failed: Shell) -> None:
    run = failed.piped("export --all", "head -1")
    assert json.loads(run.stdout)["name"] == "Agent.run"
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "either a TRACE"),
        (["latest", "--all"], "either a TRACE"),
        (["nowhere"], "no trace begins with 'nowhere'"),
        (["latest", "--format", "csv"], "csv"),
        (["latest", "-o", "no/such/folder/out"], "no/such/folder/out"),
        (["latest", "-o", "."], "directory"),
    ],
)
def test_careless_export_input_is_a_sentence_and_exit_code_2(failed: Shell, arguments: list[str], says: str) -> None:
    run = failed("export", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert "Traceback" not in run.stderr


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * 86400), ("12h", 43200), ("90m", 5400), (" 5 S", 5), ("2w", 14 * 86400)]
)
def test_durations_are_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert moments.duration(text) == seconds * 10**9


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00Z", 0),
        ("1970-01-02T00:00+00:00", 86400 * 10**9),
        ("2262-04-11T23:47:16.854775+00:00", 9223372036854775000),
        ("1969-12-31T23:59:59Z", -(10**9)),
    ],
)
def test_moments_are_iso_dates(text: str, moment: int) -> None:
    assert moments.moment(text) == moment
