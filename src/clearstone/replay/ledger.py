"""What became of every call of a replay: the recorded ones, and those that were made.

Idea: whoever decides about a call enters it here, once; what is left of the record is added at the end. A reader gets a
frozen `Ledger`.

Refused: counters alone ("7 served" does not say which, and hides what was not).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from clearstone.callers import line_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clearstone.callers import Place

Verdict = Literal[
    "reused", "reused by order", "again", "changed", "diverged", "beyond", "live", "unused", "interrupted", "ambiguous"
]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

ALWAYS: tuple[Verdict, ...] = ("reused", "diverged", "unused", "live")
"""What the summary says also where there is none."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One call.

    Args:
        verdict: what became of it.

            - ``"reused"``: answered from the record, by its arguments
            - ``"reused by order"``: answered from the record, by its place alone
            - ``"ambiguous"``: answered from the record, but what it did to its object cannot be told for sure
            - ``"again"``: a step that ran again and gave what it gave then
            - ``"changed"``: a step that ran again and gave something else, or that the record does not have
            - ``"diverged"``: refused, for its arguments differ from every recorded call that is left, or because the
              recorded outcome cannot be given
            - ``"beyond"``: refused, for the record ends before it
            - ``"live"``: made for real
            - ``"unused"``: recorded, and the replay did not come to it
            - ``"interrupted"``: recorded, and its process ended in it; or a step that a refusal ended
        site: what was called, ``module:qualname``; of a mock target without a decorator its dotted path.
        span_type: the type of its spans.
        number: the how-manieth call of its site it is, from 1: of those made, or of those recorded if it was not made;
            0 for a hand-written span that was not come to.
        span_id: of the recorded call; empty where there is none.
        line: ``file:line`` of the code that made it now; empty where it was not made.
        recorded_line: ``file:line`` of the code that made it when it was recorded; of served calls only.
        told: what is to be said of it, a sentence each: what differs, why it was refused.
    """

    verdict: Verdict
    site: str
    span_type: str = ""
    number: int = 0
    span_id: str = ""
    line: str = ""
    recorded_line: str = ""
    told: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The dotted form of `site`."""
        return self.site.replace(":", ".", 1)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "verdict": self.verdict,
            "call": self.target,
            "span_type": self.span_type,
            "number": self.number,
            "span_id": self.span_id or None,
            "line": self.line or None,
            "recorded_line": self.recorded_line or None,
            "told": list(self.told),
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of every call of one replay.

    Args:
        entries: the calls, those that were made first, in that order.
        written: files that the replayed code changed.
        unrecorded: what it took from today's machine, which no record answers: files, environment variables, input.
        values: where what its code drew came from, by ``"random"``, ``"uuid"`` and ``"time"``: ``"recorded"``,
            ``"derived from the checkpoint"`` and the like.
    """

    entries: tuple[LedgerEntry, ...] = ()
    written: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def count(self, *verdicts: Verdict) -> int:
        """Return how many calls have one of these verdicts."""
        return sum(each.verdict in verdicts for each in self.entries)

    def counts(self) -> dict[str, int]:
        """Return how many calls have which verdict; every verdict is there."""
        return {verdict: self.count(verdict) for verdict in VERDICTS}

    @property
    def served(self) -> int:
        """How many calls were answered from the record."""
        return self.count("reused", "reused by order", "ambiguous")

    @property
    def summary(self) -> str:
        """One line: ``reused 7 · diverged 0 · unused 0 · live 0``, and what else differs from the record."""
        found = self.counts()
        more = (each for each in VERDICTS if each not in {*ALWAYS, "again"} and found[each])
        shown = [*ALWAYS, *more]
        return " · ".join(f"{each} {found[each]}" for each in shown)


VERDICT, LINE, TOLD = 0, 5, 7
"""Places of fields of an entry."""


class _Lines(dict["Place", str]):
    """Lines by places, each looked up once: a loop makes its calls at one."""

    def __missing__(self, place: Place) -> str:
        line = self[place] = line_of(place)
        return line


def _with(fields: list[Any], at: int, value: Any) -> list[Any]:
    return [*fields[:at], value, *fields[at + 1 :]]


class OpenLedger:
    """A ledger while it is written, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: list[list[Any]] = []
        self._numbers: dict[str, int] = {}

    def number(self, site: str) -> int:
        """Return the number of a call that is just made."""
        with self._lock:
            number = self._numbers[site] = self._numbers.get(site, 0) + 1
            return number

    def enter(self, *fields: Any) -> list[Any]:
        """Add a call that was made: the fields of its `LedgerEntry`, but its place instead of its line.

        The entry is made when somebody reads.

        Returns:
            The fields; what is known later may be changed in it.
        """
        entry = list(fields)
        self._entries.append(entry)
        return entry

    def closed(
        self,
        left: Sequence[LedgerEntry],
        written: tuple[str, ...],
        unrecorded: tuple[str, ...],
        values: Mapping[str, str],
    ) -> Ledger:
        """Return the ledger, with what is left of the record at its end (see `Ledger`)."""
        lines = _Lines()
        made = (LedgerEntry(*_with(fields, LINE, lines[fields[LINE]])) for fields in self._entries.copy())
        return Ledger((*made, *left), written, unrecorded, values)
