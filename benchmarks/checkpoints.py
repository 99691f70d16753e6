"""What saving an agent's state costs at each step, ours and others', side by side in one run.

    python benchmarks/checkpoints.py [--rounds 3] [--only clearstone,...] [--out benchmarks/.results]

The state is n chat messages of about 480 pickled bytes each, a counter and the last message. A step appends one message
and has the state saved. The contenders take turns, so that a slow phase of the machine hits all of them; a figure is
the median over the rounds of each round's median step.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZES = {100: 60, 1_000: 100, 10_000: 60, 100_000: 16}
"""Messages before the first step, and steps."""

WARM_UP = 0.2
"""Of the steps: not counted."""

CONTENDERS = {
    "clearstone": "clearstone",
    "clearstone, verify=budget": "clearstone",
    "clearstone, in memory": "clearstone",
    "cloudpickle, a file a step": "langgraph",
    "langgraph SqliteSaver": "langgraph",
}
"""Which environment each runs in."""

TARGETS = {
    "clearstone": (0.2, 1, 9, 100),
    "clearstone, verify=budget": (0.2, 0.7, 0.7, 1),
}
"""Milliseconds a step, at most, by size."""

MOST_BYTES, MOST_RESTORE, MOST_FAILURE_MS = 3, 1.3, 100
"""Bytes of a step for each changed one, over a kilobyte; restoring by `pickle.loads`; a failure at 10,000 messages."""


def message(number: int, chance: random.Random) -> dict[str, Any]:
    """Return a chat message of about 480 pickled bytes, of words that compress as text does."""
    words = " ".join(chance.choices(WORDS, k=58))
    numbers = {"id": number, "tokens": number % 311, "at": 1.5 * number}
    return {"role": "user", "content": words, "name": "someone", **numbers}


WORDS = tuple(f"{first}{last}" for first in ("re", "un", "con", "trans") for last in ("port", "form", "act", "ing"))


# --- in the contender's own process ----------------------------------------------------------------------------------


def work(contender: str, size: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    try:
        return WORKERS[contender](size, SIZES[size], folder)
    finally:
        shutil.rmtree(folder)


def stepped(messages: list[Any], steps: int, save: Callable[[], object]) -> list[float]:
    """Append a message and save, so many times; return the seconds that saving took."""
    chance, taken = random.Random(1), []
    for _ in range(steps):
        messages.append(message(len(messages), chance))
        begun = time.perf_counter()
        save()
        taken.append(time.perf_counter() - begun)
    return taken[int(WARM_UP * steps) :]


def messages(size: int) -> list[Any]:
    chance = random.Random(0)
    return [message(number, chance) for number in range(size)]


def clearstone(size: int, steps: int, folder: Path, **options: Any) -> dict[str, Any]:
    from clearstone import checkpointable, configure
    from clearstone.checkpoint import loading, state

    @checkpointable(nested=True, budget=None, **options)
    class Agent:
        def __init__(self) -> None:
            self.messages = messages(size)
            self.step, self.last = 0, None

        def run(self) -> list[float]:
            return stepped(self.messages, steps, self._save)

        def _save(self) -> None:
            self.step += 1
            self.last = self.messages[-1]
            self.stepped()

        def stepped(self) -> None:
            return None

    Agent.__qualname__ = Agent.__name__
    sys.modules[__name__].Agent = Agent  # found by its name, as an agent of a module is
    configure(home=folder)
    agent = Agent()
    found: dict[str, Any] = {"seconds": agent.run(), "whole": whole(agent)}
    packs = list((folder / "checkpoints").glob("*.pack"))
    if packs:
        found["bytes"] = bytes_a_step(packs[0])
        last = loading.load(packs[0])
        found["restore"] = best(lambda: state.restore(Agent, last.state))
        found["from the disk"] = best(lambda: state.restore(Agent, loading.load(packs[0]).state))
    return found


def whole(agent: Any) -> dict[str, float]:
    """Return what one plain pickle of the whole state takes, in bytes and in seconds to load."""
    data = pickle.dumps(vars(agent), 5)
    return {"bytes": len(data), "loads": best(lambda: pickle.loads(data))}


def best(do: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        do()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def bytes_a_step(pack: Path) -> float:
    """Return the bytes of a step, the first ones apart: they hold the state that was there before."""
    from clearstone.checkpoint import loading

    ends = [header.after for header in loading.headers_of(pack)]
    first = int(WARM_UP * len(ends))
    return (ends[-1] - ends[first]) / (len(ends) - 1 - first)


def failing(size: int, _: int, folder: Path) -> dict[str, Any]:
    """Measure a call that fails, from its entry to the exception in its caller's hands."""
    from clearstone import checkpointable, configure

    @checkpointable(budget=None)
    class Agent:
        def __init__(self) -> None:
            self.messages = messages(size)

        def fail(self) -> None:
            raise ValueError("no")

    sys.modules[__name__].Agent = Agent
    configure(home=folder)
    agent, chance = Agent(), random.Random(1)

    def fail() -> None:
        try:
            agent.fail()
        except ValueError:
            return

    def failed() -> None:
        agent.messages.append(message(0, chance))
        fail()

    failed()
    return {"seconds": [once(failed) for _ in range(7)]}


