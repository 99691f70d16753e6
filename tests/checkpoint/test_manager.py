"""`CheckpointManager` and `clearstone.checkpoints()`: making, saving, naming, finding and loading checkpoints."""

from __future__ import annotations

import datetime as dt
import os
import random
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

import clearstone
from clearstone import home, traced
from clearstone.checkpoint import container, serial
from clearstone.checkpoint.manager import CheckpointInfo, CheckpointManager
from clearstone.codec.keys import machine_key
from clearstone.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointNotFoundError,
    MissingMemberError,
    StateError,
    TraceNotFoundError,
)
from clearstone.record.provider import TracerProvider
from clearstone.span import Span, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.checkpoint.model import Checkpoint


class Agent:
    def __init__(self) -> None:
        self.memory: list[str] = ["first"]


def a_trace(trace_id: str = "", *names: str) -> Trace:
    """Make a trace of one span for each name, each inside the one before."""
    trace_id, spans, parent = trace_id or os.urandom(16).hex(), [], None
    for start, name in enumerate(names or ("work",), 1):
        spans.append(
            Span(trace_id, os.urandom(8).hex(), parent, name, start, start + 10, order=start, tracer_version="1.2")
        )
        parent = spans[-1].span_id
    return Trace(trace_id, tuple(spans))


def a_checkpoint(trace: Trace | None = None, agent: Any = None, **fields: Any) -> Checkpoint:
    trace = trace if trace is not None else a_trace()
    made = CheckpointManager().create_checkpoint(agent or Agent(), trace, trace.spans[-1].span_id)
    return replace(made, **fields)


@pytest.fixture
def manager(tmp_path: Path) -> CheckpointManager:
    return CheckpointManager(tmp_path / "folder")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a working directory of its own."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[TracerProvider]:
    made = TracerProvider(tmp_path / "traces.db")
    yield made
    made.shutdown()


# --- making ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_tells_agent_span_and_version() -> None:
    trace = a_trace("", "outer", "inner")
    checkpoint = CheckpointManager().create_checkpoint(agent=Agent(), trace=trace, span_id=trace.spans[1].span_id)
    assert (checkpoint.agent_class_name, checkpoint.agent_module) == ("Agent", __name__)
    assert checkpoint.agent_name == f"{__name__}.Agent"
    assert checkpoint.checkpoint_id.startswith("ckpt_")
    assert (checkpoint.trace, checkpoint.span_id, checkpoint.span) == (trace, trace.spans[1].span_id, trace.spans[1])
    assert checkpoint.version == "1.2"
    assert (checkpoint.metadata, checkpoint.failure, checkpoint.call) == ({}, None, None)


def test_two_checkpoints_have_two_ids_and_two_metadata() -> None:
    trace = a_trace()
    one, two = a_checkpoint(trace), a_checkpoint(trace)
    one.metadata["n"] = 1
    assert one.checkpoint_id != two.checkpoint_id
    assert two.metadata == {}


def test_the_timestamp_is_now_in_utc() -> None:
    before = dt.datetime.now(dt.UTC)
    timestamp = a_checkpoint().timestamp
    assert timestamp.tzinfo is dt.UTC
    assert before.replace(microsecond=0) <= timestamp <= dt.datetime.now(dt.UTC)


def test_the_agents_state_is_a_snapshot() -> None:
    agent = Agent()
    checkpoint = a_checkpoint(agent=agent)
    agent.memory.append("later")
    assert checkpoint.agent_state == {"memory": ["first"]}


def test_the_agents_state_is_what_get_state_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agent, "get_state", lambda self: {"packed": 1}, raising=False)
    monkeypatch.setattr(Agent, "load_state", lambda self, state: None, raising=False)
    assert a_checkpoint().agent_state == {"packed": 1}


def test_an_attribute_that_does_not_pickle_is_listed_and_raises_when_used() -> None:
    agent: Any = Agent()
    agent.lock = threading.Lock()
    checkpoint = a_checkpoint(agent=agent)
    assert [member.path for member in checkpoint.state.missing] == ["self.lock"]
    assert checkpoint.agent_state["memory"] == ["first"]
    with pytest.raises(MissingMemberError, match=r"self\.lock"):
        checkpoint.agent_state["lock"].acquire()


def test_a_state_that_cannot_be_taken_is_an_error() -> None:
    with pytest.raises(StateError, match="is built on dict"):
        a_checkpoint(agent={"a": 1})


