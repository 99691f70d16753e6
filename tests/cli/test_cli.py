"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import sqlite3
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Shell


def test_help_lists_the_commands_and_the_exit_codes(shell: Shell) -> None:
    run = shell("--help")
    assert run.returncode == 0
    for word in (
        "demo",
        "traces",
        "show",
        "search",
        "checkpoints",
        "inspect",
        "diff",
        "timeline",
        "annotate",
        "trust",
        "replay",
        "debug",
        "doctor",
        "export",
        "gc",
        "forget",
        "Exit codes",
    ):
        assert word in run.stdout


@pytest.mark.parametrize("command", ["traces", "checkpoints"])
def test_listing_where_nothing_was_recorded_says_so_and_creates_nothing(shell: Shell, command: str) -> None:
    before = shell.files()
    run = shell(command)
    assert (run.returncode, run.stdout) == (0, "")
    assert "yet" in run.stderr
    assert shell(command, "--json").stdout.strip() == "[]"
    assert shell.files() == before


@pytest.mark.parametrize("command", ["show", "inspect", "replay", "debug"])
def test_latest_where_nothing_was_recorded_is_one_sentence(shell: Shell, command: str) -> None:
    before = shell.files()
    run = shell(command, "latest")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("Error: ")
    assert shell.files() == before


def test_traces_and_show_print_what_was_called(failed: Shell) -> None:
    (summary,) = json.loads(failed("traces", "--json").stdout)
    assert (summary["name"], summary["spans"], summary["status"]) == ("Agent.run", 3, "ERROR")
    assert "Agent.run" in failed("traces").stdout
    tree = failed("show", summary["trace_id"][:8]).stdout
    assert "Agent.ask llm" in tree
    assert "('b')" in tree
    assert "raised TypeError" in tree
    spans = json.loads(failed("show", "latest", "--json").stdout)["spans"]
    assert [span["name"] for span in spans] == ["Agent.run", "Agent.ask", "Agent.ask"]
    assert spans[1]["outcome"]["value"] == 1
    assert spans[1]["input"] == {"$tuple": [{"$tuple": ["a"]}, {}]}


def test_checkpoints_and_inspect_print_what_was_saved_without_loading_it(failed: Shell) -> None:
    (info,) = json.loads(failed("checkpoints", "--json").stdout)
    assert (info["agent"], info["span"], info["occurrences"]) == ("__main__.Agent", "Agent.run", 1)
    assert "TypeError" in failed("checkpoints").stdout
    (failed.folder / "agent.py").write_text("raise SystemExit('imported')")
    for reference in ("latest", info["checkpoint_id"], info["checkpoint_id"][5:9], info["path"], info["trace_id"][:6]):
        told = json.loads(failed("inspect", reference, "--json").stdout)
        assert told["checkpoint_id"] == info["checkpoint_id"]
    assert told["state"]["notes"] == ["[bold]markup[/bold]"]
    assert told["state_at_end"]["notes"] == ["[bold]markup[/bold]", 2]
    assert told["failure"]["type"] == "TypeError"
    assert told["call"]["site"] == "__main__:Agent.run"
    shown = failed("inspect", "latest").stdout
    assert "[bold]markup[/bold]" in shown
    assert "lambda" in shown


def test_replay_prints_json_alone_on_standard_output(failed: Shell) -> None:
    run = failed("replay", "latest", "--json")
    told = json.loads(run.stdout)
    assert run.returncode == 1
    assert set(told) == {
        "checkpoint", "result", "error", "as_recorded", "hash_seed", "changed_code", "ledger", "calls", "written",
        "unrecorded", "values",
    }  # fmt: skip
    assert (told["as_recorded"], told["written"], told["unrecorded"]) == (True, [], [])
    assert told["values"] == {"random": "recorded state", "uuid": "none drawn", "time": "follows the record"}
    assert told["error"]["type"] == "TypeError"
    assert {verdict: count for verdict, count in told["ledger"].items() if count} == {"reused": 2, "again": 1}
    assert [call["verdict"] for call in told["calls"]] == ["reused", "reused", "again"]
    assert "the agent prints" in run.stderr
    assert (failed.folder / "live").read_text() == "ab"


def test_replay_for_people_shows_the_users_frames_alone(failed: Shell) -> None:
    run = failed("replay", "latest")
    assert run.returncode == 1
    assert "agent.py" in run.stdout
    assert "clearstone/" not in run.stdout
    assert "Replay failed as recorded: reused 2 · diverged 0 · unused 0 · live 0\n" in run.stdout


