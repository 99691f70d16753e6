"""Every call of a replay is accounted for: the recorded ones, and those that were made."""

import asyncio
import contextlib
import importlib
import io
import itertools
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import BeyondRecord, ReplayDivergence
from clearstone.replay.ledger import VERDICTS, LedgerEntry

live: list[Any] = []
today: dict[str, Any] = {}
"""What the code does now in the place of what it did when it was recorded."""


@pytest.fixture(autouse=True)
def _as_recorded() -> None:
    live.clear()
    today.clear()


def now(name: str, recorded: Any) -> Any:
    return today.get(name, recorded)


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.cost, self.history, self.known = 0.0, ["start"], {"a": 1}

    @traced(span_type="llm")
    def ask(self, prompt: str, temperature: float = 0.0) -> str:
        live.append(prompt)
        self.cost += 0.5
        self.history.append(prompt)
        return str(prompt).upper()

    @traced(span_type="llm")
    async def aask(self, prompt: str, pause: float = 0.0) -> str:
        live.append(prompt)
        await asyncio.sleep(pause)
        self.cost += 1
        self.history.append(prompt)
        return prompt.upper()

    @traced
    def plan(self, topic: str) -> str:
        if today.pop("twice", False):
            self.ask(topic)
        return now("plan", lambda answer: answer)(self.ask(topic))  # type: ignore[no-any-return]

    @traced
    async def work(self, name: str) -> str:
        first = await self.aask("same", 0.02 if name == "slow" else 0.0)
        return f"{name} {first} {await self.aask(name)}"

    @traced
    def items(self, count: int) -> Any:
        yield from range(now("items", count))

    def asks(self, *prompts: str) -> None:
        raise RuntimeError([self.ask(prompt) for prompt in now("prompts", prompts)])

    def plans(self, *topics: str) -> None:
        got = [self.plan(topic) for topic in now("topics", topics)]
        today.get("then", lambda _: None)(self)
        if not today.get("mended"):
            raise RuntimeError(got)

    def named(self) -> None:
        self.ask(prompt="a") if today.get("named") else self.ask("a")
        raise RuntimeError

    async def together(self, *names: str) -> None:
        raise RuntimeError(await asyncio.gather(*map(self.work, names)), self.cost, sorted(self.history))

    def in_threads(self, *topics: str) -> None:
        with ThreadPoolExecutor(3) as pool:
            got = list(pool.map(self.plan, topics))
        raise RuntimeError(got, self.cost, sorted(self.history))

    def one_after_another(self, *topics: str) -> None:
        with contextlib.ExitStack() as pools:
            for topic in now("topics", topics):
                if today.get("threads", True):
                    pools.enter_context(ThreadPoolExecutor(1)).submit(self.notes, topic).result()
                else:
                    self.notes(topic)
        raise RuntimeError(self.last)

    @traced(span_type="llm")
    def notes(self, topic: str) -> None:
        self.last = topic

    def streams(self) -> None:
        raise RuntimeError(list(self.items(3)))

    def spends(self) -> None:
        self.ask("a")
        self.ask("b")
        raise RuntimeError(self.cost, self.history)


def failed(call: Callable[[], Any]) -> Checkpoint:
    with pytest.raises(RuntimeError):
        call()
    live.clear()
    return CheckpointManager().load_checkpoint("latest")


def replayed(checkpoint: Checkpoint, **options: Any) -> tuple[ReplayEngine, BaseException | None]:
    """Replay; return the engine and how it ended. Nothing may be live."""
    engine, error = ReplayEngine(checkpoint, **options), None
    try:
        engine.replay_from_checkpoint()
    except Exception as raised:
        error = raised
    assert live == []
    return engine, error


def message_of(checkpoint: Checkpoint) -> str:
    assert checkpoint.failure is not None
    return checkpoint.failure.message


def verdicts(engine: ReplayEngine) -> list[tuple[str, str]]:
    return [(entry.verdict, entry.target.rpartition(".")[2]) for entry in engine.ledger]


# --- what became of which call ---------------------------------------------------------------------------------------


def test_a_replay_like_the_record_reuses_every_outside_call_and_runs_every_step_again() -> None:
    engine, error = replayed(failed(lambda: Agent().plans("a", "b")))
    assert isinstance(error, RuntimeError)
    assert verdicts(engine) == [
        ("reused", "ask"), ("again", "plan"), ("reused", "ask"), ("again", "plan"), ("again", "plans"),
    ]  # fmt: skip
    assert engine.ledger.summary == "reused 2 · diverged 0 · unused 0 · live 0"
    assert (engine.served, engine.unused) == (2, 0)