def test_randoms_state_is_noted_and_left_alone() -> None:
    before = random.getstate()
    assert a_checkpoint().random_state == before
    assert random.getstate() == before


def test_a_span_the_trace_lacks_is_said_with_the_next_step() -> None:
    trace = a_trace()
    with pytest.raises(TraceNotFoundError, match=f"trace {trace.trace_id} has no span 'nope'; get the trace again"):
        CheckpointManager().create_checkpoint(Agent(), trace, "nope")


def test_a_span_that_is_open_and_younger_than_the_trace_is_taken_in(
    provider: TracerProvider, manager: CheckpointManager
) -> None:
    tracer = provider.get_tracer("app", version="3")
    with tracer.span("outer") as outer:
        trace = provider.trace_store.get_trace(outer.trace_id)
        with tracer.span("inner") as inner:
            checkpoint = manager.create_checkpoint(Agent(), trace, inner.span_id)
    assert [span.name for span in trace] == ["outer"]
    assert [span.name for span in checkpoint.trace] == ["outer", "inner"]
    assert [span.is_open for span in checkpoint.trace] == [True, True]
    assert checkpoint.version == "3"


def test_an_open_spans_duration_is_the_time_so_far_and_stays_what_it_was(
    provider: TracerProvider, manager: CheckpointManager
) -> None:
    with provider.get_tracer().span("open") as span:
        time.sleep(0.002)
        checkpoint = manager.create_checkpoint(Agent(), Trace(span.trace_id), span.span_id)
    loaded = manager.load_checkpoint(manager.save_checkpoint(checkpoint))
    ended = provider.trace_store.get_trace(span.trace_id).spans[0]
    assert 2 <= checkpoint.span.duration_ms <= ended.duration_ms
    assert loaded.span.duration_ms == checkpoint.span.duration_ms


def test_an_open_span_of_another_trace_is_not_taken_for_one_of_this(provider: TracerProvider) -> None:
    with provider.get_tracer().span("open") as span, pytest.raises(TraceNotFoundError):
        CheckpointManager().create_checkpoint(Agent(), a_trace(), span.span_id)


# --- saving ----------------------------------------------------------------------------------------------------------


def test_a_file_is_named_after_trace_and_id_and_stands_in_the_folder_itself(manager: CheckpointManager) -> None:
    checkpoint = a_checkpoint()
    path = manager.save_checkpoint(checkpoint)
    assert isinstance(path, Path)
    assert path == manager.checkpoint_dir / f"{checkpoint.trace.trace_id}_{checkpoint.checkpoint_id}.ckpt"
    assert list(manager.checkpoint_dir.iterdir()) == [path]


def test_the_folder_is_dot_checkpoints_here_and_made_when_something_is_saved(elsewhere: Path) -> None:
    manager = CheckpointManager()
    assert list(elsewhere.iterdir()) == []
    path = manager.save_checkpoint(a_checkpoint())
    assert path.parent.absolute() == elsewhere / ".checkpoints"


