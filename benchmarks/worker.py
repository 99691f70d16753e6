"""One contender in a process of its own: told over a pipe what to run next, it answers with what it measured.

    python worker.py CONTENDER FOLDER < orders > answers        (overhead.py does)

Idea: the process stays, and runs one block of one workload when it is asked, so that contenders take turns and a slow
phase of the machine hits all of them. Bare call, wrapt pass-through and contender are timed in the same block: their
ratio holds whatever the clock does. Runs in every environment: standard library, wrapt and the contender.
"""

import asyncio
import contextlib
import gc
import json
import os
import sqlite3
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import contenders
from contenders import yardsticks
from contenders.base import Contender, files
from contenders.prototype import Prototype
from workloads import WORKLOADS, Call, Workload

THREADS = 8
WARM_UP = 20
LOOK_EVERY = 1000
clock = time.perf_counter_ns


class Bench:
    """Runs workloads with one contender, and the yardsticks beside it.

    Args:
        contender: who is measured.
    """

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.loop = asyncio.new_event_loop()
        self.functions: dict[tuple[str, str], Callable[..., Any]] = {}
        self.made = 0
        self.prototype: Contender | None = None

    def function(self, name: str, variant: str) -> Callable[..., Any]:
        """Return the function of a workload as wrapped by ``"bare"``, ``"wrapt"``, ``"prototype"`` or ``"own"``."""
        if (name, variant) not in self.functions:
            wraps = {"bare": yardsticks.bare, "wrapt": yardsticks.pass_through}
            wrap = wraps.get(variant) or self.recorder(variant).wrap
            self.functions[name, variant] = WORKLOADS[name].function(wrap)
        return self.functions[name, variant]

    def recorder(self, variant: str) -> Contender:
        if variant == "own":
            return self.contender
        if variant == "prototype":
            if self.prototype is None:
                self.prototype = Prototype(made(self.contender.folder.parent / "prototype"))
            return self.prototype
        return Contender(self.contender.folder)

    # --- calls, one at a time ----------------------------------------------------------------------------------------

    def calls(self, name: str, calls: int) -> dict[str, Any]:
        """Time `calls` calls of each variant, in alternating blocks; nanoseconds."""
        took: dict[str, list[int]] = {"bare": [], "wrapt": [], "own": []}
        for start in range(0, calls, self.contender.block):
            size = min(self.contender.block, calls - start)
            for variant in took:
                took[variant] += self.block(name, variant, size)
        own = sorted(took["own"])
        return {
            **{variant: statistics.median(found) for variant, found in took.items()},
            **{f"{variant}_mean": statistics.mean(found) for variant, found in took.items()},
            "own_p99": own[int(len(own) * 0.99)],
        }

    def block(self, name: str, variant: str, calls: int) -> list[int]:
        """Time a block of calls; what they recorded is flushed before and after it, untimed."""
        workload, function, recorder = WORKLOADS[name], self.function(name, variant), self.recorder(variant)
        inputs, took = workload.inputs(calls), []
        gc.collect()
        with recorder.around():
            if workload.how == "awaited":
                self.loop.run_until_complete(timed_awaits(function, inputs, took))
            else:
                timed_calls(function, inputs, took)
        self.recorded(variant, calls * workload.spans)
        return took

    def recorded(self, variant: str, spans: int) -> None:
        self.recorder(variant).flush()
        self.made += spans * (variant == "own")

    # --- processor time ----------------------------------------------------------------------------------------------

    def processor(self, name: str, calls: int) -> dict[str, Any]:
        """Return the processor time of all threads a call, less a bare call's, until all is on disk; and tidied."""
        bare = self.spent(name, "bare", calls)
        own = self.spent(name, "own", calls)
        start = time.process_time_ns()
        tidied = self.contender.tidy()
        afterwards = (time.process_time_ns() - start) / calls
        return {"cpu": own - bare, "cpu_tidied": own - bare + afterwards if tidied else None}

    def spent(self, name: str, variant: str, calls: int) -> float:
        function, recorder, spent = self.function(name, variant), self.recorder(variant), 0
        for start in range(0, calls, recorder.burst):
            inputs = WORKLOADS[name].inputs(min(recorder.burst, calls - start))
            gc.collect()
            begun = time.process_time_ns()
            with recorder.around():
                for args, kwargs in inputs:
                    function(*args, **kwargs)
            recorder.flush()
            spent += time.process_time_ns() - begun
        self.made += calls * (variant == "own")
        return spent / calls

    # --- threads -----------------------------------------------------------------------------------------------------

    def threads(self, name: str, calls: int) -> dict[str, Any]:
        """Return the wall time of a call among eight threads that call without a pause; nanoseconds."""
        return {
            variant: self.wall(name, variant, calls // THREADS) for variant in ("bare", "wrapt", "prototype", "own")
        }

    def wall(self, name: str, variant: str, calls: int) -> float:
        function, recorder = self.function(name, variant), self.recorder(variant)
        inputs, gate, done = WORKLOADS[name].inputs(calls), threading.Barrier(THREADS + 1), []

        def call_all() -> None:
            gate.wait()
            with recorder.around():
                for args, kwargs in inputs:
                    function(*args, **kwargs)
            done.append(calls)

        crew = [threading.Thread(target=call_all) for _ in range(THREADS)]
        gc.collect()
        for thread in crew:
            thread.start()
        gate.wait()
        start = clock()
        for thread in crew:
            thread.join()
        took = clock() - start
        if len(done) < THREADS:
            raise RuntimeError(f"calls raised in {THREADS - len(done)} of {THREADS} threads")
        self.recorded(variant, calls * THREADS)
        return took / (calls * THREADS)

    # --- without a pause ---------------------------------------------------------------------------------------------

    def grow(self, name: str, calls: int, seconds: float) -> dict[str, Any]:
        """Call without a pause, for at most `seconds`; then wait until all is on disk."""
        function, made = self.function(name, "own"), 0
        start, enough = clock(), clock() + seconds * 1e9
        with self.contender.around():
            while made < calls and clock() < enough:
                for n in range(made, min(made + LOOK_EVERY, calls)):
                    function(n)
                made = min(made + LOOK_EVERY, calls)
            produced = clock()
        self.contender.flush()
        durable = clock()
        return {"calls": made, "produced_s": (produced - start) / 1e9, "durable_s": (durable - start) / 1e9}


def timed_calls(function: Callable[..., Any], inputs: Iterable[Call], took: list[int]) -> None:
    note = took.append
    for args, kwargs in inputs:
        start = clock()
        function(*args, **kwargs)
        note(clock() - start)


async def timed_awaits(function: Callable[..., Any], inputs: Iterable[Call], took: list[int]) -> None:
    note = took.append
    for args, kwargs in inputs:
        start = clock()
        await function(*args, **kwargs)
        note(clock() - start)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def size_on_disk(folder: Path) -> int:
    """Return the bytes of everything in `folder`, write-ahead logs folded into their databases."""
    for database in (path for path in files(folder) if path.suffix == ".db"):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in files(folder))


