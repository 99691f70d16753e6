"""What a reading with bad intentions found: each of these went wrong once."""

import contextlib
import io
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import CheckpointManager, ReplayEngine
from clearstone.errors import ReplayDivergence, UnservableOutcome
from clearstone.replay import arguments
from clearstone.replay.compare import difference
from clearstone.replay.digest import canonical

is_replay = False


def now(recorded: Any, today: Any) -> Any:
    return today if is_replay else recorded


def replayed(call: Callable[[], Any], *name: Any, **options: Any) -> tuple[Any, Any, ReplayEngine]:
    """Return what the recorded call failed with, what the replay did, and its engine."""
    global is_replay
    is_replay = False
    with pytest.raises(Exception) as recorded:
        call()
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"), **options)
    is_replay, found = True, None
    try:
        found = engine.replay_from_checkpoint(*name)
    except Exception as error:
        found = error
    finally:
        is_replay = False
    return recorded.value, found, engine


def args(found: Any) -> Any:
    return found.args if isinstance(found, BaseException) else found


class Node:
    def __init__(self, text: str, parent: Any) -> None:
        self.text, self.parent = text, parent


def chain(end: str, length: int = 120) -> Node:
    node = Node(end, None)
    for _ in range(length):
        node = Node("m", node)
    return node


def last(node: Node) -> str:
    while node.parent is not None:
        node = node.parent
    return node.text


class Slotted:
    __slots__ = ("slot",)


@checkpointable
class Agent(Slotted):
    __slots__ = ("__dict__", "__weakref__")

    def __init__(self) -> None:
        self.tokens, self.count = 0, 0
        self.one: list[int] = []
        self.other = self.one

    @traced(span_type="llm")
    def ask(self, given: Any) -> Any:
        return given(0) if callable(given) else last(given) if isinstance(given, Node) else given

    @traced(span_type="llm")
    def only(self, x: int, /, **more: Any) -> Any:
        return x, more

    @traced(span_type="llm")
    def rest(self, x: int, *args: Any, **more: Any) -> Any:
        return x, args, more

    @traced(span_type="llm", record_effects=True)
    def fill(self, items: list[int]) -> None:
        items.append(1)

    @property
    @traced(span_type="llm")
    def asked(self) -> int:
        return 1

    @traced(span_type="tool")
    def factorial(self, n: int) -> int:
        return 1 if n == 0 else n * self.factorial(n - 1)

    @traced(span_type="tool")
    def lock(self, given: Any = None) -> Any:
        return threading.Lock()

    @traced
    def lock_step(self) -> Any:
        return threading.Lock()

    @traced(span_type="llm")
    def next(self, _: Any) -> str:
        self.count += 1
        return f"answer {self.count}"

    @traced
    def step(self, x: Any) -> str:
        return self.next("same")

    @traced
    def number(self, given: Any) -> int:
        return 1

    @traced
    def items(self) -> Iterator[int]:
        yield from range(3)

    @traced
    def raises(self) -> int:
        if is_replay:
            raise ValueError("now")
        return 17

    @traced(span_type="llm")
    def drop(self) -> None:
        if hasattr(self, "slot"):
            del self.slot

    @traced(span_type="llm")
    def stream(self) -> Iterator[int]:
        for number in range(3):
            self.tokens += 1
            yield number

    @traced(span_type="llm")
    def add(self, number: int) -> None:
        self.one.append(number)

    def run(self, do: Callable[[Any], Any]) -> None:
        raise RuntimeError(do(self))


@traced(span_type="tool")
def tool(self: Any, question: int) -> Any:
    return question


class Holder:
    ask = tool


def swapped(one: Any, two: Any) -> Callable[[Agent], Any]:
    def do(agent: Agent) -> Any:
        first, second = now((one, two), (two, one))
        return agent.ask(first), agent.ask(second)

    return do


def adds(n: int) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + n

    return add


def deep(do: Callable[[], Any], depth: int) -> Any:
    return deep(do, depth - 1) if depth else do()


