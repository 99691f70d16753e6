"""What every contender is: a way to wrap a function, to wait until all is on disk, and to count what is there.

Imports only the standard library: it runs in every environment.
"""

import asyncio
import contextlib
import functools
import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Contender:
    """One recorder, set up in a process of its own. A subclass says what differs.

    Args:
        folder: an empty folder of its own; whatever it keeps on disk is in there.
    """

    keeps = "nothing"
    """What it keeps of a call, for the table."""

    block = 200
    """So many calls are made before everything is flushed, untimed: bounded queues must not overflow."""

    burst = 1000
    """The same, where processor time is measured."""

    most_calls: dict[str, int] = {}  # noqa: RUF012 - read only
    """At most so many calls of a workload in a round, where a call takes milliseconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        """Return `function` recorded. `kind` is ``"llm"``, ``"tool"`` or ``"step"``."""
        return function

    def around(self) -> contextlib.AbstractContextManager[Any]:
        """Return what calls are made in, in each thread that makes some."""
        return contextlib.nullcontext()

    def flush(self) -> None:
        """Return when everything recorded so far is on disk."""

    def found(self) -> int | None:
        """Return how many ended spans are on disk; None for what records nothing."""
        return None

    def tidy(self) -> bool:
        """Do at once what is left for idle times (compression, a search index); False where nothing is."""
        return False

    def close(self) -> None:
        """End recording; afterwards only the finished files are in the folder."""


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def rows_in(database: Path, query: str = "SELECT count(*) FROM spans") -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(query).fetchone()[0])


def insert(database: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert `rows` by statements of many rows.

    `executemany` steps once a row and gives up the interpreter at each, which a busy program takes from it for a
    whole switch interval: thousands of rows a second instead of tens of thousands.
    """
    marks = f"({','.join('?' * len(rows[0]))})" if rows else ""
    for start in range(0, len(rows), 250):
        some = rows[start : start + 250]
        statement = f"INSERT INTO {table} VALUES {','.join([marks] * len(some))}"  # noqa: S608 - our own names
        database.execute(statement, [value for row in some for value in row])


def spanned(
    open_span: Callable[[str], Any], set_input: Callable[[Any, Any], None], set_output: Callable[[Any, Any], None]
):
    """Return a `wrap` for a library that has spans and no decorator: what its user would write by hand."""

    def wrap(function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        first, name = int(method), function.__name__

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with open_span(name) as span:
                set_input(span, {"args": args[first:], "kwargs": kwargs})
                result = function(*args, **kwargs)
                set_output(span, result)
                return result

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with open_span(name) as span:
                set_input(span, {"args": args[first:], "kwargs": kwargs})
                result = await function(*args, **kwargs)
                set_output(span, result)
                return result

        return awaited if asyncio.iscoroutinefunction(function) else called

    return wrap


def as_json(value: Any) -> str:
    return json.dumps(value, default=repr)
