"""What ``clearstone doctor`` found: the replays it made, where two of them part, and how that is said.

Invariant: of the lines, the first that part are told first: most of what follows them is their doing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from clearstone.cli.printing import printable
from clearstone.debugger.advice import ADDRESS, advice, changing, source
from clearstone.debugger.following import MAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.debugger.events import Log
    from clearstone.debugger.parting import Parting

MOST_TOLD = 10
"""Of each kind of difference so many are told; ``--json`` has all."""


NOTHING = "nothing"


class Setting(NamedTuple):
    """How one replay is made."""

    seed: str
    is_pressed: bool


@dataclass(frozen=True, slots=True)
class Made:
    """A replay that was made: how, what was executed in it, and what it told (see `clearstone.cli.doctored`)."""

    setting: Setting
    log: Log
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Apart:
    """A difference that is no line's: a call, or a value at the end.

    Args:
        name: of what.
        one: what the first replay had; empty for nothing.
        other: what the other had.
        lines: of an attribute, where no line parts: those that change it.
    """

    name: str
    one: str
    other: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Args:
        checkpoint_id: what was replayed.
        replays: those that were compared; where two part, the last of them parts from the first.
        places: the lines where these two part, in their order.
        others: the places of another replay that has the first one's hash seed; None where none was made.
        calls: the calls that were not the same.
        values: what was not the same at the end.
    """

    checkpoint_id: str
    replays: tuple[Made, ...]
    places: tuple[Parting, ...]
    others: frozenset[tuple[Any, ...]] | None
    calls: tuple[Apart, ...]
    values: tuple[Apart, ...]

    @property
    def parts(self) -> bool:
        """Whether two replays were not the same."""
        return bool(self.places or self.calls or self.values)

    @property
    def diverged(self) -> bool:
        """Whether one took another way than the record, or was refused something."""
        return any(each.told["diverged"] for each in self.replays)

    @property
    def is_complete(self) -> bool:
        """Whether every line was compared."""
        return all(each.log.complete for each in self.replays)

    def is_by_seed(self, place: Parting) -> bool | None:
        """Whether the hash seed is why two part there; None where that was not looked for."""
        return key_of(place) not in self.others if self.others is not None else None


def key_of(place: Parting) -> tuple[Any, ...]:
    """Return what a place of two replays has in common with the same one of two others."""
    return place.kind, place.code, place.line


# --- what is not a line's --------------------------------------------------------------------------------------------


def calls_apart(one: Made, other: Made) -> Iterator[Apart]:
    """Give the recorded calls that became something else, and those without a record that one made alone."""
    left, right = ({each["span_id"]: each for each in made.told["calls"] if each["span_id"]} for made in (one, other))
    for span_id, entry in left.items():
        a, b = _became(entry), _became(right.get(span_id))
        if a != b:
            yield Apart(entry["call"], a, b)
    alone = [Counter(_unrecorded(made)) for made in (one, other)]
    for call, became in alone[0] - alone[1]:
        yield Apart(call, became, "")
    for call, became in alone[1] - alone[0]:
        yield Apart(call, "", became)


