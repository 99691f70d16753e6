# ruff: noqa: NPY002 - numpy's legacy functions are under test
from __future__ import annotations

import asyncio
import contextvars
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import time_machine

from clearstone.errors import ConfigurationError
from clearstone.nondet import carried, context, deterministic, run

if TYPE_CHECKING:
    from pathlib import Path

START = 1_000_000_000_000_000_000
LATER = 1_100_000_000_000_000_000


def python(code: str, *arguments: str, **environment: str) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, *arguments, "-c", code],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def generators() -> tuple[Any, str]:
    return random.getstate(), repr(np.random.get_state())


def test_everything_is_restored_after_an_exception() -> None:
    before = generators()
    with pytest.raises(KeyError), deterministic(start_ns=START, seed=b"seed"):
        random.random()
        np.random.rand()
        raise KeyError
    assert generators() == before
    assert time.time() > LATER / 1e9
    assert not time_machine.escape_hatch.is_travelling()


def test_everything_is_restored_when_entering_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = generators()
    monkeypatch.setattr("clearstone.nondet.wall.check", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), deterministic(start_ns=START, seed=b"seed"):
        pytest.fail("entered")
    assert generators() == before
    assert not time_machine.escape_hatch.is_travelling()


def test_a_context_can_be_entered_after_one_that_failed() -> None:
    with pytest.raises(ConfigurationError), deterministic(start_ns=START, seed=b"seed", random_state=()):
        pytest.fail("entered")
    with deterministic(start_ns=START, seed=b"seed"):
        assert time.time_ns() == START


def test_of_two_nested_contexts_the_inner_one_holds_and_the_outer_one_goes_on() -> None:
    with deterministic(start_ns=START, seed=b"outer"):
        time.sleep(1)
        expected = python_free_values(b"outer", 1)
        with deterministic(start_ns=LATER, seed=b"inner"):
            time.sleep(5)
            assert time.time_ns() == LATER + 5 * 10**9
        assert time.time_ns() == START + 10**9
        assert [random.random(), os.urandom(4)] == expected


def python_free_values(seed: bytes, skipped: int) -> list[Any]:
    """Return what a context of its own, that many seconds in, gives next."""
    with deterministic(start_ns=START, seed=seed):
        time.sleep(skipped)
        return [random.random(), os.urandom(4)]


def test_entering_the_same_context_recursively_gives_the_same_values_at_each_depth() -> None:
    def descend(depth: int) -> list[Any]:
        with deterministic(start_ns=START, seed=b"seed"):
            below = descend(depth - 1) if depth else []
            return [*below, (time.time_ns(), time.monotonic(), uuid.uuid4())]

    assert len(set(descend(4))) == 1


def test_two_threads_inside_at_once_see_their_own_clocks() -> None:
    together = threading.Barrier(2)

    def live(start: int, seed: bytes) -> list[Any]:
        together.wait()
        with deterministic(start_ns=start, seed=seed):
            together.wait()
            seen = []
            for _ in range(200):
                time.sleep(1)
                seen.append((time.time_ns(), time.monotonic_ns(), os.urandom(4), uuid.uuid4(), uuid.uuid1()))
            together.wait()
        return seen

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(live, START, b"a"), pool.submit(live, LATER, b"b")]
        again = [future.result() for future in both]
        both = [pool.submit(live, START, b"a"), pool.submit(live, LATER, b"b")]
        assert [future.result() for future in both] == again
    assert [value[0] for value in again[0]] == [START + second * 10**9 for second in range(1, 201)]


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_contexts_of_two_threads_may_end_in_either_order(first_to_leave: int) -> None:
    before = generators()
    entered, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def live(number: int) -> int:
        with deterministic(start_ns=START + number, seed=bytes([number])):
            entered[number].set()
            leave[number].wait()
            return time.time_ns()

    with ThreadPoolExecutor(2) as pool:
        lives = []
        for number in range(2):
            lives.append(pool.submit(live, number))
            entered[number].wait()
        for number in (first_to_leave, 1 - first_to_leave):
            leave[number].set()
            assert lives[number].result() == START + number
    assert generators() == before


def test_many_threads_entering_and_leaving_leave_nothing_behind() -> None:
    def live(number: int) -> bool:
        with deterministic(start_ns=START + number, seed=b"seed"):
            time.monotonic()
            return time.time_ns() == START + number

    def look(_: int) -> bool:
        return time.time_ns() > LATER and time.monotonic() > 0 and len(os.urandom(3)) == 3

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            lives, looks = pool.map(live, range(300)), pool.map(look, range(3000))
            assert all(lives)
            assert all(looks)
    finally:
        sys.setswitchinterval(interval)


def test_a_copy_of_the_context_carries_it_and_the_empty_context_does_not() -> None:
    outside = contextvars.copy_context()
    with deterministic(start_ns=START, seed=b"seed"), ThreadPoolExecutor(1) as pool:
        inside = contextvars.copy_context()
        assert pool.submit(inside.run, time.time_ns).result() == START
        assert outside.run(time.time_ns) > LATER
        assert time.time_ns() == START


def test_a_carried_function_runs_in_the_context_it_was_bound_in() -> None:
    with deterministic(start_ns=START, seed=b"seed") as clock, ThreadPoolExecutor(1) as pool:
        assert pool.submit(carried(time.time_ns)).result() == START
        pool.submit(carried(time.sleep), 5).result()
        assert clock.time_ns() == START + 5 * 10**9
        assert pool.submit(time.time_ns).result() > LATER


def test_carrying_outside_a_context_changes_nothing() -> None:
    assert carried(len) is len