# --- orders ----------------------------------------------------------------------------------------------------------


def obey(bench: Bench, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order: ``do`` says what, the rest how."""
    match order:
        case {"do": "run", "workload": name, "calls": calls}:
            workload: Workload = WORKLOADS[name]
            calls = min(calls, bench.contender.most_calls.get(name, calls))
            return bench.threads(name, calls) if workload.how == "threads" else bench.calls(name, calls)
        case {"do": "processor", "workload": name, "calls": calls}:
            return bench.processor(name, min(calls, bench.contender.most_calls.get(name, calls)))
        case {"do": "warm", "workload": name}:
            bench.block(name, "own", WARM_UP)
            gc.collect()
            return {"disk": size_on_disk(bench.contender.folder), "found": bench.contender.found()}
        case {"do": "grow", "workload": name, "calls": calls, "seconds": seconds}:
            return bench.grow(name, min(calls, bench.contender.most_calls.get(name, calls)), seconds)
        case {"do": "found"}:
            return {"made": bench.made, "found": bench.contender.found(), "keeps": bench.contender.keeps}
        case {"do": "close"}:
            bench.contender.close()
            return {"disk": size_on_disk(bench.contender.folder)}
    raise ValueError(f"no such order: {order}")


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    os.chdir(folder)
    bench = Bench(contenders.make(name, made(folder / "own")))
    for line in sys.stdin:
        try:
            answer = obey(bench, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # not every contender ends its threads


if __name__ == "__main__":
    main()
