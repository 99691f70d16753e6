"""`clearstone.checkpoints(...)`, what of a folder is listed, and what checkpoints note about themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
from tests.checkpoint.test_manager import a_checkpoint, a_trace

import clearstone
from clearstone import home
from clearstone.checkpoint import loading, seen
from clearstone.checkpoint.listing import MOMENTS, Wanted, listed
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.model import Moment
from clearstone.checkpoint.packs import Pack
from clearstone.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError, UntrustedCheckpointError
from clearstone.span import Failure, Payload

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.checkpoint.model import Checkpoint

FAILURE = Failure("builtins.KeyError", "'Missing'", "", "", Payload("pickle", b""))
ONE, TWO = a_trace("a" * 32), a_trace("b" * 32)


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "folder")


def in_a_pack(folder: Path, steps: int = 2) -> list[Checkpoint]:
    """Make a pack in a folder, as checkpoints that save themselves do."""
    folder.mkdir(parents=True, exist_ok=True)
    pack, made = Pack(folder / f"{ONE.trace_id}.pack"), []
    for number in range(steps):
        made.append(a_checkpoint(ONE, created_ns=number + 1, metadata={"n": number}))
        pack.append(made[-1], trace=ONE)
    return made


# --- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, [3, 2, 1]),
        ({"trace": "aaa"}, [2, 1]),
        ({"trace": "a", "label": "first"}, [1]),
        ({"label": "fir"}, []),
        ({"error": "keyerror: 'missing"}, [3]),
        ({"moment": "failure"}, [3]),
        ({"moment": "made", "limit": 1}, [2]),
        ({"since_ns": 2, "until_ns": 3}, [2]),
        ({"larger_than": 10**9}, []),
        ({"larger_than": 100}, [3, 2, 1]),
    ],
)
def test_all_conditions_must_be_met(manager: CheckpointManager, conditions: dict[str, Any], found: list[int]) -> None:
    manager.save_checkpoint(a_checkpoint(ONE, created_ns=1, metadata={"label": "first"}))
    manager.save_checkpoint(a_checkpoint(ONE, created_ns=2, metadata={"label": 5}))
    manager.save_checkpoint(a_checkpoint(TWO, created_ns=3, failure=FAILURE, moment="failure"))
    infos = clearstone.checkpoints(manager.checkpoint_dir, **conditions)
    assert [info.created_ns for info in infos] == found


def test_a_moment_or_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="moment='fail' is none; give one of failure, exit"):
        clearstone.checkpoints(moment="fail")
    with pytest.raises(ConfigurationError, match="limit=0 lists nothing"):
        clearstone.checkpoints(limit=0)
    with pytest.raises(ConfigurationError, match="since is not before until"):
        clearstone.checkpoints(since_ns=2, until_ns=2)


def test_the_moments_are_those_of_checkpoints() -> None:
    assert set(MOMENTS) == set(get_args(Moment))


def test_a_listing_tells_what_it_cannot_read_and_what_the_limit_left_out(manager: CheckpointManager) -> None:
    in_a_pack(manager.checkpoint_dir, 3)
    torn = manager.checkpoint_dir / "torn.ckpt"
    torn.write_bytes(b"CLRSTONE")
    found, more, unreadable = listed(Wanted(limit=2), [manager.checkpoint_dir])
    assert ([info.step for info in found], more, unreadable) == ([2, 1], 1, [torn])


def test_the_size_of_a_file_that_stands_alone_is_the_files(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(a_checkpoint())
    assert manager.list_checkpoints()[0].size == path.stat().st_size


# --- metadata --------------------------------------------------------------------------------------------------------


def test_metadata_is_merged_into_a_file_under_its_own_name(manager: CheckpointManager) -> None:
    checkpoint = a_checkpoint(ONE, metadata={"kept": 1, "gone": 2})
    path = manager.save_checkpoint(checkpoint, "mine.ckpt")
    assert manager.update_metadata("mine.ckpt", {"gone": None, "label": "new", "list": [1, {"a": None}]}) == path
    loaded = manager.load_checkpoint(checkpoint.checkpoint_id)
    assert loaded.metadata == {"kept": 1, "label": "new", "list": [1, {"a": None}]}
    assert [each.name for each in manager.checkpoint_dir.iterdir()] == ["mine.ckpt"]
    loaded.metadata.clear()
    loaded.metadata.update(checkpoint.metadata)
    assert loaded == checkpoint


def test_a_step_of_a_pack_stays_and_a_file_beside_it_takes_its_place(manager: CheckpointManager) -> None:
    one, two = in_a_pack(manager.checkpoint_dir)
    (pack,) = manager.checkpoint_dir.iterdir()
    before = pack.read_bytes()
    path = manager.update_metadata(one.checkpoint_id, {"label": "noted"})
    assert path.name == f"{ONE.trace_id}_{one.checkpoint_id}.ckpt"
    assert pack.read_bytes() == before
    infos = manager.list_checkpoints()
    assert [(info.checkpoint_id, info.path, info.metadata) for info in infos] == [
        (two.checkpoint_id, pack, {"n": 1}),
        (one.checkpoint_id, path, {"n": 0, "label": "noted"}),
    ]
    assert manager.load_checkpoint(one.checkpoint_id).metadata == {"n": 0, "label": "noted"}
    assert manager.update_metadata(one.checkpoint_id, {"n": None}) == path
    assert manager.load_checkpoint(one.checkpoint_id).metadata == {"label": "noted"}
    assert loading.load(pack, 0).metadata == {"n": 0}


def test_what_was_noted_of_a_step_stays_when_it_is_named_by_its_pack(manager: CheckpointManager) -> None:
    in_a_pack(manager.checkpoint_dir)
    (pack,) = manager.checkpoint_dir.iterdir()
    manager.update_metadata(pack, {"one": 1})
    path = manager.update_metadata(pack, {"two": 2})
    assert loading.load(path).metadata == {"n": 1, "one": 1, "two": 2}


def test_a_file_that_loses_its_place_gives_it_back_to_the_step(manager: CheckpointManager) -> None:
    one, _ = in_a_pack(manager.checkpoint_dir)
    manager.update_metadata(one.checkpoint_id, {"label": "noted"}).unlink()
    assert manager.load_checkpoint(one.checkpoint_id).metadata == {"n": 0}


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"f": float("nan")}, "metadata 'f': nan is not JSON"),
        ({"t": (1, 2)}, r"metadata 't': \(1, 2\) is not JSON \(it would come back as something else\)"),
        ({"d": {1: 2}}, "metadata 'd': "),
        ({"o": {1, 2}}, "metadata 'o': .* not JSON serializable"),
        ({3: "x"}, "metadata 3: "),
    ],
)
def test_a_value_that_is_not_json_is_named_and_nothing_is_written(
    manager: CheckpointManager, metadata: dict[Any, Any], says: str
) -> None:
    path = manager.save_checkpoint(a_checkpoint())
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=says):
        manager.update_metadata(path, {"good": 1, **metadata})
    assert path.read_bytes() == before


def test_what_is_not_there_or_not_trusted_is_not_changed(
    manager: CheckpointManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manager.save_checkpoint(a_checkpoint())
    with pytest.raises(CheckpointNotFoundError):
        manager.update_metadata("zzz", {})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another machine"))
    before = path.read_bytes()
    with pytest.raises(UntrustedCheckpointError):
        manager.update_metadata(path, {"label": "mine"})
    assert path.read_bytes() == before


# --- what was saved of a trace ---------------------------------------------------------------------------------------


def test_the_lines_of_one_trace_are_forgotten_and_the_counts_of_others_stay(tmp_path: Path) -> None:
    for count, name in enumerate((f"{'a' * 32}.pack", f"{'b' * 32}.pack", f"{'a' * 32}.1.pack"), 1):
        seen.note(tmp_path, "mixed", seen.Sighting(count, name, f"ckpt_{count}"))
    seen.note(tmp_path, "only", seen.Sighting(1, f"{'a' * 32}.pack", "ckpt_9"))
    assert seen.forget(tmp_path, "a" * 32) == 3
    assert [each.count for each in seen.sightings(tmp_path, "mixed")] == [2]
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["mixed"]
    assert seen.forget(tmp_path, "a" * 32) == 0


def test_where_nothing_was_saved_nothing_is_forgotten() -> None:
    assert seen.forget(home.home(), "a" * 32) == 0
