"""Of a served call the record says which line of the user's code made it, at hardly any cost."""

from __future__ import annotations

import _thread
import asyncio
import functools
import inspect
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import run, traced
from clearstone.callers import NOWHERE, line_of, place_here
from clearstone.observability import Span, TracerProvider
from clearstone.record import site_numbers, sites_in_use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from clearstone.record.tracer import Tracer

HERE = __file__


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[TracerProvider]:
    made = TracerProvider(tmp_path / "t.db")
    yield made
    made.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer()


def all_spans(provider: TracerProvider) -> list[Span]:
    provider.flush()
    store = provider.trace_store
    spans = [span for one in store.traces() for span in store.get_trace(one.trace_id)]
    return sorted(spans, key=lambda span: (span.start_ns, span.order))


def lines(provider: TracerProvider) -> list[str]:
    """Return the source of the lines that made the calls, in the order of the calls; empty texts for nobody's."""
    source, found = Path(HERE).read_text("utf-8").split("\n"), []
    for span in all_spans(provider):
        file_name, _, number = span.called_at.rpartition(":")
        assert file_name in {HERE, ""}
        found.append(source[int(number) - 1].strip() if number else "")
    return found


class Agent:
    """What it calls is not decorated until a test does."""

    def ask(self, prompt: object) -> object:
        return prompt

    async def aask(self, prompt: object) -> object:
        await asyncio.sleep(0)
        return prompt

    def stream(self, prompt: object) -> Iterator[object]:
        yield prompt

    async def astream(self, prompt: object) -> AsyncIterator[object]:
        yield prompt


