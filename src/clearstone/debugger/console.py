"""What a debugging session prints: the lines of the documented API, word for word."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from clearstone.codec.payload import safe_repr, safe_str
from clearstone.errors import BeyondRecord, ReplayExhausted
from clearstone.replay import outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.replay.mocks import Mock
    from clearstone.span import Trace

RULE = "-" * 60
_ASCII = str.maketrans({"🕰": None, "\ufe0f": None, "✅": None, "❌": None, "⚠": "!"})


def say(line: str) -> None:
    """Print a line; what the output cannot encode degrades to ASCII."""
    out = sys.stdout
    try:
        line.encode(getattr(out, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        plain = " ".join(line.translate(_ASCII).split(" ")).replace("---  ", "--- ")
        line = plain.encode("ascii", "backslashreplace").decode("ascii")
    print(line, file=out, flush=True)


def welcome(checkpoint: Checkpoint, notes: Sequence[str]) -> None:
    """Print what is about to be replayed."""
    say("--- 🕰️ Welcome to the Clearstone Time-Travel Debugger ---")
    say(f"Trace ID: {checkpoint.trace.trace_id}")
    say(f"Checkpoint: {checkpoint.checkpoint_id} (at span: '{checkpoint.span.name}')")
    say(f"Agent State: Rehydrated for '{checkpoint.agent_name}'")
    for note in notes:
        say(f"Note: {note}")
    for member in checkpoint.state.missing:
        say(f"Missing: {member.path} ({member.type_name}) was not saved: {member.reason}.")
    say("Dropping into interactive debugger (pdb). Type 'c' to continue execution from the checkpoint.")
    say(RULE)


def preflight(lines: Sequence[tuple[str, str, int]], notes: Sequence[str]) -> None:
    """Print which targets are mocked and how many responses each has.

    Args:
        lines: target, span type and number of recorded responses.
        notes: further sentences.
    """
    say("--- Pre-flight Mock Analysis ---")
    for target, span_type, recorded in lines:
        say(f"- Mocking '{target}' (for span_type='{span_type}')")
        say(f"- Found {recorded} recorded response(s) in the trace.")
        if not recorded:
            say(f"- Warning: no recorded response for '{target}': calling it will fail.")
    if not lines:
        say("- Nothing is mocked: the trace holds no outside call, or mock_config is empty.")
    for note in notes:
        say(f"- Note: {note}")
    say(RULE)


def written_lines(mocks: Sequence[Mock]) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Return the pre-flight lines and notes of a written configuration."""
    notes = [
        f"'{mock.path}' is taken for '{mock.target.understood}'."
        for mock in mocks
        if mock.target is not None and mock.target.understood != mock.path
    ]
    return [(mock.path, mock.span_type, len(mock.responses)) for mock in mocks], notes


def finished(result: Any) -> None:
    """Print the result of a replay that ran through."""
    say(RULE)
    say(f"--- ✅ Replay finished. Final result: {whole_repr(result)} ---")


def failed(error: BaseException) -> None:
    """Print how a replay ended that did not run through."""
    say(RULE)
    if isinstance(error, BeyondRecord):
        say("--- ⚠️ Replay stopped: past the end of the record ---")
        say(safe_str(error))
        return
    exhausted = isinstance(error, ReplayExhausted)
    say(f"--- ❌ Replay Failed: {'StopIteration' if exhausted else type(error).__name__} ---")
    if exhausted:
        say(
            "This usually means a mocked function was called more times than there were recorded responses in the "
            "trace."
        )
        say("Please check the 'Pre-flight Mock Analysis' above to see how many responses were found.")
    say(safe_str(error))


def whole_repr(value: Any) -> str:
    """Return the repr of a result; one that raises is said instead."""
    try:
        return repr(value)
    except Exception:
        return safe_repr(value)


def by_hand(trace: Trace) -> list[str]:
    """Say which recorded calls no decorator stands for: their bodies run in a replay."""
    types = sorted({span.span_type for span in outcomes.outermost_served(trace) if not span.site})
    return [
        f"the trace has hand-written spans of type '{each}'; name the function they call: "
        f"mock_config={{'{each}': 'module.function'}}"
        for each in types
    ]


def unknown_types(given: Sequence[Mock], trace: Trace) -> list[str]:
    """Say which types of a written configuration the trace has no span of."""
    known = sorted({span.span_type for span in trace if span.span_type})
    return [
        f"the trace has no span of type '{mock.span_type}'; it has {', '.join(known) or 'none with a type'}."
        for mock in given
        if mock.span_type not in known
    ]
