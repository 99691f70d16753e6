"""``clearstone trust``: saying yes to one file that another machine made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clearstone.cli.place import place_options
from clearstone.span import Payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.checkpoint.model import Checkpoint

MOST_LISTED = 60


@click.command()
@click.argument("checkpoint")
@click.option("--yes", is_flag=True, help="Do not ask.")
@place_options
def trust(checkpoint: str, yes: bool) -> None:
    """Let a CHECKPOINT from elsewhere be replayed here.

    Lists what loading it would import, without doing so, and asks. The answer is kept beside this machine's key, for
    this content: the file stays as it is.
    """
    from clearstone.checkpoint import container, manager
    from clearstone.checkpoint import trust as trusting

    path = manager.find(checkpoint, manager.default_folders())
    header, found = container.read_header(path), manager.load(path)
    if not trusting.why_not(header):
        click.echo(f"{path} is trusted already.", err=True)
        return
    for line in _told(found):
        click.echo(line, err=True)
    if not yes:
        click.confirm(f"Replaying {path} runs code of whoever made it. Trust it?", abort=True)
    click.echo(f"{path} is trusted: noted in {trusting.trust(header)}.")


def _told(checkpoint: Checkpoint) -> Iterator[str]:
    environment = checkpoint.environment
    yield f"{checkpoint.checkpoint_id} of {checkpoint.agent_name}, made on {environment.platform}"
    yield f"by {' '.join(environment.argv)} in {environment.cwd} (so it says itself)."
    found = list(dict.fromkeys(name for each in _payloads(checkpoint) for name in _names(each)))
    yield f"Loading it imports {len(found)} name(s):" if found else "Loading it imports nothing."
    yield from (f"  {name}" for name in found[:MOST_LISTED])
    if len(found) > MOST_LISTED:
        yield f"  and {len(found) - MOST_LISTED} more"
    if any(name.startswith("cloudpickle") for name in found):
        yield "It holds code of its own: functions that are stored in it, not imported."


def _names(given: Payload) -> list[str]:
    from clearstone.codec import inert
    from clearstone.errors import CheckpointDamagedError

    if given.codec == "stand-in":
        return []
    try:
        return inert.names(given.data)
    except CheckpointDamagedError as error:
        return [f"? ({error})"]


def _payloads(checkpoint: Checkpoint) -> Iterator[Payload]:
    """Give what a replay may load of a checkpoint, the agent first."""
    call, failure = checkpoint.call, checkpoint.failure
    held = (
        checkpoint.agent_class,
        call.input if call is not None else None,
        failure.value if failure is not None else None,
    )
    yield from (each for each in held if each is not None)
    for state in filter(None, (checkpoint.state, checkpoint.state_at_end)):
        yield from (Payload("pickle", each.data, each.buffers) for each in state.snapshot.segments())
    for span in checkpoint.trace:
        yield from span.payloads()
