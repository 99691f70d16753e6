"""``clearstone search`` and ``clearstone export``: spans of all traces, one by one."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

import click

from clearstone.cli.moments import moment
from clearstone.cli.place import place, place_options
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    with _patience() if wanted else contextlib.nullcontext():
        found = list(store.spans(query, payloads=bool(wanted) and not as_json)) if store is not None else []
    if as_json:
        printing.print_json([spans.found_json(span) for span in found])
    elif found:
        spans.found_table(found, wanted)
    else:
        click.echo(f"No such span in {place.trace_file}.", err=True)


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Say why it takes long, if it does."""
    told = "Note: indexing what was recorded since the last search ..."
    timer = threading.Timer(PATIENCE_SECONDS, click.echo, [told], {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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


@click.command()
@click.argument("trace", default="")
@click.option("--all", "everything", is_flag=True, help="Every trace.")
@click.option(
    "--format", "form", type=click.Choice(["jsonl"]), default="jsonl", show_default=True, help="One span a line."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write there, not to the terminal."
)
@place_options
def export(trace: str, everything: bool, form: str, output: str | None) -> None:
    """Write the spans of TRACE, or of all, as JSON lines.

    One span a line, in the order they started, as in 'show --json'. Nothing recorded is loaded or run.
    """
    del form  # there is one so far
    if bool(trace) == everything:
        raise ConfigurationError("give either a TRACE (such as 'latest') or --all")
    from clearstone.store.base import SpanQuery

    store = place.store()
    query = SpanQuery() if everything else SpanQuery(trace_id=store.find(trace))
    with _lines(output) as out, contextlib.closing(store.spans(query, payloads=True)) as found:
        for span in found:
            _write_line(out, span)


def _write_line(out: IO[str], span: Any) -> None:
    from clearstone.cli import printing, spans

    line = json.dumps(printing.finite(spans.span_json(span)), ensure_ascii=False, allow_nan=False)
    out.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
    out.flush()  # `| head` and `| tail -f` see each line when it is there


@contextlib.contextmanager
def _lines(output: str | None) -> Iterator[IO[str]]:
    if output is None or output == "-":
        yield sys.stdout
        return
    with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123 - as the user named it
        yield file
