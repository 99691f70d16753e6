"""``clearstone search``: spans of all traces, by what is in them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from clearstone.cli.moments import moment
from clearstone.cli.place import place, place_options
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from clearstone.store.base import SpanQuery

PATIENCE_SECONDS = 2.0
_STATUSES = ("ok", "error", "unset", "interrupted")


@click.command()
@click.argument("text", default="")
@click.option("--type", "span_type", metavar="TYPE", help="Of this span type: llm, tool, ...")
@click.option("--name", metavar="NAME", help="Of exactly this name.")
@click.option("--status", type=click.Choice(_STATUSES, case_sensitive=False), help="That ended so.")
@click.option("--since", type=moment, metavar="WHEN", help="Started at this date or time, or later; or 12h ago.")
@click.option("--until", type=moment, metavar="WHEN", help="Started before it.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md describes it).")
@place_options
def search(text: str, as_json: bool, **conditions: Any) -> None:
    """List spans, newest first, whose record holds TEXT.

    Several words must all be there; words in double quotes must follow one another. Arguments, results, errors,
    attributes and events are searched. The first search makes an index, which takes a while where much is recorded.
    """
    from clearstone.cli import printing, spans
    from clearstone.store import texts

    wanted = texts.terms(text)
    if text and not wanted:
        raise ConfigurationError(f"{text!r} holds no word to search for; give letters or digits")
    store = place.store_if_there()
    query = _query(text, **conditions)
    told = "Indexing what was recorded since the last search ..."
    with printing.patience(told) if wanted else contextlib.nullcontext():
        found = list(store.spans(query, payloads=bool(wanted) and not as_json)) if store is not None else []
    if as_json:
        printing.print_json([spans.found_json(span) for span in found])
    elif found:
        spans.found_table(found, wanted)
    else:
        click.echo(f"No such span in {place.trace_file}.", err=True)


def _query(text: str, status: str | None, since: int | None, until: int | None, **more: Any) -> SpanQuery:
    from clearstone.span import StatusCode
    from clearstone.store.base import SpanQuery

    if since is not None and until is not None and since >= until:
        raise ConfigurationError("--since is not before --until, so there is no such span; swap them")
    interrupted = status == "interrupted"
    return SpanQuery(
        text=text or None,
        status=StatusCode(status.upper()) if status and not interrupted else None,
        interrupted=True if interrupted else None,
        since_ns=since,
        until_ns=until,
        newest_first=True,
        **more,
    )