def once(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def full_cloudpickle(size: int, steps: int, folder: Path) -> dict[str, Any]:
    import cloudpickle

    held = {"messages": messages(size), "step": 0, "last": None}
    numbers = iter(range(steps))

    def save() -> None:
        held["step"] += 1
        held["last"] = held["messages"][-1]
        (folder / f"{next(numbers)}.pkl").write_bytes(cloudpickle.dumps(held))

    seconds = stepped(held["messages"], steps, save)
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data = files[-1].read_bytes()
    restore = best(lambda: cloudpickle.loads(data))
    return {"seconds": seconds, "bytes": sum(path.stat().st_size for path in files) / steps, "restore": restore}


def langgraph(size: int, steps: int, folder: Path) -> dict[str, Any]:
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.sqlite import SqliteSaver

    held = {"messages": messages(size), "step": 0, "last": None}
    path = folder / "checkpoints.db"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        config: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}

        def save() -> None:
            nonlocal config
            held["step"] += 1
            held["last"] = held["messages"][-1]
            checkpoint = {**empty_checkpoint(), "channel_values": held}
            config = saver.put(config, checkpoint, {"source": "loop", "step": held["step"], "parents": {}}, {})

        seconds = stepped(held["messages"], steps, save)
        restore = best(lambda: saver.get_tuple(config))
    size_on_disk = sum(each.stat().st_size for each in folder.glob("checkpoints.db*"))
    return {"seconds": seconds, "bytes": size_on_disk / steps, "restore": restore}


WORKERS: dict[str, Callable[[int, int, Path], dict[str, Any]]] = {
    "clearstone": lambda *given: clearstone(*given, on="entry"),
    "clearstone, verify=budget": lambda *given: clearstone(*given, on="entry", verify="budget"),
    "clearstone, in memory": clearstone,
    "clearstone, failing": failing,
    "cloudpickle, a file a step": full_cloudpickle,
    "langgraph SqliteSaver": langgraph,
}


# --- in the benchmark's process --------------------------------------------------------------------------------------


def measured(rounds: int, only: list[str]) -> dict[str, Any]:
    """Run everything in turn; return the rounds by contender and size."""
    results: dict[str, dict[str, list[Any]]] = {}
    for number in range(rounds):
        for contender, size in of_a_round(only):
            print(f"round {number + 1}: {contender}, {size:,} messages", file=sys.stderr)
            results.setdefault(contender, {}).setdefault(str(size), []).append(run(contender, size))
    return results


def of_a_round(only: list[str]) -> Iterator[tuple[str, int]]:
    for size in SIZES:
        yield from ((name, size) for name in CONTENDERS if not only or any(each in name for each in only))
    yield "clearstone, failing", 10_000