def test_a_file_name_of_the_users_own_is_kept(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(a_checkpoint(), filename="before_payment_17.ckpt")
    assert path.name == "before_payment_17.ckpt"


@pytest.mark.parametrize("name", ["a/b.ckpt", "../b.ckpt", "/b.ckpt", "b/", ".", "a\0b.ckpt"])
def test_a_file_name_with_a_path_is_refused(manager: CheckpointManager, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a bare file name; the folder is"):
        manager.save_checkpoint(a_checkpoint(), filename=name)
    assert not manager.checkpoint_dir.exists()


def test_saving_again_under_the_same_name_replaces_the_file(manager: CheckpointManager) -> None:
    checkpoint = a_checkpoint()
    manager.save_checkpoint(checkpoint)
    checkpoint.metadata["saved"] = "again"
    path = manager.save_checkpoint(checkpoint)
    assert manager.load_checkpoint(path).metadata == {"saved": "again"}
    assert len(list(manager.checkpoint_dir.iterdir())) == 1


METADATA = {"purpose": "Before prod", "n": 1, "f": 0.5, "none": None, "list": [1, {"deep": True}], "\u00fc": "\ud800"}


def test_metadata_comes_back(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(a_checkpoint(metadata=METADATA))
    assert manager.load_checkpoint(path).metadata == METADATA
    assert manager.list_checkpoints()[0].metadata == METADATA


def circular() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["me"] = metadata
    return metadata


def deep() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(100_000):
        metadata = {"deeper": metadata}
    return metadata


@pytest.mark.parametrize("make", [lambda: {"x": object()}, lambda: {"x": {1}}, lambda: {(1, 2): 3}, circular, deep])
def test_metadata_that_is_no_json_is_refused_and_nothing_is_written(manager: CheckpointManager, make: Any) -> None:
    with pytest.raises(CheckpointError, match=r"metadata must be JSON: .*; put plain values there"):
        manager.save_checkpoint(a_checkpoint(metadata=make()))
    assert list(manager.checkpoint_dir.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="the checkpoint cannot be written to"):
            CheckpointManager(folder).save_checkpoint(a_checkpoint())


# --- loading ---------------------------------------------------------------------------------------------------------


@traced(span_type="llm")
def ask(question: str) -> str:
    return f"answer to {question}"


@traced(span_type="llm")
def stream() -> Iterator[str]:
    yield "one"
    yield "two"


@traced
def fail() -> NoReturn:
    raise KeyError("recorded")


def test_a_checkpoint_comes_back_equal_with_everything_its_trace_holds(
    provider: TracerProvider, manager: CheckpointManager
) -> None:
    with provider.get_tracer("app", version="2").span("root", attributes={"n": 1}) as span:
        span.add_event("began", {"a": [1, 2]})
        ask("q")
        list(stream())
        with suppress(KeyError):
            fail()
        checkpoint = manager.create_checkpoint(Agent(), Trace(span.trace_id), span.span_id)
        checkpoint.metadata["n"] = 1
    loaded = manager.load_checkpoint(manager.save_checkpoint(checkpoint))
    assert [span.name for span in loaded.trace] == ["root", "ask", "stream", "fail"]
    assert loaded == checkpoint


def test_a_file_stands_alone(manager: CheckpointManager, tmp_path: Path) -> None:
    checkpoint = a_checkpoint()
    path = manager.save_checkpoint(checkpoint)
    moved = shutil.move(path, tmp_path / "renamed without a suffix")
    shutil.rmtree(manager.checkpoint_dir)
    assert manager.load_checkpoint(moved) == checkpoint


ran: list[str] = []


def run_by_pickle() -> str:
    ran.append("loaded")
    return "made"


class Hostile:
    def __reduce__(self) -> Any:
        return run_by_pickle, ()


def test_loading_and_listing_unpickle_nothing_until_the_state_is_asked_for(manager: CheckpointManager) -> None:
    agent: Any = Agent()
    agent.hostile = Hostile()
    path = manager.save_checkpoint(a_checkpoint(agent=agent))
    manager.list_checkpoints()
    loaded = manager.load_checkpoint(path)
    assert ran == []
    assert loaded.agent_state["hostile"] == "made"
    assert ran == ["loaded"]
    ran.clear()


def test_code_of_another_python_is_refused_and_the_rest_can_be_read(manager: CheckpointManager) -> None:
    agent: Any = Agent()
    agent.held = lambda: 1
    checkpoint = a_checkpoint(agent=agent)
    other = replace(checkpoint, environment=replace(checkpoint.environment, python="3.9.1"))
    loaded = manager.load_checkpoint(manager.save_checkpoint(other))
    assert loaded.trace == checkpoint.trace
    with pytest.raises(CheckpointError, match=r"was taken on Python 3\.9\.1, this is .*Replay it with python3\.9"):
        _ = loaded.agent_state


def test_a_state_of_another_python_that_holds_no_code_is_loaded(manager: CheckpointManager) -> None:
    checkpoint = a_checkpoint()
    other = replace(checkpoint, environment=replace(checkpoint.environment, python="3.9.1"))
    assert manager.load_checkpoint(manager.save_checkpoint(other)).agent_state == checkpoint.agent_state


def references(path: Path, checkpoint: Checkpoint) -> dict[str, str | Path]:
    return {
        "path": path,
        "text": str(path),
        "relative path": os.path.relpath(path),
        "file name": path.name,
        "id": checkpoint.checkpoint_id,
        "beginning of the id": checkpoint.checkpoint_id[:9],
        "beginning of its digits": checkpoint.checkpoint_id[5:9],
        "trace": checkpoint.trace.trace_id,
        "beginning of the trace": checkpoint.trace.trace_id[:8],
        "latest": "latest",
    }


@pytest.mark.parametrize("kind", references(Path("x"), a_checkpoint()))
def test_a_checkpoint_is_found_by_its(manager: CheckpointManager, elsewhere: Path, kind: str) -> None:
    manager.save_checkpoint(a_checkpoint(a_trace("f" * 32), checkpoint_id="ckpt_ffff00000000", created_ns=1))
    checkpoint = a_checkpoint(a_trace("a" * 32), checkpoint_id="ckpt_abcd00000000")
    path = manager.save_checkpoint(checkpoint)
    assert manager.load_checkpoint(references(path, checkpoint)[kind]) == checkpoint


@pytest.mark.parametrize("kind", ["file name", "id", "beginning of the trace", "latest"])
def test_what_the_folder_lacks_is_looked_for_in_the_default_home(manager: CheckpointManager, kind: str) -> None:
    checkpoint = a_checkpoint()
    path = CheckpointManager(home.checkpoint_folder()).save_checkpoint(checkpoint)
    assert manager.load_checkpoint(references(path, checkpoint)[kind]) == checkpoint


def test_the_latest_of_the_folder_comes_before_a_later_one_of_the_default_home(manager: CheckpointManager) -> None:
    mine = [a_checkpoint(created_ns=created) for created in (5, 9, 7)]
    for checkpoint in mine:
        manager.save_checkpoint(checkpoint)
    CheckpointManager(home.checkpoint_folder()).save_checkpoint(a_checkpoint(created_ns=100))
    assert manager.load_checkpoint("latest") == mine[1]


def test_a_file_called_latest_does_not_hide_the_latest(manager: CheckpointManager, elsewhere: Path) -> None:
    (elsewhere / "latest").write_text("notes")
    checkpoint = a_checkpoint()
    manager.save_checkpoint(checkpoint)
    assert manager.load_checkpoint("latest") == checkpoint


def test_a_folder_called_like_an_id_does_not_hide_it(manager: CheckpointManager, elsewhere: Path) -> None:
    checkpoint = a_checkpoint(checkpoint_id="ckpt_abcd00000000")
    manager.save_checkpoint(checkpoint)
    (elsewhere / "abcd").mkdir()
    assert manager.load_checkpoint("abcd") == checkpoint


def test_a_checkpoint_saved_under_two_names_is_not_ambiguous(manager: CheckpointManager) -> None:
    checkpoint = a_checkpoint()
    manager.save_checkpoint(checkpoint)
    manager.save_checkpoint(checkpoint, filename="also.ckpt")
    assert manager.load_checkpoint(checkpoint.checkpoint_id) == checkpoint


def test_a_beginning_that_several_share_is_refused_with_their_ids(manager: CheckpointManager) -> None:
    for checkpoint_id in ("ckpt_ab1100000000", "ckpt_ab2200000000"):
        manager.save_checkpoint(a_checkpoint(a_trace("c" * 32), checkpoint_id=checkpoint_id))
    for reference in ("ab", "ckpt_ab"):
        with pytest.raises(
            CheckpointNotFoundError, match=rf"'{reference}' begins 2 checkpoints \(ckpt_ab.*; give more"
        ):
            manager.load_checkpoint(reference)
    assert manager.load_checkpoint("ab2").checkpoint_id == "ckpt_ab2200000000"


def test_the_beginning_of_a_trace_means_the_newest_checkpoint_of_it(manager: CheckpointManager) -> None:
    for created_ns in (1, 3, 2):
        made = a_checkpoint(a_trace("c" * 32), checkpoint_id=f"ckpt_{created_ns}", created_ns=created_ns)
        manager.save_checkpoint(made)
    assert manager.load_checkpoint("ccc").checkpoint_id == "ckpt_3"
    manager.save_checkpoint(a_checkpoint(a_trace("ccc" + "d" * 29), checkpoint_id="ckpt_4", created_ns=4))
    with pytest.raises(CheckpointNotFoundError, match="'ccc' begins 4 checkpoints"):
        manager.load_checkpoint("ccc")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("zzz", "no checkpoint 'zzz' in .*folder or .*; 'clearstone checkpoints' lists what is there"),
        ("", "no checkpoint '' in"),
        ("missing.ckpt", "no checkpoint 'missing.ckpt' in"),
        ("missing/folder/x.ckpt", "no checkpoint 'missing/folder/x.ckpt' in"),
        ("some/path", r"some/path is not a checkpoint file; those end in \.ckpt"),
        (".", r"no checkpoint '\.' in"),
        ("x" * 5_000, "no checkpoint 'xxx"),
        ("a\0b", r"no checkpoint 'a\\x00b' in"),
        ("*", r"no checkpoint '\*' in"),
    ],
)
def test_a_reference_that_finds_nothing_is_refused_in_a_sentence(
    manager: CheckpointManager, elsewhere: Path, reference: str, sentence: str
) -> None:
    manager.save_checkpoint(a_checkpoint())
    with pytest.raises(CheckpointNotFoundError, match=sentence):
        manager.load_checkpoint(reference)


def test_where_there_is_no_checkpoint_at_all_latest_says_how_one_comes_about(manager: CheckpointManager) -> None:
    with pytest.raises(
        CheckpointNotFoundError, match=r"no checkpoint in .* yet; one is saved when an exception leaves"
    ):
        manager.load_checkpoint("latest")


def test_a_folder_is_no_checkpoint(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(a_checkpoint())
    with pytest.raises(CheckpointNotFoundError, match=r"is not a checkpoint file; those end in \.ckpt"):
        manager.load_checkpoint(path.parent)


# --- listing ---------------------------------------------------------------------------------------------------------


def test_the_list_is_newest_first_and_tells_each_from_its_header(manager: CheckpointManager) -> None:
    old = a_checkpoint(a_trace("", "outer", "inner"), created_ns=1, metadata={"n": 1})
    new = a_checkpoint(created_ns=2)
    paths = [manager.save_checkpoint(checkpoint) for checkpoint in (old, new)]
    assert [info.checkpoint_id for info in manager.list_checkpoints()] == [new.checkpoint_id, old.checkpoint_id]
    assert manager.list_checkpoints()[1] == CheckpointInfo(
        path=paths[0],
        step=None,
        checkpoint_id=old.checkpoint_id,
        trace_id=old.trace.trace_id,
        agent=f"{__name__}.Agent",
        span_name="inner",
        created_ns=1,
        error="",
        occurrences=1,
        moment="made",
        size=paths[0].stat().st_size,
        metadata={"n": 1},
    )


def foreign(path: Path) -> None:
    container.write(path, {"made": "by hand"}, {}, machine_key())


def of_odd_types(path: Path) -> None:
    container.write(path, serial.pack(a_checkpoint())[0] | {"summary": {"checkpoint_id": 3}}, {}, machine_key())


def torn(path: Path) -> None:
    foreign(path)
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("make", [foreign, of_odd_types, torn, Path.touch, Path.mkdir])
def test_files_that_are_no_checkpoints_are_left_out_and_said_when_loaded_by_name(
    manager: CheckpointManager, make: Any
) -> None:
    good = a_checkpoint()
    manager.save_checkpoint(good)
    make(manager.checkpoint_dir / "odd.ckpt")
    assert [info.checkpoint_id for info in manager.list_checkpoints()] == [good.checkpoint_id]
    assert manager.load_checkpoint("latest") == good
    with pytest.raises((CheckpointDamagedError, CheckpointNotFoundError), match=r"odd\.ckpt"):
        manager.load_checkpoint("odd.ckpt")


def test_files_of_other_kinds_are_left_out(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(a_checkpoint())
    for name in ("notes.txt", f".{path.name}.0123.tmp", f"{path.name}.bak"):
        shutil.copy(path, path.with_name(name))
    assert len(manager.list_checkpoints()) == 1


def test_a_folder_that_is_not_there_holds_none(manager: CheckpointManager) -> None:
    assert manager.list_checkpoints() == []
    assert clearstone.checkpoints(manager.checkpoint_dir) == []


def test_python_lists_the_default_home_and_dot_checkpoints_newest_first(elsewhere: Path) -> None:
    for created, folder in ((1, home.checkpoint_folder()), (2, Path(".checkpoints")), (3, home.checkpoint_folder())):
        CheckpointManager(folder).save_checkpoint(a_checkpoint(created_ns=created))
    assert [info.created_ns for info in clearstone.checkpoints()] == [3, 2, 1]
    assert [info.created_ns for info in clearstone.checkpoints(".checkpoints")] == [2]
