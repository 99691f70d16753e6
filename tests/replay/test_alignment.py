"""Two traces side by side: what is different, and what came first."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clearstone import traced
from clearstone.observability import MemoryTraceStore, Trace, TracerProvider
from clearstone.replay.alignment import Parting, partings

today: dict[str, Any] = {}


@traced(span_type="llm")
def ask(prompt: str) -> Any:
    return today.get(prompt, prompt.upper())


@traced
def step(*prompts: str) -> Any:
    return [ask(prompt) for prompt in prompts]


@traced
def fails(prompt: str) -> Any:
    raise ValueError(prompt)


@traced
def deep(depth: int) -> Any:
    return deep(depth - 1) if depth else ask("bottom")


@traced
def items(*given: Any) -> Any:
    yield from given


def recorded(work: Callable[[], Any]) -> Trace:
    provider = TracerProvider(store=MemoryTraceStore())
    try:
        with provider.get_tracer().span("root") as root:
            work()
        provider.flush()
        return provider.trace_store.get_trace(root.trace_id)
    finally:
        provider.shutdown()


def parted(one: Callable[[], Any], other: Callable[[], Any]) -> list[Parting]:
    return list(partings(recorded(one), recorded(other)))


def test_equal_runs_have_no_difference() -> None:
    assert parted(lambda: step("a", "b"), lambda: step("a", "b")) == []


def test_the_first_difference_is_where_the_runs_part_and_not_the_call_above() -> None:
    one = recorded(lambda: step("a", "b", "c"))
    today["b"] = "other"
    other = recorded(lambda: step("a", "b", "c"))
    today.clear()
    found = list(partings(one, other))
    assert [(each.call, each.what, each.before, each.after) for each in found] == [
        ("ask", "outcome", "s4", "s4"),
        ("step", "outcome", "s2", "s2"),
    ]
    assert found[0].told == ("changed returned: 'B' -> 'other'",)


def test_arguments_are_compared_before_what_is_below() -> None:
    found = parted(lambda: step("a"), lambda: step("z"))
    assert [(each.call, each.what) for each in found] == [
        ("step", "arguments"),
        ("ask", "arguments"),
        ("ask", "outcome"),
        ("step", "outcome"),
    ]


def test_calls_that_one_run_alone_made_are_added_or_removed() -> None:
    found = parted(lambda: step("a"), lambda: (step("a"), ask("more")))
    assert [(each.what, each.call, each.before, each.after) for each in found] == [("added", "ask", "", "s4")]
    (removed,) = parted(lambda: (step("a"), ask("more")), lambda: step("a"))
    assert (removed.what, removed.before, removed.after) == ("removed", "s4", "")


def test_how_a_call_ended_is_compared_and_the_items_of_streams_are() -> None:
    def caught(prompt: str) -> None:
        try:
            fails(prompt)
        except ValueError:
            return

    (found,) = [each for each in parted(lambda: caught("a"), lambda: caught("b")) if each.what == "outcome"]
    assert found.told == ("raised ValueError: a, then raised ValueError: b",)
    streams = parted(lambda: list(items(1, 2)), lambda: list(items(1, 3, 4)))
    told = [line for each in streams if each.what == "outcome" for line in each.told]
    assert told == ["changed item 1: 2 -> 3", "changed item 2: None -> 4"]


def test_calls_of_tasks_are_compared_in_the_order_they_started() -> None:
    @traced(span_type="llm")
    async def aask(prompt: str) -> str:
        await asyncio.sleep(0)
        return prompt

    async def together(*prompts: str) -> None:
        await asyncio.gather(*map(aask, prompts))

    assert parted(lambda: asyncio.run(together("a", "b")), lambda: asyncio.run(together("a", "b"))) == []


def test_traces_as_deep_as_the_stack_are_compared() -> None:
    depth = sys.getrecursionlimit() // 8
    found = parted(lambda: deep(depth), lambda: deep(depth + 1))
    assert found[0].what == "arguments"
    assert len(found) > depth


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_two_runs_differ_where_they_were_given_something_else(one: list[str], other: list[str]) -> None:
    found = parted(lambda: step(*one), lambda: step(*other))
    assert bool(found) == (one != other)
