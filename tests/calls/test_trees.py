"""The parents of random concurrent call trees are those of a reference that passes the parent explicitly."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearstone import traced

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from tests.calls.conftest import Recorded

KINDS = [
    "function", "coroutine", "generator", "async generator", "stream", "thread", "pool", "thread pool", "to_thread",
]  # fmt: skip


@dataclass
class Node:
    """One call to make: how, what it calls, and after how many items its consumer stops."""

    kind: str
    below: list[Node] = field(default_factory=list)
    stops: int = 9
    number: int = 0


def trees() -> st.SearchStrategy[Node]:
    leaf = st.builds(Node, st.sampled_from(KINDS), st.just([]), st.integers(0, 2))
    return st.recursive(
        leaf,
        lambda below: st.builds(
            Node, st.sampled_from(KINDS), st.lists(below, max_size=4), st.one_of(st.just(9), st.integers(0, 2))
        ),
        max_leaves=14,
    )


class Reference:
    """What was called by what, as the callers themselves say."""

    def __init__(self, root: Node) -> None:
        self.calls: list[tuple[int, int | None]] = []
        waiting, number = deque([root]), 0
        while waiting:
            node = waiting.popleft()
            number += 1
            node.number = number
            waiting.extend(node.below)


# --- the calls: each is given its node, its parent's number, and the reference to tell it ---------------------------


class Telling:
    """Passed along with each call; not recorded by value."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def __reduce__(self) -> Any:
        return str, ("telling",)

    def __call__(self, node: Node, parent: int | None) -> None:
        self.reference.calls.append((node.number, parent))


@traced
def function(number: int, node: Node, parent: int | None, tell: Telling) -> None:
    tell(node, parent)
    call_all(node.below, number, tell)


@traced
async def coroutine(number: int, node: Node, parent: int | None, tell: Telling) -> None:
    tell(node, parent)
    await acall_all(node.below, number, tell)


@traced
def generator(number: int, node: Node, parent: int | None, tell: Telling) -> Generator[int, None, None]:
    tell(node, parent)
    yield 0
    for each in node.below:
        call_all([each], number, tell)
        yield each.number


@traced
async def async_generator(number: int, node: Node, parent: int | None, tell: Telling) -> AsyncGenerator[int, None]:
    tell(node, parent)
    yield 0
    for each in node.below:
        await acall_all([each], number, tell)
        yield each.number


class Items:
    """A stream that is no generator: its calls are made as it is read."""

    def __init__(self, node: Node, tell: Telling) -> None:
        self._node, self._tell, self._left = node, tell, deque(node.below)

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> int:
        if not self._left:
            raise StopIteration
        each = self._left.popleft()
        call_all([each], self._node.number, self._tell)
        return each.number


@traced
def stream(number: int, node: Node, parent: int | None, tell: Telling) -> Items:
    tell(node, parent)
    return Items(node, tell)


def call_all(nodes: list[Node], parent: int | None, tell: Telling) -> None:
    """Make calls from plain code; what is read item by item is read in turn, between the other calls."""
    reading: deque[tuple[Any, int]] = deque()
    waiting = deque(nodes)
    while waiting or reading:
        if reading:
            items, left = reading.popleft()
            if left and next(items, None) is not None:
                reading.append((items, left - 1))
            elif hasattr(items, "close"):
                items.close()
        if waiting:
            node = waiting.popleft()
            given = (node.number, node, parent, tell)
            if node.kind in {"generator", "stream"}:
                reading.append(((generator if node.kind == "generator" else stream)(*given), node.stops))
            else:
                _CALLS[node.kind](given)


def in_a_thread(given: Any) -> None:
    thread = threading.Thread(target=function, args=given)
    thread.start()
    thread.join()


def in_a_pool(given: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function, *given).result()


def in_a_thread_pool(given: Any) -> None:
    with ThreadPool(1) as pool:
        pool.apply(function, given)


def in_a_loop_of_another_thread(given: Any) -> None:
    _, node, parent, tell = given
    thread = threading.Thread(target=lambda: asyncio.run(acall_all([node], parent, tell)))
    thread.start()
    thread.join()


