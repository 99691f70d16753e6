"""Numbers of bytes as people read and type them: ``1.5 KB``, ``10MB``."""

from __future__ import annotations

import re

import click

_POWERS = {"": 0, "k": 10, "m": 20, "g": 30}
_SIZE = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(?:bytes|([kmg]?)b?)\s*", re.IGNORECASE)


def size(number: int) -> str:
    """Return a number of bytes as people read it."""
    for power, unit in ((30, "GB"), (20, "MB"), (10, "KB")):
        if abs(number) >= 1 << power:
            return f"{number / (1 << power):.1f} {unit}"
    return f"{number} bytes"


def in_bytes(text: str) -> int:
    """Return a number of bytes.

    Args:
        text: as `size` writes one: a number, and KB, MB or GB (powers of 1024) where it is not bytes.

    Raises:
        click.BadParameter: it is none.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; give a number and KB, MB or GB, as in 10MB")
    return int(float(found[1]) * (1 << _POWERS[(found[2] or "").lower()]))