def _became(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    told = ADDRESS.sub("0x...", "; ".join(entry["told"]))
    return f"{entry['verdict']} ({told})" if told else str(entry["verdict"])


def _unrecorded(made: Made) -> Iterator[tuple[str, str]]:
    return ((each["call"], _became(each)) for each in made.told["calls"] if not each["span_id"])


def values_apart(one: Made, other: Made, *, with_lines: bool) -> Iterator[Apart]:
    """Give what was not the same at the end: attributes of the agent, the result, the exception.

    Args:
        one: a replay.
        other: another.
        with_lines: whether to look for the lines that change an attribute.
    """
    nothing = ["", ""]
    left, right = one.told["values"], other.told["values"]
    for name in dict.fromkeys([*left, *right]):
        (a, shown), (b, shown_there) = left.get(name, nothing), right.get(name, nothing)
        if a != b:
            told = f"{shown}, and another further in" if shown == shown_there else shown_there
            attribute = name.removeprefix("self.") if with_lines and name.startswith("self.") else ""
            yield Apart(name, shown, told, tuple(changing(attribute, one.log)) if attribute else ())


# --- what is said ----------------------------------------------------------------------------------------------------


def tell(found: Findings) -> None:
    """Print it."""
    first, last = found.replays[0], found.replays[-1]
    if found.parts:
        click.echo(
            f"Two replays part: one with hash seed {first.setting.seed} and calm threads, the other with hash seed "
            f"{last.setting.seed} and pressed ones."
        )
        _tell_places(found)
        _tell_apart("Calls", found.calls)
        _tell_apart("At the end", found.values)
    else:
        seeds = ", ".join(each.setting.seed for each in found.replays)
        click.echo(
            f"Nothing parts: {len(found.replays)} replays (hash seeds {seeds}; threads calm and pressed) ran the same "
            f"{first.log.lines} lines.\nEach: {first.told['summary']}"
        )
    _tell_besides(found)


def _tell_besides(found: Findings) -> None:
    if not found.is_complete:
        most = max(each.log.lines for each in found.replays)
        click.echo(f"Not all of it was compared: of each replay the first {most} lines are kept.")
    if found.diverged:
        _tell_divergence(found)
    unrecorded = list(dict.fromkeys(each for made in found.replays for each in made.told["unrecorded"]))
    if unrecorded:
        more = f" and {len(unrecorded) - MOST_TOLD} more" if len(unrecorded) > MOST_TOLD else ""
        told = ", ".join(unrecorded[:MOST_TOLD])
        click.echo(printable(f"Taken from today's machine, not from the record: {told}{more}"))


def _tell_places(found: Findings) -> None:
    said = {""}
    for each in found.places[:MOST_TOLD]:
        click.echo(printable(f"  {each.code.file}:{each.line}: {source(each)}"))
        click.echo(printable(f"    {_did(each)}{_how_often(each)}"))
        told = advice(each, is_by_seed=found.is_by_seed(each))
        if told not in said:
            click.echo(f"    {told}")
        said.add(told)
    _tell_more(len(found.places))


def _how_often(each: Parting) -> str:
    told = [f"{each.times} times"] if each.times > 1 else []
    told += [f"in {each.sequence}"] if each.sequence != MAIN else []
    return f" ({', '.join(told)})" if told else ""


def _did(each: Parting) -> str:
    if each.kind == "value":
        return f"{each.one or NOTHING}  |  {each.other or NOTHING}"
    if each.kind == "alone":
        return f"only one of them starts this: {each.one}  |  {each.other}"
    return f"then {each.one}  |  then {each.other}"


def _tell_apart(what: str, found: tuple[Apart, ...]) -> None:
    if found:
        click.echo(f"{what}:")
    for each in found[:MOST_TOLD]:
        one, other = _in_one_line(each.one, each.other)
        click.echo(printable(f"  {each.name}: {one or NOTHING}  |  {other or NOTHING}"))
        for line in each.lines[:MOST_TOLD]:
            click.echo(printable(f"    it is changed at {line}"))
    _tell_more(len(found))


def _in_one_line(one: str, other: str) -> tuple[str, str]:
    """Return of two texts the first line in which they differ."""
    found = next((pair for pair in zip(one.split("\n"), other.split("\n"), strict=False) if pair[0] != pair[1]), None)
    return (found[0].strip(), found[1].strip()) if found is not None else (one, other)


def _tell_more(count: int) -> None:
    if count > MOST_TOLD:
        click.echo(f"  and {count - MOST_TOLD} more; --json lists all")


def _tell_divergence(found: Findings) -> None:
    error = next(each.told["error"] for each in found.replays if each.told["diverged"])
    those = "Each replay" if all(each.told["diverged"] for each in found.replays) else "One of them"
    also = "" if found.parts else " That is neither for the hash seed nor for threads: 'clearstone replay' tells more."
    click.echo(printable(f"{those} took another way than the record: {error.partition(chr(10))[0]}{also}"))


def as_json(found: Findings) -> dict[str, Any]:
    """Return it as JSON-ready values."""
    return {
        "checkpoint": found.checkpoint_id,
        "parts": found.parts,
        "diverged": found.diverged,
        "complete": found.is_complete,
        "replays": [_made_json(each) for each in found.replays],
        "places": [_place_json(found, each) for each in found.places],
        "calls": [{"call": each.name, "one": each.one, "other": each.other} for each in found.calls],
        "values": [
            {"name": each.name, "one": each.one, "other": each.other, "lines": list(each.lines)}
            for each in found.values
        ],
    }


def _made_json(made: Made) -> dict[str, Any]:
    return {
        "hash_seed": made.setting.seed,
        "threads": "pressed" if made.setting.is_pressed else "calm",
        "lines": made.log.lines,
        **{name: made.told[name] for name in ("summary", "error", "unrecorded")},
    }


def _place_json(found: Findings, each: Parting) -> dict[str, Any]:
    return {
        "file": each.code.file,
        "line": each.line,
        "source": source(each),
        "function": each.code.function,
        "kind": each.kind,
        "in": each.sequence,
        "one": each.one,
        "other": each.other,
        "times": each.times,
        "by_hash_seed": found.is_by_seed(each),
        "advice": advice(each, is_by_seed=found.is_by_seed(each)),
    }
