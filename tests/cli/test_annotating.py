"""``clearstone annotate``: what a checkpoint notes about itself is changed, and nothing else of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


def noted(shell: Shell) -> Any:
    (info,) = json.loads(shell("checkpoints", "--json").stdout)
    assert json.loads(shell("inspect", info["checkpoint_id"], "--json").stdout)["metadata"] == info["metadata"]
    return info["metadata"]


def test_texts_and_json_are_noted_and_removed(failed: Shell) -> None:
    assert failed("annotate", "latest", "label=the bug = here", "score:=0.5", "done:=true").returncode == 0
    assert noted(failed) == {"label": "the bug = here", "score": 0.5, "done": True}
    assert failed("annotate", "latest", "done-", "score=0.5", "absent-").returncode == 0
    assert noted(failed) == {"label": "the bug = here", "score": "0.5"}
    assert "the bug = here" in failed("checkpoints").stdout


def test_a_step_of_a_pack_gets_a_file_beside_it_that_takes_its_place_and_replays(failed: Shell) -> None:
    folder = failed.folder / ".clearstone" / "checkpoints"
    (pack,) = folder.iterdir()
    before, (info,) = pack.read_bytes(), json.loads(failed("checkpoints", "--json").stdout)
    run = failed("annotate", info["checkpoint_id"], "label=mine")
    assert run.stdout == f"{folder / info['trace_id']}_{info['checkpoint_id']}.ckpt\n"
    assert pack.read_bytes() == before
    assert noted(failed) == {"label": "mine"}
    assert failed("annotate", str(pack), "more=too").stdout == run.stdout  # what was noted before stays
    assert noted(failed) == {"label": "mine", "more": "too"}
    assert json.loads(failed("replay", info["checkpoint_id"], "--json").stdout)["error"]["type"] == "TypeError"
    assert "1 checkpoint(s)" not in failed("checkpoints").stderr
    assert failed("forget", "latest", "--yes").returncode == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("note", "says"),
    [
        ("label", "'label' notes nothing; write KEY=TEXT, KEY:=JSON, or KEY- to remove it"),
        ("=text", "'=text' notes nothing"),
        ("n:=nul", "'n:=nul': 'nul' is no JSON"),
        ("n:=null", "null is noted nowhere; KEY- removes what is"),
        ("n:=NaN", "metadata 'n': nan is not JSON"),
    ],
)
def test_a_note_that_is_none_is_a_sentence_and_changes_nothing(failed: Shell, note: str, says: str) -> None:
    before = failed.files()
    run = failed("annotate", "latest", note)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert failed.files() == before


def test_what_is_not_trusted_is_not_written_anew(
    failed: Shell, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("another machine")))
    run = failed("annotate", "latest", "label=mine")
    assert (run.returncode, run.stdout) == (2, "")
    assert "clearstone trust" in run.stderr
