"""What recording costs, recorder beside recorder: per call, per thread, per processor, in memory and on disk.

    python benchmarks/overhead.py                       everything, about twenty minutes
    python benchmarks/overhead.py --quick               a tenth of the calls, two rounds
    python benchmarks/overhead.py --only clearstone,opentelemetry --workloads W1,W2

Each contender runs in its own process and its own virtual environment (`environments.py`), and they take turns: every
round gives each of them one block of each workload. A block times the bare call, a wrapt pass-through and the contender
in the same process, so figures are multiples of the pass-through, paired in the round; the table gives their median
over the rounds and, in brackets, the lowest and the highest. Every span is counted afterwards where it should be.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tables
from contenders import CONTENDERS
from environments import HERE, REQUIREMENTS, interpreter
from processes import Process, WorkerEndedError
from workloads import WORKLOADS

PROCESSOR = {"W1": 10_000, "W2": 3000, "W2f": 1000}
"""Workloads whose processor time is measured, with how many calls a round."""

WARM_UP_CALLS = 100
GROWTH_SECONDS = 15.0
"""A contender that is slower than 200,000 spans in so many seconds is stopped there."""

Results = dict[str, Any]


def turns(names: list[str], number: int) -> Iterator[str]:
    """Yield the names in the order of round `number`: nobody is always the first."""
    start = number % len(names)
    yield from names[start:] + names[:start]


class Run:
    """One run: the processes of the contenders, and what they answered.

    Args:
        names: the contenders.
        share: of the calls each workload should have, so much.
    """

    def __init__(self, names: list[str], share: float) -> None:
        self.share = share
        self.results: Results = {name: {"rounds": {}, "growth": [], "failed": {}} for name in names}
        self.processes: dict[str, Process] = {}

    def calls(self, names: list[str], workloads: list[str], rounds: int) -> None:
        """Run the workloads that are timed call by call, or by thread. The first round warms up and is not kept."""
        for name in names:
            self.processes[name] = Process(name)
        for number in range(rounds + 1):
            for workload in workloads:
                for name in turns(names, number):
                    self.block(name, workload, keep=number > 0)
            said(f"round {number} of {rounds}")
        for name, process in self.processes.items():
            try:
                self.results[name] |= process.ask({"do": "found"})
            except WorkerEndedError as error:
                self.results[name]["failed"]["found"] = str(error)
            process.end()

    def block(self, name: str, workload: str, *, keep: bool) -> None:
        """Let one contender run one block of one workload, and measure its processor time where that is asked."""
        calls = int(WORKLOADS[workload].calls * self.share) if keep else WARM_UP_CALLS
        answer = self.ask(name, workload, {"do": "run", "workload": workload, "calls": calls})
        if answer is not None and keep:
            if workload in PROCESSOR:
                order = {"do": "processor", "workload": workload, "calls": int(PROCESSOR[workload] * self.share)}
                answer |= self.ask(name, workload, order) or {}
            self.results[name]["rounds"].setdefault(workload, []).append(answer)

    def ask(self, name: str, workload: str, order: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer; None for a contender that failed at this workload, now or before."""
        failed = self.results[name]["failed"]
        if workload in failed or "process" in failed:
            return None
        try:
            answer = self.processes[name].ask(order)
        except WorkerEndedError as error:
            failed["process"] = str(error)
            return None
        if "error" in answer:
            failed[workload] = answer["error"]
            return None
        return answer

    def growth(self, names: list[str], workload: str, rounds: int) -> None:
        """Run a workload without a pause, each time in a new process."""
        for number in range(rounds):
            for name in turns(names, number):
                if workload not in self.results[name]["failed"]:
                    self.grow(name, workload)
            said(f"{workload}, round {number + 1} of {rounds}")

    def grow(self, name: str, workload: str) -> None:
        process, calls = Process(name), int(WORKLOADS[workload].calls * self.share)
        try:
            self.results[name]["growth"].append(grown(process, workload, calls))
        except (WorkerEndedError, KeyError) as error:
            self.results[name]["failed"][workload] = str(error)
        finally:
            process.end()


def grown(process: Process, workload: str, calls: int) -> Results:
    """Let a process call without a pause and watch it: seconds, bytes of memory over the start, bytes of journal."""
    before = process.ask({"do": "warm", "workload": workload})
    base, begun, samples = process.anonymous_bytes(), time.monotonic(), []

    def sample() -> None:
        now = round(time.monotonic() - begun, 3)
        samples.append((now, process.anonymous_bytes() - base, process.journal_bytes()))

    order = {"do": "grow", "workload": workload, "calls": calls, "seconds": GROWTH_SECONDS}
    answer = process.ask(order, sample)
    sample()
    found = process.ask({"do": "found"})
    answer["found"] = None if found["found"] is None else found["found"] - before["found"]
    answer["disk"] = process.ask({"do": "close"})["disk"] - before["disk"]
    return answer | {"samples": samples, "keeps": found["keeps"]}


def said(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def described(options: argparse.Namespace, results: Results) -> Results:
    pins = {name: REQUIREMENTS[CONTENDERS[name].environment] for name in results}
    ours = {name for name, pinned in pins.items() if len(pinned) == 1 or "-e" in pinned}
    packages = {name: "this repository" if name in ours else pinned[-1] for name, pinned in pins.items()}
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return {"machine": machine, "rounds": options.repeats, "packages": packages, "contenders": results}


def draw(raw: Path, folder: Path) -> None:
    """Draw the plots, with a library that no contender has."""
    subprocess.run([interpreter("plots"), HERE / "plots.py", raw, folder], check=True)


def names_of(listed: str, known: Iterable[str]) -> list[str]:
    """Return the names in `listed`, which commas separate.

    Raises:
        SystemExit: one of them is not known.
    """
    wanted = listed.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    return wanted


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="contenders, separated by commas")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="separated by commas")
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls, two rounds")
    parser.add_argument("--out", type=Path, default=HERE / ".results", help="where overhead.json, .md and .svg go")
    options = parser.parse_args(arguments)
    options.only = names_of(options.only, CONTENDERS) if options.only else list(CONTENDERS)
    options.workloads = names_of(options.workloads, WORKLOADS)
    options.repeats = min(options.repeats, 2) if options.quick else options.repeats
    return options


def main() -> None:
    options = options_of()
    for name in options.only:
        interpreter(CONTENDERS[name].environment)
    run = Run(options.only, share=0.1 if options.quick else 1.0)
    called = [name for name in options.workloads if WORKLOADS[name].how != "growth"]
    if called:
        run.calls(options.only, called, options.repeats)
    for workload in (name for name in options.workloads if WORKLOADS[name].how == "growth"):
        run.growth(options.only, workload, options.repeats)
    raw = described(options, run.results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "overhead.json").write_text(json.dumps(raw, indent=1) + "\n")
    text = tables.overhead(raw)
    (options.out / "overhead.md").write_text(text)
    print(text)
    draw(options.out / "overhead.json", options.out)


if __name__ == "__main__":
    main()
