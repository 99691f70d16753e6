"""agentcassette: `intercept` inside a `record` block of one thread, which writes one JSON file when it ends."""

import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agentcassette

from contenders.base import Contender, files


class AgentCassette(Contender):
    keeps = "arguments and result as JSON values, in memory until the block ends"
    burst = 1_000_000
    most_calls = {"W2m": 4}  # noqa: RUF012 - it writes the whole agent down at every call

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.numbers = itertools.count()

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        return agentcassette.intercept(function, kind=kind)

    def around(self) -> contextlib.AbstractContextManager[Any]:
        return agentcassette.record(self.folder / f"{next(self.numbers)}.json")

    def found(self) -> int:
        return sum(len(json.loads(path.read_text())["steps"]) for path in files(self.folder))
