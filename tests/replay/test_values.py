"""What code draws by chance and from clocks is in a replay what it was, where the recording kept it."""

import asyncio
import datetime as dt
import gc
import io
import json
import os
import random
import secrets
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clearstone
from clearstone import checkpointable, configure, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine, checkpoints
from clearstone.replay.values import kept_of

ALL = ("random", "uuid", "time")
today: dict[str, Any] = {}
"""What the code does now in the place of what it did when it was recorded."""

DRAWS: dict[str, Callable[[], Any]] = {
    "random": random.random,
    "randint": lambda: random.randint(0, 10**12),
    "gauss": lambda: random.gauss(0, 1),
    "numpy": lambda: np.random.standard_normal(),  # noqa: NPY002 - the generator there is one of
    "generator": lambda: random.Random().random(),
    "default_rng": lambda: np.random.default_rng().random(),
    "uuid4": uuid.uuid4,
    "uuid1": uuid.uuid1,
    "urandom": lambda: os.urandom(5),
    "token": secrets.token_hex,
    "system": lambda: random.SystemRandom().random(),
    "time": time.time,
    "time_ns": time.time_ns,
    "now": lambda: dt.datetime.now(dt.UTC),
    "ctime": time.ctime,
    "asctime": time.asctime,
    "localtime": lambda: tuple(time.localtime()),
    "monotonic": time.monotonic,
    "perf_counter": time.perf_counter,
    "perf_counter_ns": time.perf_counter_ns,
    "process_time": time.process_time_ns,
    "thread_time": time.thread_time,
}
OF_MANY = [name for name in DRAWS if name not in {"random", "randint", "gauss", "numpy"}]
"""All but what moves a generator there is one of."""


@pytest.fixture(autouse=True)
def _as_recorded() -> Iterator[None]:
    """Nothing is changed; and no collection, which hypothesis times, moves a clock."""
    today.clear()
    kept = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = kept


Program = list[Any]
"""What a step does: names of draws; ``("ask", names)``, an outside call that draws; ``("step", program)``;
``("step by step", programs)``, ``("threads", programs)``, ``("tasks", programs)``, each a step of its own."""


class Gave(Exception):  # noqa: N818 - it carries what was drawn out of the call
    """Ends the call with what it has drawn."""


@checkpointable
class Agent:
    @traced(span_type="llm")
    def ask(self, number: int, names: list[str]) -> list[Any]:
        return [DRAWS[name]() for name in names]

    @traced(span_type="llm")
    async def aask(self, number: int, names: list[str]) -> list[Any]:
        await asyncio.sleep(0.001 * (number % 3))
        return [DRAWS[name]() for name in names]

    @traced
    def step(self, number: int, program: Program) -> list[Any]:
        return [self._do(number * 10 + place, part) for place, part in enumerate(program)]

    def _do(self, number: int, part: Any) -> Any:
        if isinstance(part, str):
            return DRAWS[part]()
        kind, inner = part
        if kind == "ask":
            return self.ask(number, inner)
        if kind == "step":
            return self.step(number, inner)
        numbers = range(number * 10, number * 10 + len(inner))
        if kind == "step by step":
            return list(map(self.step, numbers, inner))
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.step, numbers, inner))

    @traced
    async def astep(self, number: int, program: Program) -> list[Any]:
        return [await self._ado(number * 10 + place, part) for place, part in enumerate(program)]

    async def _ado(self, number: int, part: Any) -> Any:
        if isinstance(part, str):
            return DRAWS[part]()
        kind, inner = part
        if kind == "ask":
            return await self.aask(number, inner)
        if kind == "step":
            return await self.astep(number, inner)
        return await asyncio.gather(*(self.astep(number * 10 + place, each) for place, each in enumerate(inner)))

    def run(self, program: Program) -> None:
        given = [self._do(place, part) for place, part in enumerate(program, 1)]
        raise Gave(today.get("before", list)() + given + today.get("after", list)())

    async def arun(self, program: Program) -> None:
        raise Gave([await self._ado(place, part) for place, part in enumerate(program, 1)])

    def looks(self) -> None:
        before = today.get("before", list)()
        self.step(1, ["perf_counter"])
        raise Gave(
            [before, self.step(2, ["perf_counter", "uuid4"] * today.get("times", 1)), today.get("after", list)()]
        )

    def helped(self) -> None:
        draw = traced(uuid.uuid4) if today else uuid.uuid4
        raise Gave([draw(), uuid.uuid4()])

    def asks_at_once(self) -> None:
        first, second = threading.Event(), threading.Event()
        with ThreadPoolExecutor(2) as pool:
            pool.submit(self._asks_after, first, second, 1)
            pool.submit(self._asks_after, second, first, 2)
            (second if today else first).set()
        raise Gave([random.random()])

    def _asks_after(self, turn: threading.Event, others: threading.Event, number: int) -> None:
        assert turn.wait(30)
        self.ask(number, ["random"])
        others.set()

    def together(self) -> None:
        barrier = threading.Barrier(2, timeout=30)
        with ThreadPoolExecutor(2) as pool:
            raise Gave(list(pool.map(self.meets, [1, 2], [barrier] * 2)))

    @traced
    def meets(self, number: int, barrier: Any) -> list[Any]:
        if not today:
            barrier.wait()
        return [uuid.uuid4(), time.time_ns(), uuid.uuid4()]

    @traced
    def streams(self) -> Iterator[Any]:
        for _ in range(3):
            yield uuid.uuid4(), random.random()

    def reads(self) -> None:
        raise Gave(list(self.streams()))

    def saves(self, taken: list[Checkpoint]) -> None:
        given = [uuid.uuid4(), time.time_ns()]
        clearstone.snapshot("here")
        raise Gave(given)