def test_a_fixed_agent_runs_through_and_one_that_goes_further_stops_with_three(failed_here: Shell) -> None:
    agent = failed_here.folder / "agent.py"
    agent.write_text(agent.read_text().replace("self.ask(q))", "self.ask(q) or 0)"))
    run = failed_here("replay", "latest", "--json")
    assert (run.returncode, json.loads(run.stdout)["result"]) == (0, ["[bold]markup[/bold]", 2, 0])
    agent.write_text(agent.read_text().replace("return self.notes", "return self.ask('more')"))
    run = failed_here("replay", "latest", "--json")
    assert (run.returncode, json.loads(run.stdout)["error"]["type"]) == (3, "clearstone.errors.BeyondRecord")
    assert failed_here("debug", "latest", typed="c\n").returncode == 3
    agent.write_text(agent.read_text().replace("self.ask(q)", "self.ask(q + '?')"))
    run = failed_here("replay", "latest", "--json")
    assert (run.returncode, json.loads(run.stdout)["error"]["type"]) == (1, "clearstone.errors.ReplayDivergence")
    assert (failed_here.folder / "live").read_text() == "ab"


def test_debug_takes_scripted_input_and_a_mock_configuration(failed_here: Shell) -> None:
    run = failed_here("debug", "latest", "--mock", "llm=agent.Agent.ask", typed="n\np self.notes\nc\n")
    assert run.returncode == 1
    assert "Mocking 'agent.Agent.ask' (for span_type='llm')" in run.stdout
    assert "(Pdb)" in run.stdout
    assert "Replay Failed: TypeError" in run.stdout
    assert failed_here("debug", "latest", typed="q\n").returncode == 0


def test_home_and_db_count_before_and_after_the_command(failed: Shell) -> None:
    (failed.folder / ".clearstone").rename(failed.folder / "moved")
    assert json.loads(failed("--home", "moved", "checkpoints", "--json").stdout)
    assert json.loads(failed("checkpoints", "--home", "moved", "--json").stdout)
    assert json.loads(failed("traces", "--db", "moved/traces.db", "--json").stdout)
    assert failed("--home", "moved", "replay", "latest").returncode == 1


def test_output_has_no_colour_codes_when_it_is_piped_or_no_color_is_set(failed: Shell) -> None:
    for env in ({}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        assert "\x1b[3" not in failed("show", "latest", **env).stdout


def test_a_reader_that_goes_away_is_no_traceback(failed: Shell) -> None:
    run = failed.piped("show latest", "head -1")
    assert run.stdout.startswith("trace ")
    assert "Traceback" not in run.stderr


def _truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-10])
    return str(path)


def _emptied(path: Path) -> str:
    path.write_bytes(b"")
    return str(path)


def _altered(path: Path) -> str:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return str(path)


def _another(path: Path) -> str:
    path.write_text("not a checkpoint")
    return str(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncated, "torn or altered"),
        (_emptied, "is empty"),
        (_altered, "torn or altered"),
        (_another, "is not a checkpoint"),
        (lambda path: str(path.parent), "is not a checkpoint file"),
        (lambda _: "nowhere.ckpt", "no checkpoint 'nowhere.ckpt'"),
        (lambda _: "zzz", "no checkpoint 'zzz'"),
        (lambda _: "", "no checkpoint ''"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "replay", "debug"])
def test_a_checkpoint_that_cannot_be_read_is_one_sentence_with_the_next_step(
    failed: Shell, command: str, damage: Callable[[Path], str], says: str
) -> None:
    (path,) = (failed.folder / ".clearstone" / "checkpoints").iterdir()
    reference = damage(path)
    before = failed.files()
    run = failed(command, reference)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert failed.files() == before


def test_debug_shows_the_traceback_of_an_own_error_when_asked(failed: Shell) -> None:
    run = failed("inspect", "zzz", "--debug")
    assert run.returncode != 0
    assert "Traceback" in run.stderr


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_text("no database, but long enough to be looked at as one"), "not a database"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: None, "there is no trace database"),
        (lambda path: _sqlite(path, "CREATE TABLE notes (x)"), "another program"),
        (lambda path: _sqlite(path, "PRAGMA user_version = 99", "PRAGMA application_id = 1129075540"), "newer"),
    ],
)
@pytest.mark.parametrize("command", [["traces"], ["show", "latest"]])
def test_a_trace_database_that_cannot_be_read_is_one_sentence(
    shell: Shell, command: list[str], make: Callable[[Path], None], says: str
) -> None:
    make(shell.folder / "some.db")
    before = shell.files()
    run = shell(*command, "--db", "some.db")
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert shell.files() == before


