"""What Clearstone holds itself to, and whether a run shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import figures
from figures import Figure, blocks, over

Raw = dict[str, Any]
OURS, IDLE, DISABLED = "clearstone", "clearstone-idle", "clearstone-disabled"


@dataclass(frozen=True)
class Target:
    """One line of the list.

    Args:
        what: for people.
        bound: the number to hold.
        measure: takes it out of a run; None where the run does not have it.
        least: whether `bound` is the least allowed, not the most.
    """

    what: str
    bound: float
    measure: Callable[[Raw], Figure | None]
    least: bool = False

    def holds(self, found: Figure) -> bool:
        return found.median >= self.bound if self.least else found.median <= self.bound


def multiple(name: str, workload: str) -> Callable[[Raw], Figure | None]:
    return lambda raw: over(blocks(raw, name, workload), figures.ratio)


def processor(workload: str) -> Callable[[Raw], Figure | None]:
    return lambda raw: over(blocks(raw, OURS, workload), figures.processor_us, "cpu")


def less_than(other: str, workload: str) -> Callable[[Raw], Figure | None]:
    return lambda raw: figures.times_less(raw, OURS, other, workload)


def grown(make: Callable[[figures.Block], float]) -> Callable[[Raw], Figure | None]:
    return lambda raw: figures.figure(make(each) for each in raw["contenders"].get(OURS, {}).get("growth", ()))


def over_prototype(raw: Raw) -> Figure | None:
    return over(blocks(raw, OURS, "W5"), figures.to_prototype)


def against_fastest_peer(raw: Raw) -> Figure | None:
    """Return our spans a second over those of the fastest other recorder but the prototype, round by round."""
    runs = {name: of["growth"] for name, of in raw["contenders"].items() if name not in {IDLE, DISABLED}}
    ours = runs.pop(OURS, [])
    runs.pop("bare-prototype", None)
    peers = [max(map(figures.spans_a_second, each)) for each in zip(*filter(None, runs.values()), strict=False)]
    return figures.figure(figures.spans_a_second(own) / best for own, best in zip(ours, peers, strict=False))


TARGETS = (
    Target("W1, multiple of the pass-through", 6, multiple(OURS, "W1")),
    Target("W2 with a repeated history, multiple", 18, multiple(OURS, "W2")),
    Target("W4, multiple", 20, multiple(OURS, "W4")),
    Target("W1, times below OpenTelemetry", 6, less_than("opentelemetry", "W1"), least=True),
    Target("W2, times below OpenTelemetry", 4, less_than("opentelemetry", "W2"), least=True),
    Target("idle, W1, multiple", 1.3, multiple(IDLE, "W1")),
    Target("idle, W2, multiple", 1.3, multiple(IDLE, "W2")),
    Target("idle, W4, multiple", 1.3, multiple(IDLE, "W4")),
    Target("disabled, W1, multiple", 1.3, multiple(DISABLED, "W1")),
    Target("disabled, W2, multiple", 1.3, multiple(DISABLED, "W2")),
    Target("disabled, W4, multiple", 1.3, multiple(DISABLED, "W4")),
    Target("W5, wall time over the bare prototype's", 1.5, over_prototype),
    Target("W1, processor time of all threads a call, us", 12, processor("W1")),
    Target("W2, processor time of all threads a call, us", 70, processor("W2")),
    Target("W6, share of the spans found", 1, grown(lambda run: run["found"] / run["calls"]), least=True),
    Target("W6, spans a second over the fastest peer's", 1, against_fastest_peer, least=True),
    Target("W6, peak anonymous memory over the start, MB", 64, grown(figures.peak_mb)),
)  # fmt: skip
