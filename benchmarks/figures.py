"""Figures from what the workers answered: pure functions of the raw results.

A block of a workload holds nanoseconds of the bare call, the wrapt pass-through and the contender, measured in the same
process at the same time; every figure is made from one block, then the median is taken over the rounds.
"""

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Block = dict[str, Any]
UNIT_NS = 600
"""Times are given as on a machine whose pass-through takes so long, so that slow and fast phases compare."""


class Figure(NamedTuple):
    """A median over rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float


def figure(values: Iterable[float]) -> Figure | None:
    """Return the figure of `values`; None where there are none."""
    found = list(values)
    return Figure(statistics.median(found), min(found), max(found)) if found else None


def pass_through(block: Block) -> float:
    """Return what the pass-through adds to the bare call, in nanoseconds."""
    return max(1.0, block["wrapt"] - block["bare"])


def ratio(block: Block) -> float:
    """Return what the contender adds to the bare call, as a multiple of what the pass-through adds."""
    return float((block["own"] - block["bare"]) / pass_through(block))


def added_us(block: Block, key: str = "own") -> float:
    """Return what the contender adds to the bare call in microseconds, on a machine as `UNIT_NS` says."""
    base = block["bare_mean"] if key == "own_mean" else block["bare"]
    return float((block[key] - base) / pass_through(block) * UNIT_NS / 1000)


def processor_us(block: Block, key: str = "cpu") -> float:
    """Return the processor time of all threads a call in microseconds, on a machine as `UNIT_NS` says."""
    return float(block[key] / pass_through(block) * UNIT_NS / 1000)


def to_prototype(block: Block) -> float:
    """Return the wall time of a call among threads, as a multiple of the bare prototype's beside it."""
    return float(block["own"] / block["prototype"])


def over(blocks: Iterable[Block], make: Callable[[Block], float], needs: str = "own") -> Figure | None:
    """Return the figure that `make` makes of each block that has `needs`."""
    return figure(make(block) for block in blocks if block.get(needs) is not None)


def blocks(raw: dict[str, Any], name: str, workload: str) -> list[Block]:
    """Return the blocks of a contender's rounds; none where it did not run the workload."""
    return list(raw["contenders"].get(name, {}).get("rounds", {}).get(workload, ()))


def times_less(raw: dict[str, Any], name: str, other: str, workload: str) -> Figure | None:
    """Return how many times less `name` adds than `other`, round by round."""
    pairs = zip(blocks(raw, name, workload), blocks(raw, other, workload), strict=False)
    return figure(ratio(its) / ratio(own) for own, its in pairs)


def spans_a_second(grown: Block) -> float:
    """Return how many spans a second were made and stored, those alone that were found."""
    return float((grown["calls"] if grown["found"] is None else grown["found"]) / grown["durable_s"])


def peak_mb(grown: Block) -> float:
    """Return the highest anonymous memory above the start's, in MB."""
    return float(max(0, *(memory for _, memory, _ in grown["samples"])) / 2**20)


def peak_journal_mb(grown: Block) -> float:
    """Return the most its journal took on disk, in MB."""
    return float(max(journal for _, _, journal in grown["samples"]) / 2**20)


def bytes_a_span(grown: Block) -> float | None:
    """Return the bytes on disk a span, once closed; None where nothing is kept."""
    return float(grown["disk"] / grown["found"]) if grown["found"] else None
