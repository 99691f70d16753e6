"""``clearstone replay`` and ``clearstone debug``: run the engine, and turn its end into output and an exit code."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any, TypedDict

import click

from clearstone.checkpoint.environment import hash_alike, known
from clearstone.cli.place import place
from clearstone.cli.printing import jsonable
from clearstone.codec.exceptions import type_name
from clearstone.codec.payload import safe_str
from clearstone.debugger.console import whole_repr
from clearstone.debugger.session import ReplayEngine
from clearstone.debugger.terminal import is_hidden
from clearstone.errors import (
    BeyondRecord,
    CheckpointError,
    ConfigurationError,
    ReplayDivergence,
    ReplayError,
    ReplayExhausted,
    StoreError,
    TargetError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.replay.ledger import Ledger
    from clearstone.replay.source import Code

USAGE = (TargetError, CheckpointError, ConfigurationError, StoreError)
"""What is wrong before a replay begins: exit code 2."""


MOST_TOLD = 20
"""Calls that are told one by one; ``--json`` has all."""

MOST_NAMED = 5
"""Files, variables and the like that are named."""

_AS_THEN = "configure(record=('random', 'uuid', 'time')) keeps those of the recording."

_WORTH_TELLING = frozenset({"reused by order", "ambiguous", "changed", "live"})
"""Of what was refused the error tells."""


class Options(TypedDict):
    """What of a replay the command line lets choose (see `ReplayEngine`)."""

    code: Code
    strict: bool | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    passthrough: tuple[str, ...]
    pace: bool
    renamed: dict[str, str]


def replay_checkpoint(checkpoint: Checkpoint, options: Options, *, function: str | None, as_json: bool) -> int:
    """Replay, print the result or the error, and return the exit code.

    Raises:
        ClearstoneError: what to replay is not there; the caller says so and exits with 2.
    """
    engine = engine_for(checkpoint, options)
    result, error = None, None
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = engine.replay_from_checkpoint(*([function] if function else []))
    except USAGE:
        raise
    except BaseException as raised:
        error = raised
    for note in engine.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(outcome_json(checkpoint, engine, result, error)))
    else:
        tell(checkpoint, engine, result, error)
    return exit_code(error)


def debug_checkpoint(checkpoint: Checkpoint, options: Options, *, function: str | None, mocks: tuple[str, ...]) -> int:
    """Debug and return the exit code; the session has printed everything.

    Raises:
        ClearstoneError: what to replay is not there; the caller says so and exits with 2.
    """
    engine = engine_for(checkpoint, options)
    try:
        engine.start_debugging_session(*([function] if function else []), mock_config=_mock_config(mocks))
    except USAGE:
        raise
    except BaseException as error:
        if error is not engine.told:  # before the first prompt: the session had nothing to show yet
            click.echo("".join(_user_traceback(error)).rstrip(), err=True)
        return exit_code(error)
    return 0


def engine_for(checkpoint: Checkpoint, options: Options) -> ReplayEngine:
    """Return the engine of a command.

    Raises:
        CheckpointError: nothing of the checkpoint may be loaded.
    """
    checkpoint.require_loadable()
    return ReplayEngine(checkpoint, place.store_if_there(), **options, everywhere=True)  # this process is the replay's


def _mock_config(mocks: tuple[str, ...]) -> dict[str, list[str]] | None:
    config: dict[str, list[str]] = {}
    for mock in mocks:
        span_type, equals, target = mock.partition("=")
        if not equals:
            raise ConfigurationError(f"--mock {mock!r} must be TYPE=TARGET, as in llm=my_app.tools.invoke")
        config.setdefault(span_type, []).append(target)
    return config or None


def exit_code(error: BaseException | None) -> int:
    """Return the exit code for how a replay ended."""
    if error is None:
        return 0
    return 3 if isinstance(error, BeyondRecord) else 1


def outcome_json(
    checkpoint: Checkpoint, engine: ReplayEngine, result: Any, error: BaseException | None
) -> dict[str, Any]:
    """Return how a replay ended as JSON-ready values (docs/cli.md describes them)."""
    return {
        "checkpoint": checkpoint.checkpoint_id,
        "result": jsonable(result),
        "error": {"type": _error_name(error), "message": safe_str(error)} if error is not None else None,
        "as_recorded": _ended_as_recorded(checkpoint, engine),
        "hash_seed": {"recorded": checkpoint.environment.hash_seed, "same": _is_same_seed(checkpoint)},
        "changed_code": [change.name for change in engine.changed_code],
        "ledger": engine.ledger.counts(),
        "calls": [entry.as_json() for entry in engine.ledger],
        "written": list(engine.ledger.written),
        "unrecorded": list(engine.ledger.unrecorded),
        "values": dict(engine.ledger.values),
    }


def _is_same_seed(checkpoint: Checkpoint) -> bool:
    return hash_alike(checkpoint.environment, known())


def _error_name(error: BaseException) -> str:
    return "StopIteration" if isinstance(error, ReplayExhausted) else type_name(type(error))


def _ended_as_recorded(checkpoint: Checkpoint, engine: ReplayEngine) -> bool | None:
    """Whether the call gave what it gave when it was recorded; None where another one was made."""
    found = [entry.verdict for entry in engine.ledger if entry.span_id == checkpoint.span_id]
    ended = [verdict for verdict in found if verdict in {"again", "changed"}]
    return ended[-1] == "again" if ended and checkpoint.call is not None else None


def tell(checkpoint: Checkpoint, engine: ReplayEngine, result: Any, error: BaseException | None) -> None:
    """Print how a replay ended."""
    click.echo(f"Replay {_ending(checkpoint, engine, error)}: {engine.ledger.summary}")
    tell_calls(engine.ledger)
    tell_end(result, error)
    if isinstance(error, BeyondRecord):
        click.echo(f"To make the calls past it for real: clearstone fork {checkpoint.checkpoint_id} --then live")


def tell_end(result: Any, error: BaseException | None) -> None:
    """Print what a call gave, or what it raised."""
    if error is None:
        click.echo(f"Result: {whole_repr(result)}")
    else:
        click.echo(safe_str(error) if isinstance(error, BeyondRecord) else "".join(_user_traceback(error)).rstrip())


def _ending(checkpoint: Checkpoint, engine: ReplayEngine, error: BaseException | None) -> str:
    found = ending(error)
    if found != "failed" or isinstance(error, ReplayError):
        return found
    told = {True: "failed as recorded", False: "failed, but not as recorded", None: "failed"}
    return told[_ended_as_recorded(checkpoint, engine)]


def ending(error: BaseException | None) -> str:
    """Return in a few words how a replay ended."""
    if error is None:
        return "ran through"
    if isinstance(error, BeyondRecord):
        return "got past the record"
    return "diverged" if isinstance(error, ReplayDivergence) else "failed"


def tell_calls(ledger: Ledger, *, is_answered: bool = False) -> None:
    """Say what became of the calls that did not simply repeat, and that none was used where none was.

    Args:
        ledger: the calls.
        is_answered: whether some were answered otherwise than recorded.
    """
    if not (ledger.served or is_answered) and not ledger.count("diverged", "beyond", "live"):
        unused = ledger.count("unused")
        left = f"the {unused} it holds were not come to" if unused else "it holds no outside call"
        click.echo(f"Warning: nothing was answered from the record: {left}. What ran, ran from the state alone.")
    told = [entry for entry in ledger if entry.verdict in _WORTH_TELLING and entry.told]
    for entry in told[:MOST_TOLD]:
        click.echo(f"  {entry.verdict} {entry.target}: {'; '.join(entry.told)}")
    if len(told) > MOST_TOLD:
        click.echo(f"  and {len(told) - MOST_TOLD} more; --json lists all")
    _tell_some("The replay changed files", ledger.written)
    _tell_some("Taken from today's machine, not from the record", ledger.unrecorded)
    if "derived" in ledger.values["uuid"]:
        click.echo(f"Values of uuid4, secrets and os.urandom: {ledger.values['uuid']}. {_AS_THEN}")


def _tell_some(what: str, found: tuple[str, ...]) -> None:
    if found:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        click.echo(f"{what}: {', '.join(found[:MOST_NAMED])}{more}")


def _user_traceback(error: BaseException) -> Iterator[str]:
    told = traceback.TracebackException.from_exception(error)
    hidden = {
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__) if is_hidden(frame)
    }
    told.stack = traceback.StackSummary.from_list(
        [entry for entry in told.stack if (entry.filename, entry.lineno) not in hidden]
    )
    return told.format(chain=True)
