"""One line on standard error: how Clearstone speaks while a user's program runs."""

from __future__ import annotations

import contextlib
import sys


def say(sentence: str) -> None:
    """Print ``clearstone: sentence`` on standard error; where there is none, or it is closed, there is nobody to tell.

    Not a warning: under ``-W error`` a warning would raise into the user's call.
    """
    if sys.stderr is not None:
        with contextlib.suppress(Exception):  # whatever the user put in its place
            print(f"clearstone: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - what this file is for
