"""Who may make this machine load something: whoever has one of its keys, and whom its user has said yes to."""

from __future__ import annotations

import contextlib
import os
import pickle
import sqlite3
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.checkpoint.agents import look

from clearstone import checkpointable, home, traced
from clearstone.checkpoint import container, serial, trust
from clearstone.checkpoint.loading import load
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.checkpoint.state import NO_STATE
from clearstone.codec import keys
from clearstone.codec.keys import Key
from clearstone.debugging import ReplayEngine
from clearstone.errors import UntrustedCheckpointError
from clearstone.observability import TracerProvider
from clearstone.span import Payload

if TYPE_CHECKING:
    from pathlib import Path

    from clearstone.checkpoint.model import Checkpoint


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.seen = ["a"]

    def go(self) -> None:
        self.seen.append(look("b"))
        raise ValueError("no")


@pytest.fixture
def file() -> Path:
    with pytest.raises(ValueError, match="no"):
        Agent().go()
    (path,) = home.checkpoint_folder().glob("*.pack")
    return path


@pytest.fixture
def manager() -> CheckpointManager:
    return CheckpointManager(home.checkpoint_folder())


def on_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another machine"))


# --- whose -----------------------------------------------------------------------------------------------------------


def test_a_file_of_this_machine_is_loaded(file: Path, manager: CheckpointManager) -> None:
    assert manager.load_checkpoint(file).agent_state == {"seen": ["a"]}


