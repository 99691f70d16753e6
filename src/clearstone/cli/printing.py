"""What everything that is printed shares: JSON, a console, and recorded text that cannot write to the terminal."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import sys
import threading
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape as escape_markup

from clearstone.codec.payload import safe_repr

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT_ID = 16
PATIENCE_SECONDS = 0.5
COLOURS = {"ERROR": "red", "OK": "green", "UNSET": "default"}


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def jsonable(value: Any) -> Any:
    """Return a value where JSON can say it, else its repr."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return safe_repr(value)


@contextlib.contextmanager
def patience(told: str) -> Iterator[None]:
    """Say on a terminal what takes long, if it does, as long as it does."""
    if not sys.stderr.isatty():  # rich takes a pipe for a terminal where FORCE_COLOR says so
        yield
        return
    status = Console(stderr=True).status(told)
    timer = threading.Timer(PATIENCE_SECONDS, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


def console() -> Console:
    """Return a console on standard output that never breaks lines where output is piped."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def escape(text: str) -> str:
    """Return recorded text as it may be printed: no markup of ours, no control sequence of anybody's."""
    return escape_markup(printable(text))


def printable(text: str) -> str:
    """Return recorded text without control sequences."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


def when(time_ns: int) -> str:
    """Return a moment in local time, to the second."""
    return dt.datetime.fromtimestamp(time_ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(time_ns: int | None) -> str | None:
    """Return a moment as ISO 8601 in UTC; None for none."""
    return dt.datetime.fromtimestamp(time_ns / 1e9, dt.UTC).isoformat() if time_ns is not None else None
