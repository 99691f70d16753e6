"""agent-rewind: its decorators inside a `record` block of one context, which appends a JSON line a call."""

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rewind

from contenders.base import Contender, files


class AgentRewind(Contender):
    keeps = "arguments and result as JSON lines, written by the caller"
    burst = 1_000_000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.numbers = itertools.count()

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        return (rewind.llm if kind == "llm" else rewind.tool)(function)

    def around(self) -> contextlib.AbstractContextManager[Any]:
        return rewind.record(self.folder / f"{next(self.numbers)}.rewind")

    def found(self) -> int:
        """Count the lines; the first of each file is its header."""
        return sum(path.read_bytes().count(b"\n") - 1 for path in files(self.folder))
