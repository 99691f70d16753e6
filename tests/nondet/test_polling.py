from __future__ import annotations

import asyncio
import datetime
import logging
import time

import pytest

from clearstone.errors import FrozenClockError
from clearstone.nondet import deterministic, run
from clearstone.nondet.polling import FROZEN_AFTER

START = 1_000_000_000_000_000_000


def wait_for_the_wall() -> None:
    deadline = time.time() + 10
    while time.time() < deadline:
        pass


def wait_for_datetime() -> None:
    deadline = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
    while datetime.datetime.now(datetime.UTC) < deadline:
        pass


def wait_for_monotonic() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pass


def wait_and_sleep_nothing() -> None:
    deadline = time.time() + 10
    while time.time() < deadline:
        time.sleep(0)


def wait_and_read_elsewhere() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.perf_counter()


@pytest.mark.parametrize("wait", [wait_for_the_wall, wait_for_datetime, wait_for_monotonic, wait_and_read_elsewhere])
def test_a_loop_that_only_polls_is_stopped(wait: object) -> None:
    assert callable(wait)
    with deterministic(start_ns=START, seed=b"seed"), pytest.raises(FrozenClockError):
        wait()


def test_a_loop_that_sleeps_for_nothing_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearstone.nondet.polling.FROZEN_AFTER", 1000)
    with deterministic(start_ns=START, seed=b"seed"), pytest.raises(FrozenClockError):
        wait_and_sleep_nothing()


def test_the_message_names_file_line_function_and_what_to_do() -> None:
    with deterministic(start_ns=START, seed=b"seed"), pytest.raises(FrozenClockError) as caught:
        wait_for_the_wall()
    line = wait_for_the_wall.__code__.co_firstlineno + 2
    message = str(caught.value)
    assert f"{__file__}:{line}, in wait_for_the_wall: while time.time() < deadline:" in message
    assert "time.time()" in message
    assert "stands still in a replay until something sleeps" in message
    assert "time.sleep()" in message


def test_the_message_names_the_steady_clock_that_was_polled() -> None:
    with (
        deterministic(start_ns=START, seed=b"seed"),
        pytest.raises(FrozenClockError, match=r"polls time\.monotonic\(\)"),
    ):
        wait_for_monotonic()


def test_a_loop_that_sleeps_between_two_looks_ends() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        looks = 0
        deadline = time.time() + 0.2
        while time.time() < deadline:
            time.sleep(0.001)
            looks += 1
        assert looks == 200


def test_a_hundred_thousand_looks_are_allowed_and_a_sleep_allows_as_many_again() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        for _ in range(3):
            for _ in range(FROZEN_AFTER):
                time.time()
            time.sleep(1)


def test_reads_are_counted_per_line() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        for _ in range(FROZEN_AFTER):
            time.time()
        for _ in range(FROZEN_AFTER):
            time.time()


def test_a_loop_that_swallows_the_error_gets_it_again() -> None:
    stopped = 0
    with deterministic(start_ns=START, seed=b"seed"):
        for _ in range(FROZEN_AFTER + 3):
            try:
                time.time()
            except FrozenClockError:
                stopped += 1
    assert stopped == 3


def test_many_log_records_are_no_poll() -> None:
    logger = logging.getLogger("clearstone.tests.polling")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.INFO)
    with deterministic(start_ns=START, seed=b"seed"):
        for number in range(FROZEN_AFTER + 10):
            logger.info("step %d", number)


def test_polling_outside_the_context_is_the_users_business() -> None:
    for _ in range(FROZEN_AFTER + 10):
        time.time()


def test_polling_the_time_of_the_event_loop_is_stopped() -> None:
    async def poll() -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 1
        while loop.time() < deadline:
            pass

    with deterministic(start_ns=START, seed=b"seed"), pytest.raises(FrozenClockError, match=r"event loop's time\(\)"):
        run(poll())