# --- wrong answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (chain("A"), chain("B")),
        (chain("A", 250), chain("B", 250)),
        ({"a": "xbuiltins:str:y"}, {"abuiltins:str:x": "y"}),
        (10**5000, 10**5000 + 1),
        (frozenset([8, 0, 10**5000]), frozenset([8, 1])),
    ],
    ids=["long chains", "very long chains", "texts like digests", "long numbers", "sets of them"],
)
def test_arguments_that_differ_far_inside_get_their_own_answers(one: Any, two: Any) -> None:
    recorded, found, engine = replayed(lambda: Agent().run(swapped(one, two)))
    assert args(found)[0] == (*reversed(recorded.args[0]),)
    assert engine.ledger.count("reused") == 2


def test_functions_are_told_apart_by_what_they_close_over() -> None:
    assert difference(adds(1), adds(1)) is None
    assert canonical(adds(1)) == canonical(adds(1))
    assert difference(adds(1), adds(2)) is not None
    assert canonical(adds(1)) != canonical(adds(2))


def test_what_is_passed_by_position_alone_is_not_what_is_passed_by_that_name() -> None:
    def do(agent: Agent) -> Any:
        first, second = now((1, 3), (3, 1))
        third, fourth = now(((5,), {}), ((), {"*1": 5})), now(((), {"*1": 5}), ((5,), {}))
        return (
            agent.only(first, x=2), agent.only(second, x=2),
            agent.rest(0, *third[0], **third[1]), agent.rest(0, *fourth[0], **fourth[1]),
        )  # fmt: skip

    (one, two, three, four), found, _ = _told(replayed(lambda: Agent().run(do)))
    assert found == (two, one, four, three)


def _told(result: tuple[Any, Any, ReplayEngine]) -> tuple[Any, Any, ReplayEngine]:
    return result[0].args[0], args(result[1])[0], result[2]


def test_a_step_that_was_put_in_does_not_get_the_answers_of_those_behind_it() -> None:
    def do(agent: Agent) -> Any:
        return [agent.step(x) for x in now("ab", "nab")]

    _, found, engine = replayed(lambda: Agent().run(do))
    assert isinstance(found, ReplayDivergence)
    assert engine.ledger.count("diverged") == 1


def test_a_written_configuration_serves_no_calls_that_were_made_in_a_mocked_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RuntimeError):
        Agent().run(lambda agent: (agent.factorial(3), agent.factorial(5)))
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\n"))
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(RuntimeError, match=r"\(6, 120\)"):
        engine.start_debugging_session(mock_config={"tool": f"{__name__}.Agent.factorial"})
    assert engine.ledger.count("unused") == 0


def test_what_holds_a_list_under_two_names_gets_each_item_once() -> None:
    def do(agent: Agent) -> Any:
        agent.add(1)
        agent.add(2)
        return agent.one, agent.other

    recorded, found, _ = _told(replayed(lambda: Agent().run(do)))
    assert found == recorded == ([1, 2], [1, 2])


# --- errors and hangs of our own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [60, 250])
def test_a_call_from_deep_below_with_a_deep_argument_is_answered(length: int) -> None:
    given = chain("end", length)
    recorded, found, engine = replayed(
        lambda: Agent().run(lambda agent: deep(lambda: (agent.ask(given), agent.number(given)), 400))
    )
    assert args(found) == recorded.args
    assert engine.ledger.served == 1


