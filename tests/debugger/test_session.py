"""Sessions with scripted input: where they stop, what they print, how they end."""

import asyncio
import importlib
import io
import itertools
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import ConfigurationError, ReplayError, ReplayExhausted, TargetError

names = itertools.count()

AGENT = """
    import asyncio, functools, threading, time
    from clearstone import checkpointable, traced

    NAP = 0

    def logged(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)
        return wrapper

    @checkpointable
    class Agent:
        def __init__(self):
            self.seen = []

        @traced(span_type="llm")
        def ask(self, q):
            return {"a": 1, "b": 2}[q]

        @traced(span_type="llm")
        async def aask(self, q):
            await asyncio.sleep(0.01)
            return {"a": 1, "b": 2}[q]

        def run(self, *questions):
            for q in questions:
                self.seen.append(self.ask(q))
            return 1 / (len(self.seen) - 2)

        async def arun(self, *questions):
            answers = await asyncio.gather(*(self.aask(q) for q in questions))
            await asyncio.sleep(NAP)
            return 1 / (len(answers) - 2)

        @logged
        def decorated(self, q):
            answer = self.ask(q)
            return [][answer]

        def joined(self, q):
            answer = self.ask(q)
            breakpoint()
            return {}[answer]

        def in_thread(self, q):
            answers = []
            thread = threading.Thread(target=lambda: answers.append((self.ask(q), time.time())))
            thread.start()
            thread.join()
            return {}[answers[0][0]], answers

        async def part(self, q):
            answer = await self.aask(q)
            text = f"{answer}!"
            return int(text)

        async def parts(self, *questions):
            return await asyncio.gather(*(self.part(q) for q in questions))

        async def nested(self, q):
            return await self.part(q)

        def stubborn(self, q):
            answer = self.ask(q)
            try:
                answer += 1
                answer += 1
            except Exception:
                print("WENT ON")
            return {}[answer]

        def forgiving(self, q):
            try:
                return self.ask(q)
            except KeyError:
                return self.ask("a")
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    name = f"session_app_{next(names)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(AGENT))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return importlib.import_module(name)


def failed(call: Callable[[], Any]) -> Checkpoint:
    with pytest.raises(Exception), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "breakpointhook", lambda: None)
        call()
    return CheckpointManager().load_checkpoint("latest")


Session = Callable[..., tuple[Any, str]]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Session:
    """Run a session with the given commands typed; return its result (or its exception) and its output."""

    def run(engine: ReplayEngine, *typed: str, **options: Any) -> tuple[Any, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
        try:
            result = engine.start_debugging_session(**options)
        except Exception as error:
            result = error
        return result, capsys.readouterr().out

    return run


def stops(out: str) -> list[tuple[str, str]]:
    return re.findall(r"> \S+?(\w+)\.py\(\d+\)(\S+)\(\)", out)


def test_the_first_prompt_stands_in_the_users_function_with_the_state_at_entry(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))
    error, out = session(ReplayEngine(checkpoint), "p self.seen, questions", "c", "p len(self.seen)", "q")
    assert isinstance(error, ZeroDivisionError)
    before, after = out.split("(Pdb)")[:2]
    assert before.rstrip().splitlines()[-2:][0].endswith("run()")
    assert "([], ('a', 'b'))" in after
    assert "(Pdb) 2" in out


def test_a_raising_method_stops_on_the_raising_line_and_the_failure_is_printed_last(app: Any, session: Session) -> None:
    error, out = session(ReplayEngine(failed(lambda: app.Agent().run("a", "b"))), "c", "w")
    assert isinstance(error, ZeroDivisionError)
    assert out.index("-> return 1 / (len(self.seen) - 2)") < out.index("Replay Failed: ZeroDivisionError")
    assert "clearstone" not in out.split("(Pdb)")[-1].lower().split("---")[0]


def test_no_prompt_ever_stands_in_a_frame_that_is_not_the_users(app: Any, session: Session) -> None:
    for call in (lambda: app.Agent().run("a", "b"), lambda: asyncio.run(app.Agent().arun("a", "b"))):
        _, out = session(ReplayEngine(failed(call)), *["s"] * 60)
        shown = stops(out)
        assert len(shown) > 4
        assert {file for file, _ in shown} == {app.__name__}


def test_stepping_past_the_end_finishes_the_session(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))
    result, out = session(ReplayEngine(checkpoint), *["n"] * 20, function_to_replay="forgiving", q="a")
    assert result == 1
    assert "Replay finished. Final result: 1" in out
    assert {function for _, function in stops(out)} <= {"forgiving"}


@pytest.mark.parametrize("typed", [["q"], ["exit"], ["n", "q"], []])
def test_leaving_is_quiet(app: Any, session: Session, typed: list[str]) -> None:
    result, out = session(ReplayEngine(failed(lambda: app.Agent().run("a", "b"))), *typed)
    assert result is None
    assert "Failed" not in out
    assert "finished" not in out
    assert "Traceback" not in out


def test_a_session_without_any_standard_input_leaves_quietly(
    app: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().run("a", "b")))
    assert engine.start_debugging_session() is None  # pytest's own captured standard input raises OSError
    monkeypatch.setattr(sys, "stdin", None)
    assert engine.start_debugging_session() is None
    assert "Replay" not in capsys.readouterr().out


def test_an_async_method_is_debugged_with_its_answers_and_its_sleeps_take_no_time(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: asyncio.run(app.Agent().arun("b", "a")))
    app.NAP = 3600
    error, out = session(ReplayEngine(checkpoint), "n", "p answers", "c")
    assert isinstance(error, ZeroDivisionError)
    assert out.split("(Pdb)")[0].rstrip().splitlines()[-2].endswith("arun()")
    assert "[2, 1]" in out


def test_an_async_session_inside_a_running_loop_works_like_in_a_notebook(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: asyncio.run(app.Agent().arun("a", "b")))

    async def cell() -> tuple[Any, str]:
        return session(ReplayEngine(checkpoint), "n", "p answers", "c")

    error, out = asyncio.run(cell())
    assert isinstance(error, ZeroDivisionError)
    assert "[1, 2]" in out


def test_the_first_prompt_looks_through_decorators_that_say_what_they_wrap(app: Any, session: Session) -> None:
    _, out = session(ReplayEngine(failed(lambda: app.Agent().decorated("a"))), "c")
    assert stops(out)[0][1] == "decorated"


def test_a_breakpoint_in_user_code_joins_the_session(app: Any, session: Session) -> None:
    error, out = session(ReplayEngine(failed(lambda: app.Agent().joined("a"))), "c", "p answer", "c")
    assert isinstance(error, KeyError)
    assert [function for _, function in stops(out)][:2] == ["joined", "joined"]
    assert "(Pdb) 1" in out


def test_a_replayed_thread_is_answered_from_the_record_at_its_time(app: Any) -> None:
    checkpoint = failed(lambda: app.Agent().in_thread("a"))
    app.Agent.forgiving = lambda self: self.in_thread("a")
    app.Agent.in_thread = _without_the_failure(app)
    (answer, now), *_ = ReplayEngine(checkpoint).replay_from_checkpoint("in_thread", "a")
    assert answer == 1
    (end,) = [span.end_ns for span in checkpoint.trace if span.replay == "serve"]
    assert now == pytest.approx((end or 0) / 1e9, abs=1e-5)


def _without_the_failure(app: Any) -> Any:
    def in_thread(self: Any, q: str) -> Any:
        answers: list[Any] = []
        thread = app.threading.Thread(target=lambda: answers.append((self.ask(q), app.time.time())))
        thread.start()
        thread.join()
        return answers

    return in_thread


def test_a_written_configuration_serves_by_order_whatever_the_arguments(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))
    config = {"llm": f"{app.__name__}.Agent.ask"}
    _, out = session(ReplayEngine(checkpoint), "n", "n", "n", "n", "p self.seen", "q", mock_config=config)
    assert "[1, 2]" in out
    assert "Found 2 recorded response(s)" in out


def test_the_inferred_configuration_can_be_read_and_written_back(app: Any, session: Session) -> None:
    engine = ReplayEngine(failed(lambda: app.Agent().run("a", "b")))
    assert engine.mock_config == {"llm": [f"{app.__name__}.Agent.ask"]}
    error, _ = session(engine, "c", mock_config=engine.mock_config)
    assert isinstance(error, ZeroDivisionError)


def test_an_empty_configuration_mocks_nothing_and_an_outside_call_is_refused_not_made(
    app: Any, session: Session
) -> None:
    error, out = session(ReplayEngine(failed(lambda: app.Agent().run("a", "b"))), "c", mock_config={})
    assert isinstance(error, ReplayError)
    assert "mock_config does not name" in str(error)
    assert "Nothing is mocked" in out


def test_a_target_module_method_is_taken_for_the_one_class_that_has_it_and_said(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))
    _, out = session(ReplayEngine(checkpoint), "q", mock_config={"llm": f"{app.__name__}.ask"})
    assert f"'{app.__name__}.ask' is taken for '{app.__name__}.Agent.ask'" in out


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("APP.Agent.aks", "the nearest is 'ask'"),
        ("APP.Agnet.ask", "the nearest is 'Agent'"),
        ("no_such_module_at_all.f", "names no module"),
        ("justaname", "write it as"),
        ("APP..ask", "write it as"),
    ],
)
def test_a_mock_target_that_does_not_exist_is_one_sentence_naming_the_nearest(
    app: Any, session: Session, target: str, says: str
) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))
    error, out = session(ReplayEngine(checkpoint), mock_config={"llm": target.replace("APP", app.__name__)})
    assert isinstance(error, TargetError)
    assert says in str(error)
    assert out == ""


@pytest.mark.parametrize("config", [["llm"], {"llm": 3}, {1: "a.b"}, "llm"])
def test_a_configuration_of_another_shape_is_refused(app: Any, session: Session, config: Any) -> None:
    error, _ = session(ReplayEngine(failed(lambda: app.Agent().run("a", "b"))), mock_config=config)
    assert isinstance(error, ConfigurationError)


def test_running_out_is_latched_and_told_with_the_final_counts(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))

    def greedy(self: Any) -> list[Any]:
        found: list[Any] = []
        for _ in range(6):
            try:
                found.append(self.ask("a"))
            except Exception:
                found.append(None)
        return found

    app.Agent.greedy = greedy
    config = {"llm": f"{app.__name__}.Agent.ask"}
    error, out = session(ReplayEngine(checkpoint), "c", function_to_replay="greedy", mock_config=config)
    assert isinstance(error, ReplayExhausted)
    assert isinstance(error, StopIteration)
    assert "Replay Failed: StopIteration" in out
    assert "has 2 recorded response(s), and was called 6 time(s)" in out


def test_output_that_cannot_be_encoded_degrades_to_ascii(tmp_path: Path, app: Any) -> None:
    checkpoint = failed(lambda: app.Agent().run("a", "b"))
    path = CheckpointManager(tmp_path).save_checkpoint(checkpoint, "one.ckpt")
    run = subprocess.run(
        [sys.executable, "-m", "clearstone", "debug", str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(tmp_path)},
        input=b"p '\\u2728'\nc\n",
        capture_output=True,
        check=False,
    )
    assert b"--- Welcome to the Clearstone Time-Travel Debugger ---" in run.stdout, run.stderr
    assert b"--- Replay Failed: ZeroDivisionError ---" in run.stdout
    assert b"\\u2728" in run.stdout


def test_a_breakpoint_in_a_task_stops_there_and_changes_nothing(app: Any, session: Session) -> None:
    checkpoint = failed(lambda: asyncio.run(app.Agent().parts("a", "b")))
    line = 1 + textwrap.dedent(AGENT).splitlines().index('        text = f"{answer}!"')
    error, out = session(ReplayEngine(checkpoint), f"b {line}", "c", "p answer", "w", "c", "c", "q")
    assert isinstance(error, ValueError)
    assert ("part") in {function for _, function in stops(out)}
    assert "(Pdb) 1" in out


@pytest.mark.parametrize("method", ["nested", "parts"])
def test_the_post_mortem_of_a_coroutine_stands_on_the_raising_line_with_its_locals(
    app: Any, session: Session, method: str
) -> None:
    checkpoint = failed(lambda: asyncio.run(getattr(app.Agent(), method)("a")))
    error, out = session(ReplayEngine(checkpoint), "c", "p text", "q")
    assert isinstance(error, ValueError)
    assert "-> return int(text)" in out
    assert "'1!'" in out


def test_quitting_is_not_swallowed_by_the_agent(app: Any, session: Session) -> None:
    result, out = session(ReplayEngine(failed(lambda: app.Agent().stubborn("a"))), "n", "n", "n", "q")
    assert result is None
    assert "WENT ON" not in out


def test_restarting_is_answered_with_a_sentence(app: Any, session: Session) -> None:
    _, out = session(ReplayEngine(failed(lambda: app.Agent().run("a", "b"))), "restart", "q")
    assert "replays one call" in out


def test_a_session_leaves_the_earlier_trace_function_in_place(app: Any, session: Session) -> None:
    before = sys.gettrace()
    session(ReplayEngine(failed(lambda: app.Agent().run("a", "b"))), "c", "q")
    assert sys.gettrace() is before
