"""The recorded hash seed: a replay that was started with another one is started once more, with that.

Idea: a process has its hash seed from its beginning, so there is no other way to have another. The program takes its
own place (``exec``): process id, terminal, standard input and exit code stay what they were. Nothing of the user's has
run by then.

Invariant: it happens once. The second process does not ask again, whatever its seed is: then a note of the replay says
that it is another one. A seed that was random is known to nobody, and Windows has no ``exec``: the same note.

Refused: a child process (signals, the terminal and the exit code would have to be passed on).
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from clearstone.checkpoint.environment import current, hash_alike
from clearstone.cli.place import place

if TYPE_CHECKING:
    from clearstone.checkpoint.environment import Environment

STARTED_AGAIN = "CLEARSTONE_STARTED_AGAIN"
"""Set for the second process, which takes it out of its environment."""


def take_seed_of(recorded: Environment) -> None:
    """Start this program again where the recorded hash seed was chosen and is another one here; else return.

    Args:
        recorded: the process of the checkpoint.
    """
    is_again = os.environ.pop(STARTED_AGAIN, None) is not None
    if is_again or not _can_be_had(recorded.hash_seed) or hash_alike(recorded, current()):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    env = {**os.environ, "PYTHONHASHSEED": recorded.hash_seed, STARTED_AGAIN: "1"}
    with contextlib.suppress(OSError):  # the replay says that its seed is another one
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)  # noqa: S606 - no shell is the point


def _can_be_had(seed: str) -> bool:
    is_one = seed.isascii() and seed.isdigit()
    return (
        is_one and place.is_program and os.name == "posix" and bool(sys.executable) and not sys.flags.ignore_environment
    )
