"""Durations and moments as people type them: ``30d``, ``90m``, ``2025-01-31``, ``2025-01-31T14:00+01:00``."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"\s*([0-9]{1,9})\s*([smhdw])\s*", re.IGNORECASE)
_SECOND_NS = 10**9


def duration(text: str) -> int:
    """Return a duration in nanoseconds.

    Args:
        text: a number and a unit: s, m, h, d or w.

    Raises:
        click.BadParameter: it is none.
    """
    found = _duration_ns(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration; give a number and s, m, h, d or w, as in 30d or 12h")
    return found


def moment(text: str) -> int:
    """Return a moment in nanoseconds since the epoch.

    Args:
        text: an ISO 8601 date, with a time or without, in local time unless it says; or how long ago, as a duration.

    Raises:
        click.BadParameter: it is none.
    """
    ago = _duration_ns(text)
    found = time.time_ns() - ago if ago is not None else _iso_ns(text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no moment; give 2025-01-31, 2025-01-31T14:00, or how long ago, as in 12h"
        )
    return found


def _duration_ns(text: str) -> int | None:
    found = _DURATION.fullmatch(text)
    return int(found[1]) * _SECONDS[found[2].lower()] * _SECOND_NS if found else None


def _iso_ns(text: str) -> int | None:
    try:
        found = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    since = (found if found.tzinfo else _local(found)) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (since.days * 86400 + since.seconds) * _SECOND_NS + since.microseconds * 1000


def _local(found: dt.datetime) -> dt.datetime:
    try:
        return found.astimezone()
    except (ValueError, OverflowError, OSError):  # the first and last days of the calendar have no local offset
        return found.replace(tzinfo=dt.UTC)