def test_tasks_of_a_foreign_loop_inherit_the_context_they_were_made_in() -> None:
    async def look() -> int:
        await asyncio.sleep(0)
        return time.time_ns()

    async def main() -> tuple[int, int]:
        with deterministic(start_ns=START, seed=b"seed"):
            inside = asyncio.create_task(look())
            return await inside, await asyncio.to_thread(time.time_ns)

    assert asyncio.run(main()) == (START, START)


def test_tasks_made_outside_see_the_real_clock() -> None:
    async def look(opened: asyncio.Event) -> int:
        await opened.wait()
        return time.time_ns()

    async def main() -> int:
        opened = asyncio.Event()
        outside = asyncio.create_task(look(opened))
        await asyncio.sleep(0)
        with deterministic(start_ns=START, seed=b"seed"):
            opened.set()
            return await outside

    assert asyncio.run(main()) > LATER


def test_a_patch_somebody_makes_meanwhile_stays_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(*_arguments: Any) -> None:
        """Do nothing."""

    with monkeypatch.context() as patch:
        with deterministic(start_ns=START, seed=b"seed"):
            patch.setattr(random, "seed", theirs)
        assert random.seed is theirs
    random.seed = random._inst.seed


def test_importing_the_room_imports_neither_time_machine_nor_ctypes_nor_asyncio() -> None:
    code = """
import sys
before = set(sys.modules)
import clearstone.nondet
print(*sorted({"time_machine", "ctypes", "asyncio"} & set(sys.modules) - before))
"""
    without_the_door = "import sys, types; sys.modules['clearstone'] = types.ModuleType('clearstone');"
    without_the_door += f"sys.modules['clearstone'].__path__ = {list(clearstone_path())!r}\n"
    assert python(without_the_door + code).strip() == ""


def clearstone_path() -> list[str]:
    import clearstone

    return list(clearstone.__path__)


VALUES = """
import asyncio, datetime, os, random, secrets, sys, time, uuid
import numpy
from clearstone.nondet import deterministic, run

async def main():
    order = []
    async def step(name, delay):
        await asyncio.sleep(delay)
        order.append((name, time.time_ns(), uuid.uuid4()))
    await asyncio.gather(*(step(name, delay) for name, delay in zip("abcde", (3, 1, 2, 1, 3))))
    return order

with deterministic(start_ns=1_000_000_000_123_456_789, seed=b"seed"):
    print(time.time_ns(), time.monotonic_ns(), datetime.datetime.now(datetime.UTC), time.perf_counter())
    print(uuid.uuid1(), uuid.uuid1(), uuid.uuid4(), secrets.token_hex(), random.SystemRandom().random())
    print(random.Random().random(), random.random(), random.choice("abcdef"), os.urandom(5))
    print(numpy.random.default_rng().random(), numpy.random.rand(), numpy.random.RandomState().rand())
    time.sleep(12.5)
    print(time.time(), time.monotonic(), asyncio.run(main()), run(main()))
"""


def test_two_processes_with_different_hash_seeds_give_the_same_values() -> None:
    assert python(VALUES, PYTHONHASHSEED="1") == python(VALUES, PYTHONHASHSEED="2")


def test_without_ctypes_the_same_values_come_through_the_attributes() -> None:
    without = "import sys; sys.modules['ctypes'] = None\n"
    assert python(without + VALUES) == python(VALUES)


def test_without_ctypes_everything_is_restored_too() -> None:
    code = """
import sys; sys.modules["ctypes"] = None
import os, time
from clearstone.nondet import deterministic
names = [(time, "monotonic"), (time, "perf_counter_ns"), (time, "sleep"), (time, "ctime"), (os, "urandom")]
before = [getattr(*name) for name in names]
with deterministic(start_ns=10**18, seed=b"seed"):
    assert not any(getattr(*name) is function for name, function in zip(names, before))
print(all(getattr(*name) is function for name, function in zip(names, before)))
"""
    assert python(code).strip() == "True"


def test_a_process_that_ends_inside_a_context_ends_well() -> None:
    code = """
import atexit, sys, threading, time
from clearstone.nondet import deterministic
def live():
    with deterministic(start_ns=10**18, seed=b"seed"):
        entered.set()
        forever.wait()
entered, forever = threading.Event(), threading.Event()
threading.Thread(target=live, daemon=True).start()
entered.wait()
held = deterministic(start_ns=10**18, seed=b"seed"); held.__enter__()
class Late:
    def __del__(self): time.monotonic(); time.time(); time.sleep(0)
late = Late(); late.self = late
print("done")
"""
    assert python(code) == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_in_the_context_and_leaves_it() -> None:
    code = """
import os, time
from clearstone.nondet import deterministic
with deterministic(start_ns=10**18, seed=b"seed"):
    child = os.fork()
    time.sleep(1)
    inside = time.time_ns()
outside = time.time_ns()
if not child:
    os._exit(inside == 10**18 + 10**9 and outside > 11 * 10**17)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code).strip() == "1"


def test_a_module_of_the_user_may_be_patched_only_through_its_aliases(tmp_path: Path) -> None:
    source = tmp_path / "agent.py"
    source.write_text("from time import sleep, time\n\ndef act(now=time):\n    sleep(60)\n    return now()\n")
    namespace: dict[str, Any] = {}
    exec(source.read_text(), namespace)  # noqa: S102 - written above
    with deterministic(start_ns=START, seed=b"seed"):
        assert namespace["act"]() == START / 10**9 + 60


def test_run_outside_a_context_is_refused() -> None:
    async def nothing() -> None:
        """Do nothing."""

    with pytest.raises(RuntimeError, match="with deterministic"):
        run(nothing())


def test_the_lock_is_free_after_every_exit() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        assert not context._clocks._lock.locked()
    assert not context._clocks._lock.locked()
