"""``clearstone checkpoints``: what was saved, by its headers alone."""

from __future__ import annotations

import gc
from typing import Any

import click

from clearstone.checkpoint.listing import MOMENTS, Wanted, listed
from clearstone.cli.moments import moment
from clearstone.cli.place import place_options
from clearstone.cli.sizes import in_bytes

IN_A_TABLE = 20
"""Rows, unless told otherwise."""


@click.command()
@click.option("--trace", metavar="ID", default="", help="Of this trace: the beginning of its id.")
@click.option("--label", metavar="TEXT", default="", help="With exactly this label.")
@click.option("--error", metavar="TEXT", default="", help="Whose 'Type: message' holds this text.")
@click.option("--moment", "when", type=click.Choice(MOMENTS), help="Taken at this moment of a call.")
@click.option(
    "--since", "since_ns", type=moment, metavar="WHEN", help="Made at this date or time, or later; or 12h ago."
)
@click.option("--until", "until_ns", type=moment, metavar="WHEN", help="Made before it.")
@click.option("--larger-than", type=in_bytes, metavar="SIZE", help="Of more bytes: 500KB, 10MB.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), show_default=f"{IN_A_TABLE}; JSON: all", help="At most so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md describes it).")
@place_options
def checkpoints(when: str | None, limit: int | None, as_json: bool, **conditions: Any) -> None:
    """List checkpoints, newest first.

    Of several conditions all must be met. Headers alone are read, and nothing is loaded.
    """
    from clearstone.cli import checkpoint_list, printing

    gc.disable()  # of ten thousand lines it would look at all again and again; the process ends with them
    wanted = Wanted(moment=when or "", limit=limit or (None if as_json else IN_A_TABLE), **conditions)
    with printing.patience("Reading the headers of the checkpoints ..."):
        found, more, unreadable = listed(wanted)
    if unreadable:
        click.echo(f"Note: {len(unreadable)} file(s) cannot be read; 'clearstone inspect FILE' says why.", err=True)
    if as_json:
        printing.print_json([checkpoint_list.as_json(info) for info in found])
    elif found:
        checkpoint_list.table(found)
    else:
        click.echo(_none(any_at_all=wanted == Wanted(limit=wanted.limit)), err=True)
    if more:
        click.echo(f"{more} more; -n {len(found) + more} shows them.", err=True)


def _none(*, any_at_all: bool) -> str:
    from clearstone import home

    where = f"{home.checkpoint_folder()} or .checkpoints"
    if any_at_all:
        return f"No checkpoint in {where} yet: one is saved when an exception leaves a @checkpointable agent."
    return f"No such checkpoint in {where}."
