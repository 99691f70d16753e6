"""``clearstone doctor``: where a replay depends on what no record holds.

Idea: the checkpoint is replayed in processes of their own that differ in two ways: in the hash seed, and in how threads
take turns. Where two of them part, line by line, something else than the record decided. One more replay, with the
first one's hash seed and the other's threads, tells which of the two it was.

Invariant: each replay is the one that ``clearstone replay`` makes: answered from the record, behind the guard.

Refused: looking for suspicious code without running it (most sets are never gone through, and most of the others do no
harm).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clearstone import home
from clearstone.checkpoint import loading
from clearstone.cli import doctored, findings, printing
from clearstone.cli.findings import Findings, Made, Setting, calls_apart, key_of, values_apart
from clearstone.cli.place import place
from clearstone.cli.references import find_checkpoint
from clearstone.debugger.events import Log
from clearstone.debugger.parting import partings
from clearstone.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

LAST = 2_000
"""Characters of what a process said that are told where it died."""


def examine(reference: str, given: dict[str, Any], *, function: str | None, replays: int, as_json: bool) -> int:
    """Replay, compare, say what was found, and return the exit code.

    Args:
        reference: the checkpoint.
        given: the options of a replay, by name.
        function: the method to call; None for the call that failed.
        replays: at most so many.
        as_json: whether to say it as JSON.

    Raises:
        ClearstoneError: what to replay is not there; the caller says so and exits with 2.
    """
    with suppress(StoreError):  # the database is damaged: most checkpoints do without
        place.store_if_there()
    found = find_checkpoint(reference)
    checkpoint, state_only = loading.load(*found), bool(given.pop("state_only"))
    (checkpoint.of_plain_data() if state_only else checkpoint).require_loadable()
    job: dict[str, Any] = {"path": str(found.path), "step": found.step, "state_only": state_only, "function": function}
    job |= {"options": given, "home": str(home.home()), "db": str(place.db.absolute()) if place.db else None}
    settings = list(_settings(checkpoint.environment.hash_seed, replays))
    with ExitStack() as stack, printing.patience("Replaying, line by line ..."):
        made = _Doctor(job, stack).findings(checkpoint.checkpoint_id, settings)
    if as_json:
        printing.print_json(findings.as_json(made))
    else:
        findings.tell(made)
    return 1 if made.parts or made.diverged else 0


def _settings(recorded: str, count: int) -> Iterator[Setting]:
    """Give how the replays are made: the first as close to the record as can be."""
    seeds = [recorded] if recorded.isascii() and recorded.isdigit() else []
    seeds += [str(each) for each in range(1, count + 1) if str(each) != recorded]
    for number, seed in enumerate(seeds[:count]):
        yield Setting(seed, is_pressed=number > 0)


class _Doctor:
    """Makes replays of one checkpoint, and compares them.

    Args:
        job: what to replay (see `clearstone.cli.doctored.Job`).
        stack: closes the files of the logs, and removes them.
    """

    def __init__(self, job: dict[str, Any], stack: ExitStack) -> None:
        self._job = job
        self._stack = stack

    def findings(self, checkpoint_id: str, settings: list[Setting]) -> Findings:
        """Replay until two replays part."""
        made = [self._made(settings[0])]
        for setting in settings[1:]:
            made.append(self._made(setting))
            found = self._compared(checkpoint_id, made)
            if found.parts:
                break
        return found

    def _compared(self, checkpoint_id: str, made: list[Made]) -> Findings:
        first, last = made[0], made[-1]
        places, others = partings(first.log, last.log), None
        if places:
            again = self._made(Setting(first.setting.seed, is_pressed=True))
            others = frozenset(map(key_of, partings(first.log, again.log)))
        calls, values = calls_apart(first, last), values_apart(first, last, with_lines=not places)
        return Findings(checkpoint_id, tuple(made), tuple(places), others, tuple(calls), tuple(values))

    def _made(self, setting: Setting) -> Made:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="clearstone-doctor-")))
        job = {**self._job, "folder": str(folder), "pressed": setting.is_pressed}
        said = folder / "said"
        code = _run(job, setting.seed, said)
        told_in = folder / doctored.TOLD
        if code or not told_in.exists():
            _tell_death(setting, code, said.read_text("utf-8", "replace")[-LAST:])
            raise click.exceptions.Exit(1)
        told = json.loads(told_in.read_text("utf-8"))
        if "refusal" in told:
            raise click.ClickException(told["refusal"])
        return Made(setting, Log(self._stack.enter_context((folder / doctored.LOG).open("rb")), told["log"]), told)


def _run(job: dict[str, Any], seed: str, said: Path) -> int:
    """Make one replay; return the exit code of its process. What it prints goes into a file, and nobody types."""
    with said.open("wb") as out:
        return subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-m", doctored.__name__, json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=False,
        ).returncode


def _tell_death(setting: Setting, code: int, said: str) -> None:
    click.echo(printing.printable(said), err=True)
    click.echo(
        f"The process of the replay with hash seed {setting.seed} ended with exit code {code} before the replay did; "
        f"what it said last is above.",
        err=True,
    )
