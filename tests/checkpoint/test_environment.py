"""What a checkpoint's readable header says of the process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from clearstone import checkpointable, configure
from clearstone.checkpoint.environment import without_secrets
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.codec.redact import MARKER

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-" + "a1B2c3D4e5F6g7H8" * 3
FOUND = "[redacted: api key]"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["agent.py", "--api-key", "hunter2", "go"], ["agent.py", "--api-key", MARKER, "go"]),
        (["--api-key=hunter2", "go"], [f"--api-key={MARKER}", "go"]),
        (["-password", "hunter2"], ["-password", MARKER]),
        (["--password", "-hunter2"], ["--password", MARKER]),
        (["API_KEY=hunter2"], [f"API_KEY={MARKER}"]),
        (["llm.api_key=hunter=2"], [f"llm.api_key={MARKER}"]),
        (["--ask", f"use {KEY} now"], ["--ask", f"use {FOUND} now"]),
        ([f"--ask={KEY}"], [f"--ask={FOUND}"]),
        (["--password", "--verbose", "go"], ["--password", "--verbose", "go"]),
        (["--password=", "go"], ["--password=", "go"]),
        (["--max-tokens", "100", "api-key", "list"], ["--max-tokens", "100", "api-key", "list"]),
        (["agent.py", "", "-", "--", "a=b", "-v"], ["agent.py", "", "-", "--", "a=b", "-v"]),
    ],
)
def test_a_command_line_is_kept_without_its_secrets(given: list[str], kept: list[str]) -> None:
    assert list(without_secrets(given)) == kept


def test_the_users_rules_count_for_the_command_line_too() -> None:
    given = ["--badge", "1", "--api-key", "k", "--ask=me"]
    configure(redact_keys=["badge"], redact_keep=["api_key"])
    assert list(without_secrets(given)) == ["--badge", MARKER, "--api-key", "k", "--ask=me"]
    configure(redact=lambda text: text.replace("me", "somebody"), redact_keys=(), redact_keep=())
    assert list(without_secrets(given)) == ["--badge", "1", "--api-key", MARKER, "--ask=somebody"]
    configure(redact=False)
    assert list(without_secrets(given)) == given


def test_a_secret_of_the_command_line_is_in_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["agent.py", "--api-key", "hunter2", KEY])

    @checkpointable
    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    (file,) = (tmp_path / "home" / "checkpoints").glob("*.ckpt")
    assert CheckpointManager().load_checkpoint(file).environment.argv == ("agent.py", "--api-key", MARKER, FOUND)
    assert not [word for word in (b"hunter2", KEY.encode()) if word in file.read_bytes()]
