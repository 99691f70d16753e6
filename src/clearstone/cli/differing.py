"""``clearstone diff``: what is different between two states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clearstone.cli.place import place_options

if TYPE_CHECKING:
    from clearstone.codec.difference import Difference


@click.command()
@click.argument("checkpoint")
@click.argument("other", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md describes it).")
@place_options
@click.pass_context
def diff(ctx: click.Context, checkpoint: str, other: str | None, as_json: bool) -> None:
    """Compare the states of CHECKPOINT and OTHER.

    Without OTHER, the state at the entry of the failed call with the one when it failed. Nothing is loaded or run. Exit
    code 0: no difference, 1: some.
    """
    from clearstone.cli import printing
    from clearstone.cli.references import load_checkpoint

    found = load_checkpoint(checkpoint).diff(load_checkpoint(other) if other else None)
    if as_json:
        printing.print_json([each.as_json() for each in found])
    else:
        _tell(found)
    ctx.exit(1 if found else 0)


def _tell(found: tuple[Difference, ...]) -> None:
    from rich.markup import escape

    from clearstone.cli.printing import console

    colours = {"added": "green", "removed": "red", "changed": "yellow", "moved": "cyan"}
    for each in found:
        word, _, rest = str(each).partition(" ")
        console().print(f"[{colours[each.kind]}]{word:<8}[/]{escape(rest)}", soft_wrap=True)
    if not found:
        click.echo("No difference.", err=True)