def run(contender: str, size: int) -> dict[str, Any]:
    from environments import interpreter

    environment = CONTENDERS.get(contender, "clearstone")
    command = [str(interpreter(environment)), __file__, "--worker", contender, str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": "0"})
    found = json.loads(done.stdout)
    return {**found, "seconds": statistics.median(found["seconds"])}


def milliseconds(rounds: list[dict[str, Any]], what: str = "seconds") -> float:
    return 1000 * statistics.median(each[what] for each in rounds)


def table(results: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    from tables import number
    from tables import table as drawn

    sizes = [str(size) for size in SIZES]
    titles = ["messages", *(f"{size:,}" for size in SIZES)]
    shown = {name: of for name, of in results.items() if name in CONTENDERS}

    def rows(cell: Callable[[list[Any]], str]) -> list[list[str]]:
        return [[name, *(cell(of[size]) if size in of else "-" for size in sizes)] for name, of in shown.items()]

    def kilobytes(rounds: list[Any]) -> str:
        return number(statistics.median(each["bytes"] for each in rounds) / 1000) if "bytes" in rounds[0] else "-"

    def restoring(rounds: list[Any]) -> str:
        told = [number(milliseconds(rounds, what)) for what in ("restore", "from the disk") if what in rounds[0]]
        return " / ".join(told) or "-"

    parts = [
        "### Milliseconds a step\n",
        drawn(titles, rows(lambda rounds: number(milliseconds(rounds)))),
        "### Kilobytes on disk a step\n",
        drawn(titles, rows(kilobytes)),
        "### Milliseconds to bring the last state back\n",
        "Of Clearstone: once it is read and checked, and from the file on. The others do both at once.\n",
        drawn(titles, rows(restoring)),
        "### Targets\n",
        drawn(["", "target", "measured", "holds"], targets(results)),
    ]
    return "\n".join(parts)


def targets(results: dict[str, Any]) -> list[list[str]]:
    from tables import number

    rows = []

    def told(what: str, bound: float, found: float, unit: str = "") -> None:
        rows.append([what, f"at most {bound:g}{unit}", f"{number(found)}{unit}", "yes" if found <= bound else "no"])

    for name, bounds in TARGETS.items():
        for size, bound in zip(SIZES, bounds, strict=True):
            if str(size) in results.get(name, {}):
                told(f"{name}: a step at {size:,}", bound, milliseconds(results[name][str(size)]), " ms")
    ours = results.get("clearstone", {})
    for size, rounds in ours.items():
        changed = rounds[0]["whole"]["bytes"] / (int(size) + SIZES[int(size)])
        found = statistics.median(each["bytes"] for each in rounds)
        told(f"bytes of a step at {int(size):,}", round(MOST_BYTES * changed + 1024), found)
        ratios = [each["restore"] / each["whole"]["loads"] for each in rounds]
        told(f"restoring at {int(size):,}, by pickle.loads", MOST_RESTORE, statistics.median(ratios))
    if failing := results.get("clearstone, failing"):
        told("a failure at 10,000, saved and on the disk", MOST_FAILURE_MS, milliseconds(failing["10000"]), " ms")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contenders whose names hold one of these, separated by commas")
    parser.add_argument("--out", type=Path, help="a folder for checkpoints.json, .md and .svg")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(work(given.worker[0], int(given.worker[1]))))
        return
    results = measured(given.rounds, [each.strip() for each in given.only.split(",") if each.strip()])
    text = table(results)
    print(text)
    if given.out:
        from environments import HERE, interpreter

        given.out.mkdir(parents=True, exist_ok=True)
        raw = given.out / "checkpoints.json"
        raw.write_text(json.dumps({"steps": results}, indent=1) + "\n")
        (given.out / "checkpoints.md").write_text(text)
        subprocess.run([interpreter("plots"), HERE / "plots.py", raw, given.out], check=True)


if __name__ == "__main__":
    main()
