"""What a checkpoint's readable header says of the process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import checkpointable, configure
from clearstone.checkpoint.environment import (
    current,
    differences,
    hash_alike,
    other_hash_seed,
    without_secrets,
)
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.origin import is_installed_file
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
    (file,) = (tmp_path / "home" / "checkpoints").glob("*.pack")
    assert CheckpointManager().load_checkpoint(file).environment.argv == ("agent.py", "--api-key", MARKER, FOUND)
    assert not [word for word in (b"hunter2", KEY.encode()) if word in file.read_bytes()]


# --- what is different here ------------------------------------------------------------------------------------------


def test_a_process_differs_from_itself_in_nothing() -> None:
    assert list(differences(current(), current())) == []


def test_the_process_says_what_its_packages_and_its_bytecode_are() -> None:
    here = current()
    assert here.packages["pytest"] == pytest.__version__
    assert bytes.fromhex(here.magic) == importlib.util.MAGIC_NUMBER


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "folder": ({"cwd": "/elsewhere"}, "It ran in /elsewhere; this is "),
    "time zone": ({"time_zone": "Mars/Olympus"}, "Its time zone was Mars/Olympus; here it is "),
    "locale": ({"locale": "de_AT"}, "Its locale was de_AT; here it is "),
    "version": ({"packages": {"pytest": "1.0", "gone": "3"}}, f"pytest 1.0 (now {pytest.__version__})."),
    "commit": ({"commit": "a" * 40, "changed": ("agent.py",)}, f"at commit {'a' * 12}, with 1 file(s) changed; here"),
}


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES)
def test_what_is_different_here_is_said(change: dict[str, Any], sentence: str) -> None:
    here = replace(current(), commit="b" * 40)
    then = replace(here, **change)
    (told,) = differences(then, here)
    assert sentence in told


def test_what_is_not_known_on_both_sides_is_not_said() -> None:
    here = replace(current(), commit="")
    assert list(differences(replace(here, commit="a" * 40), here)) == []


def test_of_many_versions_a_few_are_told() -> None:
    now = replace(current(), packages={f"p{n}": "2" for n in range(9)})
    (told,) = differences(replace(now, packages={f"p{n}": "1" for n in range(9)}), now)
    assert told.endswith(" and 4 more.")


def test_a_folder_whose_name_begins_as_that_of_installed_packages_is_the_users() -> None:
    packages = sysconfig.get_path("purelib")
    assert is_installed_file(f"{packages}{os.sep}agent.py")
    assert not is_installed_file(f"{packages}-mine{os.sep}agent.py")


LOOK = "from clearstone.checkpoint.environment import current; e = current(); print(e.hash_seed, e.hash_mark)"


def looked_at(*options: str, seed: str, first: str = "") -> list[str]:
    command = [sys.executable, *options, "-c", f"import os, sys; sys.path[:0] = {sys.path!r}; {first}{LOOK}"]
    env = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()


def test_a_hash_seed_is_known_again_by_what_a_text_hashes_to() -> None:
    assert looked_at(seed="42") == looked_at(seed="42")
    assert looked_at(seed="42")[1] != looked_at(seed="7")[1]
    assert looked_at(seed="random")[1] != looked_at(seed="random")[1]
    assert looked_at(seed="")[0] == looked_at(seed="random")[0] == "random"


def test_a_hash_seed_that_this_process_does_not_have_is_not_recorded() -> None:
    assert looked_at("-E", seed="42")[0] == "random"
    assert looked_at(seed="", first="os.environ['PYTHONHASHSEED'] = '0'; ")[0] == "random"
    assert looked_at(seed="0", first="os.environ['PYTHONHASHSEED'] = '42'; ")[0] == "0"


def test_without_a_mark_only_a_chosen_seed_is_known_to_be_the_same() -> None:
    here = replace(current(), hash_seed="42", hash_mark="")
    assert hash_alike(here, here)
    assert not hash_alike(replace(here, hash_seed="random"), replace(here, hash_seed="random"))
    assert other_hash_seed(here, here) == ""
    assert other_hash_seed(here, replace(here, hash_seed="7")).startswith("Its hash seed was PYTHONHASHSEED=42 and is")
