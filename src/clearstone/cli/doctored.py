"""One replay of ``clearstone doctor``, in a process of its own: ``python -m clearstone.cli.doctored JOB``.

What it executes goes into a log (`clearstone.debugger.events`), what became of it into a JSON file beside it; where no
replay is to be made that file says why. Values are compared by digests (`clearstone.replay.digest`), which do not
depend on the process, and shown in a few words.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from clearstone import home
from clearstone.checkpoint import loading
from clearstone.checkpoint.attributes import attributes_of
from clearstone.cli import replaying
from clearstone.cli.place import place
from clearstone.codec.exceptions import type_name
from clearstone.codec.payload import safe_str
from clearstone.debugger.advice import ADDRESS
from clearstone.debugger.brief import brief
from clearstone.debugger.events import OpenLog
from clearstone.debugger.following import Follower
from clearstone.errors import BeyondRecord, ClearstoneError, ReplayError
from clearstone.replay.digest import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG, TOLD = "log", "told.json"


class Job(TypedDict):
    """What is to be replayed, and how."""

    folder: str
    path: str
    step: int | None
    state_only: bool
    function: str | None
    options: Any
    home: str
    db: str | None
    pressed: bool


def main() -> None:
    """Do the job that the command line holds."""
    job: Job = json.loads(sys.argv[1])
    home.set_home(Path(job["home"]))
    place.db = Path(job["db"]) if job["db"] else None
    try:
        told = _replayed(job)
    except (ClearstoneError, OSError) as error:
        told = {"refusal": safe_str(error)}
    (Path(job["folder"]) / TOLD).write_text(json.dumps(told), encoding="utf-8", errors="backslashreplace")


def _replayed(job: Job) -> dict[str, Any]:
    checkpoint = loading.load(Path(job["path"]), job["step"])
    engine = replaying.engine_for(checkpoint.of_plain_data() if job["state_only"] else checkpoint, job["options"])
    result, failure = None, None
    with (Path(job["folder"]) / LOG).open("wb") as file:
        log = OpenLog(file)
        try:
            with Follower(log, is_pressed=job["pressed"]).following():
                result = engine.replay_from_checkpoint(*([job["function"]] if job["function"] else []))
        except replaying.USAGE:
            raise
        except BaseException as error:
            failure = error
        about = log.closed()
    return {
        "log": about,
        "values": dict(_values(engine._agent, result, failure)),
        "error": f"{type_name(type(failure))}: {safe_str(failure)}" if failure is not None else None,
        "summary": engine.ledger.summary,
        "diverged": isinstance(failure, ReplayError) and not isinstance(failure, BeyondRecord),
        "calls": [each.as_json() for each in engine.ledger],
        "unrecorded": list(engine.ledger.unrecorded),
    }


def _values(agent: Any, result: Any, failure: BaseException | None) -> Iterator[tuple[str, tuple[str, str]]]:
    """Give what there is at the end, by name: a digest and a few words."""
    for part in attributes_of(agent):
        yield from ((f"self.{name}", _value(value)) for name, value in part.items())
    if failure is None:
        yield "the result", _value(result)
    else:
        said = f"{type_name(type(failure))}: {ADDRESS.sub('0x...', safe_str(failure))}"
        yield "the exception", (said, said)


def _value(value: Any) -> tuple[str, str]:
    return canonical(value).value.hex(), brief(value)


if __name__ == "__main__":
    main()
