"""``clearstone diff``: what is different between two states, or two traces."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from clearstone.cli.place import place, place_options
from clearstone.errors import ConfigurationError, TraceNotFoundError
from clearstone.span import FORK_PARENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.codec.difference import Difference
    from clearstone.replay.alignment import Parting
    from clearstone.span import Trace


@click.command()
@click.argument("one")
@click.argument("other", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md describes it).")
@place_options
@click.pass_context
def diff(ctx: click.Context, one: str, other: str | None, as_json: bool) -> None:
    """Compare two checkpoints or two traces.

    Of checkpoints the states are compared; of one alone, the state at the entry of the failed call with the one when it
    failed. Of traces the calls are; of a fork alone, those of the trace it comes from with its own. Nothing is loaded
    or run. Exit code 0: no difference, 1: some.
    """
    from clearstone.cli import printing

    traces = _traces(one, other)
    found: Sequence[Difference | Parting]
    if traces is None:
        from clearstone.cli.references import load_checkpoint

        found = load_checkpoint(one).diff(load_checkpoint(other) if other else None)
        tell = partial(_tell, found)
    else:
        from clearstone.replay.alignment import partings

        found = parted = list(partings(*traces))
        tell = partial(_tell_partings, parted)
    if as_json:
        printing.print_json([each.as_json() for each in found])
    else:
        tell()
    ctx.exit(1 if found else 0)


def _traces(one: str, other: str | None) -> tuple[Trace, Trace] | None:
    """Return the traces that are meant; None where no trace is.

    Raises:
        TraceNotFoundError: one of two is none.
        ConfigurationError: one alone is no fork.
    """
    first = _trace(one)
    if first is None:
        return None
    if other is not None:
        store = place.store()
        return first, store.get_trace(store.find(other))
    parent = first.spans[0].attributes.get(FORK_PARENT)
    if parent is None:
        raise ConfigurationError(f"trace {first.trace_id} is no fork: name another trace to compare it with")
    try:
        return place.store().get_trace(str(parent)), first
    except TraceNotFoundError:
        raise ConfigurationError(
            f"trace {first.trace_id} is a fork of {parent}, which is not recorded here any more: name another trace to "
            f"compare it with"
        ) from None


def _trace(reference: str) -> Trace | None:
    """Return a trace; None where the reference is a checkpoint's, or no trace's."""
    if reference == "latest" or not set(reference.lower()) <= set("0123456789abcdef"):
        return None
    store = place.store_if_there()
    try:
        return store.get_trace(store.find(reference)) if store is not None else None
    except TraceNotFoundError:
        return None


def _tell_partings(found: Sequence[Parting]) -> None:
    from rich.markup import escape

    from clearstone.cli.printing import console

    out = console()
    for number, each in enumerate(found):
        where = " / ".join(filter(None, (each.before, each.after)))
        mark = " [bold]first difference[/]" if not number else ""
        word = {"added": "[green]added[/]", "removed": "[red]removed[/]"}.get(each.what, f"[yellow]{each.what}[/]")
        out.print(f"{where} {escape(each.call)} {word}{mark}", soft_wrap=True)
        for line in each.told:
            out.print(f"    {escape(line)}", soft_wrap=True)
    if not found:
        click.echo("No difference.", err=True)


def _tell(found: Sequence[Difference]) -> None:
    from rich.markup import escape

    from clearstone.cli.printing import console

    colours = {"added": "green", "removed": "red", "changed": "yellow", "moved": "cyan"}
    for each in found:
        word, _, rest = str(each).partition(" ")
        console().print(f"[{colours[each.kind]}]{word:<8}[/]{escape(rest)}", soft_wrap=True)
    if not found:
        click.echo("No difference.", err=True)
