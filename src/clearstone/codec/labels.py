"""A repr without its secrets: what follows the name of a secret in a text that somebody's ``__repr__`` wrote.

Idea: a value behind ``password=`` or ``'password':`` ends at the quote that closes it; one without quotes ends at the
comma or bracket that ends what it stands in. Brackets and quotes inside it are skipped.

Invariant: what cannot be told is secret: a quote or a bracket that nothing closes (the repr was cut) hides the rest.
What was redacted once stays as it is. One pass, in time linear in the text.

Refused: one expression for all values. It has no brackets in brackets, and ``token=['a', 'b']`` kept its second half.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clearstone.codec.secrets import MARKER

if TYPE_CHECKING:
    from collections.abc import Callable

_QUOTE = r"""\\*['"]"""  # of a repr in a repr it is escaped
_LABEL = re.compile(rf"""(?:({_QUOTE})([^'"\\\n]{{1,127}})\1|(?<![\w-])([\w-]{{1,127}}))\s?[=:]\s?""")
_QUOTED = re.compile(rf"[bB]?({_QUOTE})")
_STEP = re.compile(rf"{_QUOTE}|[\[({{<\])}}>,]")
_CLOSING = {"[": "]", "(": ")", "{": "}", "<": ">"}
_NOTHING = frozenset({"None", "True", "False", "", "''", '""', "b''", 'b""', "[]", "()", "{}"})


def without_labelled(text: str, is_secret: Callable[[str], bool]) -> str:
    """Return a repr with a marker in place of each value behind a secret's name; of None and the empty there is none.

    Args:
        text: a repr, whole or cut.
        is_secret: whether what has that name is a secret.
    """
    out: list[str] = []
    copied = 0
    label = _LABEL.search(text)
    while label:
        at = label.end()
        if is_secret(label[2] or label[3]):
            end, marked = _value(text, at)
            out += (text[copied:at], marked)
            copied = at = end
        label = _LABEL.search(text, at)
    return "".join((*out, text[copied:]))


def _value(text: str, at: int) -> tuple[int, str]:
    """Return where the value at `at` ends, and what to write instead."""
    quoted = _QUOTED.match(text, at)
    if quoted:
        end = _after_quote(text, quoted.end(), quoted[1])
        empty = end == quoted.end() + len(quoted[1])
        return end, text[at:end] if empty else f"{quoted[0]}{MARKER}{quoted[1]}"
    end = _end_of_bare(text, at)
    value = text[at:end]
    return end, value if value.strip() in _NOTHING else MARKER


def _after_quote(text: str, at: int, quote: str) -> int:
    closing = re.compile(rf"(?<!\\){re.escape(quote)}").search(text, at)
    return closing.end() if closing else len(text)


def _end_of_bare(text: str, at: int) -> int:
    awaited: list[str] = []
    step = _STEP.search(text, at)
    while step:
        found = step[0]
        if found in _CLOSING:
            awaited.append(_CLOSING[found])
        elif awaited and found == awaited[-1]:
            awaited.pop()
        elif not awaited and found in {",", "]", ")", "}"}:
            return step.start()
        quote = found if found[-1] in "'\"" else ""
        step = _STEP.search(text, _after_quote(text, step.end(), quote) if quote else step.end())
    return len(text)