def recorded(method: str, *args: Any, record: Any = ALL) -> tuple[Checkpoint, Any]:
    """Let a call fail; return its checkpoint, and what it has drawn."""
    configure(record=record)
    with pytest.raises(Gave) as caught:
        made = getattr(Agent(), method)(*args)
        asyncio.run(made)
    return CheckpointManager().load_checkpoint("latest"), caught.value.args[0]


def replayed(checkpoint: Checkpoint) -> tuple[ReplayEngine, Any]:
    engine = ReplayEngine(checkpoint)
    with pytest.raises(Gave) as caught:
        engine.replay_from_checkpoint()
    return engine, caught.value.args[0]


def programs(names: list[str], at_once: str) -> st.SearchStrategy[Program]:
    name = st.sampled_from(names)
    part = st.one_of(name, st.tuples(st.just("ask"), st.lists(name, max_size=3)))

    def around(program: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
        step = st.tuples(st.just("step"), program)
        return st.lists(st.one_of(part, step, st.tuples(st.just(at_once), st.lists(program, max_size=3))), max_size=4)

    return st.recursive(st.lists(part, max_size=4), around, max_leaves=8)


names_of_many = st.sampled_from(OF_MANY)

# each example is a program of its own, in records of its own
many = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(program=programs(list(DRAWS), "step by step"))
def test_every_value_that_steps_and_outside_calls_draw_comes_again(program: Program) -> None:
    checkpoint, then = recorded("run", program)
    for _ in range(2):
        assert replayed(checkpoint)[1] == then


@many
@given(program=programs(OF_MANY, "tasks"))
def test_every_value_that_tasks_draw_comes_again(program: Program) -> None:
    checkpoint, then = recorded("arun", program)
    for _ in range(2):
        assert replayed(checkpoint)[1] == then


@many
@given(
    parts=st.lists(st.tuples(st.lists(st.sampled_from(list(DRAWS)), max_size=3), st.lists(names_of_many)), max_size=4)
)
def test_numbers_that_tasks_draw_before_they_wait_come_again(parts: list[tuple[list[str], list[str]]]) -> None:
    checkpoint, then = recorded("arun", [("tasks", [[*first, ("ask", asked), *asked] for first, asked in parts])])
    for _ in range(2):
        assert replayed(checkpoint)[1] == then


@many
@given(program=programs(OF_MANY, "threads"))
def test_every_value_that_steps_of_threads_draw_comes_again(program: Program) -> None:
    checkpoint, then = recorded("run", program)
    for _ in range(2):
        assert replayed(checkpoint)[1] == then


def test_the_ledger_says_that_all_was_recorded() -> None:
    checkpoint, _ = recorded("run", ["random", "uuid4", "time", ("ask", ["random"])])
    assert replayed(checkpoint)[0].ledger.values == dict.fromkeys(ALL, "recorded")


def test_without_a_record_of_values_the_ledger_says_where_they_come_from() -> None:
    checkpoint, then = recorded("run", ["random", "uuid4", "time"], record=())
    engine, now = replayed(checkpoint)
    assert now[0] == then[0]
    assert now[1] != then[1]
    assert engine.ledger.values == {
        "random": "recorded state",
        "uuid": "derived from the checkpoint",
        "time": "follows the record",
    }
    assert replayed(recorded("run", ["random"], record=())[0])[0].ledger.values["uuid"] == "none drawn"


def test_one_kind_can_be_recorded_without_the_others() -> None:
    checkpoint, then = recorded("run", ["uuid4", "time_ns", "generator"], record="uuid")
    engine, now = replayed(checkpoint)
    assert [one == other for one, other in zip(now, then, strict=True)] == [True, False, False]
    assert engine.ledger.values["time"] == "follows the record"
    assert engine.ledger.values["random"] == "recorded state, then derived (1 more)"
    assert not any("numpy" in told or "monotonic" in told for told in _kept(checkpoint))


def _kept(checkpoint: Checkpoint) -> list[str]:
    logs = filter(None, map(kept_of, checkpoint.trace))
    return [source for log in logs for source in (*log.values, *log.states)]


def test_what_an_outside_call_draws_is_not_kept() -> None:
    checkpoint, _ = recorded("run", [("ask", ["uuid4", "time"])])
    assert _kept(checkpoint).count("random") == 1  # where it stood at the beginning
    assert not set(_kept(checkpoint)) & {"urandom16", "time"}


def test_a_step_that_draws_more_goes_on_with_what_is_made_from_the_checkpoint_and_later_steps_are_exact() -> None:
    checkpoint, then = recorded("run", ["uuid4", ("step", ["random", "uuid4"]), ("step", ["random", "uuid4"])])
    today["after"] = lambda: [uuid.uuid4(), uuid.uuid4()]
    engine, now = replayed(checkpoint)
    assert now[:3] == then
    assert now[3] != now[4]
    assert engine.ledger.values["uuid"] == "recorded, then derived (2 more)"
    assert replayed(checkpoint)[1] == now


def test_numbers_that_changed_code_draws_do_not_shift_those_of_the_steps_after_a_mark() -> None:
    checkpoint, then = recorded("run", [("step", ["random"]), ("step", ["random"]), ("step", ["random"])])
    today["before"] = lambda: [random.random()]
    assert replayed(checkpoint)[1][1:] == then


def test_a_function_that_is_decorated_since_draws_what_its_caller_drew() -> None:
    checkpoint, then = recorded("helped")
    today["decorated"] = True
    assert replayed(checkpoint)[1] == then


@pytest.mark.parametrize("clock", ["perf_counter", "monotonic", "process_time", "thread_time", "time"])
def test_looks_that_the_record_does_not_have_fit_between_those_it_has(clock: str) -> None:
    look = getattr(time, clock)
    checkpoint, _ = recorded("run", [("step", [clock, clock]), ("step", [clock])])
    today.update(before=lambda: [time.perf_counter()], after=lambda: [look(), look()])
    _, (_, (first, second), (third,), last, again) = replayed(checkpoint)
    first, second, third = (each / 1e9 if isinstance(each, int) else each for each in (first, second, third))
    assert first <= second <= third <= last <= again
    assert last - first < 3600


def test_a_look_before_the_first_recorded_one_is_on_the_same_scale() -> None:
    checkpoint, _ = recorded("looks")
    today["before"] = lambda: [time.perf_counter()]
    _, ((before,), (then, _), _) = replayed(checkpoint)
    assert 0 < then - before < 60


def test_a_generators_steps_draw_what_they_drew() -> None:
    checkpoint, then = recorded("reads")
    assert replayed(checkpoint)[1] == then


def test_threads_that_ran_at_one_time_each_get_their_own() -> None:
    checkpoint, then = recorded("together")
    today["alone"] = True
    assert replayed(checkpoint)[1] == then


def test_numbers_after_outside_calls_of_threads_are_exact_though_these_are_answered_in_another_order() -> None:
    checkpoint, then = recorded("asks_at_once")
    today["late"] = True
    assert replayed(checkpoint)[1] == then


def test_a_checkpoint_in_the_middle_of_a_call_holds_what_the_call_has_drawn() -> None:
    _, then = recorded("saves", [])
    (middle,) = [each for each in checkpoints() if each.metadata.get("label") == "here"]
    open_spans = [span for span in CheckpointManager().load_checkpoint(middle.checkpoint_id).trace if span.is_open]
    kept = kept_of(open_spans[0])
    assert kept is not None
    assert list(kept.values["time"]) == [then[1]]
    assert uuid.UUID(bytes=kept.values["urandom16"][0], version=4) == then[0]


def test_a_log_that_nobody_has_written_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, then = recorded("run", ["uuid4"])
    for span in checkpoint.trace:
        monkeypatch.setitem(span.attributes, "clearstone.drawn", "AAAA")
    engine, now = replayed(checkpoint)
    assert now != then
    assert engine.ledger.values["uuid"] == "derived from the checkpoint"


def test_a_written_configuration_plays_what_was_recorded_and_else_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, then = recorded("run", [("ask", ["random"]), ("step", ["time", "uuid4", "random"])])
    monkeypatch.setattr("sys.stdin", io.StringIO("c\n"))
    today["after"] = lambda: [time.time(), time.time()]
    engine = ReplayEngine(checkpoint)
    with pytest.raises(Gave) as caught:
        engine.start_debugging_session(mock_config={"llm": f"{__name__}.Agent.ask"})
    *now, one, two = caught.value.args[0]
    assert now == then
    assert one == two
    assert engine.ledger.values["time"] == "recorded, then frozen (2 more)"


def test_a_fault_in_looking_at_the_generators_costs_the_call_nothing(
    monkeypatch: pytest.MonkeyPatch, faults_allowed: None
) -> None:
    def fails() -> Any:
        raise OSError("no generators")

    monkeypatch.setattr("clearstone.nondet.generators.states", fails)
    checkpoint, then = recorded("run", ["uuid4", ("ask", ["uuid4"])])
    assert replayed(checkpoint)[1] == then


SCRIPT = """
    import datetime as dt, os, random, secrets, time, uuid
    from concurrent.futures import ThreadPoolExecutor
    from clearstone import checkpointable, configure, traced

    configure(record=("random", "uuid", "time"))  # also when a replay imports it

    @traced(span_type="llm")
    def ask(prompt):
        return f"{prompt} {random.random()} {uuid.uuid4()}"

    @traced
    def work(number):
        return [number, ask(number), random.SystemRandom().random(), time.time(), str(uuid.uuid1())]

    @checkpointable
    class Agent:
        def run(self):
            began = time.perf_counter()
            seen = [ask("first"), random.random(), secrets.token_hex(4), dt.datetime.now().isoformat()]
            with ThreadPoolExecutor(2) as pool:
                seen += pool.map(work, range(4))
            raise RuntimeError([seen, time.perf_counter() - began, random.choice("abcdefgh"), os.urandom(3)])

    if __name__ == "__main__":
        Agent().run()
"""


def in_a_process(folder: Path, *command: str, hash_seed: int) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CLEARSTONE_HOME": str(folder / "home"), "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_script_that_keeps_gives_the_same_in_processes_with_another_hash_seed(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(textwrap.dedent(SCRIPT))
    failed = in_a_process(tmp_path, "agent.py", hash_seed=1)
    (then,) = [line for line in failed.stderr.splitlines() if line.startswith("RuntimeError")]
    one, two = (in_a_process(tmp_path, "-m", "clearstone", "replay", "latest", hash_seed=seed) for seed in (2, 3))
    assert one.stdout.splitlines()[-1] == then
    assert "failed as recorded" in one.stdout
    assert (one.stdout, one.returncode) == (two.stdout, two.returncode)
    told = in_a_process(tmp_path, "-m", "clearstone", "replay", "latest", "--json", hash_seed=4)
    assert json.loads(told.stdout)["values"] == dict.fromkeys(ALL, "recorded")


def test_the_command_line_says_when_values_are_not_those_of_then(tmp_path: Path) -> None:
    script = textwrap.dedent(SCRIPT).replace('record=("random", "uuid", "time")', "")
    (tmp_path / "agent.py").write_text(script)
    in_a_process(tmp_path, "agent.py", hash_seed=1)
    told = in_a_process(tmp_path, "-m", "clearstone", "replay", "latest", hash_seed=1).stdout
    assert "Values of uuid4, secrets and os.urandom: derived from the checkpoint. configure(record=" in told
