"""Where the commands look: the options every command shares."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clearstone import home
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.store.sqlite import SQLiteTraceStore


@dataclass
class Place:
    """What ``--home``, ``--db`` and ``--debug`` said, and whether this process is the ``clearstone`` program."""

    db: Path | None = None
    debug: bool = False
    is_program: bool = False

    @property
    def trace_file(self) -> Path:
        """The trace database to read."""
        return self.db if self.db is not None else home.trace_file()

    def store(self) -> SQLiteTraceStore:
        """Return the trace store, with what dead processes left in their journals."""
        from clearstone.store.sqlite import SQLiteTraceStore

        store = SQLiteTraceStore(self.trace_file, create=False)
        if self.trace_file.exists():
            _recover(store)
        return store

    def store_if_there(self) -> SQLiteTraceStore | None:
        """Return the trace store; None where nothing was recorded and none was asked for by name."""
        return self.store() if self.db is not None or self.trace_file.exists() else None


def _recover(store: SQLiteTraceStore) -> None:
    from clearstone.record.recovery import journal_folder, recover

    folder = journal_folder(store.path)
    if not folder.is_dir():
        return
    try:
        recover(store, folder)
    except OSError as error:  # a read-only disk, a database that is locked: what is in it can be shown all the same
        click.echo(f"Note: what lies in {folder} cannot be moved into the database now: {error}", err=True)


place = Place()


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--home``, ``--db`` and ``--debug``; they count before and after its name."""

    @click.option("--home", "home_", type=click.Path(path_type=Path), metavar="DIR", help="Where records are kept.")
    @click.option("--db", type=click.Path(path_type=Path), metavar="FILE", help="The trace database.")
    @click.option("--debug", "debug_", is_flag=True, help="Show the traceback of Clearstone's own errors.")
    @functools.wraps(command)
    def with_place(*args: Any, home_: Path | None, db: Path | None, debug_: bool, **kwargs: Any) -> Any:
        if home_ is not None:
            if home_.exists() and not home_.is_dir():
                raise ConfigurationError(f"--home {home_} is a file; give the folder that holds traces.db")
            home.set_home(home_)
        place.db = db or place.db
        place.debug = debug_ or place.debug
        return command(*args, **kwargs)

    return with_place
