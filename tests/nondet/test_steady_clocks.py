from __future__ import annotations

import datetime
import math
import pickle
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from time import monotonic as monotonic_alias
from time import perf_counter as perf_counter_alias
from time import sleep as sleep_alias
from typing import Any

import numpy as np
import pytest

from clearstone.errors import ConfigurationError
from clearstone.nondet import VirtualClock, deterministic

START = 1_000_000_000_123_456_789
MICROSECOND = 1_000
SECOND = 1_000_000_000


def real_error(seconds: Any) -> tuple[type[BaseException], str]:
    with pytest.raises((TypeError, ValueError, OverflowError)) as caught:
        time.sleep(seconds)
    return caught.type, str(caught.value)


def test_each_read_of_a_steady_clock_is_a_microsecond_later() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock:
        start = clock.monotonic_ns()
        reads = [
            time.monotonic_ns(),
            time.perf_counter_ns(),
            time.process_time_ns(),
            time.thread_time_ns(),
            time.monotonic_ns(),
        ]
    assert [read - start for read in reads] == [MICROSECOND * step for step in range(1, 6)]


def test_steady_clocks_in_seconds_show_the_same_clock() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock:
        for read in (time.monotonic, time.perf_counter, time.process_time, time.thread_time):
            expected = (clock.monotonic_ns() + MICROSECOND) / SECOND
            assert read() == expected


def test_aliases_taken_before_show_the_same_clock() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock:
        start = clock.monotonic_ns()
        assert monotonic_alias() == (start + MICROSECOND) / SECOND
        assert perf_counter_alias() == (start + 2 * MICROSECOND) / SECOND


def test_two_entries_start_at_the_same_value() -> None:
    def look() -> int:
        with deterministic(start_ns=START, seed=b"seed"):
            return time.monotonic_ns()

    assert look() == look()


def test_other_threads_read_the_real_steady_clock() -> None:
    with ThreadPoolExecutor(1) as pool:
        before = time.monotonic_ns()
        with deterministic(start_ns=START, seed=b"seed"):
            seen = pool.submit(time.monotonic_ns).result()
            in_process = pool.submit(time.process_time).result()
        assert before < seen < time.monotonic_ns()
        assert 0 < in_process <= time.process_time()


def test_sleep_returns_at_once_and_moves_every_clock() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock:
        before = time.monotonic_ns()
        sleep_alias(86_400)
        time.sleep(0.5)
        assert time.time_ns() == clock.time_ns() == START + 86_400 * SECOND + SECOND // 2
        assert time.monotonic_ns() == before + 86_400 * SECOND + SECOND // 2 + MICROSECOND
        assert datetime.datetime.now(datetime.UTC) == clock.now


@pytest.mark.parametrize("seconds", [0, True, 0.25, np.float64(0.25), np.int64(3), 1e-12])
def test_sleep_takes_what_time_sleep_takes(seconds: Any) -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        time.sleep(seconds)
        assert time.time_ns() == START + max(round(seconds * SECOND), 1 if seconds else 0)


@pytest.mark.parametrize("seconds", [-1, -0.1, "1", None, math.nan, math.inf, 1e30, 10**400, -(10**400), 1j])
def test_sleep_refuses_what_time_sleep_refuses_and_in_the_same_words(seconds: Any) -> None:
    expected = real_error(seconds)
    with deterministic(start_ns=START, seed=b"seed"):
        assert real_error(seconds) == expected
        assert time.time_ns() == START


def test_sleep_refuses_a_wrong_number_of_arguments() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        with pytest.raises(TypeError):
            time.sleep()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            time.sleep(1, 2)  # type: ignore[call-arg]


def test_a_sleep_outside_the_context_leaves_its_clock_alone() -> None:
    with deterministic(start_ns=START, seed=b"seed"), ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 0.001).result()
        assert time.time_ns() == START


def test_a_queue_that_stays_empty_times_out() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=0.01)
        assert time.time_ns() >= START + SECOND // 100 - MICROSECOND * 10


def test_an_event_waited_for_in_vain_moves_the_clock_by_the_timeout() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        assert not threading.Event().wait(0.01)
        assert time.time_ns() == START + SECOND // 100


def test_an_event_that_is_set_moves_nothing() -> None:
    event = threading.Event()
    with deterministic(start_ns=START, seed=b"seed"), ThreadPoolExecutor(1) as pool:
        pool.submit(event.set)
        assert event.wait(3600)
        assert time.time_ns() == START


def test_swapped_builtins_still_look_and_pickle_like_themselves() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        assert pickle.loads(pickle.dumps(time.sleep)) is time.sleep
        assert repr(time.monotonic) == "<built-in function monotonic>"
        assert time.perf_counter.__module__ == "time"
        assert "seconds" in (time.sleep.__doc__ or "")


def test_the_clock_can_be_moved_by_hand() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock:
        clock.advance(2.5)
        assert time.time_ns() == START + 5 * SECOND // 2


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_the_clock_only_moves_forward(seconds: float) -> None:
    clock = VirtualClock(START)
    with pytest.raises(ConfigurationError, match="forward"):
        clock.advance(seconds)
    assert clock.time_ns() == START


def test_looking_at_the_clock_object_moves_nothing() -> None:
    clock = VirtualClock(START)
    assert {clock.monotonic_ns() for _ in range(5)} == {clock.monotonic_ns()}
    assert clock.now == datetime.datetime(2001, 9, 9, 1, 46, 40, 123456, tzinfo=datetime.UTC)
    assert "2001-09-09T01:46:40" in repr(clock)


def test_a_clock_is_not_moved_back_by_a_thread_that_is_late() -> None:
    clock = VirtualClock(START)
    due = clock.loop_ns() + SECOND
    clock.advance(3)
    clock.reach(due)
    assert clock.time_ns() == START + 3 * SECOND


def test_moves_by_many_threads_are_all_counted() -> None:
    clock = VirtualClock(START)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(clock.advance, [0.001] * 4000))
    assert clock.time_ns() == START + 4 * SECOND
