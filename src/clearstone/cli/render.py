"""Traces as a table and a checkpoint as text for people, and both as JSON for programs (docs/cli.md describes it)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from clearstone.cli import spans, values
from clearstone.cli.printing import COLOURS, SHORT_ID, console, escape, iso, when

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.store.base import TraceSummary

# --- traces ----------------------------------------------------------------------------------------------------------


def trace_table(found: Sequence[TraceSummary]) -> None:
    """Print one line per trace."""
    table = Table(box=None, pad_edge=False)
    for title in ("TRACE", "STARTED", "NAME", "MS", "SPANS", "STATUS"):
        table.add_column(title, justify="right" if title in {"MS", "SPANS"} else "left", no_wrap=title == "TRACE")
    for one, below in _with_forks(found):
        length = f"{(one.end_ns - one.start_ns) / 1e6:.0f}" if one.end_ns is not None else _unfinished(one)
        status = f"[{COLOURS[one.status.code]}]{escape(str(one.status))}[/]"
        if one.interrupted:
            status += f" [yellow]{one.interrupted} interrupted[/]"
        name = f"{'  ' * (below - 1)}[dim]└[/] {escape(one.name)}" if below else escape(one.name)
        if one.parent and not below:
            name += f" [dim]fork of {one.parent[:SHORT_ID]}[/]"
        table.add_row(one.trace_id[:SHORT_ID], when(one.start_ns), name, length, str(one.spans), status)
    console().print(table)


def _with_forks(found: Sequence[TraceSummary]) -> Iterator[tuple[TraceSummary, int]]:
    """Give the traces, the forks of each below it, with how deep they are below one that is none."""
    there = {one.trace_id for one in found}
    below: dict[str, list[TraceSummary]] = defaultdict(list)
    for one in found:
        below[one.parent if one.parent in there else ""].append(one)
    left = [(one, 0) for one in reversed(below.pop("", []))]
    while left:
        one, depth = left.pop()
        yield one, depth
        left += [(fork, depth + 1) for fork in reversed(below.pop(one.trace_id, []))]


def _unfinished(one: TraceSummary) -> str:
    return "open" if one.open_spans else "-"


def trace_json(one: TraceSummary) -> dict[str, Any]:
    """Return a trace summary as JSON-ready values."""
    return {
        "trace_id": one.trace_id,
        "name": one.name,
        "started": iso(one.start_ns),
        "ended": iso(one.end_ns),
        "spans": one.spans,
        "open_spans": one.open_spans,
        "interrupted": one.interrupted,
        "status": one.status.code.value,
        "status_description": one.status.description,
        "parent": one.parent or None,
    }


# --- a checkpoint ----------------------------------------------------------------------------------------------------


def inspection(checkpoint: Checkpoint) -> None:
    """Print what a checkpoint holds, without loading any of it."""
    out = console()
    for label, value in _facts(checkpoint):
        out.print(f"[bold]{label:<12}[/] {escape(value)}")
    out.print("\n[bold]State[/]")
    missing = {member.path.removeprefix("self.") for member in checkpoint.state.missing}
    for name, value in values.members(checkpoint.state.snapshot, out.width):
        if name not in missing:
            out.print(f"  {escape(name)} = {escape(value)}", soft_wrap=True)
    for member in checkpoint.state.missing:
        out.print(f"  [red]missing[/] {escape(member.path)}: {escape(member.type_name)}, {escape(member.reason)}")
    if checkpoint.failure is not None:
        out.print("\n[bold]Failure[/]")
        out.print(escape(checkpoint.failure.traceback.rstrip()))
    for frame in checkpoint.stack:
        out.print(f"\n[bold]{escape(frame.function)}[/] {escape(frame.file)}:{frame.line}", soft_wrap=True)
        for name, value in frame.variables.items():
            out.print(f"  {escape(name)} = {escape(value)}", soft_wrap=True)
    out.print()
    spans.trace_tree(checkpoint.trace)


def inspection_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint holds as JSON-ready values, without loading any of it."""
    failure, call = checkpoint.failure, checkpoint.call
    at_failure = checkpoint.state_at_end
    environment = checkpoint.environment
    return {
        "checkpoint_id": checkpoint.checkpoint_id,
        "trace_id": checkpoint.trace.trace_id,
        "span_id": checkpoint.span_id,
        "span": checkpoint.span.name,
        "agent": checkpoint.agent_name,
        "timestamp": checkpoint.timestamp.isoformat(),
        "created": iso(checkpoint.created_ns),
        "version": checkpoint.version,
        "metadata": checkpoint.metadata,
        "occurrences": checkpoint.occurrences,
        "environment": {name: getattr(environment, name) for name in environment.__slots__},
        "call": {"site": call.site, "input": values.as_json(call.input)} if call is not None else None,
        "failure": {"type": failure.type_name, "message": failure.message, "traceback": failure.traceback}
        if failure is not None
        else None,
        "state": values.state_json(checkpoint.state.snapshot),
        "state_at_end": values.state_json(at_failure.snapshot) if at_failure is not None else None,
        "missing": [
            {"path": m.path, "type": m.type_name, "repr": m.text, "reason": m.reason} for m in checkpoint.state.missing
        ],
        "stack": [asdict(frame) for frame in checkpoint.stack],
        "concurrent": checkpoint.concurrent,
        "code": [{"name": each.name, "code": each.code, "tree": each.tree} for each in checkpoint.code],
        "trusted": not checkpoint.untrusted,
        "spans": [spans.span_json(span) for span in checkpoint.trace],
    }


def _facts(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    facts = [
        ("Checkpoint", checkpoint.checkpoint_id),
        ("Agent", checkpoint.agent_name),
        ("Taken", f"{checkpoint.timestamp.isoformat()} at span '{checkpoint.span.name}'"),
        ("Python", f"{checkpoint.environment.python} ({checkpoint.environment.platform})"),
        ("Command", " ".join(checkpoint.environment.argv)),
    ]
    if checkpoint.untrusted:
        facts.append(("Trusted", "no: it is not signed with a key of this machine (see 'clearstone trust')"))
    if checkpoint.code:
        facts.append(("Code of", ", ".join(each.name for each in checkpoint.code)))
    if checkpoint.concurrent:
        facts.append(("Concurrent", f"{', '.join(checkpoint.concurrent)} may have changed the state meanwhile"))
    if checkpoint.call is not None:
        facts.append(("Call", f"{checkpoint.call.site}({values.arguments_text(checkpoint.call.input)})"))
    if checkpoint.failure is not None:
        facts.append(("Error", f"{checkpoint.failure.type_name}: {checkpoint.failure.message}"))
        facts.append(("Seen", f"{checkpoint.occurrences} time(s)"))
    return facts + [(str(key), str(value)) for key, value in checkpoint.metadata.items()]
