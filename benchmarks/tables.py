"""Tables for people, in Markdown, from raw results."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import figures
from figures import Figure, blocks, over
from targets import TARGETS
from workloads import WORKLOADS

Raw = dict[str, Any]
NONE = "-"
UNITS = """In W2m the unit is smaller: wrapt's way through a bound method is shorter than through a function. In W3 the
four spans of a step are divided by four pass-throughs.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    lines = [header, ["---", *["--:" if numbers else "---"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: float) -> str:
    """Return three digits of `value`, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cell(found: Figure | None, *, spread: bool = True) -> str:
    if found is None:
        return NONE
    return f"{number(found.median)} ({number(found.low)}-{number(found.high)})" if spread else number(found.median)


# --- overhead.py -----------------------------------------------------------------------------------------------------


def overhead(raw: Raw) -> str:
    """Return every table of one run of overhead.py."""
    parts = [
        f"{raw['machine']}, {raw['rounds']} rounds; medians, in brackets the lowest and the highest round.\n",
        *section("What a recorded call adds, as a multiple of what a wrapt pass-through adds", multiples(raw)),
        UNITS if any(ran(raw, name) for name in ("W2m", "W3")) else "",
        *section(f"The same in microseconds, where the pass-through takes {figures.UNIT_NS / 1000} us", times(raw)),
        *section(f"W5: {WORKLOADS['W5'].title}", threads(raw)),
        *section(f"W6: {WORKLOADS['W6'].title}", growth(raw)),
        *section("Spans found of those made (W1 to W5)", counts(raw)),
        *section("Targets", targets(raw)),
        *section("Who was measured", contenders(raw)),
    ]
    workloads = "\n".join(f"- {name}: {workload.title}" for name, workload in WORKLOADS.items())
    return "\n".join([*parts, workloads, failures(raw)])


def section(title: str, text: str) -> list[str]:
    return [f"### {title}\n", text] if text else []


def multiples(raw: Raw) -> str:
    called = [name for name, each in WORKLOADS.items() if each.how in {"calls", "awaited"} and ran(raw, name)]
    rows = [
        [name, *(cell(over(blocks(raw, name, workload), figures.ratio)) for workload in called)]
        for name in raw["contenders"]
    ]
    return table(["", *called], rows) if called else ""


TIMES: dict[str, tuple[str, Callable[[figures.Block], float], str]] = {
    "W1 median": ("W1", figures.added_us, "own"),
    "W1 mean": ("W1", lambda block: figures.added_us(block, "own_mean"), "own_mean"),
    "W1 CPU": ("W1", figures.processor_us, "cpu"),
    "W1 CPU, tidied": ("W1", lambda block: figures.processor_us(block, "cpu_tidied"), "cpu_tidied"),
    "W2 median": ("W2", figures.added_us, "own"),
    "W2 mean": ("W2", lambda block: figures.added_us(block, "own_mean"), "own_mean"),
    "W2 p99": ("W2", lambda block: figures.added_us(block, "own_p99"), "own_p99"),
    "W2 CPU": ("W2", figures.processor_us, "cpu"),
    "W2 CPU, tidied": ("W2", lambda block: figures.processor_us(block, "cpu_tidied"), "cpu_tidied"),
    "W2f CPU": ("W2f", figures.processor_us, "cpu"),
    "W2f CPU, tidied": ("W2f", lambda block: figures.processor_us(block, "cpu_tidied"), "cpu_tidied"),
}
"""Columns: of which workload, what of its blocks, and what a block needs for it."""


def times(raw: Raw) -> str:
    shown = {title: of for title, of in TIMES.items() if ran(raw, of[0])}
    rows = [
        [
            name,
            *(cell(over(blocks(raw, name, where), make, needs), spread=False) for where, make, needs in shown.values()),
        ]
        for name in raw["contenders"]
    ]
    return table(["", *shown], rows) if shown else ""


def threads(raw: Raw) -> str:
    header = ["", "wall time a call, us", "the bare prototype beside it", "multiple of the prototype"]
    rows = [
        [
            name,
            cell(over(found, lambda block: block["own"] / 1000)),
            cell(over(found, lambda block: block["prototype"] / 1000)),
            cell(over(found, figures.to_prototype)),
        ]
        for name in raw["contenders"]
        if (found := blocks(raw, name, "W5"))
    ]
    return table(header, rows) if rows else ""


GROWTH: dict[str, Callable[[figures.Block], float | None]] = {
    "calls": lambda grown: grown["calls"],
    "found": lambda grown: grown["found"],
    "made in, s": lambda grown: grown["produced_s"],
    "all on disk after, s": lambda grown: grown["durable_s"],
    "spans a second": figures.spans_a_second,
    "peak memory, MB": figures.peak_mb,
    "peak journal, MB": figures.peak_journal_mb,
    "bytes a span": figures.bytes_a_span,
}


def growth(raw: Raw) -> str:
    rows = []
    for name, contender in raw["contenders"].items():
        made = [[make(grown) for grown in contender["growth"]] for make in GROWTH.values()]
        if contender["growth"]:
            rows.append(
                [name, *(cell(figures.figure(v for v in each if v is not None), spread=False) for each in made)]
            )
    return table(["", *GROWTH], rows) if rows else ""


def counts(raw: Raw) -> str:
    rows = [
        [name, f"{of['made']:,}", NONE if of["found"] is None else f"{of['found']:,}"]
        for name, of in raw["contenders"].items()
        if "made" in of
    ]
    return table(["", "made", "found"], rows) if rows else ""


def targets(raw: Raw) -> str:
    rows = []
    for target in TARGETS:
        found = target.measure(raw)
        if found is not None:
            bound = f"at {'least' if target.least else 'most'} {target.bound:g}"
            rows.append([target.what, bound, cell(found), "yes" if target.holds(found) else "no"])
    return table(["", "target", "measured", "holds"], rows) if rows else ""


def contenders(raw: Raw) -> str:
    rows = [[name, raw["packages"][name], of.get("keeps", NONE)] for name, of in raw["contenders"].items()]
    return table(["", "package", "keeps of a call"], rows, numbers=False)


def failures(raw: Raw) -> str:
    lines = [
        f"- {name} failed at {what}: {why}"
        for name, of in raw["contenders"].items()
        for what, why in of["failed"].items()
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def ran(raw: Raw, workload: str) -> bool:
    return any(blocks(raw, name, workload) for name in raw["contenders"])
