"""Time and chance under control: a clock that only sleeping moves, and entropy that comes from a seed."""

from clearstone.nondet.carry import carried
from clearstone.nondet.clock import VirtualClock
from clearstone.nondet.context import deterministic, run

__all__ = ["VirtualClock", "carried", "deterministic", "run"]
