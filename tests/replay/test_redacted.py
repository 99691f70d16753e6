"""A replay of a record without its secrets: live arguments are compared as they would have been recorded."""

from __future__ import annotations

from typing import Any

import pytest

import clearstone
from clearstone import checkpointable, traced
from clearstone.codec import payload
from clearstone.codec.redact import MARKER
from clearstone.debugging import CheckpointManager, ReplayEngine
from clearstone.errors import ReplayDivergence

KEY = "sk-proj-" + "a1B2" * 10
made: list[str] = []


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.key = KEY

    @traced(span_type="llm")
    def ask(self, prompt: str, api_key: str, **options: Any) -> dict[str, Any]:
        made.append(prompt)
        return {"text": f"re: {prompt}", "token": "t0ps3cret"}

    def run(self, prompt: str) -> None:
        answer = self.ask(prompt, self.key, headers={"Authorization": f"Bearer {KEY}"}, max_tokens=5)
        raise ValueError(answer["text"])


def fail() -> None:
    with pytest.raises(ValueError, match="re: hello"):
        Agent().run("hello")


def test_secrets_in_arguments_do_not_make_a_replay_diverge_and_a_redacted_output_is_served_redacted() -> None:
    fail()
    checkpoint = CheckpointManager().load_checkpoint("latest")
    (span,) = (span for span in checkpoint.trace if span.name == "Agent.ask")
    assert span.input is not None
    assert span.outcome is not None
    assert span.outcome.value is not None
    assert (span.input.redacted, span.outcome.value.redacted) == (True, True)
    args, kwargs = payload.load(span.input)
    assert args == ("hello", MARKER)
    assert KEY not in repr(kwargs)
    assert kwargs["max_tokens"] == 5
    made.clear()
    engine = ReplayEngine(checkpoint)
    with pytest.raises(ValueError, match="re: hello"):
        engine.replay_from_checkpoint()
    options: Any = {"headers": {"Authorization": f"Bearer {KEY}"}, "max_tokens": 5}
    served = engine.replay_from_checkpoint("ask", "hello", KEY, **options)
    assert served == {"text": "re: hello", "token": MARKER}
    assert made == []


def test_a_change_beside_a_secret_is_still_a_divergence() -> None:
    fail()
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(ReplayDivergence, match="hello"):
        engine.replay_from_checkpoint("run", "goodbye")


def test_what_the_program_says_is_redacted_and_kept_counts() -> None:
    clearstone.configure(redact_keys=["badge"], redact_keep=["headers.authorization"])

    @traced(span_type="tool")
    def use(badge: str, **options: Any) -> str:
        return badge

    use("42", headers={"Authorization": "plain words"}, badge_number="43")
    provider = clearstone.configure(redact=lambda text: text.replace("43", "xx"), redact_keys=())
    use("42 43")
    provider.flush()
    store = provider.trace_store
    spans = [span for one in store.traces() for span in store.get_trace(one.trace_id)]
    later, earlier = (payload.load(span.input) for span in spans if span.input is not None)
    assert later == (("42 xx",), {})
    assert earlier == ((MARKER,), {"headers": {"Authorization": "plain words"}, "badge_number": MARKER})


def test_redaction_can_be_turned_off() -> None:
    provider = clearstone.configure(redact=False)

    @traced(span_type="tool")
    def use(password: str) -> str:
        return password

    use(KEY)
    provider.flush()
    (span,) = provider.trace_store.get_trace(provider.trace_store.traces()[0].trace_id)
    assert span.input is not None
    assert payload.load(span.input) == ((KEY,), {})
    assert not span.input.redacted
