"""The commands, in the order the help lists them. Each is a few lines: fetch, then render or print JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clearstone.cli.annotating import annotate
from clearstone.cli.collecting import gc
from clearstone.cli.differing import diff
from clearstone.cli.erasing import forget
from clearstone.cli.exporting import export
from clearstone.cli.listing import checkpoints
from clearstone.cli.place import place, place_options
from clearstone.cli.querying import search
from clearstone.cli.timelines import timeline
from clearstone.cli.trusting import trust

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALL", "place", "place_options"]

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/cli.md describes it).")
_code = click.option(
    "--code",
    type=click.Choice(["today", "recorded"]),
    default="today",
    show_default=True,
    help="Run a script's source as it is now, or its stored code.",
)
_state_only = click.option(
    "--state-only",
    type=click.Choice(["data"]),
    help="Restore of the state only what is plain data: for a checkpoint of another Python.",
)
_strict = click.option(
    "--strict/--no-strict",
    default=None,
    help="Whether a call with other arguments than any recorded one ends the replay. It does, but with --mock.",
)
_allow = click.option(
    "--allow", multiple=True, type=click.Choice(["network", "subprocess"]), help="Let this happen for real."
)
_deny = click.option("--deny", multiple=True, type=click.Choice(["files"]), help="Refuse to change files.")
_live = click.option(
    "--live", "passthrough", multiple=True, metavar="FUNCTION", help="Call this decorated function for real."
)
_pace = click.option("--pace", is_flag=True, help="Give the items of recorded streams at the pace they came.")
_map = click.option(
    "--map",
    "renamed",
    multiple=True,
    metavar="OLD=NEW",
    callback=lambda _, __, given: _pairs(given),
    help="Look for the module, or module:name, OLD under its name of today.",
)
_function = click.option("--function", metavar="NAME", help="Call this method instead of the one that failed.")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("clearstone-demo"))
@place_options
def demo(folder: Path) -> None:
    """Watch a small agent fail, and replay its failure.

    Writes the agent into FOLDER. It needs no key and no network.
    """
    from clearstone.cli.demo import run_demo

    run_demo(folder)


@click.command()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@_json
@place_options
def traces(limit: int, as_json: bool) -> None:
    """List recorded traces, newest first."""
    from clearstone.cli import printing, render

    store = place.store_if_there()
    found = store.traces(limit) if store is not None else []
    if as_json:
        printing.print_json([render.trace_json(summary) for summary in found])
    elif found:
        render.trace_table(found)
    else:
        click.echo(f"No trace in {place.trace_file} yet: run an agent with a decorated call.", err=True)


@click.command()
@click.argument("trace")
@_json
@place_options
def show(trace: str, as_json: bool) -> None:
    """Show the calls of TRACE as a tree."""
    from clearstone.cli import printing, spans

    store = place.store()
    found = store.get_trace(store.find(trace))
    if as_json:
        printing.print_json({"trace_id": found.trace_id, "spans": [spans.span_json(span) for span in found]})
    else:
        spans.trace_tree(found)


@click.command()
@click.argument("checkpoint")
@_json
@place_options
def inspect(checkpoint: str, as_json: bool) -> None:
    """Show what CHECKPOINT holds.

    Nothing of it is loaded or run, so any file may be looked at.
    """
    from clearstone.cli import printing, render

    found = _load(checkpoint)
    if as_json:
        printing.print_json(render.inspection_json(found))
    else:
        render.inspection(found)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        old, equals, new = each.partition("=")
        if not equals or found.setdefault(old, new) != new:
            why = "says of nothing where it is now" if not equals else f"says otherwise than {old}={found[old]}"
            raise click.BadParameter(f"{each!r} {why}; write old.module=new.module or old.module:Old=new.module:New")
    return found


def _replaying(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every replay has, in the order the help lists them."""
    for option in reversed((_function, _code, _state_only, _strict, _allow, _deny, _live, _pace, _map)):
        command = option(command)
    return command


