"""``clearstone fork``: replay with something changed, and record what comes of it."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from clearstone.cli import replaying
from clearstone.cli.place import place
from clearstone.cli.typed import typed
from clearstone.errors import ConfigurationError
from clearstone.record.provider import TracerProvider
from clearstone.replay import places
from clearstone.whatif import INSTEAD

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.cli.replaying import Options
    from clearstone.replay.changes import Then
    from clearstone.whatif import Fork


def fork_checkpoint(
    checkpoint: Checkpoint,
    options: Options,
    *,
    state: tuple[str, ...],
    responses: tuple[str, ...],
    arguments: tuple[str, ...],
    at: str,
    then: Then,
    name: str,
    function: str | None,
    as_json: bool,
) -> int:
    """Fork, print what came of it, and return the exit code.

    Raises:
        ClearstoneError: what is to be changed is not there; the caller says so and exits with 2.
    """
    changes = {
        "state": dict(_set(each) for each in state) or None,
        "respond": dict(_response(each) for each in responses),
        "arguments": dict(_named(each) for each in arguments),
    }
    provider, engine = TracerProvider(place.trace_file), replaying.engine_for(checkpoint, options)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            fork = engine.fork(**changes, at=at, then=then, name=name, function_name=function, provider=provider)
    finally:
        provider.shutdown()
    for note in fork.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        told = replaying.outcome_json(checkpoint, engine, fork.result, fork.error)
        click.echo(json.dumps({**told, "fork": fork_json(fork)}))
    else:
        _tell(fork)
    return replaying.exit_code(fork.error)


def fork_json(fork: Fork) -> dict[str, Any]:
    """Return what a fork is as JSON-ready values."""
    return {
        "name": fork.name,
        "trace_id": fork.trace_id,
        "parent": fork.parent,
        "changes": list(fork.changes),
        "checkpoint": fork.checkpoint or None,
    }


def _tell(fork: Fork) -> None:
    click.echo(f"Fork {fork.name!r} {replaying.ending(fork.error)}: {fork.ledger.summary}")
    for change in fork.changes or ["nothing"]:
        click.echo(f"  changed {change}")
    replaying.tell_calls(fork.ledger, is_answered=any(INSTEAD in entry.told for entry in fork.ledger))
    replaying.tell_end(fork.result, fork.error)
    debug = f", debug: clearstone debug {fork.checkpoint}" if fork.checkpoint else ""
    click.echo(
        f"Recorded as {fork.trace_id[:12]}; look: clearstone show {fork.trace_id[:12]}, compare: clearstone diff "
        f"{fork.parent[:12]} {fork.trace_id[:12]}{debug}"
    )


# --- what was typed --------------------------------------------------------------------------------------------------


def _set(text: str) -> tuple[str, Any]:
    """Split ``self.config["a=b"]=1`` where what stands before is a place."""
    at = -1
    while (at := text.find("=", at + 1)) >= 0:
        if _is_place(text[:at]):
            return text[:at].strip(), typed(text[at + 1 :])
    raise ConfigurationError(f'--set {text!r} must be PLACE=VALUE, as in \'self.config["model"]="small"\'')


def _is_place(text: str) -> bool:
    try:
        places.parse(text)
    except ConfigurationError:
        return False
    return True


def _response(text: str) -> tuple[str, Any]:
    reference, equals, value = text.partition("=")
    if not equals or not reference.strip():
        raise ConfigurationError(f"--respond {text!r} must be CALL=VALUE, as in 'llm[2]=@reply.json'")
    return reference.strip(), typed(value)


def _named(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ConfigurationError(f'--arg {text!r} must be NAME=VALUE, as in query="other words"')
    return name.strip(), typed(value)
