"""``clearstone annotate``: what a checkpoint notes about itself.

The grammar is known from elsewhere: ``kubectl annotate`` (KEY=TEXT sets, KEY- removes) and httpie (KEY:=JSON).
"""

from __future__ import annotations

import json
from typing import Any

import click

from clearstone.cli.place import place_options
from clearstone.errors import ConfigurationError


@click.command()
@click.argument("checkpoint")
@click.argument("notes", metavar="KEY=TEXT|KEY:=JSON|KEY-...", nargs=-1, required=True)
@place_options
def annotate(checkpoint: str, notes: tuple[str, ...]) -> None:
    """Change what is noted about CHECKPOINT.

    KEY=TEXT notes a text, KEY:=JSON any other value, KEY- removes what is noted. The key 'label' is shown by
    'clearstone checkpoints'.
    """
    from clearstone.checkpoint import manager
    from clearstone.cli.references import find_checkpoint

    changes = dict(map(_change, notes))
    click.echo(manager.annotate(find_checkpoint(checkpoint), changes))


def _change(note: str) -> tuple[str, Any]:
    key, equals, text = note.partition("=")
    if equals and key.endswith(":"):
        key, value = key[:-1], _json(note, text)
    elif equals:
        value = text
    else:
        key, value = note[:-1], None
    if not key or not (equals or note.endswith("-")):
        raise ConfigurationError(f"{note!r} notes nothing; write KEY=TEXT, KEY:=JSON, or KEY- to remove it")
    return key, value


def _json(note: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{note!r}: {text!r} is no JSON ({error}); for a text write KEY=TEXT") from error
    if value is None:
        raise ConfigurationError(f"{note!r}: null is noted nowhere; KEY- removes what is")
    return value