@click.command()
@click.argument("checkpoint")
@_replaying
@_json
@place_options
@click.pass_context
def replay(ctx: click.Context, /, checkpoint: str, *, function: str | None, as_json: bool, **given: Any) -> None:
    """Make the failed call of CHECKPOINT again.

    Outside calls are answered from the record: no network, no tokens.
    """
    from clearstone.cli.replaying import replay_checkpoint

    found = _load_with_its_seed(checkpoint, given.pop("state_only"))
    ctx.exit(replay_checkpoint(found, given, function=function, as_json=as_json))  # type: ignore[arg-type]  # as named


@click.command()
@click.argument("checkpoint")
@_replaying
@click.option("--mock", "mocks", multiple=True, metavar="TYPE=TARGET", help="Serve a span type at a dotted path.")
@place_options
@click.pass_context
def debug(
    ctx: click.Context, /, checkpoint: str, *, function: str | None, mocks: tuple[str, ...], **given: Any
) -> None:
    """Replay CHECKPOINT under pdb.

    The session starts on the first line of the failed call, with the state as it was.
    """
    from clearstone.cli.replaying import debug_checkpoint

    found = _load_with_its_seed(checkpoint, given.pop("state_only"))
    ctx.exit(debug_checkpoint(found, given, function=function, mocks=mocks))  # type: ignore[arg-type]  # as named


@click.command()
@click.argument("checkpoint")
@click.option("--set", "state", multiple=True, metavar="PLACE=VALUE", help="Change the agent: 'self.limit=3'.")
@click.option(
    "--respond",
    "responses",
    multiple=True,
    metavar="CALL=VALUE",
    help="Give another response: 'llm[2]=@reply.json', 'llm[2].text=no'.",
)
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Give the call another argument.")
@click.option("--at", default="", metavar="POSITION", help="Change the agent at this call: s12, as 'show' lists it.")
@click.option(
    "--then",
    type=click.Choice(["recorded", "live"]),
    default="recorded",
    show_default=True,
    help="Answer what follows from the record, or make the calls past the change for real.",
)
@click.option("--name", default="", metavar="NAME", help="What the fork is called.")
@_replaying
@_json
@place_options
@click.pass_context
def fork(ctx: click.Context, /, checkpoint: str, **given: Any) -> None:
    """Replay CHECKPOINT with something changed.

    What comes of it is recorded as a trace of its own, below the one it comes from. A VALUE is JSON, a Python value,
    text, or @FILE.
    """
    from clearstone.cli.forking import fork_checkpoint
    from clearstone.cli.replaying import Options

    found = _load_with_its_seed(checkpoint, given.pop("state_only"))
    options = {name: given.pop(name) for name in Options.__annotations__}
    ctx.exit(fork_checkpoint(found, options, **given))  # type: ignore[arg-type]  # as named


@click.command()
@click.argument("checkpoint")
@_replaying
@click.option(
    "--replays", type=click.IntRange(min=2), default=4, show_default=True, help="At most so many, until two part."
)
@_json
@place_options
@click.pass_context
def doctor(
    ctx: click.Context, /, checkpoint: str, *, function: str | None, replays: int, as_json: bool, **given: Any
) -> None:
    """Name the lines where replays of CHECKPOINT part.

    Replays it twice and more, with other hash seeds and other turns of the threads, and compares what each line did.
    Exit code 0: nothing parts, 1: something does, or the replays diverge from the record.
    """
    from clearstone.cli.doctoring import examine

    ctx.exit(examine(checkpoint, given, function=function, replays=replays, as_json=as_json))


def _load_with_its_seed(reference: str, state_only: str | None) -> Any:
    """Load a checkpoint that is to be replayed, in a process with its hash seed where that can be had."""
    from clearstone.cli.seeding import take_seed_of

    found = _load(reference, state_only)
    take_seed_of(found.environment)
    return found


def _load(reference: str, state_only: str | None = None) -> Any:
    from clearstone.cli.references import load_checkpoint

    found = load_checkpoint(reference)
    return found.of_plain_data() if state_only else found


ALL = (
    demo, traces, show, search, checkpoints, inspect, diff, timeline, annotate, trust, replay, debug, fork, doctor,
    export, gc, forget,
)  # fmt: skip
