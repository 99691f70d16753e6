from __future__ import annotations

import asyncio
import contextvars
import random
import socket
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from clearstone.nondet import deterministic, run
from clearstone.nondet.loop import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

Result = TypeVar("Result")

START = 1_000_000_000_000_000_000
SECOND = 1_000_000_000
HOUR = 3600


def simulate(work: Coroutine[Any, Any, Result]) -> tuple[Result, float]:
    """Run `work` in a context of its own; return what it returns and how far the clock moved, in seconds."""
    with deterministic(start_ns=START, seed=b"seed") as clock:
        return run(work), (clock.time_ns() - START) / SECOND


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be as slow as it likes."""
    monkeypatch.setattr("clearstone.nondet.patience.GRACE", 100.0)


def compute() -> int:
    return sum(range(2_000_000))


async def log_after(delay: float, name: str, log: list[str]) -> str:
    await asyncio.sleep(delay)
    log.append(name)
    return name


async def forever() -> None:
    await asyncio.Event().wait()


# --- timers ----------------------------------------------------------------------------------------------------------


def test_sleep_takes_no_real_time_and_moves_the_clock_exactly() -> None:
    async def main() -> int:
        await asyncio.sleep(24 * HOUR)
        return time.time_ns()

    assert simulate(main()) == (START + 24 * HOUR * SECOND, 24 * HOUR)


def test_a_century_of_timers_still_ends() -> None:
    async def main() -> None:
        await asyncio.sleep(100 * 365 * 24 * HOUR)
        for _ in range(100):
            await asyncio.sleep(0.1)

    assert abs(simulate(main())[1] - (100 * 365 * 24 * HOUR + 10)) < 1


def test_timers_fire_in_the_order_of_virtual_time() -> None:
    async def main(log: list[str]) -> list[str]:
        return await asyncio.gather(*(log_after(delay, f"{delay}", log) for delay in (300, 1, 20, 4000, 0.5)))

    log: list[str] = []
    assert simulate(main(log)) == (["300", "1", "20", "4000", "0.5"], 4000)
    assert log == ["0.5", "1", "20", "300", "4000"]


def test_equal_timers_fire_in_the_order_they_were_made() -> None:
    async def main() -> list[str]:
        log: list[str] = []
        await asyncio.gather(*(log_after(5, f"{number}", log) for number in range(50)))
        return log

    assert simulate(main())[0] == [f"{number}" for number in range(50)]


def test_wait_for_times_out_in_virtual_time() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(forever(), 10)

    assert simulate(main()) == (None, 10)


def test_wait_for_gives_the_result_of_what_is_quicker() -> None:
    async def main() -> str:
        return await asyncio.wait_for(log_after(9, "in time", []), 10)

    assert simulate(main()) == ("in time", 9)


def test_nested_timeouts_fire_the_earlier_one() -> None:
    async def main() -> str:
        try:
            async with asyncio.timeout(30):
                async with asyncio.timeout(60):
                    await forever()
        except TimeoutError:
            return "outer"
        return "inner"

    assert simulate(main()) == ("outer", 30)


def test_call_later_and_call_at_agree_with_the_loops_time() -> None:
    async def main() -> list[float]:
        loop, start, seen = asyncio.get_running_loop(), asyncio.get_running_loop().time(), list[float]()
        loop.call_later(2, lambda: seen.append(loop.time() - start))
        loop.call_at(start + 1, lambda: seen.append(loop.time() - start))
        loop.call_later(3, lambda: seen.append(-1)).cancel()
        await asyncio.sleep(4)
        return seen

    assert simulate(main())[0] == pytest.approx([1, 2])


def test_what_call_at_refuses_it_refuses_here() -> None:
    async def main() -> None:
        with pytest.raises(TypeError):
            asyncio.get_running_loop().call_at(None, print)  # type: ignore[arg-type]

    simulate(main())


def test_time_sleep_in_a_coroutine_moves_the_timers_too() -> None:
    async def main() -> list[str]:
        log: list[str] = []
        later = asyncio.create_task(log_after(10, "later", log))
        await asyncio.sleep(0)
        time.sleep(100)  # noqa: ASYNC251 - under test
        await asyncio.sleep(1)
        log.append("after")
        await later
        return log

    assert simulate(main()) == (["later", "after"], 101)


def test_waiting_for_a_timer_by_yielding_ends() -> None:
    async def main() -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, done.set)
        while not done.is_set():  # noqa: ASYNC110 - under test
            await asyncio.sleep(0)

    assert 0 < simulate(main())[1] < 1


def test_many_passes_without_a_timer_move_nothing() -> None:
    async def main() -> None:
        for _ in range(20_000):
            await asyncio.sleep(0)

    assert simulate(main()) == (None, 0)


def test_two_runs_give_the_same_order_times_and_numbers() -> None:
    async def worker(name: int, log: list[Any]) -> None:
        for _ in range(5):
            await asyncio.sleep(random.random())
            log.append((name, time.time_ns(), time.monotonic_ns(), asyncio.get_running_loop().time()))

    async def main() -> list[Any]:
        log: list[Any] = []
        await asyncio.gather(*(worker(name, log) for name in range(20)))
        return log

    def once() -> list[Any]:
        with deterministic(start_ns=START, seed=b"seed"):
            return run(main())

    assert once() == once()


# --- what comes from outside -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("timeout", [0.0001, 100.0])
def test_a_job_in_a_thread_does_not_time_out_though_it_takes_real_time(timeout: float) -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        return (
            await asyncio.wait_for(asyncio.to_thread(compute), timeout),
            await asyncio.wait_for(loop.run_in_executor(None, compute), timeout),
        )

    assert simulate(main()) == ((compute(), compute()), 0)


@pytest.mark.usefixtures("patient")
def test_a_job_of_the_users_own_pool_does_not_time_out_either() -> None:
    async def main() -> int:
        with ThreadPoolExecutor(1) as pool:
            return await asyncio.wait_for(asyncio.wrap_future(pool.submit(compute)), 0.0001)

    assert simulate(main())[0] == compute()


@pytest.mark.usefixtures("patient")
def test_a_result_a_thread_of_the_user_hands_over_does_not_time_out() -> None:
    async def main() -> list[int]:
        loop, found = asyncio.get_running_loop(), asyncio.Queue[int]()

        def produce() -> None:
            for _ in range(3):
                loop.call_soon_threadsafe(found.put_nowait, compute())

        thread = threading.Thread(target=produce)
        thread.start()
        got = [await asyncio.wait_for(found.get(), 0.0001) for _ in range(3)]
        thread.join()
        return got

    assert simulate(main())[0] == [compute()] * 3


def test_a_thread_may_ask_the_loop_to_run_a_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearstone.nondet.patience.GRACE", 0.01)

    async def main() -> str:
        loop = asyncio.get_running_loop()

        def ask() -> str:
            return asyncio.run_coroutine_threadsafe(log_after(0.05, "answer", []), loop).result()

        return await asyncio.to_thread(ask)

    assert simulate(main()) == ("answer", 0.05)


def test_a_job_that_waits_for_a_timer_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearstone.nondet.patience.GRACE", 0.01)

    async def main() -> bool:
        tick = threading.Event()
        asyncio.get_running_loop().call_later(0.05, tick.set)
        return await asyncio.to_thread(tick.wait)

    assert simulate(main()) == (True, 0.05)


def test_a_job_in_a_thread_is_on_the_clock_of_the_context() -> None:
    def job() -> int:
        time.sleep(7)
        return time.time_ns()

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            return [
                await loop.run_in_executor(None, job),
                await asyncio.to_thread(job),
                await loop.run_in_executor(pool, job),
            ]

    assert simulate(main())[0] == [START + 7 * SECOND, START + 14 * SECOND, START + 21 * SECOND]


def test_a_job_of_another_process_is_handed_over_as_it_is() -> None:
    class Elsewhere(Executor):
        def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result((fn, args))
            return future

    async def main() -> object:
        return await asyncio.get_running_loop().run_in_executor(Elsewhere(), pow, 2, 3)

    assert simulate(main())[0] == (pow, (2, 3))


def test_an_idle_pool_does_not_slow_the_timers() -> None:
    async def main() -> None:
        for _ in range(50):
            await asyncio.to_thread(int)
            await asyncio.sleep(10 * HOUR)

    assert simulate(main()) == (None, 500 * HOUR)


@pytest.mark.usefixtures("patient")
def test_real_sockets_work_and_are_waited_for() -> None:
    ours, theirs = socket.socketpair()
    asked = threading.Event()

    def answer() -> None:
        asked.wait()
        compute()
        theirs.sendall(b"answer\n")
        theirs.close()

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection(sock=ours)
        asked.set()
        line = await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        await writer.wait_closed()
        return line

    with ThreadPoolExecutor(1) as pool:
        pool.submit(answer)
        assert simulate(main()) == (b"answer\n", 0)


def test_without_timers_the_loop_waits_for_a_thread() -> None:
    async def main() -> str:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=lambda: (compute(), loop.call_soon_threadsafe(done.set)))
        thread.start()
        await done.wait()
        thread.join()
        return "woken"

    assert simulate(main()) == ("woken", 0)


# --- beginning and end -----------------------------------------------------------------------------------------------


def test_the_coroutine_runs_in_a_copy_of_the_context() -> None:
    variable = contextvars.ContextVar[str]("variable")
    variable.set("ours")

    async def main() -> str:
        seen = variable.get()
        variable.set("theirs")
        return seen

    assert simulate(main())[0] == "ours"
    assert variable.get() == "ours"


def test_remaining_tasks_are_cancelled_and_generators_closed() -> None:
    log: list[str] = []

    async def stay() -> None:
        try:
            await forever()
        finally:
            log.append("cancelled")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            log.append("closed")

    async def main() -> None:
        tasks.append(asyncio.create_task(stay()))
        generators.append(numbers())
        await anext(generators[0])

    tasks: list[asyncio.Task[None]] = []
    generators: list[AsyncIterator[int]] = []
    simulate(main())
    assert log == ["cancelled", "closed"]
    assert tasks[0].cancelled()


def test_the_default_executor_is_joined_at_the_end() -> None:
    names: list[str] = []

    def job() -> None:
        compute()
        names.append("joined")

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, job)
        await asyncio.sleep(0)

    simulate(main())
    assert names == ["joined"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]


def test_an_exception_of_the_coroutine_is_raised() -> None:
    async def main() -> None:
        await asyncio.sleep(5)
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        simulate(main())
    assert asyncio._get_running_loop() is None


def test_inside_a_running_loop_it_is_refused_with_a_sentence() -> None:
    async def nothing() -> None:
        """Do nothing."""

    async def main() -> None:
        with deterministic(start_ns=START, seed=b"seed"):
            with pytest.raises(RuntimeError, match="already running one: await the coroutine"):
                run(nothing())

    asyncio.run(main())


def test_it_can_be_called_again_and_in_a_thread() -> None:
    async def main() -> int:
        await asyncio.sleep(1)
        return time.time_ns()

    with deterministic(start_ns=START, seed=b"seed"), ThreadPoolExecutor(1) as pool:
        inside = contextvars.copy_context()
        assert [run(main()), pool.submit(inside.run, run, main()).result()] == [START + SECOND, START + 2 * SECOND]


# --- loops of the user -----------------------------------------------------------------------------------------------


def test_asyncio_run_inside_a_context_takes_no_real_time() -> None:
    async def main() -> str:
        await asyncio.sleep(24 * HOUR)
        return type(asyncio.get_running_loop()).__name__

    with deterministic(start_ns=START, seed=b"seed") as clock:
        assert asyncio.run(main()) == VirtualLoop.__name__
        assert clock.time_ns() == START + 24 * HOUR * SECOND


def test_a_loop_made_by_hand_inside_a_context_takes_no_real_time() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(asyncio.sleep(24 * HOUR))
        finally:
            loop.close()
        assert clock.time_ns() == START + 24 * HOUR * SECOND


def test_a_foreign_loop_inside_a_context_runs_on_the_real_clock_and_ends() -> None:
    def on_foreign_loop(work: Coroutine[Any, Any, str]) -> str:
        loop = asyncio.SelectorEventLoop()
        try:
            return loop.run_until_complete(asyncio.wait_for(work, 50))
        finally:
            loop.close()

    with deterministic(start_ns=START, seed=b"seed") as clock:
        assert on_foreign_loop(log_after(0.01, "done", [])) == "done"
        assert clock.time_ns() == START