def test_an_entry_names_the_recorded_call_its_number_and_the_line_that_made_it() -> None:
    checkpoint = failed(lambda: Agent().asks("a", "b"))
    engine, _ = replayed(checkpoint)
    entries = [entry for entry in engine.ledger if entry.verdict == "reused"]
    spans = [span for span in checkpoint.trace if span.span_type == "llm"]
    assert [entry.span_id for entry in entries] == [span.span_id for span in spans]
    assert [entry.number for entry in entries] == [1, 2]
    assert all(entry.line.startswith(f"{__file__}:") for entry in entries)


def test_counts_have_every_verdict_and_entries_are_json() -> None:
    engine, _ = replayed(failed(lambda: Agent().asks("a")))
    assert list(engine.ledger.counts()) == list(VERDICTS)
    entry = LedgerEntry("reused", "m:f", "llm", 1, "0" * 16, "f.py:1", "f.py:2", ("a",))
    assert entry.as_json() == {
        "verdict": "reused", "call": "m.f", "span_type": "llm", "number": 1, "span_id": "0" * 16, "line": "f.py:1",
        "recorded_line": "f.py:2", "told": ["a"],
    }  # fmt: skip


def test_a_step_that_gives_something_else_is_changed_and_no_error() -> None:
    checkpoint = failed(lambda: Agent().plans("a"))
    today.update(plan=lambda answer: answer + "!", mended=True)
    engine, error = replayed(checkpoint)
    assert error is None
    changed = [entry for entry in engine.ledger if entry.verdict == "changed"]
    assert [entry.told for entry in changed] == [
        ("returned: recorded 'A', now 'A!'",),
        ("raised RuntimeError: ['A'], now returned None",),
    ]


def test_a_step_that_now_raises_or_raises_something_else_is_changed() -> None:
    checkpoint = failed(lambda: Agent().plans("a"))
    today.update(plan=lambda answer: answer.no_such)
    engine, error = replayed(checkpoint)
    assert isinstance(error, AttributeError)
    told = [entry.told for entry in engine.ledger if entry.verdict == "changed"]
    assert "now raised AttributeError" in told[0][0]
    assert told[1][0].startswith("raised RuntimeError: ['A'], now raised AttributeError: ")


@pytest.mark.parametrize(
    ("count", "told"), [(2, "it gave 3 items, now 2"), (4, "it gave 3 items, now more"), (3, None)]
)
def test_the_items_of_a_stream_that_runs_again_are_compared(count: int, told: str | None) -> None:
    checkpoint = failed(lambda: Agent().streams())
    today["items"] = count
    engine, _ = replayed(checkpoint)
    (entry,) = [entry for entry in engine.ledger if entry.target.endswith("items")]
    assert entry.told == ((told,) if told else ())
    assert entry.verdict == ("changed" if told else "again")


def test_a_step_that_is_called_with_other_arguments_is_changed_and_its_calls_find_their_own() -> None:
    checkpoint = failed(lambda: Agent().plans("a", "b"))
    today["topics"] = ("a", "c")
    engine, error = replayed(checkpoint)
    assert isinstance(error, ReplayDivergence)
    entries = {entry.verdict: entry for entry in engine.ledger}
    assert "prompt: recorded 'b', now 'c'" in str(error)
    assert entries["diverged"].line in str(error)
    assert ("interrupted", "plan") in verdicts(engine)


def test_what_the_code_does_not_come_to_is_unused_and_never_an_error() -> None:
    checkpoint = failed(lambda: Agent().plans("a", "b"))
    today["topics"] = ("b",)
    engine, error = replayed(checkpoint)
    assert isinstance(error, RuntimeError)
    assert [entry for entry in verdicts(engine) if entry[0] == "unused"] == [("unused", "ask"), ("unused", "plan")]


def test_the_code_that_gets_further_than_the_record_ends_beyond_it() -> None:
    checkpoint = failed(lambda: Agent().plans("a"))
    today.update(then=lambda agent: agent.ask("more"))
    engine, error = replayed(checkpoint)
    assert isinstance(error, BeyondRecord)
    assert "Everything recorded was used" in str(error)
    assert [entry.number for entry in engine.ledger if entry.verdict == "beyond"] == [2]


def test_calls_after_a_refusal_are_entered_as_refused() -> None:
    def insists(agent: Agent) -> None:
        for prompt in ("x", "y", "z"):
            with contextlib.suppress(Exception):
                agent.ask(prompt)

    checkpoint = failed(lambda: Agent().plans("a"))
    today.update(then=insists)
    engine, error = replayed(checkpoint)
    assert isinstance(error, BeyondRecord)
    assert engine.ledger.count("beyond") == 3


# --- matching --------------------------------------------------------------------------------------------------------


def test_arguments_by_name_are_those_by_position() -> None:
    checkpoint = failed(lambda: Agent().named())
    today["named"] = True
    engine, _ = replayed(checkpoint)
    assert engine.ledger.count("reused") == 1