@pytest.fixture
def agent(tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> Agent:
    for name in ("ask", "aask", "stream", "astream"):
        monkeypatch.setattr(Agent, name, traced(span_type="llm", tracer=tracer)(vars(Agent)[name]))
    return Agent()


def test_a_served_call_says_its_line_and_a_step_does_not(provider: TracerProvider, tracer: Tracer) -> None:
    @traced(tracer=tracer, span_type="llm")
    def ask() -> None: ...

    @traced(tracer=tracer)
    def step() -> None:
        ask()  # in the step

    ask()  # outside
    step()
    with tracer.span("by hand", span_type="llm"):
        ask()  # by hand
    assert lines(provider) == ["ask()  # outside", "", "ask()  # in the step", "", "ask()  # by hand"]


def test_it_is_the_line_that_a_traceback_names(provider: TracerProvider, tracer: Tracer) -> None:
    @traced(tracer=tracer, span_type="llm")
    def ask(*_: object) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        ask(
            "an argument in a line of its own",
            "and another",
        )
    assert lines(provider) == ["ask("]
    assert all_spans(provider)[0].called_at == f"{HERE}:{caught.traceback[0].lineno + 1}"


def test_two_calls_in_one_line_say_the_same(provider: TracerProvider, agent: Agent) -> None:
    agent.ask(agent.ask(1))
    assert lines(provider) == ["agent.ask(agent.ask(1))"] * 2


def test_what_is_awaited_or_read_later_says_the_line_that_made_it(provider: TracerProvider, agent: Agent) -> None:
    async def main() -> None:
        await agent.aask(1)
        await asyncio.gather(
            agent.aask(2),
            agent.aask(3),
        )
        task = asyncio.create_task(agent.aask(4))
        await task
        stream = agent.astream(5)
        async for _ in stream:
            pass

    asyncio.run(main())
    items = agent.stream(6)
    assert list(items) == [6]
    assert lines(provider) == [
        "await agent.aask(1)",
        "agent.aask(2),",
        "agent.aask(3),",
        "task = asyncio.create_task(agent.aask(4))",
        "stream = agent.astream(5)",
        "items = agent.stream(6)",
    ]


def test_library_code_that_calls_for_the_user_is_passed_over(provider: TracerProvider, agent: Agent) -> None:
    def twice() -> None:
        list(map(agent.ask, [1, 2]))
        functools.partial(agent.ask, 4)()
        functools.singledispatch(agent.ask)(5)  # a Python function of the standard library calls it
        functools.singledispatch(agent.ask)(6)

    twice()
    twice()
    calls = [
        "list(map(agent.ask, [1, 2]))",
        "list(map(agent.ask, [1, 2]))",
        "functools.partial(agent.ask, 4)()",
        "functools.singledispatch(agent.ask)(5)  # a Python function of the standard library calls it",
        "functools.singledispatch(agent.ask)(6)",
    ]
    assert lines(provider) == [*calls, *calls]


def test_what_no_code_of_the_user_calls_is_recorded_without_a_line(provider: TracerProvider, agent: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(agent.ask, 1).result()
    done = threading.Event()
    _thread.start_new_thread(functools.partial(agent.ask), (2,))  # no frame at all is above it
    _thread.start_new_thread(done.set, ())
    assert done.wait(10)
    deadline = threading.Event()
    while len(all_spans(provider)) < 2 and not deadline.wait(0.01):
        pass
    assert lines(provider) == ["", ""]


def test_calls_by_the_same_instruction_of_several_functions_are_told_apart(
    provider: TracerProvider, agent: Agent
) -> None:
    def one() -> None:
        agent.ask(1)

    def other() -> None:
        agent.ask(2)

    for _ in range(3):
        one()
        other()
    assert lines(provider) == ["agent.ask(1)", "agent.ask(2)"] * 3


def made(source: str, file: str, **names: Any) -> Callable[[], Any]:
    held: dict[str, Any] = dict(names)
    exec(compile(source, file, "exec"), held)  # noqa: S102 - ours
    return held["call"]  # type: ignore[no-any-return]


def test_code_that_is_made_at_run_time_is_forgotten_again(
    provider: TracerProvider, agent: Agent, tracer: Tracer
) -> None:
    count = 3 * sites_in_use.MOST_PLACES
    for number in range(count):
        made(f"{chr(10) * number}def call(): ask({number})", "made.py", ask=agent.ask)()
    assert [span.called_at for span in all_spans(provider)] == [f"made.py:{number + 1}" for number in range(count)]
    (use,) = (each for each in tracer.provider.recording._uses.values() if each.places)  # type: ignore[attr-defined]
    assert len(use.every_place) <= sites_in_use.MOST_PLACES
    assert len(use.places) <= sites_in_use.MOST_PLACES


def test_past_the_most_sites_each_call_says_its_line_itself(
    provider: TracerProvider, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_numbers, "MOST_SITES", 0)
    agent.ask("without a number")
    assert lines(provider) == ['agent.ask("without a number")']


def test_a_file_may_have_any_name(provider: TracerProvider, agent: Agent) -> None:
    made("def call(): ask(1)", "a:b\udc80.py", ask=agent.ask)()
    assert [span.called_at for span in all_spans(provider)] == ["a:b\\udc80.py:1"]


def test_a_place_is_stored_once_for_all_its_calls(provider: TracerProvider, agent: Agent, tmp_path: Path) -> None:
    for number in range(50):
        agent.ask(number)
    assert len({span.called_at for span in all_spans(provider)}) == 1
    with closing(sqlite3.connect(tmp_path / "t.db")) as db:
        assert db.execute("SELECT count(*) FROM sites").fetchone() == (1,)


def test_an_open_span_says_its_line_too(provider: TracerProvider, tracer: Tracer) -> None:
    seen = []

    @traced(tracer=tracer, span_type="llm")
    def ask() -> None:
        current: Any = run.current_span.get()
        seen.append(current.snapshot())

    ask()
    assert seen[0].is_open
    assert seen[0].called_at == all_spans(provider)[0].called_at != ""


def test_the_line_of_a_call_in_which_the_process_died_is_recovered(tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            from clearstone import traced
            from clearstone.observability import TracerProvider

            @traced(span_type="llm", tracer=TracerProvider("t.db").get_tracer())
            def ask(prompt):
                os._exit(9)

            ask("the last one")
            """
        )
    )
    assert subprocess.run([sys.executable, script.name], cwd=tmp_path, check=False).returncode == 9
    provider = TracerProvider(tmp_path / "t.db")  # it recovers what it finds
    (span,) = all_spans(provider)
    provider.shutdown()
    assert (span.interrupted, Path(span.called_at).name) == (True, "dies.py:10")


def test_show_and_export_say_it(tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text("from clearstone import traced\nask = traced(span_type='llm')(lambda: 1)\nask()\n")
    env = os.environ | {"CLEARSTONE_HOME": str(tmp_path / "home")}
    for command in (script.name,), ("-m", "clearstone", "show", "latest", "--json"):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
    (span,) = json.loads(done.stdout)["spans"]
    assert Path(span["called_at"]).name == "asks.py:3"


def test_a_place_and_a_line_are_the_same_line() -> None:
    place, frame = place_here(), inspect.currentframe()
    assert frame is not None
    assert line_of(place) == f"{__file__}:{frame.f_lineno - 2}"
    assert line_of(NOWHERE) == ""
