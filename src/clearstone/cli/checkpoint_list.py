"""The list of checkpoints as a table for people, and as JSON for programs (docs/cli.md describes it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from clearstone.cli.printing import console, escape, iso, printable, when

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clearstone.checkpoint.manager import CheckpointInfo

LARGEST_TABLE = 500
"""Rows."""


def table(found: Sequence[CheckpointInfo]) -> None:
    """Print one line per checkpoint; moments and labels where they tell checkpoints apart."""
    columns = {
        "CHECKPOINT": [one.checkpoint_id for one in found],
        "MADE": [when(one.created_ns) for one in found],
        "AGENT": [one.agent for one in found],
        "AT": [one.span_name for one in found],
        "MOMENT": [one.moment for one in found],
        "LABEL": [label_of(one) for one in found],
        "ERROR": [one.error.partition("\n")[0] for one in found],
        "SEEN": [str(one.occurrences) for one in found],
    }
    idle = {"MOMENT": {"failure"}, "LABEL": {""}}
    shown = {title: texts for title, texts in columns.items() if idle.get(title) != set(texts)}
    (_rich_table if len(found) <= LARGEST_TABLE else _lines)(shown)


def label_of(one: CheckpointInfo) -> str:
    """Return a checkpoint's label; empty for none."""
    label = one.metadata.get("label", "")
    return label if isinstance(label, str) else ""


def _rich_table(columns: Mapping[str, Sequence[str]]) -> None:
    drawn = Table(box=None, pad_edge=False)
    for title in columns:
        justify: Any = "right" if title == "SEEN" else "left"
        style = "red" if title == "ERROR" else None
        drawn.add_column(title, justify=justify, no_wrap=title == "CHECKPOINT", style=style)
    for row in zip(*columns.values(), strict=True):
        drawn.add_row(*map(escape, row))
    console().print(drawn)


def _lines(columns: Mapping[str, Sequence[str]]) -> None:
    """Print a table that is too long for rich, which takes a millisecond a row."""
    plain = [[title, *map(printable, texts)] for title, texts in columns.items()]
    widths = [max(map(len, texts)) for texts in plain]
    for row in zip(*plain, strict=True):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def as_json(one: CheckpointInfo) -> dict[str, Any]:
    """Return a checkpoint's summary as JSON-ready values."""
    return {
        "checkpoint_id": one.checkpoint_id,
        "path": str(one.path),
        "trace_id": one.trace_id,
        "agent": one.agent,
        "span": one.span_name,
        "created": iso(one.created_ns),
        "error": one.error or None,
        "occurrences": one.occurrences,
        "moment": one.moment,
        "size": one.size,
        "metadata": one.metadata,
    }
