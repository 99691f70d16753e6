"""``clearstone timeline``: the value of an expression at every checkpoint of a trace."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from clearstone.cli.place import place_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.checkpoint.timeline import Reading
    from clearstone.replay.source import Code, Source


@click.command()
@click.argument("reference", metavar="CKPT|TRACE")
@click.argument("expression", metavar="EXPR")
@click.option(
    "--code",
    type=click.Choice(["today", "recorded"]),
    default="today",
    show_default=True,
    help="Use a script's source as it is now, or its stored code.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md describes it).")
@place_options
@click.pass_context
def timeline(ctx: click.Context, reference: str, expression: str, code: Any, as_json: bool) -> None:
    """Evaluate EXPR at every checkpoint of a trace.

    In EXPR, as in 'len(self.memory)', 'self' is the agent as it was then. It runs your code; calls it makes are not
    recorded, and outside calls are refused. Exit code 1: it gave no value anywhere.
    """
    from clearstone.checkpoint.timeline import readings
    from clearstone.cli import printing
    from clearstone.cli.references import load_checkpoint

    found = load_checkpoint(reference)
    classes = _Classes(code)
    with (
        classes.source(found).loading(),
        contextlib.redirect_stdout(sys.stderr),  # what the agent prints is no reading
        printing.patience("Restoring the agent at every checkpoint ..."),
    ):
        read = readings(found, expression, classes.of)
    if as_json:
        printing.print_json([_json(each) for each in read])
    else:
        _tell(read)
    ctx.exit(0 if any(each.error is None for each in read) else 1)


class _Classes:
    """Finds the classes of agents as a replay does; each once.

    Args:
        code: as of a replay.
    """

    def __init__(self, code: Code) -> None:
        self._code = code
        self._found: dict[tuple[str, str], type] = {}

    def source(self, checkpoint: Checkpoint) -> Source:
        from clearstone.replay.source import Source

        return Source(checkpoint, self._code)

    def of(self, checkpoint: Checkpoint) -> type:
        key = (checkpoint.agent_name, checkpoint.environment.main_file)
        if key not in self._found:
            self._found[key] = self.source(checkpoint).agent_class()
        return self._found[key]


def _tell(read: Sequence[Reading]) -> None:
    from rich.table import Table

    from clearstone.cli.printing import console, escape
    from clearstone.codec.payload import safe_repr

    table = Table(box=None, pad_edge=False)
    for title in ("CHECKPOINT", "AT", "MOMENT", "SPAN", "VALUE"):
        table.add_column(title, no_wrap=title == "CHECKPOINT")
    for each in read:
        at = each.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
        value = f"[red]{escape(_problem(each))}[/]" if each.error is not None else escape(safe_repr(each.value))
        moment = f"{each.moment} {each.label}" if each.label else each.moment
        table.add_row(each.checkpoint_id, at, escape(moment), escape(each.span_name), value)
    if read:
        console().print(table)
    else:
        click.echo("No checkpoint of that trace has an agent's state.", err=True)


def _problem(reading: Reading) -> str:
    from clearstone.codec.payload import safe_str

    return f"{type(reading.error).__name__}: {safe_str(reading.error)}".partition("\n")[0]


def _json(reading: Reading) -> dict[str, Any]:
    from clearstone.cli.printing import jsonable
    from clearstone.codec.exceptions import type_name
    from clearstone.codec.payload import safe_str

    error = reading.error
    return {
        "checkpoint_id": reading.checkpoint_id,
        "at": reading.at.isoformat(),
        "moment": reading.moment,
        "agent": reading.agent,
        "span": reading.span_name,
        "label": reading.label or None,
        "value": jsonable(reading.value),
        "error": {"type": type_name(type(error)), "message": safe_str(error)} if error is not None else None,
    }