class Doc:
    """Pickling it waits for whoever holds its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> Any:
        with self.lock:
            return {"text": 1}

    def __setstate__(self, _: Any) -> None:
        self.__init__()  # type: ignore[misc]


@pytest.mark.timeout(60)
def test_no_lock_is_held_while_the_users_objects_pickle() -> None:
    def do(agent: Agent) -> Any:
        doc, started = Doc(), threading.Event()

        def one() -> None:
            with doc.lock:
                started.set()
                select.select([], [], [], 0.3)
                agent.next("short")

        def two() -> None:
            started.wait()
            agent.number(doc)

        threads = [threading.Thread(target=each, daemon=True) for each in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        return [thread.is_alive() for thread in threads]

    _, found, _ = _told(replayed(lambda: Agent().run(do)))
    assert found == [False, False]


def test_effects_on_an_argument_are_done_again_however_it_is_passed() -> None:
    def do(agent: Agent) -> Any:
        items: list[int] = []
        now(lambda: agent.fill(items=items), lambda: agent.fill(items))()
        return items

    _, found, engine = _told(replayed(lambda: Agent().run(do)))
    assert found == [1]
    assert engine.ledger.count("reused") == 1


def test_a_property_around_a_decorated_method_is_answered() -> None:
    _, found, engine = _told(replayed(lambda: Agent().run(lambda agent: agent.asked)))
    assert found == 1
    assert engine.ledger.count("reused") == 1


def test_a_slot_that_is_empty_today_is_left_and_said() -> None:
    def do(agent: Agent) -> Any:
        if now(True, False):
            agent.slot = 1  # type: ignore[attr-defined]  # a slot
        agent.drop()

    _, found, engine = replayed(lambda: Agent().run(do))
    assert isinstance(found, RuntimeError)
    assert [entry.told for entry in engine.ledger if entry.verdict == "ambiguous"] == [
        ("self.slot is not deleted as it was: it is not there",)
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: {(1, 2): 1, (3, 4): 2},
        lambda: memoryview(b"abc"),
        lambda: np.ma.array([1, 2], mask=[False, True]),
        lambda: np.array([1.5, 2.5], dtype=np.longdouble),
        lambda: {(n,) for n in range(50)},
    ],
    ids=["keys that are tuples", "memoryview", "masked array", "long doubles", "set of tuples"],
)
def test_unchanged_arguments_of_odd_kinds_are_no_divergence(make: Callable[[], Any]) -> None:
    _, found, engine = replayed(lambda: Agent().run(lambda agent: agent.next(make())))
    assert isinstance(found, RuntimeError)
    assert engine.ledger.served == 1


def test_the_order_of_keys_of_any_kind_does_not_matter() -> None:
    one, other = {(1, 2): 1, (3, 4): 2}, {(3, 4): 2, (1, 2): 1}
    assert difference(one, other) is None
    assert canonical(one) == canonical(other)


def test_a_function_that_is_called_bound_and_unbound_is_answered_both_ways() -> None:
    recorded, found, _ = _told(replayed(lambda: Agent().run(lambda _: (Holder().ask(3), tool(4, 5)))))
    assert found == recorded


# --- what the ledger says --------------------------------------------------------------------------------------------


def test_a_step_that_is_not_over_is_interrupted() -> None:
    kept: list[Any] = []

    def do(agent: Agent) -> Any:
        kept.append(agent.items())
        return next(kept[-1])

    _, _, engine = replayed(lambda: Agent().run(do))
    assert [(each.verdict, each.told) for each in engine.ledger if each.target.endswith("items")] == [
        ("interrupted", ("it had not ended when the replay did",))
    ]


def test_an_outcome_that_was_not_recorded_is_entered_with_its_call_and_reason() -> None:
    _, found, engine = replayed(lambda: Agent().run(lambda agent: agent.lock()))
    assert isinstance(found, UnservableOutcome)
    (entry,) = [each for each in engine.ledger if each.target.endswith("lock")]
    assert (entry.verdict, bool(entry.span_id)) == ("diverged", True)
    assert "does not pickle" in entry.told[0]


def test_an_unused_call_is_one_entry_with_its_number_and_what_was_made_in_it_none() -> None:
    def do(agent: Agent) -> Any:
        return now(lambda: (agent.factorial(1), agent.factorial(2)), lambda: agent.factorial(1))()

    _, _, engine = replayed(lambda: Agent().run(do))
    assert [(each.verdict, each.number) for each in engine.ledger if each.target.endswith("factorial")] == [
        ("reused", 1), ("unused", 2),
    ]  # fmt: skip


def test_a_refused_call_of_a_written_configuration_leaves_its_recorded_one_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    global is_replay

    def do(agent: Agent) -> None:
        for number in range(4):
            with contextlib.suppress(Exception):
                agent.next(now("x", "y") if number == 1 else "x")

    with pytest.raises(RuntimeError):
        Agent().run(do)
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\n"))
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"), strict=True)
    is_replay = True
    try:
        with pytest.raises(ReplayDivergence):
            engine.start_debugging_session(mock_config={"llm": f"{__name__}.Agent.next"})
    finally:
        is_replay = False
    assert engine.ledger.count("reused by order") == 1
    assert engine.ledger.count("diverged") == 3
    assert engine.ledger.count("unused") == 3


def test_a_step_whose_value_did_not_pickle_repeats_and_one_that_now_raises_says_what_it_gave() -> None:
    _, _, engine = replayed(lambda: Agent().run(lambda agent: agent.lock_step()))
    assert [each.verdict for each in engine.ledger if each.target.endswith("lock_step")] == ["again"]
    _, _, engine = replayed(lambda: Agent().run(lambda agent: agent.raises()))
    assert [each.told for each in engine.ledger if each.target.endswith("raises")] == [
        ("returned 17, now raised ValueError('now')",)
    ]


class WithMore(Agent):
    @traced
    def helper(self) -> int:
        return 1

    def instead(self) -> Any:
        return self.helper(), self.next("x")


def test_a_step_below_a_named_method_that_the_record_does_not_have_is_changed() -> None:
    _, _, engine = replayed(lambda: WithMore().run(lambda agent: agent.next("x")), "instead")
    assert [(each.verdict, each.target.rpartition(".")[2]) for each in engine.ledger] == [
        ("changed", "helper"), ("reused", "next"), ("again", "instead"), ("unused", "run"),
    ]  # fmt: skip


def test_what_a_generator_did_to_its_object_is_done_when_it_ends() -> None:
    def do(agent: Agent) -> Any:
        during = [agent.tokens for _ in agent.stream()]
        return during[0] < 3, agent.tokens

    recorded, found, _ = _told(replayed(lambda: Agent().run(do)))
    assert found == recorded == (True, 3)


# --- calls of threads that carry nothing -----------------------------------------------------------------------------


jobs: queue.Queue[Any] = queue.Queue()


@traced(span_type="llm")
def look() -> int:
    return now(5, 7)  # type: ignore[no-any-return]


def work() -> None:
    for answer in iter(jobs.get, None):
        answer.put(look())


def asks_the_worker(_: Any) -> Any:
    answer: queue.Queue[int] = queue.Queue()
    jobs.put(answer)
    return answer.get(timeout=10)


def test_a_worker_from_before_is_answered_where_the_replay_has_the_process_to_itself() -> None:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        recorded, found, engine = replayed(
            lambda: Agent().run(lambda agent: now(look, lambda: asks_the_worker(agent))()), everywhere=True
        )
    finally:
        jobs.put(None)
        thread.join()
    assert args(found) == recorded.args == (5,)
    assert engine.ledger.count("reused") == 1


# --- what grows ------------------------------------------------------------------------------------------------------

MANY = 200

DO_MANY: dict[str, Callable[[Agent], Any]] = {
    "arguments that do not pickle": lambda agent: [agent.next(threading.Lock()) for _ in range(MANY)],
    "steps whose arguments are all new": lambda agent: [agent.number((each, now(False, True))) for each in range(MANY)],
    "sets in another order": lambda agent: [agent.next({str(each), f"{each}x"}) for each in range(MANY)],
}


@pytest.mark.parametrize("what", DO_MANY)
def test_recorded_arguments_are_loaded_a_few_times_each_however_many_calls_there_are(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []
    load = arguments.of_span

    def counting(span: Any, names: Any) -> Any:
        loaded.append(1)
        return load(span, names)

    monkeypatch.setattr(arguments, "of_span", counting)
    replayed(lambda: Agent().run(DO_MANY[what]))
    assert len(loaded) <= 3 * MANY


def test_the_items_of_a_set_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    reduced = Node.__reduce_ex__

    def counting(self: Any, protocol: Any) -> Any:
        looked.append(1)
        return reduced(self, protocol)

    monkeypatch.setattr(Node, "__reduce_ex__", counting)
    sets = [{Node(str(each), None) for each in range(MANY)} for _ in range(2)]
    assert difference(*sets) is None
    assert len(looked) == 2 * MANY
