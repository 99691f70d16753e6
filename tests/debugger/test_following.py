"""What is followed of a program: its lines, in each thread and task, and nothing changed by it."""

from __future__ import annotations

import asyncio
import gc
import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.debugger.events import Log, OpenLog
from clearstone.debugger.following import Follower

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator


def follow(function: Callable[[], Any], *, is_pressed: bool = False, most: int = 100_000) -> Log:
    file = io.BytesIO()
    log = OpenLog(file, most)
    with Follower(log, is_pressed=is_pressed).following():
        function()
    return Log(file, log.closed())


def told(log: Log, name: str = "main", function: str = "") -> list[str]:
    events = [event for block in log.blocks(name) for event in block.events()]
    return [each.told for each in events if each.told and function in log.codes[each.code].function]


def double(number: int, *more: int, by: int = 2) -> int:
    doubled = number * by
    first, *_rest = doubled, *more
    return first


def test_names_that_get_a_value_arguments_and_results_are_told() -> None:
    assert told(follow(lambda: double(4, 5)), function="double") == [
        "number = 4, by = 2, more = (5)",
        "doubled = 8",
        "first = 8, _rest = [5]",
        "gave 8",
    ]


def numbers() -> Generator[int, int, None]:
    got = yield 1
    again = yield got
    del again


def test_a_generator_is_followed_where_it_goes_on() -> None:
    def run() -> None:
        made: Any = numbers()
        next(made)
        made.send(5)
        made.close()

    assert told(follow(run), function="numbers")[:3] == ["gave 1", "got = 5", "gave 5"]


async def parts() -> AsyncGenerator[int, None]:
    await asyncio.sleep(0.001)
    yield 1
    await asyncio.sleep(0)
    yield 2


def test_of_an_async_generator_the_items_are_told_and_not_what_it_waits_for() -> None:
    async def run() -> None:
        assert [item async for item in parts()] == [1, 2]

    log = follow(lambda: asyncio.run(run()))
    found = [each for name in log.sequences for each in told(log, name, "parts")]
    assert len(found) == 3, found
    assert not any("Future" in each for each in found)


async def later(number: int) -> int:
    await asyncio.sleep(0)
    return double(number)


async def both() -> tuple[int, int]:
    return await asyncio.gather(later(1), later(2))


def with_everything() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(double, range(5)))
    thread = threading.Thread(target=asyncio.run, args=(both(),))
    thread.start()
    thread.join()


@pytest.mark.parametrize("is_pressed", [False, True])
def test_each_job_and_task_has_a_sequence_named_by_who_started_it(is_pressed: bool) -> None:
    log = follow(with_everything, is_pressed=is_pressed)
    jobs = {f"main/thread {number}" for number in range(1, 6)}
    task = "main/thread 6/task 1"
    assert set(log.sequences) == {"main", *jobs, task, f"{task}/task 1", f"{task}/task 2"}
    assert [told(log, f"main/thread {number}")[-1] for number in range(1, 6)] == [f"gave {2 * n}" for n in range(5)]
    assert told(log, f"{task}/task 2")[-1] == "gave 4"


def counted() -> int:
    total, lock = 0, threading.Lock()

    def add() -> None:
        nonlocal total
        for _ in range(200):
            before = 1
            with lock:
                total += before
            before = 2

    threads = [threading.Thread(target=add) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return total


def test_the_variables_of_closures_are_left_alone_while_threads_take_turns() -> None:
    found: list[int] = []
    follow(lambda: found.append(counted()), is_pressed=True)
    assert found == [800]


def test_everything_is_as_it_was_afterwards() -> None:
    before = sys.gettrace(), sys.getswitchinterval(), gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        follow(lambda: 1 // 0, is_pressed=True)
    assert (sys.gettrace(), sys.getswitchinterval(), gc.isenabled()) == before


def test_threads_begin_together_where_an_audit_hook_takes_its_time() -> None:
    program = """
import io, sys, threading
from clearstone.debugger.events import OpenLog
from clearstone.debugger.following import Follower
def hook(event, _):
    for _ in range(300 if event == "sys.settrace" else 0): pass
sys.addaudithook(hook)
def run():
    for _ in range(100):
        threads = [threading.Thread(target=int) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
log = OpenLog(io.BytesIO())
with Follower(log, is_pressed=True).following():
    run()
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


def test_a_full_log_is_not_complete_and_the_program_runs_on() -> None:
    found: list[int] = []
    log = follow(lambda: found.extend(map(double, range(1_000))), most=100)
    assert (log.complete, log.lines, len(found)) == (False, 100, 1_000)
