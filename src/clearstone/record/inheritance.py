"""What a process started from this one records by, beside where: redaction rules and limits.

Idea: both go into another process's ticket as plain values. The user's redaction function goes as a pickle of its own,
so that one that cannot be pickled, or not be found over there, is known as such and breaks no job.

Invariant: a child records nothing that its parent would have redacted. Where the function does not arrive, every text
is redacted. Rules that the child was given itself (`configure`, or a fork) are left alone.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone import notice
from clearstone.codec import redact as redaction

if TYPE_CHECKING:
    from collections.abc import Callable


class Inheritance(NamedTuple):
    """What a child process gets. Named by pickles.

    Args:
        keys: of the rules.
        keep: of the rules.
        function: of the rules, pickled; empty bytes where it cannot be, None where there is none.
        payload_limit: the provider's, in bytes.
        redacts: whether anything is redacted.
    """

    keys: tuple[str, ...]
    keep: tuple[str, ...]
    function: bytes | None
    payload_limit: int
    redacts: bool = True


_followed: tuple[Inheritance, redaction.Redactor] | None = None
"""What this process took over last, and the redactor it made of it."""


def bequeath(payload_limit: int) -> Inheritance:
    """Return what processes started from this one get.

    Args:
        payload_limit: of the provider they record for, in bytes.
    """
    rules = redaction.active().rules
    if rules is None:
        return Inheritance((), (), None, payload_limit, redacts=False)
    function = None if rules.function is None else _pickled(rules.function)
    return Inheritance(rules.keys, rules.keep, function, payload_limit)


def follow(inheritance: Inheritance) -> None:
    """Redact as the process that started this one does, unless this one was given rules of its own."""
    global _followed  # noqa: PLW0603 - one process, one set of rules
    active = redaction.active()
    if _followed is not None and active is _followed[1]:
        if inheritance == _followed[0]:
            return
    elif not _is_default(active.rules):
        return
    redaction.use(_rules(inheritance))
    _followed = inheritance, redaction.active()


def _is_default(rules: redaction.Rules | None) -> bool:
    return rules is not None and not rules.keys and not rules.keep and rules.function is None


def _rules(inheritance: Inheritance) -> redaction.Rules | None:
    if not inheritance.redacts:
        return None
    function = None if inheritance.function is None else _unpickled(inheritance.function)
    return redaction.Rules(inheritance.keys, inheritance.keep, function)


def _pickled(function: Callable[[str], str]) -> bytes:
    try:
        return pickle.dumps(function)
    except Exception:  # a lambda; said where it is missed
        return b""


def _unpickled(data: bytes) -> Callable[[str], str]:
    try:
        function: Any = pickle.loads(data)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if data else "it cannot be pickled"
        notice.say(
            f"the redaction function did not reach this child process ({reason}): every text it records is redacted; "
            f"give `configure` a function defined at the top of a module, or call it in the child too"
        )
        return withhold
    return function if callable(function) else withhold


def withhold(_: str) -> str:
    """Return the marker in place of any text. Named by pickles."""
    return redaction.MARKER