_CALLS: dict[str, Any] = {
    "function": lambda given: function(*given),
    "thread": in_a_thread,
    "pool": in_a_pool,
    "thread pool": in_a_thread_pool,
    "to_thread": in_a_loop_of_another_thread,
    "coroutine": in_a_loop_of_another_thread,
    "async generator": in_a_loop_of_another_thread,
}


async def acall_all(nodes: list[Node], parent: int | None, tell: Telling) -> None:
    await asyncio.gather(*(acall(node, parent, tell) for node in nodes))


async def acall(node: Node, parent: int | None, tell: Telling) -> None:
    given = (node.number, node, parent, tell)
    await asyncio.sleep(0)
    if node.kind == "coroutine":
        await coroutine(*given)
    elif node.kind == "to_thread":
        await asyncio.to_thread(function, *given)
    elif node.kind == "async generator":
        items, left = async_generator(*given), node.stops
        while left and await anext(items, None) is not None:
            left -= 1
            await asyncio.sleep(0)
        await items.aclose()
    else:
        call_all([node], parent, tell)


@pytest.mark.timeout(300)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees())
def test_parents_of_random_concurrent_call_trees_are_those_of_the_reference(recorded: Recorded, root: Node) -> None:
    reference = Reference(root)
    before = len(recorded.calls())
    call_all([root], None, Telling(reference))
    gc.collect()  # streams that were left unread end when they are collected
    calls = recorded.calls()[before:]
    numbers = {call.row.span_id: call.args[0] for call in calls}
    found = [(call.args[0], numbers[call.row.parent_id] if call.row.parent_id else None) for call in calls]
    assert sorted(found, key=str) == sorted(reference.calls, key=str)
    assert len({call.row.trace_id for call in calls}) <= 1
    assert all(call.end is not None for call in calls)


def test_a_thousand_calls_gathered_in_tasks_and_threads_keep_their_parents(recorded: Recorded) -> None:
    leaves = [Node("to_thread" if n % 10 == 0 else "coroutine") for n in range(900)]
    root = Node("coroutine", [Node("coroutine", leaves[n : n + 9]) for n in range(0, 900, 9)])
    reference = Reference(root)
    call_all([root], None, Telling(reference))
    calls = recorded.calls()
    numbers = {call.row.span_id: call.args[0] for call in calls}
    assert len(calls) == 1001
    assert {(call.args[0], numbers.get(call.row.parent_id or 0)) for call in calls} == set(reference.calls)


def test_a_thread_that_outlives_the_span_it_was_started_in_stays_below_it(recorded: Recorded) -> None:
    go = threading.Event()

    @traced(name="late")
    def late() -> None: ...

    def wait() -> None:
        go.wait(60)
        late()

    @traced(name="start")
    def start() -> threading.Thread:
        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    thread = start()
    go.set()
    thread.join()
    assert recorded.parent("late") == "start"


class Working(threading.Thread):
    """A thread whose class says what it runs."""

    def run(self) -> None:
        leaf_of_a_thread()


@traced
def leaf_of_a_thread() -> None: ...


@pytest.mark.parametrize("make", [Working, lambda: threading.Thread(target=leaf_of_a_thread)])
def test_a_thread_that_ended_goes_without_the_garbage_collector(
    recorded: Recorded, make: Callable[[], threading.Thread]
) -> None:
    @traced
    def start() -> weakref.ref[threading.Thread]:
        thread = make()
        thread.start()
        thread.join()
        assert "run" not in vars(thread)
        return weakref.ref(thread)

    gc.collect()
    gc.disable()
    try:
        assert start()() is None
    finally:
        gc.enable()
    assert str(recorded.parent("leaf_of_a_thread")).endswith("start")


def test_a_thread_keeps_the_run_it_was_given_also_where_it_cannot_start(recorded: Recorded) -> None:
    ran: list[None] = []
    thread = threading.Thread()
    given: Any = lambda: ran.append(None)  # noqa: E731 - it is set as an attribute
    thread.run = given  # type: ignore[method-assign]

    @traced
    def start() -> None:
        thread.start()
        thread.join()
        assert vars(thread)["run"] is given
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
        assert vars(thread)["run"] is given

    start()
    assert ran == [None]
