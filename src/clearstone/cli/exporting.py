"""``clearstone export``: spans as JSON lines, or a checkpoint as a file that stands alone."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from clearstone.cli.place import place, place_options
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command()
@click.argument("reference", metavar="[TRACE|CKPT]", default="")
@click.option("--all", "everything", is_flag=True, help="Every trace.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "ckpt"]),
    show_default="by what is named",
    help="One span a line, or a checkpoint.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write there.")
@click.option("--force", is_flag=True, help="Replace a checkpoint's file that is there.")
@place_options
def export(reference: str, everything: bool, form: str | None, output: str | None, force: bool) -> None:
    """Write a trace as JSON lines, or a checkpoint as one file.

    Of TRACE, or of all, one span a line goes to the terminal, as in 'show --json'. Nothing recorded is loaded or run.

    CKPT (an id that begins with 'ckpt_', a file, or any reference with --format ckpt) becomes FILE.ckpt, by default its
    id in this folder: with its trace and every outcome in it, all that 'clearstone replay FILE.ckpt' needs elsewhere.
    """
    if bool(reference) == everything:
        raise ConfigurationError("give either a TRACE or a CKPT (such as 'latest'), or --all")
    if form != "ckpt" and (everything or not (form is None and _means_checkpoint(reference, output))):
        _export_lines(reference, output)
    elif everything:
        raise ConfigurationError("--all is of traces; name one checkpoint, such as 'latest'")
    else:
        _export_checkpoint(reference, output, force=force)


def _means_checkpoint(reference: str, output: str | None) -> bool:
    """Whether a reference, or what it is to become, is a checkpoint and no trace."""
    from clearstone.checkpoint.manager import SUFFIX, SUFFIXES

    named = reference.startswith("ckpt_") or reference.endswith(SUFFIXES) or Path(reference).is_file()
    return named or (output or "").endswith(SUFFIX)


# --- a checkpoint ----------------------------------------------------------------------------------------------------


def _export_checkpoint(reference: str, output: str | None, *, force: bool) -> None:
    from clearstone.checkpoint.manager import SUFFIX, CheckpointManager
    from clearstone.cli.references import load_checkpoint
    from clearstone.cli.sizes import size

    found = load_checkpoint(reference)
    path = Path(output if output is not None else f"{found.checkpoint_id}{SUFFIX}")
    _require_place(path, force=force)
    CheckpointManager(path.parent).save_checkpoint(found, path.name)
    click.echo(path)
    told = f"{len(found.trace)} recorded call(s), {size(path.stat().st_size)}"
    click.echo(f"It stands alone ({told}). On another machine: clearstone trust FILE, then replay it.", err=True)


def _require_place(path: Path, *, force: bool) -> None:
    from clearstone.checkpoint.manager import SUFFIX

    if path.suffix != SUFFIX:
        raise ConfigurationError(f"-o {path}: the file of a checkpoint ends in {SUFFIX}")
    if not path.parent.is_dir():
        raise ConfigurationError(f"-o {path}: there is no folder {path.parent}")
    if path.exists() and not force:
        raise ConfigurationError(f"{path} is there already; --force replaces it, -o FILE{SUFFIX} writes elsewhere")


# --- spans -----------------------------------------------------------------------------------------------------------


def _export_lines(trace: str, output: str | None) -> None:
    from clearstone.store.base import SpanQuery

    store = place.store()
    query = SpanQuery(trace_id=store.find(trace)) if trace else SpanQuery()
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
