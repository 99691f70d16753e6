"""Values that fight back: each call behaves as without the recorder, and each leaves a whole span."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearstone import traced
from clearstone.observability import Span, TracerProvider

Step = Callable[[Any], Any]


@pytest.fixture
def provider(database: Path) -> TracerProvider:
    return TracerProvider(database)


@pytest.fixture
def step(provider: TracerProvider) -> Step:
    @traced(tracer=provider.get_tracer(), name="step")
    def step(value: Any) -> Any:
        return value

    return step


class ReduceRaises:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


class ReprRaises(ReduceRaises):
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


class Lies(ReduceRaises):
    @property  # type: ignore[misc]  # a lie
    def __class__(self) -> Any:
        raise RuntimeError("what am I?")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Mutates:
    def __init__(self) -> None:
        self.held: list[Any] = [0]

    def __reduce__(self) -> Any:
        self.held.append(self)
        return (list, (self.held[:1],))


class MutatesItsList:
    def __init__(self, among: list[Any]) -> None:
        self.among = among

    def __reduce__(self) -> Any:
        del self.among[:]
        return (int, ())


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def among_itself() -> list[Any]:
    value: list[Any] = [1, 2, 3]
    value.insert(0, MutatesItsList(value))
    return value


VALUES: dict[str, Callable[[], Any]] = {
    "a __reduce__ that raises": ReduceRaises,
    "a __repr__ that raises": ReprRaises,
    "a __class__ that lies": Lies,
    "a value that mutates itself while it is pickled": Mutates,
    "a list that is emptied while it is pickled": among_itself,
    "a list nested beyond the recursion limit": lambda: deep(sys.getrecursionlimit() * 3),
    "a list of a million elements": lambda: list(range(1_000_000)),
    "half a surrogate pair": lambda: "cut \ud83d off",
    "an object of a class made here": lambda: type("Here", (), {})(),
    "the interpreter's own modules": lambda: sys.modules,
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
@pytest.mark.usefixtures("faults_allowed")
def test_a_hostile_value_passes_through_and_leaves_a_whole_span(
    make: Callable[[], Any], step: Step, provider: TracerProvider, recovered: Callable[[], Any]
) -> None:
    value = make()
    assert step(value) is value
    assert step("after") == "after"
    assert provider.shutdown()
    spans: list[Span] = recovered().named("step")
    assert len(spans) == 2
    assert all(span.end_ns is not None and span.outcome is not None for span in spans)


def test_a_finalizer_that_records_while_others_are_recorded_is_kept(
    step: Step, provider: TracerProvider, recovered: Callable[[], Any]
) -> None:
    class Tells:
        def __init__(self, number: int) -> None:
            self.number = number
            self.me = self

        def __del__(self) -> None:
            step(-1 - self.number)

    for number in range(2000):
        Tells(number)
        step(number)
    import gc

    gc.collect()
    assert provider.shutdown()
    assert sorted(number for (number,) in recovered().given("step")) == list(range(-2000, 2000))


def test_ten_thousand_tasks_in_one_gather_keep_their_parents(
    provider: TracerProvider, recovered: Callable[[], Any]
) -> None:
    @traced(tracer=provider.get_tracer(), name="inner")
    async def inner(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @traced(tracer=provider.get_tracer(), name="outer")
    async def outer(number: int) -> int:
        await asyncio.sleep(0)
        return await inner(number)

    async def main() -> list[int]:
        return await asyncio.gather(*(outer(number) for number in range(10_000)))

    assert asyncio.run(main()) == list(range(10_000))
    assert provider.shutdown(60)
    found = recovered()
    inners, outers = found.given("inner"), found.given("outer")
    assert len(inners) == len(outers) == 10_000
    assert all(inners[key].parent_id == outers[key].span_id for key in outers)


@pytest.mark.usefixtures("faults_allowed")
def test_calls_down_to_the_recursion_limit_fail_as_without_the_recorder_and_leave_whole_spans(
    provider: TracerProvider, recovered: Callable[[], Any]
) -> None:
    reached = [0]

    @traced(tracer=provider.get_tracer(), name="down")
    def down(number: int) -> None:
        reached[0] = number
        down(number + 1)

    with pytest.raises(RecursionError):
        down(0)
    provider.shutdown()
    spans = {span.span_id: span for span in recovered().named("down")}
    assert len(spans) >= reached[0] - 5
    assert sum(span.parent_id is None for span in spans.values()) == 1


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_two_hundred_thousand_spans_are_all_found_and_memory_stays_flat(
    program: Callable[..., Any], database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = program(
        """
        import sqlite3, sys, time
        from clearstone import configure, traced

        def anonymous():
            for line in open("/proc/self/status"):
                if line.startswith("RssAnon"):
                    return int(line.split()[1]) // 1024

        @traced
        def step(number):
            return number

        provider = configure(db_path=sys.argv[1])
        step(-1)
        provider.flush()
        before, most, start = anonymous(), 0, time.monotonic()
        for number in range(200_000):
            step(number)
            if not number % 5000:
                most = max(most, anonymous())
        recorded = time.monotonic() - start
        assert provider.shutdown(100)
        durable = time.monotonic() - start
        found = sqlite3.connect(sys.argv[1]).execute("SELECT count(end_ns) FROM spans").fetchone()[0]
        print(found - 1, max(most, anonymous()) - before, f"{recorded:.1f}", f"{durable:.1f}")
        """,
        database,
    )
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found, grown, recorded, durable = out.split()
    with capsys.disabled():
        print(
            f"200,000 spans: {int(found):,} found, {grown} MB of anonymous memory more, "
            f"recorded in {recorded} s, durable after {durable} s"
        )
    assert int(found) == 200_000
    assert int(grown) < 64
