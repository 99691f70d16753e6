"""``clearstone trust``: saying yes to one file that another machine made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clearstone.cli.place import place_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.checkpoint.model import Checkpoint

OUR_OWN = ("clearstone.", "cloudpickle.")
"""Modules that put values together, in every checkpoint: told last."""


@click.command()
@click.argument("checkpoint")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def trust(checkpoint: str, yes: bool) -> None:
    """Let a CHECKPOINT from elsewhere be replayed here.

    Lists what loading it would import, without doing so, and asks. The answer is kept beside this machine's key, for
    this content: the file stays as it is.
    """
    from clearstone.checkpoint import loading
    from clearstone.checkpoint import trust as trusting
    from clearstone.cli.references import find_checkpoint

    path, step = find_checkpoint(checkpoint)
    header, found = loading.examined(path, step)
    if not trusting.why_not(header):
        click.echo(f"{path} is trusted already.", err=True)
        return
    for each in found:
        for line in _told(each):
            click.echo(_printable(line), err=True)
    if not yes:
        click.confirm(f"Replaying {path} runs code of whoever made it. Trust it?", abort=True)
    click.echo(f"{path} is trusted: noted in {trusting.trust(header)}.")


def _told(checkpoint: Checkpoint) -> Iterator[str]:
    environment = checkpoint.environment
    yield f"{checkpoint.checkpoint_id} of {checkpoint.agent_name}, made on {environment.platform}"
    yield f"by {' '.join(environment.argv)} in {environment.cwd} (so it says itself)."
    found = list(dict.fromkeys(_names(checkpoint)))
    yield f"Loading it imports {len(found)} name(s):" if found else "Loading it imports nothing."
    yield from (f"  {name}" for name in sorted(found, key=lambda name: (name.startswith(OUR_OWN), name)))
    if any(name.startswith("cloudpickle") for name in found):
        yield "It holds code of its own: functions that are stored in it, not imported."
    if environment.main_file:
        yield f"A replay also runs the script {environment.main_file} that is here, if it is."


def _printable(line: str) -> str:
    """A file may not write to the terminal."""
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def _names(checkpoint: Checkpoint) -> Iterator[str]:
    from clearstone.checkpoint.joining import names_in
    from clearstone.codec import inert
    from clearstone.errors import CheckpointDamagedError

    try:
        for given in checkpoint.payloads():
            if given.codec != "stand-in":
                yield from inert.names(given.data)
        for state in filter(None, (checkpoint.state, checkpoint.state_at_end)):
            yield from names_in(state.snapshot)
    except CheckpointDamagedError as error:
        yield f"? ({error})"
