"""What answering calls from a record costs, ours and others', side by side in one run.

    python benchmarks/replay.py [--rounds 5] [--only clearstone,...] [--out benchmarks/.results]

An agent makes so many LLM calls of 20 messages of 300 characters each, and fails; another process replays it. What a
served call costs is measured by the agent (by a clock that no replay replaces); the whole time is from the imports and
the file to the end. The contenders take turns; figures are medians over the rounds.
"""

import argparse
import contextlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = (1_000, 10_000)
"""Calls of a recording."""

KINDS = {"W2": False, "W2f": True}
"""Sixteen conversations over and over, or every string of every call a new one."""

CONTENDERS = ("clearstone", "agent-rewind", "agentcassette")

MOST_MICROSECONDS, MOST_SECONDS, MOST_TIMES = 40, 2, 1.2
"""A served call of W2; the replay of 10,000 calls; memory of a call whose values are all new to one with known ones."""


# --- in the contender's own process ----------------------------------------------------------------------------------


def clearstone(work: str, calls: int, kind: str, folder: Path) -> Any:
    from replayed_agent import run

    from clearstone import configure

    configure(home=folder)
    if work == "record":
        with contextlib.suppress(RuntimeError):
            run(calls, KINDS[kind])
        return calls, 0.0
    from clearstone.debugging import CheckpointManager, ReplayEngine

    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    try:
        engine.replay_from_checkpoint()
    except RuntimeError as error:
        (seconds,) = error.args
    return engine.ledger.count("reused"), seconds, parts(calls, kind)


def parts(calls: int, kind: str) -> float:
    """Return the seconds that pickling and hashing so many arguments, and loading so many answers, take by itself."""
    import pickle

    from workloads import timed

    from clearstone.replay.digest import quick

    reply = pickle.dumps(answer(()), 5)

    def ask(messages: Any, **options: Any) -> Any:
        quick({"messages": messages, **options})
        return pickle.loads(reply)

    return timed(ask, calls, fresh=KINDS[kind])


def agent_rewind(work: str, calls: int, kind: str, folder: Path) -> Any:
    import rewind

    around = rewind.record if work == "record" else rewind.replay
    with around(folder / "run.rewind"):
        return asked(rewind.llm(answer), calls, kind)


def agentcassette(work: str, calls: int, kind: str, folder: Path) -> Any:
    import agentcassette as cassette

    around = cassette.record if work == "record" else cassette.replay
    with around(str(folder / "run.json")):
        return asked(cassette.intercept(answer, kind="llm"), calls, kind)


def answer(messages: Any, **options: Any) -> dict[str, Any]:
    from workloads import REPLIES

    return {"role": "assistant", "content": REPLIES[0], "usage": {"input": 1500, "output": 130}}


def asked(ask: Any, calls: int, kind: str) -> tuple[int, float]:
    from workloads import timed

    seconds = timed(ask, calls, fresh=KINDS[kind])
    return calls, seconds


WORKERS = {"clearstone": clearstone, "agent-rewind": agent_rewind, "agentcassette": agentcassette}


def work(contender: str, what: str, calls: int, kind: str, folder: Path) -> dict[str, Any]:
    before, begun = peak(), time.perf_counter()
    served, seconds, *least = WORKERS[contender](what, calls, kind, folder)
    whole = time.perf_counter() - begun - sum(least)
    found = {"seconds": whole, "call": seconds / calls, "megabytes": peak() - before, "served": served}
    return {**found, "least": sum(least) / calls}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- in the benchmark's process --------------------------------------------------------------------------------------


def measured(rounds: int, only: list[str]) -> dict[str, Any]:
    """Record once for each contender, kind and size; replay in turn; return the rounds."""
    chosen = [name for name in CONTENDERS if not only or name in only]
    cases = [(name, kind, size) for kind in KINDS for size in SIZES for name in chosen]
    folder = Path(tempfile.mkdtemp())
    try:
        homes = {case: folder / str(number) for number, case in enumerate(cases)}
        for (name, kind, size), home in homes.items():
            home.mkdir()
            run(name, "record", size, kind, home)
        results: dict[str, list[Any]] = {}
        for number in range(rounds):
            for (name, kind, size), home in homes.items():
                print(f"round {number + 1}: {name}, {kind}, {size:,} calls", file=sys.stderr)
                results.setdefault(f"{name} {kind} {size}", []).append(run(name, "replay", size, kind, home))
        return results
    finally:
        shutil.rmtree(folder)


def run(contender: str, what: str, calls: int, kind: str, home: Path) -> dict[str, Any]:
    from environments import interpreter

    command = [str(interpreter(contender)), __file__, "--worker", contender, what, str(calls), kind, str(home)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(done.stdout)
    if what == "replay" and found["served"] != calls:
        raise SystemExit(f"{contender} served {found['served']} of {calls} calls")
    return found


def median(results: dict[str, Any], case: str, what: str) -> float:
    return statistics.median(each[what] for each in results[case])


def table(results: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    from tables import number
    from tables import table as drawn

    names = [name for name in CONTENDERS if f"{name} W2 {SIZES[0]}" in results]
    titles = ["", *(f"{kind}: {what}" for kind in KINDS for what in ("us a call", "10,000 calls, s", "peak, MB"))]
    rows = []
    for name in names:
        row = [name]
        for kind in KINDS:
            case = f"{name} {kind} {SIZES[1]}"
            row += [number(1e6 * median(results, case, "call")), number(median(results, case, "seconds"))]
            less = median(results, f"{name} {kind} {SIZES[0]}", "megabytes")
            row.append(f"{number(less)} / {number(median(results, case, 'megabytes'))}")
        rows.append(row)
    parts = [drawn(titles, rows)]
    if "clearstone" in names:
        case = f"clearstone W2 {SIZES[1]}"
        us, seconds = 1e6 * median(results, case, "call"), median(results, case, "seconds")
        known, new = (a_call_holds(results, kind) for kind in KINDS)
        times = new / known
        targets = [
            ["a served call of W2", f"at most {MOST_MICROSECONDS} us", f"{number(us)} us", us <= MOST_MICROSECONDS],
            ["10,000 calls of W2", f"at most {MOST_SECONDS} s", f"{number(seconds)} s", seconds <= MOST_SECONDS],
            ["memory a call, W2f / W2", f"at most {MOST_TIMES}", f"{number(times)}", times <= MOST_TIMES],
        ]
        least = 1e6 * median(results, case, "least")
        told = f"Of a call of W2 {number(least)} us are C code: the arguments pickled and hashed, the answer loaded."
        held = f"A call of W2 holds {number(known)} kB while it is replayed, one of W2f {number(new)} kB."
        shown = [[*row[:3], "yes" if row[3] else "no"] for row in targets]
        parts += [drawn(["", "target", "measured", "holds"], shown), told, held]
    return "\n".join(parts)


def a_call_holds(results: dict[str, Any], kind: str) -> float:
    """Return by how many kilobytes the process grows with each further call of a recording."""
    less, more = (median(results, f"clearstone {kind} {size}", "megabytes") for size in SIZES)
    return 1024 * (more - less) / (SIZES[1] - SIZES[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="contenders, separated by commas")
    parser.add_argument("--out", type=Path, help="a folder for replay.json and replay.md")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        name, what, calls, kind, folder = given.worker
        print(json.dumps(work(name, what, int(calls), kind, Path(folder))))
        return
    results = measured(given.rounds, [each for each in given.only.split(",") if each])
    told = table(results)
    print(told)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "replay.json").write_text(json.dumps(results, indent=1))
        (given.out / "replay.md").write_text(told)


if __name__ == "__main__":
    main()
