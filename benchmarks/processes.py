"""A contender's process as the driver sees it: orders go in, answers come out, its memory and disk are watched.

Idea: watching from outside takes nothing from the interpreter that is measured.
"""

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from environments import HERE, interpreter

SAMPLE_SECONDS = 0.02
ANSWER_SECONDS = 300.0
LEADING_AWAY = {"PYTHONPATH", "PYTHONHOME", "CLEARSTONE_HOME", "CLEARSTONE_DISABLED"}


def own_variables() -> dict[str, str]:
    """Return our environment variables without those that would let a process import from anywhere but its own."""
    return {name: value for name, value in os.environ.items() if name not in LEADING_AWAY} | {"PYTHONNOUSERSITE": "1"}


class WorkerEndedError(Exception):
    """The process ended, or did not answer in time and was ended."""


class Process:
    """One contender in its own interpreter and environment, with a folder that goes when it ends.

    Args:
        name: the contender's.
    """

    def __init__(self, name: str) -> None:
        entry = CONTENDERS[name]
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._log = (self.folder / "log").open("w")
        self._process = subprocess.Popen(
            [interpreter(entry.environment), HERE / "worker.py", name, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=own_variables() | {"HOME": str(self.folder)} | entry.variables,
        )

    def ask(self, order: dict[str, Any], meanwhile: Callable[[], None] | None = None) -> dict[str, Any]:
        """Send an order and return the answer.

        Args:
            order: see `worker.obey`.
            meanwhile: called about fifty times a second until the answer is there.

        Raises:
            WorkerEndedError: there is none.
        """
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        try:
            pipe_in.write(json.dumps(order).encode() + b"\n")
            pipe_in.flush()
        except BrokenPipeError as error:
            raise WorkerEndedError(self._last_words()) from error
        until = time.monotonic() + ANSWER_SECONDS
        while not select.select([pipe_out], [], [], SAMPLE_SECONDS)[0]:
            if time.monotonic() > until:
                raise WorkerEndedError(f"no answer within {ANSWER_SECONDS:g} s")
            if meanwhile is not None:
                meanwhile()
        line = pipe_out.readline()
        if not line:
            raise WorkerEndedError(self._last_words())
        return dict(json.loads(line))

    def anonymous_bytes(self) -> int:
        """Return the process's resident anonymous memory: what it allocated, without files it maps."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        return 0

    def journal_bytes(self) -> int:
        """Return the bytes its journal takes on disk now, if it has one."""
        taken = 0
        for path in (self.folder / "own").glob("*.journal/**/*"):
            with contextlib.suppress(OSError):  # released between the listing and the look
                taken += path.stat().st_blocks * 512
        return taken

    def end(self) -> None:
        """End the process and remove its folder."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self._log.close()
        self._folder.cleanup()

    def _last_words(self) -> str:
        lines = (self.folder / "log").read_text().strip().splitlines()
        return lines[-1][:200] if lines else "it ended without a word"
