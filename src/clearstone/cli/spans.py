"""Spans as a tree and a table for people, and as JSON for programs (docs/cli.md describes it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.tree import Tree

from clearstone.cli import values
from clearstone.cli.printing import COLOURS, SHORT_ID, console, escape, iso, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.span import Span, Trace
    from clearstone.store.texts import Term

_EXCERPT = 70


# --- a tree ----------------------------------------------------------------------------------------------------------


def trace_tree(trace: Trace) -> None:
    """Print the calls of a trace as a tree: what went in, what came out."""
    out, several = console(), _several_of_a_class(trace)
    root = Tree(f"trace {trace.trace_id}")
    branches: dict[str, Tree] = {}
    for number, span in enumerate(trace, 1):
        above = branches.get(span.parent_id or "", root)
        text = _span_text(span, max(40, out.width // 2), several)
        branches[span.span_id] = above.add(f"[dim]s{number}[/] {text}")
    out.print(root)


def _several_of_a_class(trace: Trace) -> set[str]:
    """Return the objects that are to be told apart, for their class has others in this trace."""
    by_class: dict[str, set[str]] = {}
    for span in trace:
        by_class.setdefault(span.instance.partition("#")[0], set()).add(span.instance)
    return {instance for instances in by_class.values() if len(instances) > 1 for instance in instances}


def _span_text(span: Span, width: int, several: set[str]) -> str:
    on = f" [dim]on {escape(span.instance.rpartition(':')[2])}[/]" if span.instance in several else ""
    given = f"({values.arguments_text(span.input, width)})" if span.input is not None else ""
    lines = [f"[bold]{escape(span.name)}[/]{_kind(span)} {_length(span)} {escape(given)}{on}"]
    came = values.outcome_text(span.outcome, width, ended=not span.is_open)
    if came:
        lines.append(f"[{_colour(span)}]→ {escape(came)}[/]")
    if span.outcome is not None:
        lines += [f"  [magenta]{escape(line)}[/]" for line in values.effects_lines(span.outcome.effects, width)]
    return "\n".join(lines)


def _kind(span: Span) -> str:
    return f" [cyan]{escape(span.span_type)}[/]" if span.span_type else ""


def _length(span: Span) -> str:
    if span.interrupted:
        return "[yellow]interrupted[/]"
    return "open" if span.is_open else f"{span.duration_ms:.1f} ms"


def _colour(span: Span) -> str:
    outcome = span.outcome
    if outcome is not None and outcome.failure is not None and values.is_cancelled(outcome.failure):
        return "yellow"
    return COLOURS[span.status.code]


# --- a table ---------------------------------------------------------------------------------------------------------


def found_table(found: Sequence[Span], wanted: Sequence[Term]) -> None:
    """Print one line per span that was found.

    Args:
        found: the spans, with payloads where `wanted` is not empty.
        wanted: what was searched for; the text around it is shown.
    """
    table = Table(box=None, pad_edge=False)
    for title in ("TRACE", "STARTED", "SPAN", "TYPE", "MS", "STATUS", *(["TEXT"] if wanted else [])):
        table.add_column(title, justify="right" if title == "MS" else "left", no_wrap=title in {"TRACE", "STARTED"})
    for span in found:
        status = f"[{COLOURS[span.status.code]}]{escape(str(span.status))}[/]"
        length = f"{span.duration_ms:.0f}" if span.end_ns is not None else _length(span)
        row = [span.trace_id[:SHORT_ID], when(span.start_ns), escape(span.name), escape(span.span_type), length, status]
        table.add_row(*row, *([escape(values.excerpt(span, wanted, _EXCERPT))] if wanted else []))
    console().print(table)


# --- JSON ------------------------------------------------------------------------------------------------------------


def found_json(span: Span) -> dict[str, Any]:
    """Return a span as JSON-ready values without its payloads."""
    failure = span.outcome.failure if span.outcome is not None else None
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "span_type": span.span_type,
        "site": span.site,
        "instance": span.instance or None,
        "called_at": span.called_at or None,
        "started": iso(span.start_ns),
        "ended": iso(span.end_ns),
        "interrupted": span.interrupted,
        "status": span.status.code.value,
        "status_description": span.status.description,
        "error": {"type": failure.type_name, "message": failure.message} if failure is not None else None,
    }


def span_json(span: Span) -> dict[str, Any]:
    """Return a span as JSON-ready values, payloads through the inert reader."""
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "kind": span.kind.value,
        "span_type": span.span_type,
        "site": span.site,
        "replay": span.replay,
        "instance": span.instance or None,
        "called_at": span.called_at or None,
        "started": iso(span.start_ns),
        "ended": iso(span.end_ns),
        "duration_ms": span.duration_ms,
        "interrupted": span.interrupted,
        "tracer": {"name": span.tracer_name, "version": span.tracer_version},
        "status": span.status.code.value,
        "status_description": span.status.description,
        "attributes": dict(span.attributes),
        "events": [{"name": e.name, "at": iso(e.at_ns), "attributes": dict(e.attributes)} for e in span.events],
        "input": values.as_json(span.input),
        "outcome": values.outcome_json(span.outcome),
        "redacted": values.redacted_parts(span),
    }