def _sqlite(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE spans (x)")
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize("arguments", [["shwo"], ["replay"], ["replay", "latest", "--code", "old"], ["--hom"]])
def test_a_mistyped_command_line_is_a_usage_error(shell: Shell, arguments: list[str]) -> None:
    run = shell(*arguments)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_a_mock_that_is_no_pair_is_a_usage_error(failed: Shell) -> None:
    run = failed("debug", "latest", "--mock", "llm")
    assert run.returncode == 2
    assert "must be TYPE=TARGET" in run.stderr


@pytest.mark.parametrize("command", ["replay", "debug"])
def test_a_function_the_agent_lacks_is_a_usage_error_naming_the_nearest(failed: Shell, command: str) -> None:
    run = failed(command, "latest", "--function", "rnu")
    assert (run.returncode, run.stdout) == (2, "")
    assert "the nearest is 'run'" in run.stderr


def test_the_demo_fails_replays_and_says_what_to_type_next(shell: Shell) -> None:
    run = shell("demo", "here")
    assert run.returncode == 0, run.stderr
    for text in (
        "here/agent.py",
        "clearstone: RefundAgent.handle failed",
        "ckpt_",
        "Replay failed as recorded:",
        "debug latest",
    ):
        assert text in run.stdout
    assert (shell.folder / "here" / ".clearstone" / "traces.db").exists()
    assert shell("demo", "here").returncode == 0


def test_the_demo_overwrites_nothing_of_the_users(shell: Shell) -> None:
    agent = (shell.folder / "agent.py").read_text()
    run = shell("demo", ".")
    assert run.returncode == 2
    assert "is there already and is not the demo's" in run.stderr
    assert shell("demo", "agent.py").returncode == 2
    assert (shell.folder / "agent.py").read_text() == agent


def test_what_was_recorded_cannot_write_to_the_terminal(shell: Shell) -> None:
    agent = shell.folder / "agent.py"
    agent.write_text(agent.read_text().replace("Agent().run('a', 'b')", "").replace('run("a", "b")', 'ask("\\x1b[2J")'))
    assert "KeyError" not in shell.python("agent.py").stderr
    agent.write_text(agent.read_text().replace('{"a": 1}.get(q)', '{"a": 1}[q]'))
    assert shell.python("agent.py").returncode == 1
    for command in ("show", "inspect"):
        assert "\x1b[2J" not in shell(command, "latest").stdout
    assert "x1b[2J" in shell("show", "latest").stdout


def test_a_home_that_is_a_file_is_one_sentence(shell: Shell) -> None:
    run = shell("traces", "--home", "agent.py")
    assert run.returncode == 2
    assert "is a file" in run.stderr


def test_a_message_that_is_no_valid_text_and_a_repr_that_raises_are_still_told(shell: Shell) -> None:
    (shell.folder / "agent.py").write_text(
        textwrap.dedent("""
        from clearstone import checkpointable
        class Odd:
            def __repr__(self): raise ValueError
        @checkpointable
        class Agent:
            def run(self):
                raise ValueError("\\ud800 half")
        if __name__ == "__main__":
            Agent().run()
        """)
    )
    shell.python("agent.py")
    for command in (["checkpoints"], ["inspect", "latest"], ["replay", "latest"], ["show", "latest"]):
        run = shell(*command, PYTHONIOENCODING="ascii")
        assert "half" in run.stdout
        assert "UnicodeEncodeError" not in run.stderr
    agent = shell.folder / "agent.py"
    agent.write_text(agent.read_text().replace('raise ValueError("\\ud800 half")', "return Odd()"))
    assert shell("replay", "latest").returncode == 0
    assert "Odd" in json.loads(shell("replay", "latest", "--json").stdout)["result"]


@pytest.mark.parametrize("target", ["datetime.datetime.now", "builtins.len", "broken.f"])
def test_a_mock_target_that_cannot_be_replaced_is_one_sentence(failed: Shell, target: str) -> None:
    (failed.folder / "broken.py").write_text("1 / 0")
    run = failed("debug", "latest", "--mock", f"llm={target}")
    assert (run.returncode, run.stdout) == (2, "")
    assert target in run.stderr
    assert "Traceback" not in run.stderr
