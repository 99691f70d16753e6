"""What a decorated call costs: against the bare call and a wrapt pass-through, interleaved in one run.

    python benchmarks/overhead.py [--repeats 7] [--calls 20000]

Contenders are timed in turn, so that a slow phase of the machine hits all of them; the figures are medians over the
repeats, with the spread. Writing to the store happens in the background and is not subtracted; the last column says
whether every span was found afterwards.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wrapt

from clearstone import traced
from clearstone.observability import MemoryTraceStore, TracerProvider
from clearstone.run import suspended

MESSAGES = [{"role": "user", "content": f"{i:03d} " + "x" * 296} for i in range(20)]
REPLY = "y" * 1024


def w1(n: int) -> int:
    return n


def w2(messages: list[dict[str, str]]) -> str:
    return REPLY


WORKLOADS: dict[str, tuple[Callable[..., Any], Any]] = {
    "W1 f(int) -> int": (w1, 1),
    "W2 20 messages of 300 characters -> 1 KB": (w2, MESSAGES),
}


@wrapt.decorator
def passing(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def timed(function: Callable[..., Any], argument: Any, calls: int) -> float:
    gc.collect()
    start = time.perf_counter_ns()
    for _ in range(calls):
        function(argument)
    return (time.perf_counter_ns() - start) / calls


def disabled_ns(workload: str, calls: int) -> float:
    """Time a decorated call in a process with CLEARSTONE_DISABLED=1."""
    command = [sys.executable, __file__, "--only-disabled", workload, "--calls", str(calls)]
    run = subprocess.run(command, env=os.environ | {"CLEARSTONE_DISABLED": "1"}, capture_output=True, check=True)
    return float(run.stdout)


def measure(name: str, repeats: int, calls: int, folder: str) -> None:
    function, argument = WORKLOADS[name]
    provider = TracerProvider(Path(folder) / f"{name[:2]}.db")
    memory = TracerProvider(store=MemoryTraceStore())
    recorded = traced(span_type="llm", tracer=provider.get_tracer())(function)
    in_memory = traced(span_type="llm", tracer=memory.get_tracer())(function)
    found: dict[str, list[float]] = {}

    def note(contender: str, ns: float) -> None:
        found.setdefault(contender, []).append(ns)

    made = 0
    for _ in range(repeats):
        note("bare call", timed(function, argument, calls))
        note("wrapt pass-through", timed(passing(function), argument, calls))
        with suspended():
            note("clearstone, suspended", timed(recorded, argument, calls))
        note("clearstone, disabled", disabled_ns(name, calls))
        note("clearstone, recording into memory", timed(in_memory, argument, calls // 10))
        note("clearstone, recording into SQLite", timed(recorded, argument, calls // 10))
        made += calls // 10
        memory.shutdown()
        provider.flush(600)
    wrapt_ns = statistics.median(found["wrapt pass-through"])
    stored = len(provider.trace_store.traces())
    print(f"\n{name}\n{'':36}{'ns/call':>10}{'lowest':>10}{'highest':>10}{'x wrapt':>9}")
    for contender, values in found.items():
        median = statistics.median(values)
        print(f"{contender:36}{median:10.0f}{min(values):10.0f}{max(values):10.0f}{median / wrapt_ns:9.1f}")
    print(f"{stored} of {made} spans found in SQLite")
    provider.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--only-disabled", metavar="WORKLOAD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_disabled:
        function, argument = WORKLOADS[options.only_disabled]
        print(timed(traced(span_type="llm")(function), argument, options.calls))
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.repeats} repeats")
    with tempfile.TemporaryDirectory() as folder:
        for name in WORKLOADS:
            measure(name, options.repeats, options.calls, folder)


if __name__ == "__main__":
    main()