def test_equal_calls_of_concurrent_steps_get_the_answers_of_their_own_step() -> None:
    checkpoint = failed(lambda: asyncio.run(Agent().together("slow", "b", "c")))
    for _ in range(3):
        engine, error = replayed(checkpoint)
        assert str(error) == message_of(checkpoint)
        asked = [entry.span_id for entry in engine.ledger if entry.target.endswith("aask")]
        assert asked == [span.span_id for span in checkpoint.trace if span.name.endswith("aask")]


def test_calls_in_threads_get_their_own_answers() -> None:
    checkpoint = failed(lambda: Agent().in_threads("a", "b", "c"))
    for _ in range(3):
        engine, error = replayed(checkpoint)
        assert str(error) == message_of(checkpoint)
        assert engine.ledger.count("reused", "ambiguous") == 3


def test_a_step_that_calls_once_more_does_not_take_the_answer_of_the_next_one() -> None:
    checkpoint = failed(lambda: Agent().plans("a", "a"))
    today["twice"] = True
    engine, error = replayed(checkpoint)
    assert isinstance(error, ReplayDivergence)
    assert "the same arguments, but it was recorded in another step" in str(error)
    assert [entry.number for entry in engine.ledger if entry.verdict == "diverged"] == [2]


def test_without_strict_a_changed_call_is_answered_in_the_recorded_order_and_listed() -> None:
    checkpoint = failed(lambda: Agent().asks("a", "b"))
    today["prompts"] = ("a", "z")
    engine, error = replayed(checkpoint, strict=False)
    assert str(error) == "['A', 'B']"
    (entry,) = [entry for entry in engine.ledger if entry.verdict == "reused by order"]
    assert entry.told == ("prompt: recorded 'b', now 'z'",)


def test_without_strict_too_many_calls_are_beyond_the_record_all_the_same() -> None:
    checkpoint = failed(lambda: Agent().asks("a"))
    today["prompts"] = ("a", "z")
    _, error = replayed(checkpoint, strict=False)
    assert isinstance(error, BeyondRecord)


def test_a_divergence_shows_the_nearest_calls_first_and_says_what_was_used() -> None:
    long = [{"role": "user", "content": f"word {n} " * 30} for n in range(5)]
    other = [*long[:2], {"role": "user", "content": "else"}, *long[3:]]
    checkpoint = failed(lambda: Agent().asks("x", long, "y"))  # type: ignore[arg-type]
    today["prompts"] = ("x", "x")
    _, error = replayed(checkpoint)
    assert "1 recorded call(s) with these arguments were used before" in str(error)
    today["prompts"] = ("x", other)
    _, error = replayed(checkpoint)
    told = str(error).splitlines()
    assert told[0].startswith("call 2 of ")
    assert told[1].startswith(f"  now at {__file__}:")
    assert told[1].endswith(': raise RuntimeError([self.ask(prompt) for prompt in now("prompts", prompts)])')
    assert told[3].startswith(f"    recorded at {__file__}:")
    assert told[4].startswith("    prompt[2]['content']: recorded 'word 2 word 2")
    assert told[-1].endswith("lists what differs.")


# --- what served calls did to their object ---------------------------------------------------------------------------


def test_what_a_served_method_did_to_its_object_is_done_again() -> None:
    checkpoint = failed(lambda: Agent().spends())
    _, error = replayed(checkpoint)
    assert str(error) == "(1.0, ['start', 'a', 'b'])"


def test_what_overlapping_calls_did_comes_to_the_same_state_and_is_said_to_be_ambiguous() -> None:
    checkpoint = failed(lambda: asyncio.run(Agent().together("slow", "b", "c")))
    engine, error = replayed(checkpoint)
    assert str(error) == message_of(checkpoint)
    told = [entry.told for entry in engine.ledger if entry.verdict == "ambiguous"]
    assert told
    assert all("calls on this object overlapped" in each[0] for each in told)


def test_in_threads_that_come_in_another_order_the_value_that_was_set_last_stays_and_that_is_said() -> None:
    checkpoint = failed(lambda: Agent().one_after_another("a", "b"))
    today["topics"] = ("b", "a")
    engine, error = replayed(checkpoint)
    assert str(error) == "b"
    (entry,) = [entry for entry in engine.ledger if entry.verdict == "ambiguous"]
    assert entry.told == ("self.last stays what a call of another thread or task has left, which was recorded later",)


def test_in_one_thread_calls_that_come_in_another_order_today_set_values_in_that_order() -> None:
    today["threads"] = False
    checkpoint = failed(lambda: Agent().one_after_another("a", "b"))
    today["topics"] = ("b", "a")
    engine, error = replayed(checkpoint)
    assert str(error) == "a"
    assert engine.ledger.count("reused") == 2


