"""Time and chance under control: a clock that only sleeping moves, and entropy that comes from a seed."""

from clearstone.nondet.carry import carried
from clearstone.nondet.clock import VirtualClock, real_time_ns
from clearstone.nondet.clock import current as current_clock
from clearstone.nondet.context import deterministic, go_live, keeping, real_entropy, run

__all__ = [
    "VirtualClock",
    "carried",
    "current_clock",
    "deterministic",
    "go_live",
    "keeping",
    "real_entropy",
    "real_time_ns",
    "run",
]