def test_a_file_of_another_machine_is_refused_with_the_two_ways_on(
    file: Path, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(
        UntrustedCheckpointError, match="was signed with a key that this machine does not trust"
    ) as told:
        manager.load_checkpoint(file)
    assert f"clearstone inspect {file}" in str(told.value)
    assert f"clearstone trust {file}" in str(told.value)
    assert isinstance(told.value, PermissionError)


def test_one_call_may_load_it_all_the_same(
    file: Path, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_another_machine(monkeypatch, tmp_path)
    checkpoint = manager.load_checkpoint(file, trust=True)
    assert checkpoint.agent_state == {"seen": ["a"]}
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint(file)


def test_the_key_of_production_on_a_laptop_is_enough(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLEARSTONE_KEY", "what production has")
    with pytest.raises(ValueError, match="no"):
        Agent().go()
    monkeypatch.delenv("CLEARSTONE_KEY")
    on_another_machine(monkeypatch, tmp_path)
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint("latest")
    monkeypatch.setenv("CLEARSTONE_KEY", "what the laptop has, what production has")
    assert manager.load_checkpoint("latest").agent_state == {"seen": ["a"]}


def test_further_keys_may_stand_in_the_key_file(
    file: Path, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = keys.machine_key().secret
    on_another_machine(monkeypatch, tmp_path)
    ours = keys.machine_key().secret
    with keys.key_file().open("a", encoding="ascii") as key_file:
        key_file.write(theirs.hex() + "\n")
    keys._kept.cache_clear()
    assert [key.secret for key in keys.trusted_keys()] == [ours, theirs]
    assert manager.load_checkpoint(file).agent_state == {"seen": ["a"]}


def test_a_key_that_others_can_read_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    keys.machine_key()
    keys.key_file().chmod(0o640)
    keys._kept.cache_clear()
    assert keys.machine_key().secret == b""
    assert f"chmod 600 {keys.key_file()}" in capsys.readouterr().err


def test_without_a_key_a_file_is_written_unsigned_which_is_said_and_it_is_trusted_by_nobody(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "a file"))
    with pytest.raises(ValueError, match="no"):
        Agent().go()
    assert "records are not signed" in capsys.readouterr().err
    (path,) = home.checkpoint_folder().glob("*.pack")
    assert not container.read_header(path).is_signed
    with pytest.raises(UntrustedCheckpointError, match="is not signed"):
        manager.load_checkpoint(path)
    assert manager.load_checkpoint(path, trust=True).agent_state == {"seen": ["a"]}


# --- what is altered -------------------------------------------------------------------------------------------------


class Hostile:
    """Leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def hostile(checkpoint: Checkpoint, mark: Path) -> Checkpoint:
    """Put code into everything of a checkpoint that a replay loads."""
    code = Payload("pickle", pickle.dumps(Hostile(mark)))
    state = Snapshot((), Placed(Segment(code.data)))
    assert checkpoint.call is not None
    assert checkpoint.failure is not None
    spans = tuple(
        replace(
            span,
            input=code,
            outcome=replace(span.outcome, value=code, effects=code) if span.outcome is not None else None,
        )
        for span in checkpoint.trace
    )
    return replace(
        checkpoint,
        trace=replace(checkpoint.trace, spans=spans),
        agent_class=code,
        state=replace(checkpoint.state, snapshot=state),
        state_at_end=replace(checkpoint.state, snapshot=state),
        call=replace(checkpoint.call, input=code),
        failure=replace(checkpoint.failure, value=code),
    )


@pytest.mark.parametrize("key", [Key(b""), Key(b"f" * 32)], ids=["unsigned", "another's"])
def test_a_forged_file_runs_nothing_whatever_is_asked_of_it(
    file: Path, manager: CheckpointManager, tmp_path: Path, key: Key
) -> None:
    mark = tmp_path / "it ran"
    forged = hostile(manager.load_checkpoint(file), mark)
    container.write(file, *serial.pack(forged), key)
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint(file)
    manager.list_checkpoints()
    looked_at = load(file)
    for use in (
        lambda: looked_at.agent_state,
        lambda: ReplayEngine(looked_at).replay_from_checkpoint(),
        lambda: manager.save_checkpoint(looked_at, "washed.ckpt"),
    ):
        with pytest.raises(UntrustedCheckpointError):
            use()
    assert not mark.exists()
    assert manager.load_checkpoint(file, trust=True).agent_state is None  # what the test stands on: it can run
    assert mark.exists()


def test_a_signature_of_another_file_is_refused(file: Path, manager: CheckpointManager) -> None:
    loaded = manager.load_checkpoint(file)
    file = manager.save_checkpoint(loaded, "alone.ckpt")
    first = file.read_bytes()
    container.write(file, *serial.pack(replace(loaded, metadata={"note": "another"})), Key(b"f" * 32))
    second = file.read_bytes()
    at = container._FIELDS.size + 32
    file.write_bytes(second[:at] + first[at : at + 32] + second[at + 32 :])
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint(file)


SMALL, LARGE = "a value", "a value " * 1000


@pytest.mark.parametrize(
    ("value", "put"),
    [
        (SMALL, "UPDATE spans SET output = instead_of(output, :data)"),
        (LARGE, "UPDATE raw_data SET data = :data"),
        (LARGE, "UPDATE payloads SET name = x'00' WHERE id = 1"),
        (LARGE, "UPDATE payloads SET name = x'' WHERE id = 1"),
    ],
)
def test_a_trace_with_values_that_this_machine_did_not_record_is_not_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, put: str
) -> None:
    path, manager = tmp_path / "traces.db", CheckpointManager(tmp_path / "made")
    provider = TracerProvider(path)
    traced(tracer=provider.get_tracer("t"))(look.__wrapped__)(value)  # type: ignore[attr-defined]
    provider.flush()

    def saved() -> Path:
        trace = provider.trace_store.get_trace(provider.trace_store.traces()[0].trace_id)
        return manager.save_checkpoint(manager.create_checkpoint(Agent(), trace, trace.spans[0].span_id))

    assert manager.load_checkpoint(saved()).trace.spans
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.create_function("instead_of", 2, lambda column, data: column[:17] + data)
        data = pickle.dumps(f"{value} is there".swapcase(), 5)
        assert database.execute(put, {"data": data} if ":data" in put else {}).rowcount
    assert not capsys.readouterr().err
    with pytest.raises(UntrustedCheckpointError, match="is not signed"):
        manager.load_checkpoint(saved())
    assert "were not recorded under a key this machine trusts" in capsys.readouterr().err
    provider.shutdown()


# --- saying yes ------------------------------------------------------------------------------------------------------


def test_a_file_that_was_said_yes_to_is_loaded_and_stays_as_it_is(
    file: Path, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = file.read_bytes()
    on_another_machine(monkeypatch, tmp_path)
    noted = trust.trust(container.read_header(file))
    assert file.read_bytes() == before
    assert stat.S_IMODE(noted.stat().st_mode) == 0o600
    assert manager.load_checkpoint(file).agent_state == {"seen": ["a"]}
    moved = file.rename(file.with_name("moved.ckpt"))
    assert manager.load_checkpoint(moved).agent_state == {"seen": ["a"]}


def test_yes_to_one_content_is_no_yes_to_another(
    file: Path, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_another_machine(monkeypatch, tmp_path)
    trust.trust(container.read_header(file))
    changed = replace(manager.load_checkpoint(file), state=NO_STATE)
    container.write(file, *serial.pack(changed), Key(b""))
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint(file)


def test_a_list_that_others_can_write_counts_for_nothing(
    file: Path, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_another_machine(monkeypatch, tmp_path)
    trust.trust(container.read_header(file)).chmod(0o666)
    with pytest.raises(UntrustedCheckpointError):
        manager.load_checkpoint(file)