# --- code that changed -----------------------------------------------------------------------------------------------

names = itertools.count()


def test_a_divergence_says_what_changed_in_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ledger_app_{next(names)}"
    file = tmp_path / f"{name}.py"
    file.write_text(
        textwrap.dedent(
            """
            from clearstone import checkpointable, traced

            @traced(span_type="llm")
            def ask(prompt):
                return prompt.upper()

            @checkpointable
            class Agent:
                def run(self):
                    raise RuntimeError(ask(self.prompt()))

                def prompt(self):
                    return "a"
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    app = importlib.import_module(name)
    checkpoint = failed(lambda: app.Agent().run())
    file.write_text(file.read_text().replace('"a"', '"b" + ""'))
    importlib.reload(app)
    with pytest.raises(ReplayDivergence, match=rf"Changed since: {name}:Agent.prompt") as caught:
        ReplayEngine(checkpoint).replay_from_checkpoint()
    assert "prompt: recorded 'a', now 'b'" in str(caught.value)


# --- calls that had not ended ----------------------------------------------------------------------------------------


@checkpointable
class Hasty:
    @traced(span_type="llm")
    async def ask(self, prompt: str) -> str:
        live.append(prompt)
        await asyncio.sleep(30 if prompt == "slow" else 0)
        if prompt == "bad":
            raise ValueError(prompt)
        return prompt

    @traced
    async def step(self, prompt: str) -> str:
        return await self.ask(prompt)

    async def together(self) -> None:
        await asyncio.gather(self.step("slow"), self.step("bad"))

    async def alone(self) -> None:
        slow = asyncio.ensure_future(self.step("slow"))
        await self.ask("good")
        if today.get("waits"):
            await slow
        raise ValueError("did not wait")


def hasty(call: Callable[[Hasty], Any]) -> Checkpoint:
    async def begin() -> None:
        with pytest.raises(ValueError, match=r"bad|did not wait"):
            await call(Hasty())

    asyncio.run(begin())
    live.clear()
    return CheckpointManager().load_checkpoint("latest")


def test_a_call_that_had_not_ended_when_another_failed_is_waited_for_as_it_was() -> None:
    checkpoint = hasty(Hasty.together)
    assert [span.name for span in checkpoint.trace if span.outcome is None] == ["Hasty.step", "Hasty.ask"]
    engine, error = replayed(checkpoint)
    assert repr(error) == "ValueError('bad')"
    assert ("interrupted", "ask") in verdicts(engine)


def test_code_that_waits_for_a_call_whose_end_was_not_recorded_is_beyond_the_record() -> None:
    checkpoint = hasty(Hasty.alone)
    _, error = replayed(checkpoint)
    assert repr(error) == "ValueError('did not wait')"
    today["waits"] = True
    engine, error = replayed(checkpoint)
    assert isinstance(error, BeyondRecord)
    assert "had not returned when the record ended" in str(error)
    assert ("interrupted", "ask") in verdicts(engine)


# --- written configurations ------------------------------------------------------------------------------------------


def session(
    checkpoint: Checkpoint, config: dict[str, str], **options: Any
) -> tuple[ReplayEngine, BaseException | None]:
    """Debug with a written configuration; the debugger's input ends at once, so it runs through."""
    engine, error = ReplayEngine(checkpoint, **options), None
    try:
        engine.start_debugging_session(mock_config=config)
    except Exception as raised:
        error = raised
    assert live == []
    return engine, error


@pytest.fixture
def _goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("c\n"))


@pytest.mark.usefixtures("_goes_on")
def test_a_written_configuration_serves_by_order_and_lists_what_differs() -> None:
    checkpoint = failed(lambda: Agent().asks("a", "b", "c"))
    today["prompts"] = ("a", "z")
    engine, error = session(checkpoint, {"llm": f"{__name__}.Agent.ask"})
    assert str(error) == "['A', 'B']"
    told = [(entry.verdict, entry.told) for entry in engine.ledger if entry.target.endswith("ask")]
    assert told == [
        ("reused by order", ()),
        ("reused by order", ("prompt: recorded 'b', now 'z'",)),
        ("unused", ()),
    ]


@pytest.mark.usefixtures("_goes_on")
def test_a_written_configuration_refuses_other_arguments_when_it_is_told_to_be_strict() -> None:
    checkpoint = failed(lambda: Agent().asks("a", "b"))
    today["prompts"] = ("a", "z")
    engine, error = session(checkpoint, {"llm": f"{__name__}.Agent.ask"}, strict=True)
    assert isinstance(error, ReplayDivergence)
    assert "prompt: recorded 'b', now 'z'" in str(error)
    assert engine.ledger.count("diverged") == 1
