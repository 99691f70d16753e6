"""What a flush or a shutdown says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flushed:
    """What a flush came to; true where everything is stored.

    Args:
        stored: whether everything recorded before it is in the store.
        waiting: bytes that are in the journal and not yet in the store.
        dropped: records that were dropped since the process began, because the journal was full.
        reason: why the store does not take them, if it does not.
    """

    stored: bool
    waiting: int = 0
    dropped: int = 0
    reason: str = ""

    def __bool__(self) -> bool:
        return self.stored

    def __str__(self) -> str:
        if self.stored and not self.dropped:
            return "everything is stored"
        waits = f"{self.waiting:,} bytes wait in the journal ({self.reason or 'the store is slow'})"
        dropped = f"{self.dropped:,} record(s) were dropped because the journal was full"
        return "; ".join(part for part, said in ((waits, not self.stored), (dropped, self.dropped)) if said)
