"""A clock and an entropy that go live: real from then on, and continuous."""

import asyncio
import datetime
import random
import secrets
import time
import uuid

import pytest

from clearstone import nondet

START = 1_700_000_000_000_000_000


def test_the_wall_clock_becomes_the_real_one_and_the_steady_ones_go_on_from_where_they_were() -> None:
    real = time.time()
    with nondet.deterministic(start_ns=START, seed=b"x"):
        steady, perf = time.monotonic(), time.perf_counter()
        assert time.time() == START / 1e9
        jump = nondet.go_live()
        assert jump >= (real * 1e9 - START) - 1e9
        assert time.time() >= real
        assert datetime.datetime.now(datetime.UTC).timestamp() >= real
        assert 0 <= time.monotonic() - steady < 60
        assert 0 <= time.perf_counter() - perf < 60
        assert nondet.go_live() == 0
    assert time.time() >= real


def test_sleeping_and_timers_take_their_time_once_live() -> None:
    async def waits() -> float:
        began = time.monotonic()
        await asyncio.sleep(0.02)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.02)
        return time.monotonic() - began

    outside = time.monotonic()
    with nondet.deterministic(start_ns=START, seed=b"x"):
        nondet.go_live()
        time.sleep(0.02)
        elapsed = nondet.run(waits())
    assert elapsed >= 0.04
    assert time.monotonic() - outside >= 0.06


def test_a_timer_set_before_fires_after_its_time_when_the_loop_goes_live() -> None:
    async def waits() -> list[str]:
        done: list[str] = []

        async def first() -> None:
            await asyncio.sleep(0.01)
            done.append("first")

        task = asyncio.create_task(first())
        await asyncio.sleep(0)
        nondet.go_live()
        await task
        return done

    with nondet.deterministic(start_ns=START, seed=b"x"):
        assert nondet.run(waits()) == ["first"]


def test_entropy_is_real_once_live_and_repeats_before() -> None:
    def drawn(*, live: bool) -> tuple[object, ...]:
        with nondet.deterministic(start_ns=START, seed=b"x"):
            before = uuid.uuid4()
            if live:
                nondet.go_live()
            return before, uuid.uuid4(), uuid.uuid1(), secrets.token_hex(), random.Random().random()

    one, other = drawn(live=True), drawn(live=True)
    assert one[0] == other[0]
    assert all(first != second for first, second in zip(one[1:], other[1:], strict=True))
    assert drawn(live=False) == drawn(live=False)


def test_real_entropy_and_the_real_time_are_had_in_the_middle_of_a_context() -> None:
    with nondet.deterministic(start_ns=START, seed=b"x"):
        first = uuid.uuid4()
        with nondet.real_entropy():
            uuid.uuid4()
        assert nondet.real_time_ns() > time.time_ns()
        second = uuid.uuid4()
    with nondet.deterministic(start_ns=START, seed=b"x"):
        assert (uuid.uuid4(), uuid.uuid4()) == (first, second)
