"""What calls draw is kept only where somebody asked for it, and then nothing of the process stays changed."""

import asyncio
import ctypes
import os
import random
import secrets
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import time_machine

import clearstone
from clearstone import configure, traced
from clearstone.errors import ConfigurationError
from clearstone.nondet.drawn import KINDS
from clearstone.observability import TracerProvider
from clearstone.replay.values import kept_of
from clearstone.run import DRAWN
from clearstone.span import Span

BUILTINS = (time.time, time.monotonic, time.perf_counter_ns, time.sleep, time.ctime, os.urandom)


def state_of_the_process() -> list[Any]:
    """Builtins by what lies in them: a swap leaves their identity."""
    return [
        *(ctypes.string_at(id(each), type(each).__basicsize__)[16:32] for each in BUILTINS),
        time_machine.escape_hatch.is_travelling(),
        vars(random.Random)["seed"],
        vars(random)["_urandom"],
        vars(uuid)["_generate_time_safe"],
        vars(threading.Condition)["wait"],
        asyncio.new_event_loop,
        vars(asyncio.BaseEventLoop)["time"],
    ]


@traced
def step(draw: Callable[[], Any]) -> Any:
    return draw()


@traced(span_type="llm")
def ask(draw: Callable[[], Any]) -> Any:
    return draw()


def spans() -> list[Span]:
    provider = configure()  # which stores what the one before has
    return [span for trace in provider.trace_store.traces() for span in provider.trace_store.get_trace(trace.trace_id)]


def sources(span: Span) -> set[str]:
    kept = kept_of(span)
    return {*kept.values, *kept.states} if kept is not None else set()


def test_nothing_is_patched_and_nothing_kept_unless_it_is_asked_for() -> None:
    before = state_of_the_process()
    configure()
    step(lambda: [uuid.uuid4(), time.time(), random.random()])
    assert state_of_the_process() == before
    assert [span.attributes for span in spans()] == [{}]


@pytest.mark.parametrize("record", [*((each,) for each in KINDS), KINDS])
def test_after_shutdown_everything_is_as_it_was(record: tuple[str, ...]) -> None:
    before = state_of_the_process()
    provider = configure(record=record)
    assert (state_of_the_process() == before) is False
    step(lambda: [uuid.uuid4(), time.time()])
    provider.shutdown()
    assert state_of_the_process() == before
    step(lambda: [uuid.uuid4(), time.time()])
    provider.shutdown()
    assert state_of_the_process() == before


def test_two_providers_that_keep_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    before = state_of_the_process()
    first = TracerProvider(tmp_path / "first.db", record=KINDS)
    second = TracerProvider(tmp_path / "second.db", record=KINDS)
    first.shutdown()
    configure(provider=second)
    step(uuid.uuid4)
    second.shutdown()
    assert state_of_the_process() == before
    (trace,) = second.trace_store.traces()
    assert sources(second.trace_store.get_trace(trace.trace_id).spans[0]) >= {"urandom16"}


def test_values_are_what_they_are_without_it() -> None:
    configure(record=KINDS)
    real = time.time()
    seen = step(lambda: [time.time(), time.perf_counter(), uuid.uuid4().version, len(os.urandom(7)), time.ctime()])
    assert real <= seen[0] <= time.time()
    assert seen[1] <= time.perf_counter()
    assert seen[2:4] == [4, 7]
    assert time.strptime(seen[4]).tm_year == time.gmtime(real).tm_year
    with pytest.raises(ValueError, match="negative argument"):
        step(lambda: os.urandom(-1))
    with pytest.raises(TypeError):
        step(lambda: os.urandom("1"))  # type: ignore[arg-type]


def test_only_steps_keep_what_they_draw() -> None:
    configure(record=("uuid", "time"))
    step(lambda: [secrets.token_bytes(3), ask(uuid.uuid4), time.monotonic()])
    ask(lambda: step(time.time))
    by_name = {(span.name, span.parent_id is None): sources(span) for span in spans()}
    assert by_name == {
        ("step", True): {"urandom3", "monotonic"},
        ("ask", False): set(),
        ("ask", True): set(),
        ("step", False): set(),
    }


def test_a_hand_written_span_is_a_part_of_the_step_around_it() -> None:
    tracer = configure(record="uuid").get_tracer("by hand")

    def in_a_span() -> None:
        with tracer.span("inner"):
            os.urandom(2)

    step(in_a_span)
    assert {span.name: sources(span) for span in spans()} == {"step": {"urandom2"}, "inner": set()}


def test_an_outside_call_that_moves_a_generator_keeps_where_it_has_left_it() -> None:
    configure(record="random")
    step(lambda: [ask(random.random), ask(int)])
    first, moved, still = spans()
    assert sources(first) <= {"random", "numpy"}
    assert "random" in sources(moved)
    assert sources(still) == set()


def test_what_the_standard_library_draws_on_its_own_account_is_not_kept() -> None:
    configure(record=KINDS)

    def work() -> None:
        import queue
        import tempfile

        with tempfile.TemporaryDirectory(), pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=0.001)
        asyncio.run(asyncio.sleep(0))

    step(work)
    assert sources(spans()[0]) <= {"random", "numpy"}


def test_what_is_kept_is_searched_by_no_one_and_is_text() -> None:
    from clearstone.store.texts import texts

    configure(record=KINDS)
    step(uuid.uuid4)
    (span,) = spans()
    assert isinstance(span.attributes[DRAWN], str)
    assert not any(span.attributes[DRAWN] in text for text in texts(span))


@pytest.mark.parametrize("wrong", [("randm",), "uid", True, 5, (1,), ["uuid", None]])
def test_what_cannot_be_recorded_is_named_with_what_can(wrong: Any) -> None:
    before = state_of_the_process()
    with pytest.raises(ConfigurationError, match="none of 'random', 'uuid', 'time'"):
        configure(record=wrong)
    assert state_of_the_process() == before


def test_a_provider_that_is_given_keeps_what_it_was_made_to_keep(tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "own.db")
    with pytest.raises(ConfigurationError, match=r"TracerProvider\(\.\.\., record="):
        configure(provider=provider, record="uuid")
    provider.shutdown()


def test_a_program_that_keeps_ends_as_any_other(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import atexit, time, uuid
        atexit.register(lambda: print("at exit", time.time() > 0, len(uuid.uuid4().bytes)))
        from clearstone import configure, traced
        configure(record=("random", "uuid", "time"))

        class Late:
            def __del__(self, time=time.time):
                print("late", time() > 0)

        @traced
        def step():
            return uuid.uuid4()

        step()
        late = Late()
        late.itself = late
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("at exit True 16\n")


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = "import sys, clearstone; clearstone.configure(); print('clearstone.nondet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert clearstone.configure is configure
